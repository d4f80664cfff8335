"""The filter that a model applies at each frequency, from noisy to predicted image.

With X and P the spectra of x_t and of the predicted image, in each ring of frequency and over
images,

    H_t(f)        = <P X*> / <X X*>                            what P repeats of X, linearly
    coherence(f)  = |<P X*>|^2 / (<X X*> <P P*>)               how much of P that is, 0 to 1

beside the Wiener filter W = t S / (t^2 S + (1 - t)^2) of the images' power S. The mean of all
images that x_t may come from, which a perfect model predicts, has <P X*> = <image X*> = t S: its H
is Wiener's whatever the images are, Gaussian or not. So H tells how well a model is calibrated at
each frequency, and the coherence how far it goes beyond a filter: a filter that is the same in
all directions has 1, and what a model infers from other frequencies lowers it.

All of this holds for deviations from a mean. What x_t and P share because all images of a class
share it (their mean) is known before x_t is looked at: it passes no filter. So the mean over the
images of each class is taken off X, P and the images, and what is left is multiplied by
sqrt(n / (n - 1)), n images in the class, which leaves <X X*> and the rest without bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.flow import predicted_image
from deco_lab.gaussian import wiener_filter
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bootstrap import RECIPE, Groups, bootstrap_intervals
from deco_lab.spectra.frequencies import check_estimator, ring_counts, ring_frequencies
from deco_lab.spectra.products import ring_products
from deco_lab.spectra.states import check_crops, check_finite, velocity_of

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferFunction(Analysis):
    """H and coherence in R rings at T times, with 95% bands over M images."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    frequency: Array
    """(R,), the rings' centres in cycles per pixel, 0 to 0.5."""
    transfer: Array
    """(T, R), H: real, since the coefficients at k and -k are conjugates."""
    transfer_low: Array
    """(T, R), lower end of the interval; NaN for a single image, as are all ends."""
    transfer_high: Array
    """(T, R), upper end."""
    coherence: Array
    """(T, R), from 0 to 1; NaN where x_t or the prediction has no power."""
    coherence_low: Array
    """(T, R), lower end."""
    coherence_high: Array
    """(T, R), upper end."""
    coherence_floor: Array
    """(R,), the mean coherence that so many unrelated white images would show: 1 / (values in the
    ring over images and channels). Channels that go together, or a window, raise it by up to 3."""
    wiener: Array
    """(T, R), W for the power S."""
    power: Array
    """(R,), S, of the true images, without their class means where those were removed."""
    count: int
    """M, images."""


def _without_means(images: Tensor, class_ids: Tensor) -> Tensor:
    """Return images, (M, C, H, W), less their class means, times sqrt(n / (n - 1))."""
    deviations = torch.empty_like(images)
    for label in class_ids.unique():
        members = class_ids == label
        chosen = images[members].double()
        n = len(chosen)
        scaled = (chosen - chosen.mean(0)) * (n / (n - 1)) ** 0.5
        deviations[members] = scaled.to(images.dtype)
    return deviations


def _whole_classes(class_ids: Tensor, at_least: int) -> list[Tensor]:
    """Return the images' indices in groups of whole classes, of so many images where it can be."""
    groups, current = [], []
    for label in class_ids.unique():
        current.append(torch.nonzero(class_ids == label).flatten())
        if sum(map(len, current)) >= at_least:
            groups.append(torch.cat(current))
            current = []
    return groups + ([torch.cat(current)] if current else [])


def _transfer(sums: Array) -> Array:
    """Return H, (..., R), of <P X*>, <X X*> and <P P*>, (..., 3, R); NaN without power."""
    cross, noisy, _ = np.moveaxis(sums, -2, 0)
    return cross / np.where(noisy > 0, noisy, np.nan)


def _coherence(sums: Array) -> Array:
    """Return the coherence, (..., R), likewise."""
    cross, noisy, predicted = np.moveaxis(sums, -2, 0)
    return cross**2 / np.where((noisy > 0) & (predicted > 0), noisy * predicted, np.nan)


@takes_arrays
@torch.no_grad()
def transfer_function(
    model: Any,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    seed: int = 0,
    window: str | None = None,
    padding: int = 1,
    remove_means: bool = True,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> TransferFunction:
    """Return the filter from noisy to predicted image and its coherence, for real crops.

    Beside one batch on the device it holds the images of one class in the CPU's memory, since their
    mean must be known before any of them is looked at.

    Parameters
    ----------
    model, images, class_ids, times, seed, batch_size, groups
        As for `detail_spectra`.
    window, padding
        As for `detail_spectra`; means are removed before.
    remove_means : bool
        Take the mean over the images of each class off them, off x_t and off the predictions, as
        said above. Needs two images of each class, better eight.

    Returns
    -------
    TransferFunction
        H, coherence and Wiener's filter by ring, with bootstrap bands.

    Raises
    ------
    ValueError
        As for `detail_spectra`, or for a class with one image where means are removed.
    """
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    check_estimator(window, padding)
    classes, counts = crops.class_ids.unique(return_counts=True)
    if remove_means and int(counts.min()) < 2:
        alone = classes[counts < 2].tolist()
        raise ValueError(
            "remove_means needs two images of each class at least, got one of class "
            f"{', '.join(map(str, alone))}; add images or pass remove_means=False"
        )

    together = (
        _whole_classes(crops.class_ids, batch_size)
        if remove_means
        else torch.arange(len(images)).split(batch_size)
    )

    def fields(time: float, rows: Tensor) -> Tensor:
        """Return x_t, the predicted image and the image of some images, (3, B, C, H, W)."""
        batch = crops.at(time, rows)
        predicted = predicted_image(batch.x, velocity_of(model, batch), time)
        return torch.stack([batch.x, predicted, batch.image]).cpu()

    def by_ring(parts: Tensor, whole: Tensor) -> Tensor:
        pairs = zip(parts.split(batch_size), whole.split(batch_size), strict=True)
        return torch.cat([ring_products(a, b, window, padding) for a, b in pairs])

    M, C, H, W = images.shape
    frequency = ring_frequencies(padding * H, padding * W).numpy()
    values = np.empty((M, len(crops.times), 4, len(frequency)))
    for k, time in enumerate(crops.times):
        for group in together:
            of_group = torch.cat([fields(time, rows) for rows in group.split(batch_size)], 1)
            if remove_means:
                labels = crops.class_ids[group]
                of_group = [_without_means(field, labels) for field in of_group]
            X, P, true = of_group
            pairs = ((P, X), (X, X), (P, P), (true, true))
            products = torch.stack([by_ring(a, b) for a, b in pairs], 1)
            values[group.numpy(), k] = check_finite(products, time).numpy()
    S = values[:, 0, 3].mean(0)

    # A mean over the images of one group ties no groups together.
    shared = [len(np.unique(crops.groups[crops.class_ids.numpy() == c])) > 1 for c in classes]
    intervals = partial(
        bootstrap_intervals,
        values=values[:, :, :3],
        groups=crops.groups,
        removed=max(1, sum(shared)) if remove_means else 1,
    )
    H_t, coherence = intervals(_transfer), intervals(_coherence, within=(0, 1))
    free = (M - len(classes) if remove_means else M) * C
    return TransferFunction(
        times=np.array(crops.times),
        frequency=frequency,
        transfer=H_t.value,
        transfer_low=H_t.low,
        transfer_high=H_t.high,
        coherence=coherence.value,
        coherence_low=coherence.low,
        coherence_high=coherence.high,
        coherence_floor=padding**2 / (free * ring_counts(padding * H, padding * W).numpy()),
        wiener=wiener_filter(S, np.array(crops.times)[:, None]),
        power=S,
        count=M,
        recipe=crops.recipe()
        | {
            "weights": weights_hash(model),
            "window": window,
            "padding": padding,
            "means": "class means removed" if remove_means else "kept",
            "normalisation": "sums over images, channels and the coefficients of a ring",
            "interval": RECIPE,
        },
    )
