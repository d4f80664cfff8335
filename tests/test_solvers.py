import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deco_lab.flow import time_grid
from deco_lab.sampling.solvers import SOLVERS, Adams, Heun, Solver, adams_weights

# dx/dt = x cos(5t) with x(0) = 1; its second derivative is 1 at t = 0, so a first step of order 1
# leaves an error of order 2.


def velocity(x: Tensor, t: float) -> Tensor:
    return x * math.cos(5 * t)


def exact(t: float) -> Tensor:
    return torch.tensor(math.exp(math.sin(5 * t) / 5), dtype=torch.float64)


def final_error(solver: Solver, times: list[float], known: int = 0) -> float:
    """Solve over the times, the first `known` states given exactly, and return the error."""
    for t, t_next in pairwise(times[: known + 1]):
        solver.step(velocity, exact(t), t, t_next)
    x = exact(times[known])
    for t, t_next in pairwise(times[known:]):
        x = x + (t_next - t) * solver.step(velocity, x, t, t_next)
    return abs(float(x - exact(times[-1])))


def slope(coarse: float, fine: float) -> float:
    return math.log2(coarse / fine)


@pytest.mark.parametrize(
    ("name", "order"),
    [("euler", 1), ("heun", 2), ("heun_reuse", 2), ("adams2", 2), ("adams3", 2), ("adams4", 2)],
)
def test_solver_converges_at_its_order_from_a_cold_start(name, order):
    errors = [final_error(SOLVERS[name](), time_grid(n).tolist()) for n in (400, 800)]
    assert slope(*errors) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_converges_at_order_k_from_an_exact_history(order):
    errors = [
        final_error(Adams(order=order), time_grid(n).tolist(), known=order - 1) for n in (160, 320)
    ]
    assert slope(*errors) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("adams2", 2)])
def test_solver_converges_at_its_order_on_shifted_times(name, order):
    grids = [time_grid(n, time_shift=3.0).tolist() for n in (160, 320)]
    errors = [final_error(SOLVERS[name](), grid) for grid in grids]
    assert slope(*errors) == pytest.approx(order, abs=0.2)


def test_heun_last_euler_step_costs_no_order():
    # Stopping before t = 1 leaves every corrector in place; so does the order.
    errors = [final_error(Heun(), [0.9 * t for t in time_grid(n).tolist()]) for n in (160, 320)]
    assert slope(*errors) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("time_shift", [1.0, 3.0])
def test_solver_is_exact_on_straight_lines(name, time_shift):
    solver, x = SOLVERS[name](), torch.tensor([2.0, -1.0], dtype=torch.float64)
    line = torch.tensor([-3.0, 0.5], dtype=torch.float64)
    times = time_grid(5, time_shift=time_shift).tolist()
    for t, t_next in pairwise(times):
        mean = solver.step(lambda x, t: line, x, t, t_next)
        x = x + (t_next - t) * mean
        torch.testing.assert_close(mean, line, rtol=1e-12, atol=0)
    torch.testing.assert_close(x, torch.tensor([-1.0, -0.5], dtype=torch.float64))


@pytest.mark.parametrize(
    "weights",
    [
        [Fraction(1)],
        [Fraction(-1, 2), Fraction(3, 2)],
        [Fraction(5, 12), Fraction(-16, 12), Fraction(23, 12)],
        [Fraction(-9, 24), Fraction(37, 24), Fraction(-59, 24), Fraction(55, 24)],
    ],
)
def test_adams_weights_are_adams_bashforth_on_even_times(weights):
    times = [0.1 * i for i in range(len(weights) + 1)]
    found = adams_weights(times[:-1], times[-1])
    assert found == pytest.approx([float(w) for w in weights], abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_weights_integrate_polynomials_on_uneven_times(order):
    times, end = [0.02, 0.1, 0.35, 0.5][-order:], 0.9
    for degree in range(order):
        mean = sum(w * t**degree for w, t in zip(adams_weights(times, end), times, strict=True))
        integral = (end ** (degree + 1) - times[-1] ** (degree + 1)) / (degree + 1)
        assert mean == pytest.approx(integral / (end - times[-1]), rel=1e-12)
