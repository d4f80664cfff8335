import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import SCALE_RANGE, CropSampler, bundled_crops, load_photograph, to_picture


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bundled() -> CropSampler:
    return bundled_crops(64)


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose red is its row and whose green is its column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)


def flat(value: int) -> np.ndarray:
    return np.full((40, 50, 3), value, np.uint8)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_load_photograph_gives_rgb_bytes(name: str):
    picture = load_photograph(name)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert min(picture.shape[:2]) >= 172
    assert picture.std() > 5


def test_load_photograph_unknown_name_lists_choices():
    with pytest.raises(ValueError, match=r"must be one of astronaut, brick.*got 'horse'"):
        load_photograph("horse")


def test_crop_is_a_window_of_the_photograph_resized_by_pillow():
    picture = load_photograph("chelsea")
    sampler = CropSampler([picture], 32, num_scales=1)
    side = int(sampler.sides[0])
    ratio = side / min(picture.shape[:2])
    size = (round(picture.shape[1] * ratio), side)
    resized = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    windows = np.lib.stride_tricks.sliding_window_view(resized, (32, 32), axis=(0, 1))
    images, _ = sampler.sample(8, generator())
    for image in images:
        pixels = ((image + 1) * 127.5).round().byte().numpy()
        either_way = [pixels, pixels[..., ::-1]]
        assert any((windows == way).all(axis=(2, 3, 4)).any() for way in either_way)


def test_crop_windows_and_flips_are_uniform():
    sampler = CropSampler([coordinates(60, 90)], 20, num_scales=1)
    sampler.sides = np.array([60])
    sampler._shapes = torch.tensor([[60, 90]])
    sampler._pixels = torch.from_numpy(coordinates(60, 90)).reshape(-1, 3)
    images, _ = sampler.sample(2000, generator())
    pixels = ((images + 1) * 127.5).round().long()
    top = pixels[:, 0, 0, 0]
    left = pixels[:, 1].amin((1, 2))
    flipped = pixels[:, 1, 0, 0] > pixels[:, 1, 0, -1]
    assert (pixels[:, 0].diff(dim=1) == 1).all()
    assert (pixels[:, 1].diff(dim=2).abs() == 1).all()
    for starts, count in ((top, 41), (left, 71)):
        assert stats.chisquare(np.bincount(starts, minlength=count)).pvalue > 1e-3
        assert int(starts.max()) < count
    assert stats.binomtest(int(flipped.sum()), 2000).pvalue > 1e-3


def test_crop_labels_name_their_photograph():
    sampler = CropSampler([flat(0), flat(100), flat(255)], 16)
    images, class_ids = sampler.sample(64, generator())
    expected = torch.tensor([0, 100, 255])[class_ids] / 127.5 - 1
    assert set(class_ids.tolist()) == {0, 1, 2}
    torch.testing.assert_close(images, expected[:, None, None, None].expand_as(images))
    chosen = torch.tensor([2, 2, 0])
    batch = sampler.sample(3, generator(), chosen, rows=slice(1, 3))
    assert batch.pictures is not None
    assert batch.class_ids.tolist() == batch.pictures.tolist() == [2, 0]


@pytest.mark.parametrize("class_ids", [[-1, -1], [1], [0, 7]])
def test_crops_of_unknown_labels_are_refused(class_ids: list[int]):
    sampler = CropSampler([flat(0), flat(100), flat(255)], 16)
    with pytest.raises(ValueError, match="class_ids must be 2 labels from 0 to 2, one for each"):
        sampler.sample(2, generator(), torch.tensor(class_ids))


def test_crops_repeat_with_the_seed_and_change_with_it():
    sampler = CropSampler([load_photograph("coffee")], 32)
    first = sampler.sample(4, generator(3)).images
    assert torch.equal(first, sampler.sample(4, generator(3)).images)
    assert not torch.equal(first, sampler.sample(4, generator(4)).images)


def test_scales_span_the_range():
    sampler = CropSampler([load_photograph("coins")], 64)
    assert sampler.sides[0] == round(SCALE_RANGE[0] * 64)
    assert sampler.sides[-1] == round(SCALE_RANGE[1] * 64)
    assert len(sampler.sides) == 32


def test_crop_sampler_rejects_what_is_no_photograph():
    with pytest.raises(ValueError, match="at least one picture, got none"):
        CropSampler([], 32)
    with pytest.raises(ValueError, match=r"got \(40, 50\) of uint8 at index 1; convert it to RGB"):
        CropSampler([flat(0), flat(0)[..., 0]], 16)


def test_bundled_crops_of_a_seed_are_those_recorded(bundled: CropSampler):
    images, class_ids = bundled.sample(8, generator(5))
    assert class_ids.tolist() == [8, 11, 5, 4, 9, 3, 10, 0]
    pixels = ((images + 1) * 127.5).round().int()
    assert pixels[:, 0, 0, 0].tolist() == [122, 180, 175, 175, 111, 185, 214, 175]
    assert pixels[:, 1, 31, 17].tolist() == [222, 75, 79, 158, 117, 148, 70, 108]
    assert pixels[:, 2, 63, 63].tolist() == [108, 56, 142, 52, 114, 11, 183, 3]


def test_bundled_crops_equal_plain_slices_of_resized_photographs(bundled: CropSampler):
    images, class_ids = bundled.sample(24, generator(1))
    drawn = torch.rand(24, 5, generator=generator(1), dtype=torch.float64).tolist()
    sides = np.round(np.linspace(1.1 * 64, 2.6 * 64, 32)).astype(int)
    for image, label, (u_class, u_side, u_top, u_left, u_flip) in zip(
        images, class_ids.tolist(), drawn, strict=True
    ):
        assert label == int(u_class * 14)
        picture = Image.fromarray(load_photograph(PHOTOGRAPHS[label]))
        side = sides[int(u_side * 32)]
        size = [round(length * (side / min(picture.size))) for length in picture.size]
        resized = np.array(picture.resize((size[0], size[1]), Image.Resampling.BICUBIC))
        top, left = int(u_top * (size[1] - 63)), int(u_left * (size[0] - 63))
        window = resized[top : top + 64, left : left + 64]
        window = window[:, ::-1] if u_flip < 0.5 else window
        assert torch.equal(image, torch.from_numpy(window.copy()).permute(2, 0, 1) / 127.5 - 1)


def test_crop_rows_are_those_of_the_whole_batch():
    sampler = CropSampler([load_photograph("coffee"), load_photograph("coins")], 32)
    whole_stream, stream = generator(2), generator(2)
    whole = sampler.sample(9, whole_stream)
    part = sampler.sample(9, stream, rows=slice(3, 7))
    assert torch.equal(part.images, whole.images[3:7])
    assert part.class_ids.tolist() == whole.class_ids[3:7].tolist()
    assert torch.equal(stream.get_state(), whole_stream.get_state())
    chosen = torch.tensor([0, 1, 1, 0])
    assert sampler.sample(4, generator(), chosen, rows=slice(2, 4)).class_ids.tolist() == [1, 0]


def test_crop_sampler_without_flips_keeps_left_and_right():
    sampler = CropSampler([coordinates(40, 40)], 20, scale_range=(2, 2), flip=False)
    images = sampler.sample(32, generator()).images
    assert (images[:, 1].diff(dim=2) > 0).all()
    assert sampler.sides.tolist() == [40]


def test_crop_sampler_rejects_scales_and_names_that_do_not_fit():
    with pytest.raises(ValueError, match=r"scale_range must be two numbers.*got \(0.5, 1\)"):
        CropSampler([flat(0)], 16, scale_range=(0.5, 1))
    with pytest.raises(ValueError, match="one name for each of 1 photographs or none, got 2"):
        CropSampler([flat(0)], 16, class_names=("a", "b"))


def test_bundled_crops_have_one_class_per_photograph(bundled: CropSampler):
    assert bundled.num_classes == len(PHOTOGRAPHS)
    assert bundled.class_names == PHOTOGRAPHS
    images, _ = bundled.sample(14, generator(), torch.arange(14))
    assert images.shape == (14, 3, 64, 64)
    assert images.min() >= -1
    assert images.max() <= 1
    grey = (images[:, 0] == images[:, 1]).all((1, 2)) & (images[:, 1] == images[:, 2]).all((1, 2))
    names = {name for name, is_grey in zip(PHOTOGRAPHS, grey.tolist(), strict=True) if is_grey}
    assert names == {"brick", "coins", "grass", "gravel", "moon", "text"}


def test_to_picture_puts_images_row_by_row():
    images = torch.tensor([-1.0, 0.0, 1.0, 2.0, -3.0])[:, None, None, None].expand(5, 3, 2, 4)
    picture = np.array(to_picture(images, columns=3))
    assert picture.shape == (4, 12, 3)
    assert picture[0, ::4, 0].tolist() == [0, 128, 255]
    assert picture[2, ::4, 0].tolist() == [255, 0, 0]
