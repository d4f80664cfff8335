"""Real crops with noise of a known seed, batch by batch: what a model is asked at each t.

    x_t = t * image + (1 - t) * noise

Image i has the noise of its own generator, seeded with seed + i, and the same at every t: curves
over t are smooth, and neither depends on the batch size. Only one batch is on the model's device.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deco_lab.flow import interpolate, seeded_noise
from deco_lab.spectra.radial import check_images


@dataclass(frozen=True)
class NoisyBatch:
    """Some of the images at one time, on the model's device."""

    first: int
    """Index of the first image."""
    time: float
    """In [0, 1]."""
    t: Tensor
    """(B,), float32, the same as one for each image."""
    class_ids: Tensor
    """(B,), int64."""
    image: Tensor
    """(B, C, H, W), float32 or, if the images were, float64."""
    noise: Tensor
    """(B, C, H, W), standard normal."""
    x: Tensor
    """(B, C, H, W), the noisy images."""


@dataclass(frozen=True)
class Crops:
    """Checked images with their labels, times and seed."""

    images: Tensor
    """(M, C, H, W), in [-1, 1]."""
    class_ids: Tensor
    """(M,), int64, on the CPU."""
    times: tuple[float, ...]
    """T of them, in [0, 1]."""
    seed: int
    """Image i has the noise of seed + i."""

    def batches(self, time: float, model: Any, batch_size: int) -> Iterator[NoisyBatch]:
        """Yield the images at `time` in their order, on the device of the model's parameters."""
        device = device_of(model, self.images.device)
        dtype = torch.float64 if self.images.dtype == torch.float64 else torch.float32
        for first in range(0, len(self.images), batch_size):
            image = self.images[first : first + batch_size].to(device, dtype)
            noise = seeded_noise(len(image), image.shape[1:], self.seed + first).to(image)
            yield NoisyBatch(
                first=first,
                time=time,
                t=torch.full((len(image),), time, device=device),
                class_ids=self.class_ids[first : first + batch_size].to(device),
                image=image,
                noise=noise,
                x=interpolate(image, noise, time),
            )


def device_of(model: Any, otherwise: torch.device) -> torch.device:
    """Return the device of a model's parameters, or another where it has none."""
    parameters = getattr(model, "parameters", tuple)
    return next((parameter.device for parameter in parameters()), otherwise)


def check_labels(class_ids: Tensor | Sequence[int], count: int, model: Any) -> Tensor:
    """Return `count` labels, int64, on the CPU; raise ValueError where the model knows them not."""
    labels = torch.as_tensor(class_ids).cpu()
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"class_ids must be one whole number for each image, shape ({count},), "
            f"got {tuple(labels.shape)} of {labels.dtype}; repeat a label for every image"
        )
    known = getattr(getattr(model, "config", None), "num_classes", None)
    if bool((labels < 0).any()) or (known is not None and bool((labels > known).any())):
        raise ValueError(
            f"class_ids must be from 0 to {known}, the null class, got {labels.tolist()}"
            if known is not None
            else f"class_ids must be at least 0, got {labels.tolist()}"
        )
    return labels.long()


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError for a batch that holds no image."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}; 16 is usual")


def check_crops(
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    times: Sequence[float],
    seed: int,
    model: Any,
) -> Crops:
    """Return the arguments of an analysis, checked.

    Parameters
    ----------
    images : Tensor
        (M, C, H, W), floating point, in [-1, 1].
    class_ids : Tensor or sequence of int
        (M,), labels; the null class is allowed.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise.
    seed : int
        At least 0.
    model : object
        Its `config.num_classes`, if any, bounds the labels.

    Raises
    ------
    ValueError
        Where an argument breaks a rule above, or images hold NaN.
    """
    check_images(images)
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point in [-1, 1], got {images.dtype}; use "
            "images.float() / 127.5 - 1"
        )
    if not bool(images.isfinite().all()):
        raise ValueError("images must be finite, got NaN or infinite values; leave those out")
    chosen = tuple(float(t) for t in times)
    if not chosen or not all(math.isfinite(t) and 0 <= t <= 1 for t in chosen):
        raise ValueError(f"times must be at least one t in [0, 1], got {chosen}; 0 is noise")
    if not 0 <= seed <= 2**32 - len(images):
        raise ValueError(
            f"seed must be at least 0 and below 2**32 for every image, got {seed}; use a small one"
        )
    return Crops(images, check_labels(class_ids, len(images), model), chosen, seed)
