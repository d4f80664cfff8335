"""The states that a model is asked about: real crops with noise, or those of a sampling run.

    x_t = t * image + (1 - t) * noise

asks what a model does on the path it was trained on, a sampling run what it does on its own states,
which may have left that path. Either way an analysis reads moments: a time, and the M images at it,
batch by batch. Only one batch is on the model's device.

Image i has the noise of its own generator, seeded with seed + i, and the same at every t: curves
over t are smooth, and neither depends on the batch size.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import as_tensor
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.spectra.analysis import tensor_hash
from deco_lab.spectra.bootstrap import Groups, count_groups, group_numbers
from deco_lab.spectra.frequencies import check_images


class State(Protocol):
    """A state of a sampling run, such as `deco_lab.sampling.Step`."""

    @property
    def t(self) -> float:
        """Time in [0, 1]."""
        ...

    @property
    def x(self) -> Tensor:
        """(B, C, H, W)."""
        ...


class RunStep(State, Protocol):
    """A step of a sampling run, such as `deco_lab.sampling.Step`."""

    @property
    def predicted_image(self) -> Tensor | None:
        """(B, C, H, W), what the step predicted where it started; None for the noise."""
        ...

    @property
    def nfe(self) -> int:
        """Network passes per image so far."""
        ...


@dataclass(frozen=True)
class Batch:
    """Some of the images at one time, on the model's device."""

    first: int
    """Index of the first image."""
    time: float
    """In [0, 1]."""
    t: Tensor
    """(B,), float32, the same as one for each image."""
    class_ids: Tensor
    """(B,), int64."""
    x: Tensor
    """(B, C, H, W), float32 or, if the images were, float64."""


@dataclass(frozen=True)
class NoisyBatch(Batch):
    """A batch of real crops with noise, whose answer is known."""

    image: Tensor
    """(B, C, H, W), as x."""
    noise: Tensor
    """(B, C, H, W), standard normal."""


class States(Protocol):
    """What an analysis reads: `Crops` or `Run`."""

    @property
    def groups(self) -> NDArray[np.int64]:
        """(M,), the group of each image, a number from 0; of a `Run` once it has been read."""
        ...

    def moments(self) -> Iterator[tuple[float, Iterable[Any]]]:
        """Yield one time after the other with its batches, in the order of the images."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Return what they are, for the recipe of an analysis that has read them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Real crops, checked, with noise of known seeds at T times."""

    images: Tensor
    """(M, C, H, W), in [-1, 1]."""
    class_ids: Tensor
    """(M,), int64, on the CPU."""
    times: tuple[float, ...]
    """T of them, in [0, 1]."""
    seed: int
    """Image i has the noise of seed + i."""
    device: torch.device
    """Of the batches: that of the model's parameters."""
    batch_size: int
    """Images on the device at once."""
    groups: NDArray[np.int64]
    """(M,), the group of each image, a number from 0."""

    def at(self, time: float, rows: Tensor) -> NoisyBatch:
        """Return some of the images, by their indices, at a time."""
        image = _placed(self.images[rows.to(self.images.device)], self.device)
        noise = torch.cat([seeded_noise(1, image.shape[1:], self.seed + int(i)) for i in rows])
        noise = noise.to(image)
        return NoisyBatch(
            first=int(rows[0]),
            time=time,
            t=torch.full((len(image),), time, device=self.device),
            class_ids=self.class_ids[rows].to(self.device),
            x=interpolate(image, noise, time),
            image=image,
            noise=noise,
        )

    def batches(self, time: float) -> Iterator[NoisyBatch]:
        """Yield the images at a time in their order."""
        for rows in torch.arange(len(self.images)).split(self.batch_size):
            yield self.at(time, rows)

    def moments(self) -> Iterator[tuple[float, Iterator[NoisyBatch]]]:
        """Yield every time with its batches."""
        for time in self.times:
            yield time, self.batches(time)

    def recipe(self) -> dict[str, Any]:
        """Return the seed, the number of groups, and the images by their hash."""
        return {
            "states": "re-noised images",
            "images": tensor_hash(self.images),
            "class_ids": self.class_ids.tolist(),
            "groups": count_groups(self.groups),
            "seed": self.seed,
        }


class Run:
    """The states of a sampling run below t = 1, where something is left to draw.

    Parameters
    ----------
    steps : iterable of objects with t and x
        Such as `sample_steps` yields: x (M, C, H, W), the same M images at each t. It is read step
        by step, and no step is kept.
    class_ids : Tensor or sequence of int
        (M,), labels of the run.
    model : object
        Its device, and its `config.num_classes`, if any.
    batch_size : int
        Images on the device at once, at least 1.
    groups : sequence or array, optional
        (M,), as for `group_numbers`.
    """

    def __init__(
        self,
        steps: Iterable[State],
        class_ids: Tensor | Sequence[int],
        model: Any,
        batch_size: int,
        groups: Groups | None = None,
    ) -> None:
        check_batch_size(batch_size)
        self._groups = groups
        self._steps, self._class_ids = steps, class_ids
        self._model, self._batch_size = model, batch_size
        self._shape: torch.Size | None = None
        self._recipe: dict[str, Any] = {"states": "sampling run"}

    def moments(self) -> Iterator[tuple[float, Iterator[Batch]]]:
        """Yield every time with its batches.

        Raises
        ------
        ValueError
            Where no state lies below t = 1, or a state is misshapen or not finite, or of another
            shape than the first, or for labels or groups that do not fit.
        """
        for step in self._steps:
            if step.t < 1:
                time, x = float(step.t), as_tensor(step.x)
                yield time, self._batches(time, x, self._checked(time, x))
        if self._shape is None:
            raise ValueError(
                "steps must hold a state with t below 1, got none; pass sample_steps(...)"
            )

    def recipe(self) -> dict[str, Any]:
        """Return labels, number of groups, and the first state, the run's noise, by its hash."""
        return self._recipe

    def _checked(self, time: float, x: Tensor) -> Tensor:
        check_images(x, "the x of a step")
        if not bool(x.isfinite().all()):
            raise ValueError(
                f"the x of a step must be finite, got NaN or infinity at t={time}; "
                "guide less, or take more steps"
            )
        if self._shape not in (None, x.shape):
            raise ValueError(
                f"every x of a run must have the same shape, {tuple(self._shape or ())}, "
                f"got {tuple(x.shape)} at t={time}; analyse one run at a time"
            )
        labels = check_labels(self._class_ids, len(x), self._model)
        if self._shape is None:
            self._shape = x.shape
            self.groups = group_numbers(self._groups, len(x))
            self._recipe |= {
                "first_state": tensor_hash(x),
                "class_ids": labels.tolist(),
                "groups": count_groups(self.groups),
            }
        return labels

    def _batches(self, time: float, states: Tensor, labels: Tensor) -> Iterator[Batch]:
        device = device_of(self._model, states.device)
        for first in range(0, len(labels), self._batch_size):
            x = _placed(states[first : first + self._batch_size], device)
            yield Batch(
                first=first,
                time=time,
                t=torch.full((len(x),), time, device=device),
                class_ids=labels[first : first + self._batch_size].to(device),
                x=x,
            )


def measured(
    states: States, measure: Callable[[Any], Tensor]
) -> tuple[tuple[float, ...], NDArray[np.float64]]:
    """Return the times, and what `measure` says of each image at each of them, (M, T, ...).

    Parameters
    ----------
    states : Crops or Run
        Read once.
    measure : callable
        From a `Batch` to its images' values, (B, ...).

    Raises
    ------
    ValueError
        Where a value is not finite, since then the model's answer was not.
    """
    times, values = [], []
    for time, batches in states.moments():
        times.append(time)
        rows = [measure(batch).detach().cpu().double() for batch in batches]
        values.append(check_finite(torch.cat(rows), time))
    return tuple(times), torch.stack(values, 1).numpy()


def check_finite(values: Tensor, time: float) -> Tensor:
    """Return what a model answered; raise ValueError where it holds NaN or infinity."""
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"model must answer in finite numbers, got NaN or infinity at t={time:g}; check its "
            "weights, or load it with a wider dtype"
        )
    return values


def velocity_of(model: Any, batch: Batch) -> Tensor:
    """Return the model's velocity; raise ValueError where it has not the shape of x."""
    velocity = model(batch.x, batch.t, batch.class_ids)
    if velocity.shape != batch.x.shape:
        raise ValueError(
            f"model must return a velocity in the shape of x, {tuple(batch.x.shape)}, "
            f"got {tuple(velocity.shape)}"
        )
    return velocity


def device_of(model: Any, otherwise: torch.device) -> torch.device:
    """Return the device of a model's parameters, or another where it has none."""
    parameters = getattr(model, "parameters", tuple)
    return next((parameter.device for parameter in parameters()), otherwise)


def _placed(images: Tensor, device: torch.device) -> Tensor:
    """Return images on the device, float64 if they were and the device has it, else float32."""
    wide = images.dtype == torch.float64 and device.type != "mps"
    return images.to(device, torch.float64 if wide else torch.float32)


def check_labels(class_ids: Tensor | Sequence[int], count: int, model: Any) -> Tensor:
    """Return `count` labels, int64, on the CPU; raise ValueError where the model knows them not."""
    labels = torch.as_tensor(class_ids).cpu()
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(
            f"class_ids must be one whole number for each image, shape ({count},), "
            f"got {tuple(labels.shape)} of {labels.dtype}; repeat a label for every image"
        )
    known = getattr(getattr(model, "config", None), "num_classes", None)
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or (known is not None and most > known):
        rule = "at least 0" if known is None else f"from 0 to {known}, the null class"
        raise ValueError(
            f"class_ids must be {rule}, got {least} to {most}; take them from config.class_names"
        )
    return labels.long()


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError for a batch that holds no image."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}; 16 is usual")


def check_decoder(model: Any) -> None:
    """Raise ValueError for a model without a pixel decoder."""
    if not (hasattr(model, "condition") and hasattr(model, "decode")):
        raise ValueError(
            "model must have the methods condition and decode, which a "
            f"{type(model).__name__} has not; pass a DeCo, for a single DiT has no pixel decoder"
        )


def check_crops(
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    times: Sequence[float],
    seed: int,
    model: Any,
    batch_size: int,
    groups: Groups | None = None,
) -> Crops:
    """Return the arguments of an analysis of real crops, checked.

    Parameters
    ----------
    images : Tensor
        (M, C, H, W), floating point, in [-1, 1]; H and W are multiples of the model's
        `config.patch_size`, if it has one.
    class_ids : Tensor or sequence of int
        (M,), labels; the null class is allowed.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise.
    seed : int
        At least 0.
    model : object
        Its `config.num_classes`, if any, bounds the labels.
    batch_size : int
        At least 1.
    groups : sequence or array, optional
        (M,), as for `group_numbers`.

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
    P = getattr(getattr(model, "config", None), "patch_size", 1)
    H, W = images.shape[-2:]
    if H % P or W % P:
        raise ValueError(
            f"image height and width must be divisible by patch_size={P}, got {H} x {W}; "
            f"crop to {H - H % P} x {W - W % P}"
        )
    chosen = tuple(float(t) for t in times)
    if not chosen or not all(math.isfinite(t) and 0 <= t <= 1 for t in chosen):
        raise ValueError(f"times must be at least one t in [0, 1], got {chosen}; 0 is noise")
    if not 0 <= seed <= 2**32 - len(images):
        raise ValueError(
            f"seed must be at least 0 and below 2**32 for every image, got {seed}; use a small one"
        )
    check_batch_size(batch_size)
    return Crops(
        images=images,
        class_ids=check_labels(class_ids, len(images), model),
        times=chosen,
        seed=seed,
        device=device_of(model, images.device),
        batch_size=batch_size,
        groups=group_numbers(groups, len(images)),
    )
