import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.models import DeCo, build
from deco_lab.spectra.jacobian import DecoderGain, decoder_gain, gain_of, pixel_jacobian

CONFIG = {
    "image_size": 16, "patch_size": 4, "num_classes": 3, "hidden_size": 16, "num_heads": 2,
    "depth": 2, "decoder_depth": 2, "decoder_width": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> DeCo:
    model = deco_lab.load("tiny", device="cpu")
    assert isinstance(model, DeCo)
    return model


def random_deco(**changes: int) -> DeCo:
    model = build(DeCoConfig(**(CONFIG | changes)))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    assert isinstance(model, DeCo)
    return model


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Known:
    """A decoder whose condition is the time, with a matrix A for each pixel: v = A x / (t - 1)."""

    config = SimpleNamespace(patch_size=2)

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        N = x.shape[2] * x.shape[3] // 4
        return t.to(x)[:, None, None].expand(-1, N, 1)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        slope = 1 / (condition[:, :1, 0] - 1)
        return torch.einsum("ij,bjhw->bihw", self.matrix.to(x), x) * slope[..., None, None]


class Blurring(Known):
    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=1, padding=1)


def test_decode_of_tiny_moves_one_pixel_when_one_pixel_changes(tiny):
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        condition = tiny.condition(x, torch.tensor([0.5]), torch.tensor([0]))
        before = tiny.decode(x, condition)
        changed = x.clone()
        changed[0, 1, 20, 45] += 0.5
        moved = (tiny.decode(changed, condition) - before)[0].abs().amax(0)
    assert moved[20, 45] > 0.1
    moved[20, 45] = 0
    assert moved.max() == 0


def test_pixel_jacobian_equals_finite_differences_in_float64():
    model = deco_lab.load("tiny", device="cpu").double()
    assert isinstance(model, DeCo)
    x = noise(1, 3, 16, 24, dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        condition = model.condition(x, torch.tensor([0.7]), torch.tensor([3]))
        jacobian = pixel_jacobian(model, x, condition)
        for row, column, channel in [(0, 0, 0), (3, 17, 1), (15, 23, 2)]:
            e = torch.zeros_like(x)
            e[0, channel, row, column] = step
            moved = model.decode(x + e, condition) - model.decode(x - e, condition)
            torch.testing.assert_close(
                jacobian[0, row, column, :, channel],
                moved[0, :, row, column] / (2 * step),
                rtol=1e-7,
                atol=1e-8,
            )


def test_pixel_jacobian_is_the_block_diagonal_of_the_full_jacobian():
    model = random_deco().double()
    x = noise(1, 3, 4, 8, dtype=torch.float64)
    with torch.no_grad():
        condition = model.condition(x, torch.tensor([0.4]), torch.tensor([1]))
    full = torch.func.jacrev(lambda p: model.decode(p, condition))(x)
    assert isinstance(full, Tensor)
    full = full.detach()
    expected = torch.einsum("ihwjhw->hwij", full[0, :, :, :, 0])[None]
    torch.testing.assert_close(pixel_jacobian(model, x, condition), expected)
    assert expected.square().sum() == pytest.approx(float(full.square().sum()), rel=1e-12)


def test_gain_of_the_identity_is_1_and_lies_below_the_spectral_norm():
    assert gain_of(torch.eye(3)).item() == pytest.approx(1)
    matrices = noise(50, 3, 3)
    spectral = torch.linalg.matrix_norm(matrices, ord=2)
    assert bool((gain_of(matrices) <= spectral).all())
    assert bool((spectral <= math.sqrt(3) * gain_of(matrices)).all())


def test_decoder_gain_of_a_known_decoder_is_its_matrix():
    matrix = noise(3, 3, seed=3, dtype=torch.float64)
    images = noise(5, 3, 8, 4, dtype=torch.float64)
    found = decoder_gain(Known(matrix), images, torch.zeros(5).long(), times=(0.0, 0.5))
    expected = -np.array([1, 2])[:, None, None] * matrix.numpy()
    np.testing.assert_allclose(found.jacobian, expected)
    gain = float(gain_of(matrix))
    np.testing.assert_allclose(found.gain, [[gain] * 5, [2 * gain] * 5])
    np.testing.assert_allclose(found.gain_map[1], np.full((8, 4), 2 * gain))
    assert found.place_map.shape == (2, 2, 2)
    np.testing.assert_allclose(found.known_slope, [-1, -2])
    slope = found.slopes()[1]
    assert slope.value == pytest.approx(-2 * float(matrix.trace()) / 3)
    assert slope.high - slope.low == pytest.approx(0, abs=1e-12)


class Constant(Known):
    """A decoder that predicts one colour, whatever it is given."""

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return (0.3 - x) / (1 - condition[:, 0, 0])[:, None, None, None]


class Told(Constant):
    """A decoder that knows the image."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return (self.images - x) / (1 - condition[:, 0, 0])[:, None, None, None]


def test_decoder_gain_of_a_constant_picture_has_the_slope_of_a_known_one():
    """Only the error tells them apart."""
    images = noise(3, 3, 8, 8) / 4
    flat, told = (
        decoder_gain(model, images, [0] * 3, times=[0.25, 0.5])
        for model in (Constant(torch.eye(3)), Told(images))
    )
    for found in (flat, told):
        slopes = np.broadcast_to(found.known_slope[:, None], (2, 3))
        np.testing.assert_allclose(found.slope, slopes, rtol=1e-5)
    assert told.error.max() < 1e-9
    off = (images - 0.3).square().sum((1, 2, 3))
    about = (images - images.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
    np.testing.assert_allclose(flat.error, np.broadcast_to(off / about, (2, 3)), rtol=1e-4)
    assert flat.errors()[0].value > 1


def test_decoder_gain_does_not_depend_on_the_batch():
    model, images = random_deco(), noise(5, 3, 8, 12)
    class_ids = torch.tensor([0, 1, 2, 0, 1])
    whole, parts = (
        decoder_gain(model, images, class_ids, times=(0.3,), batch_size=n) for n in (5, 2)
    )
    np.testing.assert_allclose(whole.gain, parts.gain, rtol=1e-5)
    np.testing.assert_allclose(whole.gain_map, parts.gain_map, rtol=1e-5)
    alone = decoder_gain(model, images[:1], class_ids[:1], times=(0.3,))
    np.testing.assert_allclose(whole.gain[:, :1], alone.gain, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decoder_gain_takes_narrow_types(dtype):
    images, class_ids = noise(2, 3, 16, 16), torch.tensor([0, 1])
    wide = decoder_gain(random_deco(), images.to(dtype).float(), class_ids, times=(0.5,))
    narrow = decoder_gain(random_deco(), images.to(dtype), class_ids, times=(0.5,))
    np.testing.assert_allclose(narrow.gain, wide.gain)


def test_decoder_gain_of_tiny_reads_the_noise_and_random_weights_do_not(tiny):
    from deco_lab.data import bundled_crops

    crops = bundled_crops(64).sample(4, torch.Generator().manual_seed(5))
    trained = decoder_gain(tiny, crops.images, crops.class_ids, times=(0.5,))
    assert np.abs(trained.slope / trained.known_slope[:, None] - 1).max() < 0.05
    untrained = random_deco(image_size=64, num_classes=14)
    null = decoder_gain(untrained, crops.images, crops.class_ids, times=(0.5,))
    assert np.abs(null.slope / null.known_slope[:, None] - 1).min() > 0.5


def test_decoder_gain_of_a_fresh_decoder_is_zero():
    found = decoder_gain(
        build(DeCoConfig(**CONFIG)),  # type: ignore[arg-type]
        noise(2, 3, 8, 8),
        torch.tensor([0, 1]),
        times=(0.5, 1.0),
    )
    assert not found.gain.any()
    assert found.known_slope[1] == -np.inf


def test_pixel_jacobian_refuses_decoders_that_are_not_pointwise():
    x = noise(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"must be pointwise.*decoder_patch=1"):
        pixel_jacobian(Blurring(torch.eye(3)), x, torch.zeros(1, 16, 1))
    units = random_deco(decoder_patch=2)
    with torch.no_grad():
        condition = units.condition(x, torch.tensor([0.5]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"must be pointwise.*decoder_patch=1"):
        pixel_jacobian(units, x, condition)


def test_first_derivative_of_a_process_warns_of_nothing():
    """PyTorch calls for it what it deprecates itself."""
    code = """
import torch
from deco_lab.spectra.jacobian import directional_derivative
double = directional_derivative(torch.square, (torch.tensor(3.0),), (torch.tensor(1.0),))
assert double == 6
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_decoder_gain_says_what_is_wrong():
    model, images, class_ids = random_deco(), noise(2, 3, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the methods condition and decode, which a Linear"):
        decoder_gain(torch.nn.Linear(1, 1), images, class_ids)
    with pytest.raises(ValueError, match="images must be finite"):
        decoder_gain(model, images * torch.nan, class_ids)
    with pytest.raises(ValueError, match=r"divisible by patch_size=4, got 8 x 6"):
        decoder_gain(model, images[..., :6], class_ids)
    with pytest.raises(ValueError, match="hold pixels"):
        decoder_gain(model, images[:0], class_ids[:0])
    with pytest.raises(ValueError, match=r"one whole number for each image, shape \(2,\)"):
        decoder_gain(model, images, class_ids[:1])
    with pytest.raises(ValueError, match=r"times must be at least one t in \[0, 1\]"):
        decoder_gain(model, images, class_ids, times=(1.5,))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        decoder_gain(model, images, class_ids, batch_size=0)
    with pytest.raises(ValueError, match="x must be RGB"):
        pixel_jacobian(model, images * torch.nan, torch.zeros(2, 4, 16))


def test_decoder_gain_is_saved_with_its_recipe(tmp_path: Path):
    found = decoder_gain(random_deco(), noise(2, 3, 8, 8), torch.tensor([0, 1]), times=(0.5,))
    found.save(tmp_path / "gain.npz")
    again = DecoderGain.load(tmp_path / "gain.npz")
    np.testing.assert_array_equal(again.gain_map, found.gain_map)
    assert again.recipe["gain"] == "Frobenius / sqrt(3)"
    assert len(again.recipe["weights"]) == 16
