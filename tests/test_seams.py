from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import bundled_crops, load_photograph
from deco_lab.spectra import seams
from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.frequencies import radial_frequency
from deco_lab.spectra.seams import DETECTORS, Seams, edge_steps, find_seams


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    return bundled_crops(64).sample(32, torch.Generator().manual_seed(99)).images


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_patch(values: Tensor, P: int = 8) -> Tensor:
    """Return (B, C, rows, columns) with each value on a patch of its own."""
    return values.repeat_interleave(P, -1).repeat_interleave(P, -2)


def with_gains(images: Tensor, amount: float) -> Tensor:
    """Return images whose detail is stronger or weaker by patch, and untouched at the borders."""
    signs = randn(len(images), 1, 8, 8, seed=3).sign()
    window = torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 0]).tile(8)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    gain = 1 + amount * by_patch(signs) * window[:, None] * window
    return smooth + gain * (images - smooth)


def with_blur(images: Tensor) -> Tensor:
    """Return images of which about half of the patches are blurred."""
    chosen = by_patch((randn(len(images), 1, 8, 8, seed=4) > 0).float())
    smooth = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
    return torch.lerp(images, smooth, chosen)


def with_pattern(images: Tensor, amount: float) -> Tensor:
    """Return images with a cosine of period 8 along both axes: it has no step."""
    wave = torch.cos(2 * torch.pi * torch.arange(64) / 8)
    return images + amount * (wave[:, None] + wave)


def test_find_seams_sees_none_in_photographs(photographs):
    found = find_seams(photographs, 8)
    assert found.found() == ()
    for estimate in found.estimates().values():
        assert estimate.low - 0.1 < 0 < estimate.high + 0.1


def test_find_seams_sees_none_in_photographs_of_shuffled_phase(photographs):
    """Seams of steps live in the phases: the same power without them has none."""
    stepped = photographs + 0.1 * by_patch(randn(32, 3, 8, 8))
    spectrum = torch.fft.rfft2(stepped)
    phase = torch.fft.rfft2(randn(32, 1, 64, 64, seed=7)).angle()
    shuffled = torch.fft.irfft2(torch.polar(spectrum.abs(), phase.expand_as(spectrum)))
    assert find_seams(shuffled, 8).found() == ()


def test_find_seams_sees_steps(photographs):
    found = find_seams(photographs + 0.1 * by_patch(randn(32, 3, 8, 8)), 8)
    assert found.found() == ("gradient", "block_dct")  # the comb is blind to random signs
    assert found.step_by_offset.argmax() == 0


def test_find_seams_sees_contrast_that_differs_by_patch(photographs):
    found = find_seams(with_gains(photographs, 0.6), 8)
    assert found.found() == ("gradient", "block_dct")


def test_find_seams_sees_patches_that_are_blurred(photographs):
    assert "block_dct" in find_seams(with_blur(photographs), 8).found()


def test_find_seams_sees_a_pattern_without_steps(photographs):
    found = find_seams(with_pattern(photographs, 0.03), 8)
    assert found.found() == ("comb", "gradient")


def test_find_seams_sees_smeared_borders_below_0():
    images = randn(16, 1, 64, 64)
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    border = (torch.arange(64) % 8 == 0) | (torch.arange(64) % 8 == 7)
    found = find_seams(torch.where(border[:, None] | border, smooth, images), 8)
    assert "gradient" in found.found()
    assert found.excess[DETECTORS.index("gradient")].max() < 0


def test_find_seams_looks_at_the_grid_it_was_given(photographs):
    stepped = photographs + 0.3 * by_patch(randn(32, 3, 8, 8))
    shifted = stepped[..., 3:59, 3:59]
    assert "gradient" in find_seams(stepped, 8).found()
    found = find_seams(shifted, 8)
    assert found.estimates()["gradient"].high < 0
    assert found.step_by_offset.argmax() == 5
    coarse = photographs + 0.3 * by_patch(randn(32, 3, 4, 4), 16)
    assert "gradient" in find_seams(coarse, 16).found()


def test_find_seams_p_of_white_noise_is_even():
    """Of one image among all places of the grid, of many among places drawn at random."""
    for count in (1, 6):
        p = np.array([find_seams(randn(count, 1, 32, 40, seed=s), 8).p for s in range(100)])
        assert (np.abs((p <= 0.25).mean(0) - 0.25) < 0.14).all()
        assert (np.abs((p <= 0.05).mean(0) - 0.05) < 0.08).all()


def test_find_seams_of_one_picture_has_as_many_places_as_pixels_in_a_patch(photographs):
    stepped = photographs[:1] + 0.3 * by_patch(randn(1, 3, 8, 8))
    np.testing.assert_allclose(find_seams(stepped, 8).p[1:], 1 / 64)


def test_find_seams_moves_the_grid_of_a_group_as_one(photographs):
    """Copies of an image say no more than the image, once they are known to be of one group."""
    copies = photographs[3:4].expand(16, -1, -1, -1)
    alone, alike = find_seams(photographs[3:4], 8), find_seams(copies, 8, groups=["a"] * 16)
    np.testing.assert_allclose(alike.p, alone.p)
    assert (find_seams(copies, 8).p < alone.p).any()
    assert np.isnan(alike.estimates()["comb"].low)


def test_find_seams_intervals_are_of_groups(photographs):
    groups = [name for name in "abcdefgh" for _ in range(4)]
    photographs = photographs[::4].repeat_interleave(4, 0)
    alone, alike = find_seams(photographs, 8), find_seams(photographs, 8, groups=groups)
    wider = [
        (b.high - b.low) / (a.high - a.low)
        for a, b in zip(alone.ratios(), alike.ratios(), strict=True)
    ]
    assert 1.8 < np.mean(wider) < 2.8  # the root of 4, and Student's of 8 for 32


def test_find_seams_take_pictures_of_any_sizes(photographs):
    """Cut to whole patches; grey, and of several sizes one by one, as in one tensor."""
    first, second = photographs[:2]
    found = find_seams([first, second[:1, :53, :47]], 8)
    for i, alone in enumerate((first[None], second[None, :1, :48, :40])):
        np.testing.assert_allclose(found.excess[:, i], find_seams(alone, 8).excess[:, 0])
    np.testing.assert_allclose(
        find_seams(list(photographs), 8).p, find_seams(photographs, 8).p, atol=1e-12
    )


def planted(images: Tensor, kind: str, levels: float, P: int) -> Tensor:
    """Return images with a grid of patches, of a contrast in grey levels of 255, rounded to them.

    steps     patches are half the contrast lighter or darker, at random
    mesh      the first row and column of every patch is darker
    pattern   every patch has the same white noise on it, of that deviation
    blur      half of the patches, at random, are blurred over 3 pixels; levels is its share
    """
    M, _, H, W = images.shape
    rows, columns = -(-H // P), -(-W // P)
    signs = by_patch(randn(M, 1, rows, columns, seed=4).sign(), P)[..., :H, :W]
    if kind == "blur":
        smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
        images = torch.lerp(images, smooth, levels * (signs > 0).float())
    first = (torch.arange(max(H, W)) % P == 0).float()
    grids = {
        "steps": signs / 2,
        "mesh": -torch.maximum(first[:H, None], first[:W]),
        "pattern": randn(P, P, seed=7).repeat(rows, columns)[:H, :W],
    }
    grid = levels / 127.5 * grids[kind] if kind in grids else 0
    return ((images + grid + 1) * 127.5).round() / 127.5 - 1


def cut(count: int, side: int, seed: int = 0) -> Tensor:
    """Return crops of the photographs in turn, resized: blocks of what was a JPEG are gone."""
    generator = np.random.default_rng(seed)
    crops = []
    for i in range(count):
        picture = Image.fromarray(load_photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)]))
        picture.thumbnail((2.2 * side, 2.2 * side))
        picture = ImageOps.fit(picture, (round(1.31 * side), round(1.31 * side)))
        y, x = generator.integers(round(0.31 * side), size=2)
        crops.append(np.array(picture)[y : y + side, x : x + side].transpose(2, 0, 1))
    return torch.from_numpy(np.array(crops)) / 127.5 - 1


def flagged(count: int, kind: str, levels: float, P: int, sets: int = 6) -> float:
    """Return how many of some sets of crops of photographs are found to have a grid."""
    crops = cut(count * sets, 64 if count > 1 else 192, seed=P)
    images = planted(crops, kind, levels, P).split(count)
    return sum(bool(find_seams(some, P).found()) for some in images) / sets


@pytest.mark.slow
@pytest.mark.parametrize("P", [8, 14, 16])
def test_find_seams_flag_few_sets_of_photographs_without_a_grid(P: int):
    """5% of 24 pictures and of 24 sets are 2.4: more than 7 come once in three hundred times."""
    assert flagged(1, "none", 0, P, 24) + flagged(12, "none", 0, P, 24) <= 7 / 24


@pytest.mark.slow
@pytest.mark.parametrize("P", [8, 14, 16])
@pytest.mark.parametrize(
    ("count", "kind", "seen", "unseen"),
    [
        (1, "steps", 32, 0.25),
        (1, "mesh", 16, 0.25),
        (1, "pattern", 8, 0.25),
        (12, "steps", 8, 0.5),
        (12, "mesh", 4, 0.25),
        (12, "pattern", 6, 0.25),
        (12, "blur", 1, 0.1),
    ],
)
def test_find_seams_see_planted_grids(count: int, kind: str, seen: float, unseen: float, P: int):
    """From the contrast that is seen nearly always to one that is hardly seen; the module's table
    has those between."""
    assert flagged(count, kind, seen, P) >= 5 / 6
    assert flagged(count, kind, unseen, P) <= 3 / 6


WERE_JPEGS = (
    *("chelsea", "coins", "grass", "hubble_deep_field", "ihc", "retina", "rocket"),
    *("china", "flower", "grace_hopper"),
)
"""Photographs that have been JPEG files, whatever files they are now."""


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_that_were_jpegs_have_coefficients_rounded_to_0(name: str):
    """Only blocks where JPEG had them: at one place of 64 far more fine coefficients vanish."""
    picture = torch.from_numpy(load_photograph(name) @ np.array([0.299, 0.587, 0.114]))
    y, x = (max(side // 2 - 136, 0) // 8 * 8 for side in picture.shape)
    grey = picture[None, None, y : y + 272, x : x + 272]
    H, W = (side // 8 * 8 - 8 for side in grey.shape[-2:])
    u = torch.arange(8)
    blocks = [block_dct(grey[..., i : i + H, j : j + W]) for i in range(8) for j in range(8)]
    vanishing = [
        float((some[..., u[:, None] + u > 2].abs() < 0.5).double().mean()) for some in blocks
    ]
    second, first = sorted(vanishing)[-2:]
    assert (first - second > 0.04) == (name in WERE_JPEGS)
    if name in WERE_JPEGS:
        own = {"ihc": 3 * 8 + 5}  # was cut afterwards
        assert np.argmax(vanishing) == own.get(name, 0)


CUTS = ("at its blocks", "anywhere", "resized")


def windows(name: str, how: str, count: int = 6) -> Tensor:
    """Return squares of 256 pixels of a photograph, (count, 3, 256, 256), in [-1, 1]."""
    generator = np.random.default_rng(PHOTOGRAPHS.index(name))
    cut = []
    for _ in range(count):
        picture = Image.fromarray(load_photograph(name))
        if how == "resized":
            least = 260 / min(picture.size)
            picture = ImageOps.scale(picture, generator.uniform(max(least, 0.6), max(least, 0.95)))
        y, x = (generator.integers(side - 255) for side in (picture.height, picture.width))
        if how == "at its blocks":
            y, x = (int(v) // 8 * 8 for v in (y, x))
        cut.append(np.array(picture)[y : y + 256, x : x + 256].transpose(2, 0, 1))
    return torch.from_numpy(np.array(cut)) / 127.5 - 1


@pytest.mark.slow
def test_find_seams_flag_what_was_a_jpeg_and_little_else():
    """The table in the module's docstring."""
    for title, were in (("were JPEG files", True), ("never were", False)):
        names = [n for n in PHOTOGRAPHS if n != "text" and (n in WERE_JPEGS) == were]
        flags = [
            sum(bool(find_seams(one[None], 8).found()) for n in names for one in windows(n, how))
            for how in CUTS
        ]
        row = f"{len(names)} that {title:<16}{flags[0]:>12}{flags[1]:>12}{flags[2]:>12}"
        assert f"{row}  of {6 * len(names)}" in str(seams.__doc__)


@pytest.mark.parametrize("P", [7, 8, 14])
def test_find_seams_block_dct_is_that_of_blocks(P: int):
    """Of its definition: aligned blocks and those shifted by half of one, each by `block_dct`."""
    images = randn(2, 3, 4 * P, 5 * P).double()
    u = torch.arange(P).double()
    high = torch.hypot(u[:, None], u) >= P / 2
    half = P // 2

    def energy(images: Tensor) -> Tensor:
        return (block_dct(images, P).square() * high).sum((1, -1, -2))

    aligned = energy(images)[:, :-1, :-1]
    floor = 1e-3 * aligned.mean((1, 2), keepdim=True)
    shifted = energy(images[..., half : half - P, half : half - P])[:, :-1, :-1]
    around = (aligned + floor).log().unfold(1, 2, 1).unfold(2, 2, 1).mean((-1, -2))
    expected = ((shifted + floor).log() - around).mean((1, 2))
    excess = find_seams(images, P).excess[DETECTORS.index("block_dct")]
    np.testing.assert_allclose(excess, expected, atol=2e-2 if P == 7 else 2e-3)


def test_edge_steps_of_patches_that_differ_are_at_their_edges():
    """One patch of 2 among zeros: a step of 2 at all its edges, one edge of its neighbours."""
    image = torch.zeros(1, 2, 27, 24)
    image[..., 8:16, 8:16] = 2
    across, inside = edge_steps(image, 8)[0]
    expected = torch.tensor([[0, 2 / 3, 0], [2 / 3, 2, 2 / 3], [0, 2 / 3, 0]]).double()
    torch.testing.assert_close(across, expected)
    assert not inside.any()
    ramp = torch.arange(24.0).expand(1, 1, 24, 24)
    across, inside = edge_steps(ramp.mT, 8)[0]
    torch.testing.assert_close(inside, torch.full((3, 3), 0.5).double())
    torch.testing.assert_close(across[1, 1], torch.tensor(0.5).double())


def power_law(alpha: float, size: int, count: int, seed: int) -> Tensor:
    """Return periodic Gaussian fields of power 1 / f^alpha, (count, 1, size, size)."""
    f = radial_frequency(size, size, half=True)
    f[0, 0] = torch.inf
    return torch.fft.irfft2(
        torch.fft.rfft2(randn(count, 1, size, size, seed=seed)) * f ** (-alpha / 2)
    )


SIZES = [(24, 8), (32, 8), (64, 8), (64, 16), (70, 14), (256, 16)]


@pytest.mark.parametrize(("size", "P"), SIZES)
@pytest.mark.parametrize("alpha", [0, 1, 2, 3])
def test_find_seams_comb_of_a_power_law_is_0(alpha: int, size: int, P: int):
    """Waves of power f^-alpha exactly, in a sum that the comb takes apart again."""
    k = torch.arange(1, size // 2, dtype=torch.float64)
    waves = torch.cos(2 * torch.pi * k[:, None] * torch.arange(size) / size)
    profile = (k[:, None] ** (-alpha / 2) * waves).sum(0)
    found = find_seams((profile + profile[:, None]).expand(8, 1, -1, -1), P)
    np.testing.assert_allclose(found.excess[DETECTORS.index("comb")], 0, atol=1e-6)


@pytest.mark.parametrize(("size", "P", "count"), [(32, 8, 1600), (64, 8, 400), (64, 16, 400)])
@pytest.mark.parametrize("alpha", [1, 2, 3])
def test_find_seams_are_0_on_average_over_fields(alpha: int, size: int, P: int, count: int):
    """A bias of .07 in the comb, as of a straight line in f, is 4 errors of 1600 fields."""
    excess = find_seams(power_law(alpha, size, count, seed=alpha), P, batch_size=500).excess
    error = excess.std(1, ddof=1) / count**0.5
    assert (np.abs(excess.mean(1) / error) < 3).all()


def test_find_seams_gradient_of_a_staircase_is_its_closed_form():
    """Steps of 1 at borders and of a in between, everywhere and along both axes."""
    a = 0.25
    ramp = torch.where(torch.arange(1, 32) % 8 == 0, 1.0, a).cumsum(0)
    ramp = torch.cat([torch.zeros(1), ramp])
    found = find_seams((ramp[:, None] + ramp).expand(8, 1, -1, -1), 8)
    mean = (1 + 7 * a) / 8
    np.testing.assert_allclose(found.step_by_offset, np.array([1] + [a] * 7) / mean)
    floor = 1e-3 * mean
    np.testing.assert_allclose(found.excess[1], np.log((1 + floor) / (a + floor)))


def test_find_seams_does_not_depend_on_batch_or_scale(photographs):
    first, second = (find_seams(photographs[:9], 8, batch_size=n) for n in (9, 4))
    np.testing.assert_allclose(first.excess, second.excess, atol=1e-12)
    scaled = find_seams(photographs[:9].double() * 100, 8)
    np.testing.assert_allclose(scaled.excess, first.excess, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_find_seams_take_any_float(photographs, dtype):
    images = photographs[:8].to(dtype)
    np.testing.assert_array_equal(
        find_seams(images, 8).excess, find_seams(images.double(), 8).excess
    )


def test_find_seams_of_flat_images_says_nothing():
    found = find_seams(torch.zeros(8, 3, 32, 32), 8)
    np.testing.assert_array_equal(found.p, 1)
    assert found.found() == ()
    np.testing.assert_allclose(found.excess, 0, atol=1e-9)


def test_find_seams_of_random_weights_finds_the_patches():
    """Null of the claim that a decoder trained well has none: an untrained one draws its grid."""
    from deco_lab.config import DeCoConfig
    from deco_lab.models import DeCo

    model = DeCo(
        DeCoConfig(image_size=64, patch_size=8, num_classes=2, hidden_size=32, num_heads=2, depth=1)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    with torch.no_grad():
        velocity = model(randn(8, 3, 64, 64), torch.full((8,), 0.5), torch.zeros(8).long())
    assert "comb" in find_seams(velocity, 8).found()


def test_find_seams_say_what_is_wrong():
    images = torch.zeros(8, 3, 32, 32)
    with pytest.raises(ValueError, match="hold pixels"):
        find_seams(images[:0], 8)
    with pytest.raises(ValueError, match="images must hold at least one image, got none"):
        find_seams([], 8)
    with pytest.raises(ValueError, match="patch_size=16, 48 x 48 pixels, got 32 x 32"):
        find_seams(images, 16)
    with pytest.raises(ValueError, match="groups must be one label for each of 8 images, got 2"):
        find_seams(images, 8, groups=[0, 1])
    with pytest.raises(ValueError, match="patch_size must be at least 3, got 2"):
        find_seams(images, 2)
    with pytest.raises(ValueError, match="images must be finite"):
        find_seams(images * torch.nan, 8)


def test_find_seams_are_saved_with_their_recipe(tmp_path: Path):
    found = find_seams(randn(8, 3, 32, 32), 8)
    found.save(tmp_path / "seams.npz")
    again = Seams.load(tmp_path / "seams.npz")
    np.testing.assert_array_equal(again.excess, found.excess)
    assert again.patch_size == 8
    assert again.recipe["detectors"] == list(DETECTORS)
