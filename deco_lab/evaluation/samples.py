"""Samples to measure: one image for each label, in batches that fit a laptop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from deco_lab import checkpoints
from deco_lab.evaluation.judge import Findings, Judge
from deco_lab.models import Model
from deco_lab.sampling import Plan, sample
from deco_lab.setting import Setting


@dataclass(frozen=True, kw_only=True)
class Sampling(Plan):
    """How samples are drawn, as options of a command line."""

    def __post_init__(self) -> None:
        """Leave the checks to the command line."""


@dataclass(frozen=True, kw_only=True)
class ModelOrder:
    """What a command line says of a model that it draws samples of."""

    image_size: Annotated[int | None, Setting("Where the model's file does not say.")] = None
    device: Annotated[str | None, Setting("cpu, cuda, mps; the best there is if not given.")] = None

    def load(self, name: str) -> Model:
        """Return the model of that name or file, as fast as its images stay exact."""
        device = checkpoints.choose_device(self.device)
        fast = device.type == "cpu"
        return checkpoints.load(name, device, fast=fast, image_size=self.image_size)


PLAN = Sampling(num_steps=25, solver="adams2", seed=2_000_000)
"""How samples are drawn that a judge is to see."""


def draw_samples(
    model: Model,
    class_ids: Sequence[int],
    plan: Plan = PLAN,
    *,
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda count: None,
) -> Tensor:
    """Return images (M, 3, H, W), on the CPU; image i is of label i and seed + i.

    Parameters
    ----------
    model : DeCo or DiT
        To sample with.
    class_ids : sequence of int
        (M,), the labels.
    plan : Plan
        As for `deco_lab.sample`.
    batch_size : int
        Images at a time; it does not change them.
    progress : callable
        Told how many images were drawn, after each batch.
    """
    parts = []
    for start in range(0, len(class_ids), batch_size):
        ids = list(class_ids[start : start + batch_size])
        settings = replace(plan, seed=plan.seed + start).arguments()
        parts.append(sample(model, ids, **settings).cpu())
        progress(len(ids))
    return torch.cat(parts)


def judge_model(model: Model, judge: Judge, *, per_class: int = 4) -> Findings:
    """Return what the judge finds of `per_class` samples of each of its classes."""
    class_ids = list(judge.class_ids) * per_class
    return judge(draw_samples(model, class_ids), class_ids)
