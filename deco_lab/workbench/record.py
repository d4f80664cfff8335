"""What is left of a run: its settings, its images and every measured curve, with named axes."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.workbench.settings import Settings

Array = NDArray[Any]

_ENERGY = "mean squared DCT coefficient of 8 x 8 blocks; 1 for white noise of variance 1"
_POWER = "mean power in a ring of radial frequency; 1 for white noise of variance 1"
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "t": ((), "time of the state: 0 is noise, 1 the image"),
    "t_start": ((), "time at which the step started"),
    "nfe": ((), "network passes per image so far"),
    "sampling_ms": ((), "milliseconds of the sampler"),
    "noisy_energy": (("zigzag",), _ENERGY),
    "predicted_energy": (("zigzag",), _ENERGY),
    "velocity_energy": (("zigzag",), _ENERGY),
    "condition_energy": (("zigzag",), "the same of the DiT's condition on its token grid"),
    "noisy_power": (("frequency",), _POWER),
    "predicted_power": (("frequency",), _POWER),
    "velocity_power": (("frequency",), _POWER),
    "guidance_power": (("frequency",), _POWER),
    "predicted_bands": (("band",), "mean square of the predicted image's band"),
    "guidance_bands": (("band",), "energy of guided - class velocity / energy of class velocity"),
    "predicted_shares": (
        ("part", "share_band"),
        "share of the class's predicted image that the part supplies, of the first image",
    ),
    "predicted_likeness": (
        ("share_band",),
        "correlation of the predicted image with the last one, of the first image",
    ),
}
"""What a record may hold of each step: the axes of a curve, and what a value of 1 means."""


class Curve(NamedTuple):
    """Values over named axes of a `Record`."""

    axes: tuple[str, ...]
    """Names of the axes, one for each dimension of `values`."""
    values: NDArray[np.float64]
    """NaN where nothing was measured."""
    unit: str
    """What a value of 1 means, in a few words."""


class Paused(NamedTuple):
    """Where sampling stood at a time."""

    x: Tensor
    """(B, 3, H, W), on the CPU, unclamped."""
    t: float
    """In [0, 1): something is left to draw."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A run that has ended, or was stopped on the way."""

    settings: Settings
    model: dict[str, Any]
    """JSON-ready facts of the model: "name", "kind", "weights" (hash), "trained_on", ..."""
    images: Tensor
    """(B, 3, H, W), float32 on the CPU: the last state, unclamped."""
    num_steps: int
    """Steps that were taken: less than settings.num_steps where the run was stopped."""
    axes: dict[str, Array]
    """Axis values by name: "step" and "t_start" go together, S values each ..."""
    curves: dict[str, Curve]
    """By name, such as "predicted_energy" over ("step", "zigzag")."""
    paused: Paused
    """The last state before t = 1: where the run was stopped, or where its last step started."""
    paused_at: int = 0
    """The step that reached it; 0 is the noise."""
    states: dict[int, Paused] = field(default_factory=dict)
    """Those before it that are kept, by the step that reached them."""
    film: dict[int, Tensor] = field(default_factory=dict)
    """Predicted images kept, by step, the last among them: bytes, (B, height, width, 3)."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        states = [self.paused, *self.states.values()]
        tensors = [self.images, *(state.x for state in states), *self.film.values()]
        curves = (curve.values for curve in self.curves.values())
        return sum(values.nbytes for values in (*tensors, *curves))

    def began(self, step: int) -> tuple[int, Paused]:
        """Return the state where a step began, the nearest that is kept, and which step's it is.

        Step 1 began with the noise, which is also what stands for step 0.
        """
        kept = self.states | {self.paused_at: self.paused}
        nearest = min(kept, key=lambda index: abs(index - max(0, step - 1)))
        return nearest + 1, kept[nearest]

    def without_steps(self) -> "Record":
        """Return it with nothing of the steps on the way but their curves."""
        return replace(self, states={}, film={})
