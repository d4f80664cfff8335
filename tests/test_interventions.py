from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.fft import dctn, idctn
from torch import Tensor

from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.models import DeCo, DiT
from deco_lab.sampling import SOLVERS, Step, sample, sample_steps
from deco_lab.spectra import split_bands
from deco_lab.spectra.interventions import (
    BandLimit,
    Intervened,
    OtherRun,
    SpatialMean,
)

NULL = 3


class Clock:
    """A model whose condition tells when it was made, for which state and for which class."""

    config = SimpleNamespace(patch_size=2, num_classes=NULL, image_size=8)

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.decode(x, self.condition(x, t, class_ids))

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        N = x.shape[2] * x.shape[3] // 4
        told = torch.stack([t, x.mean((1, 2, 3)), class_ids.float()], 1)
        return told[:, None].expand(-1, N, -1)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return x


def ask(model: Any, time: float, class_ids: list[int], value: float = 0.0) -> list[list[float]]:
    """Return (t, state, class) of the condition that each row is told."""
    x = torch.full((len(class_ids), 3, 8, 8), float(value))
    t = torch.full((len(class_ids),), time)
    return model.condition(x, t, torch.tensor(class_ids))[:, 0].tolist()


@pytest.fixture(scope="module")
def deco() -> DeCo:
    config = DeCoConfig(
        image_size=16, patch_size=4, num_classes=NULL, hidden_size=16, num_heads=2, depth=1,
        decoder_depth=1, decoder_width=8,
    )  # fmt: skip
    model = DeCo(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.requires_grad_(False)


@pytest.mark.parametrize("solver", SOLVERS)
def test_intervened_that_changes_nothing_draws_the_same_images(deco, solver):
    left, right = (
        sample(model, [0, 2], num_steps=3, solver=solver) for model in (deco, Intervened(deco))
    )
    assert torch.equal(left, right)
    assert (left != 0).any()


@pytest.mark.parametrize("how", [BandLimit(), BandLimit(high=1)])
def test_intervened_with_all_frequencies_draws_the_same_images(deco, how):
    expected = sample(deco, [0, 2], num_steps=3)
    found = sample(Intervened(deco, condition=how, pixels=how), [0, 2], num_steps=3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_other_run_tells_its_states_and_labels():
    steps = [
        Step(i, t, torch.full((2, 3, 8, 8), 10 * t), None, None, 0)
        for i, t in enumerate((0.0, 0.3, 0.6))
    ]
    model = Intervened(Clock(), condition=OtherRun(steps, [2, 1]))
    told = ask(model, 0.3, [0, 0, NULL, NULL])
    torch.testing.assert_close(
        torch.tensor(told), torch.tensor([[0.3, 3, 2], [0.3, 3, 1], [0.3, 3, NULL], [0.3, 3, NULL]])
    )
    with pytest.raises(ValueError, match=r"the other run must have a step at t=0.45, got none"):
        ask(model, 0.45, [0, 0])
    with pytest.raises(ValueError, match="as many images as this one"):
        ask(model, 0.3, [0, 0, 0])


@pytest.mark.parametrize("solver", ["euler", "adams2"])
def test_other_run_of_the_same_run_changes_nothing(deco, solver):
    steps: list[Step] = list(sample_steps(deco, [0, 2], num_steps=4, solver=solver, seed=3))
    model = Intervened(deco, condition=OtherRun(steps, [0, 2]))
    again = sample(model, [0, 2], num_steps=4, solver=solver, seed=3)
    torch.testing.assert_close(again, steps[-1].x)
    other = sample(model, [0, 2], num_steps=4, solver=solver, seed=4)
    assert (other - sample(deco, [0, 2], num_steps=4, solver=solver, seed=4)).norm() > 0.01


def test_spatial_mean_tells_every_place_the_same(deco):
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    inputs = (x, torch.tensor([0.5, 0.5]), torch.tensor([0, 1]))
    told = Intervened(deco, condition=SpatialMean()).condition(*inputs)
    expected = deco.condition(*inputs).mean(1)
    for place in (0, 11, 23):
        torch.testing.assert_close(told[:, place], expected)


@pytest.mark.parametrize("size", [(16, 16), (16, 40)])
@pytest.mark.parametrize("band", [BandLimit(high=0.06), BandLimit(0.03, 0.1), BandLimit(low=0.1)])
def test_band_limit_of_the_condition_matches_scipy(deco, size, band):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    inputs = (x, torch.tensor([0.5, 0.5]), torch.tensor([0, 1]))
    rows, columns = size[0] // 4, size[1] // 4
    grid = deco.condition(*inputs).unflatten(1, (rows, columns)).numpy()
    u, v = torch.arange(rows)[:, None] / (8 * rows), torch.arange(columns) / (8 * columns)
    frequency = torch.hypot(u, v).numpy()  # index u of n tokens of 4 pixels: u / (2 n 4)
    coefficients: Any = dctn(grid, axes=(1, 2), norm="ortho")
    coefficients[:, (frequency < band.low) | (frequency >= band.high)] = 0
    expected = torch.from_numpy(idctn(coefficients, axes=(1, 2), norm="ortho"))
    told = Intervened(deco, condition=band).condition(*inputs)
    torch.testing.assert_close(told, expected.flatten(1, 2), rtol=1e-4, atol=1e-5)


def test_band_limit_below_the_first_frequency_is_the_spatial_mean(deco):
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = (x, torch.tensor([0.5]), torch.tensor([0]))
    limited = Intervened(deco, condition=BandLimit(high=1e-6)).condition(*inputs)
    mean = Intervened(deco, condition=SpatialMean()).condition(*inputs)
    torch.testing.assert_close(limited, mean)


def test_band_limit_of_the_pixels_is_a_band_of_the_image_for_the_decoder_alone():
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    low, high = split_bands(x, [0.2])
    t, ids = torch.tensor([0.5, 0.5]), torch.tensor([0, 1])
    for band, part in ((BandLimit(high=0.2), low), (BandLimit(low=0.2), high)):
        model = Intervened(Clock(), pixels=band)
        torch.testing.assert_close(model(x, t, ids), part)
        assert torch.equal(model.condition(x, t, ids), Clock().condition(x, t, ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_intervened_keeps_the_precision(deco, dtype):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    t, ids = torch.tensor([0.5, 0.5]), torch.tensor([0, 1])
    model = Intervened(deco, condition=BandLimit(high=0.05), pixels=BandLimit(high=0.2))
    assert model(x, t, ids).dtype == dtype
    exact = model(x.float(), t, ids)
    assert (model(x, t, ids).float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Intervened(F.silu), "model must have the methods condition and decode"),
        (
            lambda: Intervened(DiT(DiTConfig(image_size=8, patch_size=4, hidden_size=8,
                                             num_heads=1, depth=1))),
            "a DiT has not",
        ),
        (lambda: Intervened(Clock(), condition="stale"), "condition must be None, OtherRun"),  # type: ignore[arg-type]
        (lambda: Intervened(Clock(), pixels=0.25), "pixels must be None or a BandLimit"),  # type: ignore[arg-type]
        (lambda: BandLimit(0.2, 0.1), "a band needs 0 <= low < high in cycles per pixel"),
        (lambda: BandLimit(float("nan")), "a band needs 0 <= low < high"),
    ],
)  # fmt: skip
def test_interventions_name_what_is_wrong(build, match):
    with pytest.raises(ValueError, match=match):
        build()
