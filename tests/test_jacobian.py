import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.models import DeCo, build
from deco_lab.spectra.jacobian import gain_of, pixel_jacobian

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


def test_pixel_jacobian_says_what_is_wrong():
    images = noise(2, 3, 8, 8)
    with pytest.raises(ValueError, match="the methods condition and decode, which a Linear"):
        pixel_jacobian(torch.nn.Linear(1, 1), images, torch.zeros(2, 4, 16))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x must be RGB"):
        pixel_jacobian(random_deco(), images * torch.nan, torch.zeros(2, 4, 16))
