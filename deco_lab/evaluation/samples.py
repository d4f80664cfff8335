"""Samples to measure: one image for each label, in batches that fit a laptop."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deco_lab.evaluation.judge import Findings, Judge
from deco_lab.models import Model
from deco_lab.sampling import sample

FIRST_SEED = 2_000_000
"""Of the first sample; image i has seed FIRST_SEED + i."""


def draw_samples(
    model: Model,
    class_ids: Sequence[int],
    *,
    num_steps: int = 25,
    solver: str = "adams2",
    guidance_scale: float = 3.0,
    seed: int = FIRST_SEED,
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
    num_steps, solver, guidance_scale
        As for `deco_lab.sample`.
    seed : int
        Of the first image.
    batch_size : int
        Images at a time; it does not change them.
    progress : callable
        Told how many images were drawn, after each batch.
    """
    parts = []
    for start in range(0, len(class_ids), batch_size):
        ids = list(class_ids[start : start + batch_size])
        images = sample(
            model,
            ids,
            num_steps=num_steps,
            solver=solver,
            guidance_scale=guidance_scale,
            seed=seed + start,
        )
        parts.append(images.cpu())
        progress(len(ids))
    return torch.cat(parts)


def judge_model(model: Model, judge: Judge, *, per_class: int = 4) -> Findings:
    """Return what the judge finds of `per_class` samples of each of its classes."""
    class_ids = list(judge.class_ids) * per_class
    return judge(draw_samples(model, class_ids), class_ids)
