"""What is heard of a step while the sampler takes it: conditions, the guided pair, the time."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deco_lab.sampling import GuidanceRule, GuidedPair, Step
from deco_lab.wrapper import Wrapper

Passes = list[tuple[Tensor, Tensor, Tensor, Tensor]]
"""x, t and class_ids of network passes, and the conditions that came of them."""


class Remembering(Wrapper):
    """A model that keeps the conditions of a step's passes, so that none is computed twice."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.passes: Passes = []

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        """Return the condition, (B, N, D), the kept one where the inputs are those of a pass."""
        B = x.shape[0]
        for *inputs, condition in self.passes:  # a guided pass holds the class's images first
            pairs = zip(inputs, (x, t, class_ids), strict=True)
            # Together: a GPU is waited for only once.
            if len(condition) >= B and torch.stack([(a[:B] == b).all() for a, b in pairs]).all():
                return condition[:B]
        condition = self.model.condition(x, t, class_ids)
        self.passes.append((x, t, class_ids, condition))
        return condition


@dataclass
class Heard(GuidanceRule):
    """A rule that keeps what it made of a step's first pair."""

    rule: GuidanceRule
    velocities: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    """The class's velocity and the guided one."""

    def __call__(self, pair: GuidedPair) -> Tensor:
        """Return the rule's velocity, (B, 3, H, W)."""
        velocity = self.rule(pair)
        if self.velocities is None:
            self.velocities = (pair.cond, velocity)
        return velocity

    def is_off(self, guidance_scale: float) -> bool:
        """Return what the rule says."""
        return self.rule.is_off(guidance_scale)

    def rests(self, t: float) -> bool:
        """Return what the rule says."""
        return self.rule.rests(t)

    def skips(self, step: int) -> bool:
        """Return what the rule says."""
        return self.rule.skips(step)


@dataclass(frozen=True)
class Taken:
    """A step that the sampler took, before anything is measured."""

    step: Step
    before: Step | None
    """The step before, where this one started."""
    milliseconds: float
    """Of the sampler."""
    velocities: tuple[Tensor, Tensor] | None
    """What guidance made of the step's first pair: the class's velocity and the guided one."""
    passes: Passes
    """What the model did on the way."""

    def signals(self) -> dict[str, Tensor]:
        """Return the step's images, as `measure` names them."""
        step = self.step
        signals = {"noisy": step.x}
        if step.velocity is not None and step.predicted_image is not None:
            signals |= {"predicted": step.predicted_image, "velocity": step.velocity}
        if self.velocities is not None:
            cond, guided = self.velocities
            signals |= {"guidance": guided - cond, "class": cond}
        return signals
