"""What a run keeps of the steps on its way, to take one apart or to make a film of all.

Of both there is an even choice: all steps, or, where that would be too much, every second, every
fourth and so on, from the first on.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from deco_lab.workbench.record import Paused

MOST_BYTES = 64 * 2**20
"""Of states and predicted images together."""
MOST_FRAMES = 100
"""Predicted images at most."""


@dataclass
class Spaced:
    """Values by step, every so many from the first on."""

    first: int
    every: int = 1
    values: dict[int, Any] = field(default_factory=dict)
    size: int = 0
    """Bytes that they take."""

    def has_place(self, step: int) -> bool:
        """Return whether a step's value is one of those that are kept."""
        return step >= self.first and (step - self.first) % self.every == 0

    def add(self, step: int, value: Any, size: int) -> None:
        """Keep a value of so many bytes, where it has a place."""
        if self.has_place(step):
            self.values[step] = value
            self.size += size

    def thin(self) -> None:
        """Let go of every second."""
        before, self.every = len(self.values), 2 * self.every
        self.values = {step: value for step, value in self.values.items() if self.has_place(step)}
        self.size = self.size * len(self.values) // before


class History:
    """States and predicted images of a run's steps.

    Parameters
    ----------
    most_bytes : int
        Of all that is kept; only the first of each stays in any case.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._states = Spaced(first=0)
        self._film = Spaced(first=1)

    @property
    def states(self) -> dict[int, Paused]:
        """Those that are kept, by the step that reached them; 0 is the noise."""
        return dict(self._states.values)

    @property
    def film(self) -> dict[int, Tensor]:
        """Predicted images that are kept, by step, from 1 on."""
        return dict(self._film.values)

    def wants(self, step: int) -> bool:
        """Return whether the state of a step would be kept: others need no copy."""
        return self._states.has_place(step)

    def add_state(self, step: int, state: Paused) -> None:
        """Keep the state that a step reached, where it has a place."""
        self._states.add(step, state, state.x.nbytes)
        self._make_room()

    def add_frame(self, step: int, predicted: Tensor) -> None:
        """Keep what a step predicted, (B, height, width, 3) in bytes, where it has a place."""
        self._film.add(step, predicted, predicted.nbytes)
        self._make_room()

    def _make_room(self) -> None:
        while len(self._film.values) > MOST_FRAMES:
            self._film.thin()
        while self._states.size + self._film.size > self._most_bytes:
            large, small = sorted((self._states, self._film), key=lambda kept: -kept.size)
            thinned = large if len(large.values) > 1 else small
            if len(thinned.values) < 2:
                return
            thinned.thin()
