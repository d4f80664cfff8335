import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab.sampling import sample_steps
from deco_lab.spectra import split_bands
from deco_lab.spectra.solver_error import SolverError, solver_error

EDGES = (1 / 8, 1 / 4)
RATES = (-1.0, 0.5, 2.0)


class Linear:
    """dx/dt = rate_k x in band k: each band grows by exp(rate_k) from t = 0 to 1."""

    def __init__(self):
        self.config = SimpleNamespace(num_classes=2, image_size=32)

    def __call__(self, x, t, class_ids):
        bands = split_bands(x, EDGES)
        return torch.stack([r * band for r, band in zip(RATES, bands, strict=True)]).sum(0)


def draw(class_ids, *, solver, num_steps, seed) -> Any:
    """Sample the linear model, or its exact solution."""
    steps = sample_steps(
        Linear(),
        class_ids,
        solver="euler" if solver == "exact" else solver,
        num_steps=num_steps,
        seed=seed,
        guidance_scale=1,
    )
    if solver != "exact":
        return steps
    bands = split_bands(next(steps).x.double(), EDGES)
    x = sum(math.exp(rate) * band for rate, band in zip(RATES, bands, strict=True))
    return [SimpleNamespace(x=x, nfe=0)]


def test_solver_error_of_a_linear_model_is_known():
    settings = [("euler", 5), ("euler", 20), ("heun", 5)]
    found = solver_error(
        draw, [0, 1, 0], settings, reference=("exact", 1), edges=EDGES, batch_size=2
    )
    rates = np.array(RATES)
    euler = [np.abs((1 + rates / n) ** n * np.exp(-rates) - 1) for n in (5, 20)]
    np.testing.assert_allclose(found.error.value[:2], euler, rtol=1e-4)
    step = 1 + rates / 5 + (rates / 5) ** 2 / 2  # and a last one of Euler's
    heun = np.abs(step**4 * (1 + rates / 5) * np.exp(-rates) - 1)
    np.testing.assert_allclose(found.error.value[2], heun, rtol=1e-4)
    assert found.nfe.tolist() == [5, 20, 9]
    np.testing.assert_allclose(
        found.error.low, found.error.value, rtol=1e-4
    )  # alike for every image
    assert found.count == 3
    assert found.solvers == ("euler", "euler", "heun")


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("adams2", 2)])
def test_solver_error_falls_by_the_order_in_every_band(solver, order):
    settings = [(solver, 20), (solver, 40)]
    error = solver_error(draw, [0], settings, reference=("exact", 1), edges=EDGES).error.value
    np.testing.assert_allclose(np.log2(error[0] / error[1]), order, atol=0.15)


def test_solver_error_of_the_reference_itself_is_0_and_saves(golden_deco, tmp_path):
    found = solver_error(
        partial(sample_steps, golden_deco, guidance_scale=1.0),
        [1, 2, 3],
        [("euler", 6), ("heun", 6)],
        reference=("heun", 6),
        batch_size=2,
        seed=7,
    )
    assert found.error.value[1].tolist() == [0] * 4
    assert (found.error.value[0] > 0).all()
    found.save(tmp_path / "solvers.npz")
    again = SolverError.load(tmp_path / "solvers.npz")
    assert again.solvers == ("euler", "heun")
    assert again.recipe["seed"] == 7


def test_solver_error_does_not_depend_on_batch_size():
    errors = [
        solver_error(
            draw, [0] * 3, [("euler", 3)], reference=("heun", 9), batch_size=size
        ).error.value
        for size in (1, 3)
    ]
    np.testing.assert_allclose(*errors, rtol=1e-5)


def test_solver_error_refuses_bad_input():
    with pytest.raises(ValueError, match="needs a label and a setting, got 0 class_ids"):
        solver_error(draw, [], [("euler", 3)])
    with pytest.raises(ValueError, match="got 1 class_ids and 0 settings"):
        solver_error(draw, [0], [])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        solver_error(draw, [0], [("euler", 3)], batch_size=0)
    with pytest.raises(ValueError, match="draw must give steps to finite images, got none"):
        solver_error(lambda ids, **_: [], [0], [("euler", 3)])
