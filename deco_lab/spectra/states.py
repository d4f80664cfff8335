"""The states that a model is asked about: real crops with noise, or those of a sampling run.

    x_t = t * image + (1 - t) * noise

asks what a model does on the path it was trained on, a sampling run what it does on its own states,
which may have left that path. Either way an analysis reads moments: a time, and the M images at it,
batch by batch. Only one batch is on the model's device.

    crops = Crops(images, class_ids, times=(0.3, 0.5), groups=photographs)
    band_effects(model, crops), tap_spectrum(model, crops)
    band_effects(model, Run(sample_steps(model, [0, 3]), [0, 3]))

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
from deco_lab.labels import Labels, labels_of
from deco_lab.result import Result, tensor_hash, weights_hash
from deco_lab.spectra.bootstrap import RECIPE, Groups, count_groups, group_numbers
from deco_lab.spectra.frequencies import check_images

Array = NDArray[np.float64]
ClassIds = Tensor | Sequence[int] | Labels


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
    labels: Labels
    """Of the images, and of none of them."""
    x: Tensor
    """(B, C, H, W), float32 or, if the images were, float64."""

    @property
    def class_ids(self) -> Tensor:
        """(B, ...), what the model takes as labels: of classes int64, (B,)."""
        return self.labels.values


@dataclass(frozen=True)
class NoisyBatch(Batch):
    """A batch of real crops with noise, whose answer is known."""

    image: Tensor
    """(B, C, H, W), as x."""
    noise: Tensor
    """(B, C, H, W), standard normal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OverTime(Result):
    """What is common to results over states."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    count: int
    """M, images."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InBands(OverTime):
    """What is common to results over states by band."""

    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""


class States(Protocol):
    """What an analysis reads: `Crops` or `Run`."""

    groups: NDArray[np.int64]
    """(M,), the group of each image, a number from 0; of a `Run` once it has been read."""
    seed: int

    def moments(self, model: Any) -> Iterator[tuple[float, Iterator[Any]]]:
        """Yield one time after the other with its batches, in the order of the images."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Return what they are, for the recipe of an analysis that has read them."""
        ...


class Crops:
    """Real images with noise of known seeds at T times.

    Parameters
    ----------
    images : Tensor or array
        (M, C, H, W), in [-1, 1], of any floating-point type; computed with in float32 or float64. H
        and W are multiples of the model's `config.patch_size`, if it has one.
    class_ids : Tensor, sequence of int, or Labels
        (M,), labels; the null class is allowed.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise.
    seed : int
        Image i has the noise of seed + i at every t. Analyses draw what they need by it too.
    groups : sequence or array, optional
        (M,), a label for each image, the same for those that go together, such as crops of one
        photograph: intervals draw whole groups. None (default) takes every image by itself.
    batch_size : int
        Images on the device at once; results depend on it by rounding only.

    Raises
    ------
    ValueError
        Where an argument breaks a rule above, or images hold NaN; of the model's rules when they
        are read.
    """

    def __init__(
        self,
        images: Any,
        class_ids: ClassIds,
        times: Sequence[float],
        *,
        seed: int = 0,
        groups: Groups | None = None,
        batch_size: int = 16,
    ) -> None:
        self.images: Tensor = as_tensor(images)
        check_images(self.images)
        if not self.images.is_floating_point():
            raise ValueError(
                f"images must be floating point in [-1, 1], got {self.images.dtype}; use "
                "images.float() / 127.5 - 1"
            )
        if not bool(self.images.isfinite().all()):
            raise ValueError("images must be finite, got NaN or infinite values; leave those out")
        self.times = tuple(float(t) for t in times)
        if not self.times or not all(math.isfinite(t) and 0 <= t <= 1 for t in self.times):
            raise ValueError(
                f"times must be at least one t in [0, 1], got {self.times}; 0 is noise"
            )
        if not 0 <= seed <= 2**32 - len(self.images):
            raise ValueError(
                f"seed must be at least 0 and below 2**32 for every image, got {seed}; use a small "
                "one"
            )
        check_batch_size(batch_size)
        self._class_ids = class_ids
        self.labels_for()
        self.groups = group_numbers(groups, len(self.images))
        self.seed, self.batch_size = seed, batch_size

    def labels_for(self, model: Any = None) -> Labels:
        """Return the labels, (M,), with a model's null class; ValueError where it has not these."""
        return labels_of(self._class_ids, len(self.images), model)

    def batches(self, model: Any, time: float) -> Iterator[NoisyBatch]:
        """Yield the images at a time in their order, on the model's device.

        Raises
        ------
        ValueError
            For labels that the model does not know, or sides that are no multiple of its patches.
        """
        labels = self.labels_for(model)
        P = getattr(getattr(model, "config", None), "patch_size", 1)
        H, W = self.images.shape[-2:]
        if H % P or W % P:
            raise ValueError(
                f"image height and width must be divisible by patch_size={P}, got {H} x {W}; "
                f"crop to {H - H % P} x {W - W % P}"
            )
        device = device_of(model, self.images.device)
        for first in range(0, len(self.images), self.batch_size):
            rows = slice(first, first + self.batch_size)
            image = _placed(self.images[rows], device)
            noise = seeded_noise(len(image), image.shape[1:], self.seed + first).to(image)
            yield NoisyBatch(
                first=first,
                time=time,
                t=torch.full((len(image),), time, device=device),
                labels=labels[rows].to(device),
                x=interpolate(image, noise, time),
                image=image,
                noise=noise,
            )

    def moments(self, model: Any) -> Iterator[tuple[float, Iterator[NoisyBatch]]]:
        """Yield every time with its batches."""
        for time in self.times:
            yield time, self.batches(model, time)

    def recipe(self) -> dict[str, Any]:
        """Return the seed, the number of groups, and the images by their hash."""
        return {
            "states": "re-noised images",
            "images": tensor_hash(self.images),
            "class_ids": self.labels_for().listed(),
            "groups": count_groups(self.groups),
            "seed": self.seed,
        }


class Run:
    """The states of a sampling run below t = 1, where something is left to draw.

    What is asked about each is the model for its class only, whatever the run's guidance, which
    mixes two velocities afterwards.

    Parameters
    ----------
    steps : iterable of objects with t and x
        Such as `sample_steps` yields: x (M, C, H, W), the same M images at each t. It is read step
        by step, once, and no step is kept.
    class_ids : Tensor, sequence of int, or Labels
        (M,), labels of the run.
    seed : int
        What analyses draw for the images is by seed.
    groups, batch_size
        As for `Crops`.
    """

    def __init__(
        self,
        steps: Iterable[State],
        class_ids: ClassIds,
        *,
        seed: int = 0,
        groups: Groups | None = None,
        batch_size: int = 16,
    ) -> None:
        check_batch_size(batch_size)
        self._steps, self._class_ids, self._groups = steps, class_ids, groups
        self.seed, self._batch_size = seed, batch_size
        self._shape: torch.Size | None = None
        self._recipe: dict[str, Any] = {"states": "sampling run", "seed": seed}

    def moments(self, model: Any) -> Iterator[tuple[float, Iterator[Batch]]]:
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
                yield time, self._batches(time, x, self._checked(time, x, model), model)
        if self._shape is None:
            raise ValueError(
                "steps must hold a state with t below 1, got none; pass sample_steps(...)"
            )

    def recipe(self) -> dict[str, Any]:
        """Return labels, number of groups, and the first state, the run's noise, by its hash."""
        return self._recipe

    def _checked(self, time: float, x: Tensor, model: Any) -> Labels:
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
        labels = labels_of(self._class_ids, len(x), model)
        if self._shape is None:
            self._shape = x.shape
            self.groups = group_numbers(self._groups, len(x))
            self._recipe |= {
                "first_state": tensor_hash(x),
                "class_ids": labels.listed(),
                "groups": count_groups(self.groups),
            }
        return labels

    def _batches(self, time: float, states: Tensor, labels: Labels, model: Any) -> Iterator[Batch]:
        device = device_of(model, states.device)
        for first in range(0, len(labels), self._batch_size):
            x = _placed(states[first : first + self._batch_size], device)
            yield Batch(
                first=first,
                time=time,
                t=torch.full((len(x),), time, device=device),
                labels=labels[first : first + self._batch_size].to(device),
                x=x,
            )


def measured(
    model: Any, states: States, measure: Callable[[Any], Tensor]
) -> tuple[Array, NDArray[np.float64]]:
    """Return the times, (T,), and what `measure` says of each image at each of them, (M, T, ...).

    Parameters
    ----------
    model : object
        Whose states they are.
    states : Crops or Run
        Read once.
    measure : callable
        From a `Batch` to its images' values, (B, ...).

    Raises
    ------
    ValueError
        Where a value is not finite, since then the model's answer was not.
    """
    check_states(states)
    times, values = [], []
    for time, batches in states.moments(model):
        times.append(time)
        rows = [measure(batch).detach().cpu().double() for batch in batches]
        values.append(check_finite(torch.cat(rows), time))
    return np.array(times), torch.stack(values, 1).numpy()


def made_by(model: Any, states: States, **more: Any) -> dict[str, Any]:
    """Return the recipe of an analysis of states: theirs, the weights, the interval, and more."""
    return states.recipe() | {"weights": weights_hash(model), "interval": RECIPE} | more


def check_states(states: Any, kinds: Any = (Crops, Run)) -> None:
    """Raise ValueError for what is neither crops nor a run, or for a run where crops are needed."""
    if not isinstance(states, kinds):
        run = " or Run(steps, class_ids)" if kinds is not Crops else ", whose answer is known,"
        raise ValueError(
            f"states must be Crops(images, class_ids, times){run} got a {type(states).__name__}; "
            "wrap what you have"
        )


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


def check_patch_size(model: Any) -> int:
    """Return the model's patch size; raise ValueError where it has none."""
    P = getattr(getattr(model, "config", None), "patch_size", None)
    if P is None:
        raise ValueError(
            f"model must have config.patch_size, which a {type(model).__name__} has not; "
            "pass a DeCo"
        )
    return P
