"""Classifier-free guidance on an interval of time.

    velocity = uncond + guidance_scale * (cond - uncond)      where low < t <= high
    velocity = cond                                           elsewhere

with cond and uncond the velocities for the class and for the null class [1], and t the time at
which the solver's step starts: it decides for the whole step, a Heun corrector included. Guidance
wraps the model, so solvers never know about it. Where it is off (outside the interval, or with a
scale of 1) the unconditional pass is skipped.

References
----------
[1] Ho, Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
[2] Kynkaanniemi et al., "Applying Guidance in a Limited Interval Improves Sample and Distribution
    Quality in Diffusion Models", arXiv 2404.07724.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deco_lab.sampling.solvers import Field

VelocityModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""velocity (B, 3, H, W) of x (B, 3, H, W), t (B,) and class_ids (B,)."""

# A grid time that equals a bound but for rounding counts as equal: 3 * 0.1 is not above 0.3.
_ROUNDING = 1e-9


class Guidance:
    """A model that draws given classes with guidance, as velocity fields for solvers.

    Parameters
    ----------
    model : callable
        (x, t, class_ids) -> velocity.
    class_ids : Tensor
        (B,), int64, on the device of the states.
    null_class : int or None
        The label that stands for "no class"; None where guidance_scale is 1.
    guidance_scale : float
        1 is off.
    guidance_interval : tuple of float
        (low, high], in t.

    Attributes
    ----------
    nfe : int
        Network passes per image so far; a guided pair counts 2.
    """

    def __init__(
        self,
        model: VelocityModel,
        class_ids: Tensor,
        null_class: int | None,
        guidance_scale: float,
        guidance_interval: tuple[float, float],
    ) -> None:
        self.model = model
        self.class_ids = class_ids
        self.null_class = null_class
        self.guidance_scale = guidance_scale
        self.guidance_interval = guidance_interval
        self.nfe = 0

    def field(self, step_start: float) -> Field:
        """Return v(x, t) of the step that starts at `step_start`, guided or not throughout."""
        low, high = self.guidance_interval
        inside = low + _ROUNDING < step_start <= high + _ROUNDING
        return self._guided if inside and self.guidance_scale != 1 else self._conditional

    def _conditional(self, x: Tensor, t: float) -> Tensor:
        self.nfe += 1
        return self._velocity(x, t, self.class_ids)

    def _guided(self, x: Tensor, t: float) -> Tensor:
        assert self.null_class is not None
        self.nfe += 2
        labels = torch.cat([self.class_ids, torch.full_like(self.class_ids, self.null_class)])
        cond, uncond = self._velocity(torch.cat([x, x]), t, labels).chunk(2)
        return uncond + self.guidance_scale * (cond - uncond)

    def _velocity(self, x: Tensor, t: float, class_ids: Tensor) -> Tensor:
        velocity = self.model(x, torch.full_like(class_ids, t, dtype=torch.float32), class_ids)
        if velocity.shape != x.shape:
            raise ValueError(
                f"model must return a velocity in the shape of x, {tuple(x.shape)}, "
                f"got {tuple(velocity.shape)}"
            )
        return velocity.to(x.dtype)
