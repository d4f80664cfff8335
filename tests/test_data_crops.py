from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import (
    CropSampler,
    CropSource,
    PictureCrops,
    PictureDataset,
    UnreadablePictureError,
    bundled_crops,
    load_photograph,
    to_picture,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bundled() -> CropSampler:
    return bundled_crops(64)


def pictures_of(
    arrays: Sequence[np.ndarray | None], labels: Sequence[int], num_classes: int = 0
) -> PictureDataset:
    """Pictures that were decoded before; None is one that cannot be."""

    def opened(index: int) -> Image.Image:
        array = arrays[index]
        if array is None:
            raise UnreadablePictureError("damaged")
        return Image.fromarray(array)

    classes = tuple(f"class {label}" for label in range(num_classes or max(labels) + 1))
    return PictureDataset(opened, np.array(labels), classes, "picture {}".format)


def sampler_of(arrays: Sequence[np.ndarray], image_size: int, **options: Any) -> CropSampler:
    return CropSampler(arrays, image_size, **options)


def crops_of(arrays: Sequence[np.ndarray], image_size: int, **options: Any) -> PictureCrops:
    return PictureCrops(pictures_of(arrays, range(len(arrays))), image_size, **options)


BOTH = pytest.mark.parametrize("cut", [sampler_of, crops_of])


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose red is its row and whose green is its column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)


def flat(value: int, height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().long()


def photographs(count: int = 6) -> list[np.ndarray]:
    names = ("chelsea", "coffee", "coins", "rocket", "text", "moon")[:count]
    return [load_photograph(name) for name in names]


def test_load_photograph_gives_rgb_bytes():
    for name in PHOTOGRAPHS:
        picture = load_photograph(name)
        assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3), name
        assert min(picture.shape[:2]) >= 172, name
        assert picture.std() > 5, name
    with pytest.raises(ValueError, match=r"must be one of astronaut, brick.*got 'horse'"):
        load_photograph("horse")


@BOTH
def test_crops_of_flat_pictures_are_their_values_and_labels(cut):
    crops: CropSource = cut([flat(0), flat(100), flat(255)], 16)
    images, class_ids = crops.sample(64, generator())
    assert (images.dtype, images.shape) == (torch.float32, (64, 3, 16, 16))
    assert set(class_ids.tolist()) == {0, 1, 2}
    expected = (torch.tensor([0, 100, 255])[class_ids] / 127.5 - 1)[:, None, None, None]
    torch.testing.assert_close(images, expected.expand_as(images))
    batch = crops.sample(3, generator(), torch.tensor([2, 2, 0]), rows=slice(1, 3))
    assert batch.pictures is not None
    assert batch.class_ids.tolist() == batch.pictures.tolist() == [2, 0]
    for class_ids in ([-1, -1], [1], [0, 7]):
        with pytest.raises(ValueError, match="class_ids must be 2 labels from 0 to 2, one for ea"):
            crops.sample(2, generator(), torch.tensor(class_ids))


@BOTH
def test_crop_rows_are_those_of_the_whole_batch_and_repeat_with_the_seed(cut):
    def made() -> CropSource:
        return cut(photographs(), 24, scale_range=(1, 2.6))

    whole_stream = generator(4)
    whole = made().sample(20, whole_stream)
    for rows in (slice(0, 10), slice(10, 20), slice(7, 8)):
        stream = generator(4)
        part = made().sample(20, stream, rows=rows)
        assert torch.equal(part.images, whole.images[rows])
        assert torch.equal(part.class_ids, whole.class_ids[rows])
        assert torch.equal(stream.get_state(), whole_stream.get_state())
    assert not torch.equal(whole.images, made().sample(20, generator(5)).images)


@BOTH
def test_crop_windows_and_flips_are_uniform(cut):
    """At a picture's own size its crops are its pixels, so that they say where they lie."""
    crops: CropSource = cut([coordinates(60, 90)], 20, scale_range=(3, 3))
    pixels = levels(crops.sample(2000, generator()).images)
    top, left = pixels[:, 0, 0, 0], pixels[:, 1].amin((1, 2))
    flipped = pixels[:, 1, 0, 0] > pixels[:, 1, 0, -1]
    assert (pixels[:, 0].diff(dim=1) == 1).all()
    assert (pixels[:, 1].diff(dim=2).abs() == 1).all()
    for starts, count in ((top, 41), (left, 71)):
        assert int(starts.max()) < count
        assert stats.chisquare(np.bincount(starts, minlength=count)).pvalue > 1e-3
    assert stats.binomtest(int(flipped.sum()), 2000).pvalue > 1e-3
    straight = cut([coordinates(60, 90)], 20, scale_range=(3, 3), flip=False)
    assert (levels(straight.sample(64, generator()).images)[:, 1].diff(dim=2) == 1).all()


@BOTH
@pytest.mark.parametrize("scale_range", [(2, 1), (0.5, 1), (1, float("inf")), (float("nan"), 2)])
def test_crops_refuse_scales(cut, scale_range):
    with pytest.raises(ValueError, match=r"scale_range must be two numbers.*, got \("):
        cut([flat(0)], 4, scale_range=scale_range)


def test_bundled_crops_of_a_seed_are_those_recorded(bundled: CropSampler):
    images, class_ids = bundled.sample(8, generator(5))
    assert class_ids.tolist() == [10, 14, 6, 5, 11, 4, 13, 0]
    pixels = levels(images)
    assert pixels[:, 0, 0, 0].tolist() == [142, 246, 131, 104, 2, 127, 126, 175]
    assert pixels[:, 1, 31, 17].tolist() == [30, 215, 111, 104, 93, 176, 116, 108]
    assert pixels[:, 2, 63, 63].tolist() == [169, 55, 116, 122, 51, 42, 139, 3]


def test_bundled_crops_equal_plain_slices_of_resized_photographs(bundled: CropSampler):
    assert (bundled.num_classes, bundled.class_names) == (len(PHOTOGRAPHS), PHOTOGRAPHS)
    images, class_ids = bundled.sample(24, generator(1))
    drawn = torch.rand(24, 5, generator=generator(1), dtype=torch.float64).tolist()
    sides = np.round(np.linspace(1.1 * 64, 2.6 * 64, 32)).astype(int)
    for image, label, (u_class, u_side, u_top, u_left, u_flip) in zip(
        images, class_ids.tolist(), drawn, strict=True
    ):
        assert label == int(u_class * len(PHOTOGRAPHS))
        picture = Image.fromarray(load_photograph(PHOTOGRAPHS[label]))
        side = sides[int(u_side * 32)]
        size = [round(length * (side / min(picture.size))) for length in picture.size]
        resized = np.array(picture.resize((size[0], size[1]), Image.Resampling.BICUBIC))
        top, left = int(u_top * (size[1] - 63)), int(u_left * (size[0] - 63))
        window = resized[top : top + 64, left : left + 64]
        window = window[:, ::-1] if u_flip < 0.5 else window
        assert torch.equal(image, torch.from_numpy(window.copy()).permute(2, 0, 1) / 127.5 - 1)


def test_crop_sampler_refuses_grey_photographs():
    with pytest.raises(ValueError, match=r"got \(30, 40\) of uint8 at index 1; convert it to RGB"):
        CropSampler([flat(0), flat(0)[..., 0]], 16)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (60, 60)])
def test_picture_crop_in_the_center_is_the_middle(height: int, width: int):
    crops = crops_of(
        [coordinates(height, width)], 20, scale_range=(3, 3), crop="center", flip=False
    )
    pixels = levels(crops.sample(5, generator()).images)
    top, left = (height - 20) // 2, (width - 20) // 2
    expected = torch.from_numpy(coordinates(height, width))[top : top + 20, left : left + 20]
    assert (pixels == expected.permute(2, 0, 1)).all()


def test_picture_crop_is_a_window_of_the_picture_resized_by_pillow():
    picture = load_photograph("chelsea")  # 300 x 451
    crops = crops_of([picture], 48, scale_range=(1.1, 2.6))
    stream = torch.rand(16, 6, generator=generator(), dtype=torch.float64).tolist()
    copy = Image.fromarray(picture).resize((188, 125), Image.Resampling.BICUBIC)
    for image, (_, _, u_scale, u_top, u_left, u_flip) in zip(
        levels(crops.sample(16, generator()).images), stream, strict=True
    ):
        side = round(48 * (1.1 + 1.5 * u_scale))
        width = round(188 * side / 125)
        resized = np.array(copy.resize((width, side), Image.Resampling.BICUBIC))
        top, left = int(u_top * (side - 47)), int(u_left * (width - 47))
        window = resized[top : top + 48, left : left + 48].astype(int)
        window = window[:, ::-1] if u_flip < 0.5 else window
        # Pillow rounds the positions of a box and of the whole differently, by less than a level.
        assert np.abs(image.permute(1, 2, 0).numpy() - window).max() <= 1


def test_picture_crops_at_scale_1_show_the_whole_shorter_side():
    ramp = np.linspace(0, 255, 500).round().astype(np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(ramp[:, None, None], (500, 900, 3)))
    images = crops_of([picture], 10).sample(8, generator()).images
    # A pixel is the mean of 50 rows, but at the ends, where the filter is cut off.
    expected = 255 * (torch.arange(10) * 50 + 24.5) / 499
    assert (levels(images)[:, :, 1:-1] - expected[1:-1, None]).abs().max() < 1
    assert (levels(images) - expected[:, None]).abs().max() < 4


def test_picture_crops_reduce_without_aliasing_and_enlarge_small_pictures():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    images = crops_of([stripes], 33).sample(4, generator()).images
    assert images[..., 2:-2].abs().max() < 0.02
    small = crops_of([flat(9, 1, 1), flat(80, 3, 2), flat(200, 1, 300)], 16, scale_range=(1.1, 2.6))
    images, class_ids = small.sample(32, generator())
    expected = torch.tensor([9, 80, 200])[class_ids][:, None, None, None]
    assert (levels(images) == expected).all()


def test_picture_crops_draw_classes_that_have_pictures_and_then_pictures_uniformly():
    labels = [0, 2, 2, 2, 2, 0, 2, 2]
    crops = PictureCrops(pictures_of([flat(v) for v in range(8)], labels, num_classes=4), 4)
    images, class_ids = crops.sample(4000, generator())
    values = levels(images)[:, 0, 0, 0]
    expected = 4000 * np.array([1 / 4 if label == 0 else 1 / 12 for label in labels])
    assert stats.chisquare(np.bincount(values, minlength=8), expected).pvalue > 1e-3
    assert (torch.tensor(labels)[values] == class_ids).all()
    with pytest.raises(ValueError, match="classes that have pictures, got 1, class 1, which has"):
        crops.sample(1, generator(), torch.tensor([1]))


@pytest.mark.parametrize(("cache_bytes", "kept"), [(0, 0), (25000, 1), (2**30, 6)])
def test_picture_crops_are_the_same_whatever_is_kept(cache_bytes: int, kept: int, monkeypatch):
    pictures, opened = pictures_of(photographs(), range(6)), []

    def counting(index: int) -> Image.Image:
        opened.append(index)
        return pictures.open(index)

    reference = crops_of(photographs(), 24, scale_range=(1, 2.6))
    batches = [reference.sample(24, generator(seed)).images for seed in (0, 1, 0)]
    counted = PictureDataset(counting, pictures.labels, pictures.class_names, pictures.name)
    crops = PictureCrops(counted, 24, scale_range=(1, 2.6))
    monkeypatch.setattr("deco_lab.data.crops.CACHE_BYTES", cache_bytes)
    for seed, images in zip((0, 1, 0), batches, strict=True):
        assert torch.equal(crops.sample(24, generator(seed)).images, images)
    assert len(crops._copies) == kept
    assert (len(opened) == 6) == (kept == 6)
    assert all(min(copy.size) == 62 for copy in crops._copies.values())


def test_picture_crops_replace_what_cannot_be_read_by_the_next_of_the_class():
    arrays = [flat(0), None, flat(2), flat(3), None, flat(5), None]
    crops = PictureCrops(pictures_of(arrays, [0, 0, 1, 0, 0, 1, 1]), 4)
    assert crops.skipped == 0
    batch = crops.sample(600, generator())
    images, class_ids = batch
    values = levels(images)[:, 0, 0, 0]
    assert batch.pictures is not None
    assert torch.equal(batch.pictures, values)  # picture i has the value i
    assert crops.skipped == 3
    drawn = torch.rand(600, 6, generator=generator(), dtype=torch.float64)
    place = (drawn[:, 1] * torch.tensor([4, 3])[class_ids]).long()
    replaced = torch.tensor([[0, 3, 3, 0], [2, 5, 2, -1]])  # the last one's next is the first
    assert (values == replaced[class_ids, place]).all()
    assert torch.equal(images, crops.sample(600, generator()).images)
    assert crops.skipped == 3
    nothing = PictureCrops(pictures_of([None, flat(0), None], [0, 1, 0]), 4)
    with pytest.raises(ValueError, match="class class 0 has no picture that can be read, of 2"):
        nothing.sample(8, generator())


def test_to_picture_puts_images_row_by_row():
    images = torch.tensor([-1.0, 0.0, 1.0, 2.0, -3.0])[:, None, None, None].expand(5, 3, 2, 4)
    picture = np.array(to_picture(images, columns=3))
    assert picture.shape == (4, 12, 3)
    assert picture[0, ::4, 0].tolist() == [0, 128, 255]
    assert picture[2, ::4, 0].tolist() == [255, 0, 0]
