from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from deco_lab.data import (
    Crops,
    CropSampler,
    PictureCrops,
    Pictures,
    UnreadablePictureError,
    load_photograph,
    read_folder,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures_of(
    arrays: Sequence[np.ndarray | None], labels: Sequence[int], num_classes: int = 0
) -> Pictures:
    """Pictures that were decoded before; None is one that cannot be."""

    def opened(index: int) -> Image.Image:
        array = arrays[index]
        if array is None:
            raise UnreadablePictureError("damaged")
        return Image.fromarray(array)

    return Pictures(
        opened,
        np.array(labels),
        tuple(f"class {label}" for label in range(num_classes or max(labels) + 1)),
        [f"picture {index}" for index in range(len(arrays))],
    )


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose red is its row and whose green is its column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)


def flat(value: int, height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def levels(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().long()


def photographs(count: int = 6) -> Pictures:
    names = ("chelsea", "coffee", "coins", "rocket", "text", "moon")[:count]
    return pictures_of([load_photograph(name) for name in names], list(range(count)))


def test_picture_crops_of_flat_pictures_are_their_values():
    crops = PictureCrops(pictures_of([flat(0), flat(100), flat(255)], [0, 1, 2]), 16)
    images, class_ids = crops.sample(32, generator())
    assert images.dtype == torch.float32
    assert images.shape == (32, 3, 16, 16)
    assert set(class_ids.tolist()) == {0, 1, 2}
    expected = (torch.tensor([0, 100, 255])[class_ids] / 127.5 - 1)[:, None, None, None]
    assert torch.equal(images, expected.expand_as(images))


def test_picture_crop_at_the_picture_s_own_scale_is_its_pixels():
    picture = coordinates(60, 90)
    crops = PictureCrops(pictures_of([picture], [0]), 20, scale_range=(3, 3))
    pixels = levels(crops.sample(2000, generator()).images)
    top, left = pixels[:, 0, 0, 0], pixels[:, 1].amin((1, 2))
    flipped = pixels[:, 1, 0, 0] > pixels[:, 1, 0, -1]
    assert (pixels[:, 0].diff(dim=1) == 1).all()
    assert (pixels[:, 1].diff(dim=2).abs() == 1).all()
    for starts, count in ((top, 41), (left, 71)):
        assert int(starts.max()) < count
        assert stats.chisquare(np.bincount(starts, minlength=count)).pvalue > 1e-3
    assert stats.binomtest(int(flipped.sum()), 2000).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (60, 60)])
def test_picture_crop_in_the_center_is_the_middle(height: int, width: int):
    crops = PictureCrops(
        pictures_of([coordinates(height, width)], [0]), 20, scale_range=(3, 3), crop="center",
        flip=False,
    )  # fmt: skip
    pixels = levels(crops.sample(5, generator()).images)
    top, left = (height - 20) // 2, (width - 20) // 2
    expected = torch.from_numpy(coordinates(height, width))[top : top + 20, left : left + 20]
    assert (pixels == expected.permute(2, 0, 1)).all()


def test_picture_crop_is_a_window_of_the_picture_resized_by_pillow():
    picture = load_photograph("chelsea")  # 300 x 451
    crops = PictureCrops(pictures_of([picture], [0]), 48, scale_range=(1.1, 2.6))
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
    images = PictureCrops(pictures_of([picture], [0]), 10).sample(8, generator()).images
    # A pixel is the mean of 50 rows, but at the ends, where the filter is cut off.
    expected = 255 * (torch.arange(10) * 50 + 24.5) / 499
    assert (levels(images)[:, :, 1:-1] - expected[1:-1, None]).abs().max() < 1
    assert (levels(images) - expected[:, None]).abs().max() < 4


def test_picture_crops_reduce_without_aliasing():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    images = PictureCrops(pictures_of([stripes], [0]), 33).sample(4, generator()).images
    assert images[..., 2:-2].abs().max() < 0.02


def test_picture_crops_enlarge_small_pictures():
    pictures = pictures_of([flat(9, 1, 1), flat(80, 3, 2), flat(200, 1, 300)], [0, 1, 2])
    images, class_ids = PictureCrops(pictures, 16, scale_range=(1.1, 2.6)).sample(32, generator())
    expected = torch.tensor([9, 80, 200])[class_ids][:, None, None, None]
    assert (levels(images) == expected).all()


def test_picture_crops_draw_classes_and_then_pictures_uniformly():
    pictures = pictures_of([flat(value) for value in range(8)], [0, 1, 1, 1, 1, 0, 1, 1])
    images, class_ids = PictureCrops(pictures, 4).sample(4000, generator())
    counts = np.bincount(levels(images)[:, 0, 0, 0], minlength=8)
    expected = 4000 * np.array([1 / 4 if label == 0 else 1 / 12 for label in pictures.labels])
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    assert (torch.from_numpy(pictures.labels)[levels(images)[:, 0, 0, 0]] == class_ids).all()


def test_picture_crops_skip_classes_without_pictures():
    pictures = pictures_of([flat(5), flat(6)], [0, 2], num_classes=4)
    crops = PictureCrops(pictures, 4)
    assert crops.num_classes == 4
    assert set(crops.sample(64, generator()).class_ids.tolist()) == {0, 2}
    assert levels(crops.sample(2, generator(), torch.tensor([2, 0])).images)[
        :, 0, 0, 0
    ].tolist() == [6, 5]
    with pytest.raises(ValueError, match="classes that have pictures, got 1, class 1, which has"):
        crops.sample(1, generator(), torch.tensor([1]))
    with pytest.raises(ValueError, match="class_ids must be 2 labels from 0 to 3"):
        crops.sample(2, generator(), torch.tensor([0, 4]))


def test_picture_crop_rows_are_those_of_the_whole_batch():
    crops = PictureCrops(photographs(), 24, scale_range=(1, 2.6))
    whole_stream, stream = generator(4), generator(4)
    whole = crops.sample(20, whole_stream)
    for rows in (slice(0, 10), slice(10, 20), slice(7, 8)):
        stream = generator(4)
        part = PictureCrops(photographs(), 24, scale_range=(1, 2.6)).sample(20, stream, rows=rows)
        assert torch.equal(part.images, whole.images[rows])
        assert torch.equal(part.class_ids, whole.class_ids[rows])
        assert torch.equal(stream.get_state(), whole_stream.get_state())


@pytest.mark.parametrize("cache_bytes", [0, 5000, 20000, 2**30])
def test_picture_crops_are_the_same_whatever_is_kept(cache_bytes: int):
    reference = PictureCrops(photographs(), 24, scale_range=(1, 2.6))
    crops = PictureCrops(photographs(), 24, scale_range=(1, 2.6), cache_bytes=cache_bytes)
    for seed in (0, 1, 0):
        batch = crops.sample(24, generator(seed))
        assert torch.equal(batch.images, reference.sample(24, generator(seed)).images)
    kept = sum(copy.nbytes for copy in crops._copies.values())
    assert kept <= cache_bytes
    assert kept == crops._kept_bytes
    assert len(crops._copies) == {0: 0, 5000: 0, 20000: 1, 2**30: 6}[cache_bytes]


def test_picture_crops_decode_a_kept_picture_once():
    pictures, opened = photographs(3), []

    def counting(index: int) -> Image.Image:
        opened.append(index)
        return pictures.open(index)

    counted = Pictures(counting, pictures.labels, pictures.class_names, pictures.names)
    crops = PictureCrops(counted, 16)
    for seed in range(3):
        crops.sample(30, generator(seed))
    assert sorted(opened) == [0, 1, 2]
    assert {min(copy.shape[:2]) for copy in crops._copies.values()} == {16}


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
    assert set(values[class_ids == 0].tolist()) == {0, 3}
    assert set(values[class_ids == 1].tolist()) == {2, 5}
    drawn = torch.rand(600, 6, generator=generator(), dtype=torch.float64)
    place = (drawn[:, 1] * torch.tensor([4, 3])[class_ids]).long()
    replaced = torch.tensor([[0, 3, 3, 0], [2, 5, 2, -1]])  # the last one's next is the first
    assert (values == replaced[class_ids, place]).all()
    assert torch.equal(images, crops.sample(600, generator()).images)
    assert crops.skipped == 3


def test_picture_crops_refuse_a_class_of_which_nothing_can_be_read():
    crops = PictureCrops(pictures_of([None, flat(0), None], [0, 1, 0]), 4)
    with pytest.raises(ValueError, match="class class 0 has no picture that can be read, of 2"):
        crops.sample(8, generator())


def test_picture_crops_repeat_with_the_seed_and_change_with_it():
    crops = PictureCrops(photographs(2), 16)
    first = crops.sample(4, generator(3)).images
    assert torch.equal(first, crops.sample(4, generator(3)).images)
    assert not torch.equal(first, crops.sample(4, generator(4)).images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be 1 or more, got 0"),
        ({"scale_range": (2, 1)}, r"scale_range must be two numbers.*got \(2, 1\)"),
        ({"scale_range": (0.9, 1)}, r"scale_range must be two numbers.*got \(0.9, 1\)"),
        ({"crop": "left"}, "crop must be random or center, got 'left'"),
        ({"cache_bytes": -1}, "cache_bytes must be 0 or more, got -1"),
    ],
)
def test_picture_crops_rejects(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        PictureCrops(pictures_of([flat(0)], [0]), **{"image_size": 4, **arguments})


def test_picture_crops_of_no_pictures_are_refused():
    nothing = pictures_of([flat(0)], [0]).select(np.array([False]))
    with pytest.raises(ValueError, match="at least one picture, got none"):
        PictureCrops(nothing, 4)


def test_both_samplers_are_crops(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(flat(50)).save(tmp_path / name)
    found = read_folder(tmp_path)
    sources: list[Crops] = [
        CropSampler([flat(50), flat(50)], 8, class_names=("a", "b")),
        PictureCrops(found.training, 8),
        PictureCrops(found.held_out, 8, crop="center", flip=False),
    ]
    for crops in sources:
        assert (crops.image_size, crops.num_classes) == (8, 2)
        assert crops.class_names == ("a", "b")
        assert crops.device == torch.device("cpu")
        batch = crops.sample(6, generator(), rows=slice(2, 6))
        assert batch.images.shape == (4, 3, 8, 8)
        assert (levels(batch.images) == 50).all()
