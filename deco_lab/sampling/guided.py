"""A model with guidance: velocity fields for solvers, which never know about it.

    velocity = rule(cond, uncond)      in steps that start in (low, high], where the curve is not 0
    velocity = cond                    elsewhere

The time at which the solver's step starts decides for the whole step, a Heun corrector included.
Where guidance is off (outside the interval, where the curve over t is 0, or with a scale of 1) the
pass for the null class is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from deco_lab.labels import Labels
from deco_lab.sampling.curve import Curve
from deco_lab.sampling.guidance import GuidanceRule, GuidedPair, brought
from deco_lab.sampling.solvers import Field

VelocityModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""velocity (B, 3, H, W) of x (B, 3, H, W), t (B,) and labels (B, ...)."""

# A grid time that equals a bound except for rounding counts as equal: 3 * 0.1 is not above 0.3.
_ROUNDING = 1e-9


@dataclass(eq=False)
class Guidance:
    """A model that draws given labels with guidance, as velocity fields for solvers."""

    model: VelocityModel
    labels: Labels
    """B of them, on the device of the states; with a null, or the rule is off."""
    guidance_scale: float
    """1 is off."""
    guidance_interval: tuple[float, float]
    """(low, high], in t."""
    rule: GuidanceRule
    """What makes one velocity of cond and uncond."""
    curve: Curve | None = None
    """How much of guidance there is at each time; None is all."""
    nfe: int = 0
    """Network passes per image so far; a guided pair counts 2."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What the rule keeps from pair to pair."""

    @property
    def is_on(self) -> bool:
        """Whether any step may be guided."""
        is_flat = self.curve is not None and not any(self.curve.values)
        return not is_flat and not self.rule.is_off(self.guidance_scale)

    def skips(self, step: int) -> bool:
        """Return whether step `step`, from 0, has the velocity 0, so that no solver is asked."""
        return self.is_on and self.rule.skips(step)

    def field(self, step_start: float) -> Field:
        """Return v(x, t) of the step that starts at `step_start`, guided or not throughout."""
        low, high = self.guidance_interval
        factor = 1.0 if self.curve is None else self.curve(step_start)
        is_inside = low + _ROUNDING < step_start <= high + _ROUNDING
        if not (is_inside and self.is_on and factor) or self.rule.rests(step_start):
            return self._conditional
        return partial(self._guided, factor=factor, started=step_start)

    def _conditional(self, x: Tensor, t: float) -> Tensor:
        self.nfe += 1
        return self._velocity(x, t, self.labels.values)

    def _guided(self, x: Tensor, t: float, *, factor: float, started: float) -> Tensor:
        self.nfe += 2
        cond, uncond = self._velocity(torch.cat([x, x]), t, self.labels.both).chunk(2)
        scale = brought(self.guidance_scale, factor)
        pair = GuidedPair(cond, uncond, x, t, scale, self.memory, factor, started)
        velocity = self.rule(pair)
        _check_shape("guidance", velocity, x)
        return velocity

    def _velocity(self, x: Tensor, t: float, labels: Tensor) -> Tensor:
        velocity = self.model(x, torch.full((len(x),), t, device=x.device), labels)
        _check_shape("model", velocity, x)
        return velocity.to(x.dtype)


def _check_shape(name: str, velocity: Tensor, x: Tensor) -> None:
    if velocity.shape != x.shape:
        raise ValueError(
            f"{name} must return a velocity in the shape of x, {tuple(x.shape)}, "
            f"got {tuple(velocity.shape)}"
        )
