"""Solvers of dx/dt = v(x, t): each names the mean velocity of one step.

    x(t_next) = x(t) + (t_next - t) * velocity

Euler takes v at the start of the step. Heun averages v at the start and at the end that Euler
predicts. Adams of order k integrates, exactly over the step, the Lagrange polynomial through the
velocities at the last k times [1], and a lower one while the history is short.

Each trajectory has a solver of its own, which may keep what earlier steps computed, and is asked
for one step after another. Solvers know neither models nor guidance. Global orders, measured
in tests/test_solvers.py: euler 1, all others 2. Adams of order 3 and 4 reach their own order
when they start with an exact history; from a cold start their first, Euler, step leaves an error
of order 2.

References
----------
[1] Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", section III.5 (Adams
    methods on a variable grid).
[2] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]
"""v(x, t): the velocity, in the shape of x, at a state and a time."""


class Solver(Protocol):
    """One trajectory's solver."""

    def step(self, field: Field, x: Tensor, t: float, t_next: float) -> Tensor:
        """Return the mean velocity of the step from t to t_next, in the shape of x.

        Parameters
        ----------
        field : Field
            v(x, t) of this step.
        x : Tensor
            The state at t, of any shape.
        t, t_next : float
            Where the step starts and ends, t < t_next <= 1.
        """
        ...


class Euler:
    """The velocity at the start of the step; one evaluation, order 1."""

    def step(self, field: Field, x: Tensor, t: float, t_next: float) -> Tensor:
        """Return the mean velocity of the step; see `Solver.step`."""
        return field(x, t)


class Heun:
    """Euler predicts, the mean of the velocities at both ends corrects; order 2.

    A step that ends at t = 1, the last, is Euler's: v is never evaluated at the image [2].

    Parameters
    ----------
    reuse : bool
        Take the velocity of the last corrector, which stands at the predicted and not at the
        corrected state, as the next predictor: one evaluation a step instead of two, none in the
        last step, still order 2.
    """

    def __init__(self, *, reuse: bool = False) -> None:
        self.reuse = reuse
        self.last_end: Tensor | None = None

    def step(self, field: Field, x: Tensor, t: float, t_next: float) -> Tensor:
        """Return the mean velocity of the step; see `Solver.step`."""
        start = field(x, t) if self.last_end is None else self.last_end
        if t_next >= 1:
            return start
        end = field(x + (t_next - t) * start, t_next)
        if self.reuse:
            self.last_end = end
        return (start + end) / 2


class Adams:
    """The polynomial through the last velocities, integrated; one evaluation a step.

    Parameters
    ----------
    order : int
        Number of velocities it looks at, itself included, once it has them.
    """

    def __init__(self, *, order: int) -> None:
        self.times: deque[float] = deque(maxlen=order)
        self.velocities: deque[Tensor] = deque(maxlen=order)

    def step(self, field: Field, x: Tensor, t: float, t_next: float) -> Tensor:
        """Return the mean velocity of the step; see `Solver.step`."""
        self.times.append(t)
        self.velocities.append(field(x, t))
        weights = adams_weights(self.times, t_next)
        return torch.stack([w * v for w, v in zip(weights, self.velocities, strict=True)]).sum(0)


def adams_weights(times: Sequence[float], t_next: float) -> list[float]:
    """Return the weights, which sum to 1, that give the mean velocity from times[-1] to t_next.

    They are the weights for which every polynomial of degree below len(times) has its exact mean,
    on any grid: the integral of the Lagrange polynomial through the velocities.

    Parameters
    ----------
    times : sequence of float
        Distinct times at which the velocity is known, the start of the step last.
    t_next : float
        Where the step ends.
    """
    places = (np.asarray(times) - times[-1]) / (t_next - times[-1])  # the step becomes [0, 1]
    powers = np.arange(len(times))
    means = 1 / (powers + 1)  # of 1, s, s**2, ... on [0, 1]
    return np.linalg.solve(places ** powers[:, None], means).tolist()


SOLVERS: dict[str, Callable[[], Solver]] = {
    "euler": Euler,
    "heun": Heun,
    "heun_reuse": partial(Heun, reuse=True),
    "adams2": partial(Adams, order=2),
    "adams3": partial(Adams, order=3),
    "adams4": partial(Adams, order=4),
}
"""What makes a solver, by the name that `sample` takes."""
