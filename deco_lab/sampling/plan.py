"""What decides a run, described once.

`sample`, the command line, the app's form and endpoint, links, pictures that remember and scripts
all take their names, defaults, ranges and sentences from `Plan`.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, ClassVar

from deco_lab.sampling.curve import Curve, OverTime
from deco_lab.sampling.guidance import GUIDANCE, GuidanceRule
from deco_lab.sampling.solvers import SOLVERS
from deco_lab.setting import Interval, RuleError, Setting, check_settings

MAX_SCALE = 100.0
"""Greatest guidance scale, and greatest time shift, of whom the limits bind."""
MAX_FACTOR = 10.0
"""Greatest value of a curve over t, of whom the limits bind."""
NUM_BANDS = 4
"""Bands of frequency that a form has scales and gains for: the octaves."""

one_a_band = partial(
    Setting, counts=(NUM_BANDS, NUM_BANDS), what=f"{NUM_BANDS} numbers, one a band, lowest first"
)
"""Makes the setting of a number for each band."""
_SCALE: dict[str, Any] = {"low": 0, "limits": (0, MAX_SCALE), "slider": (0, 15, 0.25)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a run, as plain values; the images' labels are not among them.

    Raises
    ------
    ValueError
        Where a value breaks its rule: in a sentence that names the setting.
    """

    limited: ClassVar[bool] = False
    """Whether the limits bind that are for anyone who may ask."""

    # fmt: off
    num_steps: Annotated[int, Setting("Solver steps.", "Steps", 1, limits=(1, 1000))] = 50
    solver: Annotated[str, Setting("How steps go.", "Solver", choices=SOLVERS)] = "euler"
    time_shift: Annotated[float, Setting(
        "Above 1: more steps near noise.", "Time shift", 0, above=True,
        limits=(0.01, MAX_SCALE), remedy="1 is no shift", slider=(0.1, 5, 0.1),
    )] = 1.0
    seed: Annotated[int, Setting("Image i: seed + i.", "Seed", 0)] = 0
    guidance: Annotated[str, Setting(
        "How the class's and the null class's velocities are joined.", "Guidance", choices=GUIDANCE
    )] = "plain"
    guidance_scale: Annotated[float, Setting(
        "Of plain guidance; 1 is off.", "Guidance scale", remedy="1 is off", **_SCALE
    )] = 3.0
    band_scales: Annotated[tuple[float, ...], one_a_band(
        "Guidance scales by band of cycles/pixel; 1 is off.", "Scale", **_SCALE
    )] = (3.0,) * NUM_BANDS
    guidance_interval: Annotated[tuple[float, float], Interval(
        "Steps that start in (from, to] are guided.", ("Guided from t", "Guided to t")
    )] = (0.1, 1.0)
    guidance_curve: Annotated[tuple[float, ...], OverTime(
        "How much of guidance there is over t, of 1: values at evenly spaced times from 0 to 1; "
        "none is all.", "Guidance over t", 0, limits=(0, MAX_FACTOR),
    )] = ()
    band_curves: Annotated[tuple[float, ...], OverTime(
        "The same for each band of guidance by band: their values one after the other.",
        "Guidance by band over t", 0, limits=(0, MAX_FACTOR), curves=NUM_BANDS,
    )] = ()
    condition_reuse: Annotated[int, Setting(
        "Steps per pass of the DiT.", "Reuse of the condition", 1,
        limits=(1, 16), slider=(1, 8, 1),
    )] = 1
    # fmt: on

    def __post_init__(self) -> None:
        check_settings(self, limited=self.limited)

    def rule(self) -> GuidanceRule:
        """Return the guidance rule of that name, with those of these settings that it takes."""
        return GUIDANCE[self.guidance].of(self)

    def arguments(self) -> dict[str, Any]:
        """Return what `sample` takes of these settings."""
        named = {field.name: getattr(self, field.name) for field in fields(Plan)}
        del named["band_scales"], named["band_curves"]
        return named | {
            "guidance": None if self.guidance == "plain" else self.rule(),
            "guidance_curve": Curve(self.guidance_curve) if self.guidance_curve else None,
        }


def check_seeds(first: int, count: int) -> None:
    """Raise ValueError unless each of `count` images has a seed of its own."""
    if first + count > 2**32:
        raise RuleError(
            "seed",
            f"must be below 2**32 for every image, got {first}, since PyTorch's CPU generator "
            "uses no more of it; use a smaller one",
        )
