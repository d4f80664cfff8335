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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.flow import predicted_image
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bootstrap import RECIPE, bootstrap_intervals
from deco_lab.spectra.frequencies import check_estimator, ring_counts, ring_frequencies
from deco_lab.spectra.gaussian import wiener_filter
from deco_lab.spectra.products import ring_products
from deco_lab.spectra.states import NoisyBatch, check_crops, velocity_of

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


def _transfer(sums: Array) -> Array:
    """Return H and coherence, (..., 2, R), of <P X*>, <X X*> and <P P*>, (..., 3, R)."""
    cross, noisy, predicted = np.moveaxis(sums, -2, 0)
    noisy = np.where(noisy > 0, noisy, np.nan)
    predicted = np.where(predicted > 0, predicted, np.nan)
    return np.stack([cross / noisy, cross**2 / (noisy * predicted)], -2)


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
) -> TransferFunction:
    """Return the filter from noisy to predicted image and its coherence, for real crops.

    Beside one batch on the device it holds states and predictions of one time in the CPU's memory.

    Parameters
    ----------
    model, images, class_ids, times, seed, batch_size
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
    crops = check_crops(images, class_ids, times, seed, model, batch_size)
    check_estimator(window, padding)
    classes, counts = crops.class_ids.unique(return_counts=True)
    if remove_means and int(counts.min()) < 2:
        alone = classes[counts < 2].tolist()
        raise ValueError(
            "remove_means needs two images of each class at least, got one of class "
            f"{', '.join(map(str, alone))}; add images or pass remove_means=False"
        )

    def centred(fields: Tensor) -> Tensor:
        return _without_means(fields, crops.class_ids) if remove_means else fields

    def by_ring(parts: Tensor, whole: Tensor) -> Tensor:
        pairs = zip(parts.split(batch_size), whole.split(batch_size), strict=True)
        return torch.cat([ring_products(a, b, window, padding) for a, b in pairs])

    def fields(batch: NoisyBatch) -> Tensor:
        predicted = predicted_image(batch.x, velocity_of(model, batch), batch.time)
        return torch.stack([batch.x, predicted, batch.image]).cpu()

    values = []
    for _, batches in crops.moments(model, batch_size):
        of_all = torch.cat([fields(batch) for batch in batches], 1)
        X, P, true = (centred(field) for field in of_all)
        products = ((P, X), (X, X), (P, P), (true, true))
        values.append(torch.stack([by_ring(a, b) for a, b in products], 1).numpy())
    S = values[0][:, 3].mean(0)

    removed = len(classes) if remove_means else 1
    band = bootstrap_intervals(_transfer, np.stack(values, 1)[:, :, :3], removed=removed)
    M, C, H, W = images.shape
    free = (M - len(classes) if remove_means else M) * C
    return TransferFunction(
        times=np.array(crops.times),
        frequency=ring_frequencies(padding * H, padding * W).numpy(),
        transfer=band.value[:, 0],
        transfer_low=band.low[:, 0],
        transfer_high=band.high[:, 0],
        coherence=band.value[:, 1],
        coherence_low=band.low[:, 1],
        coherence_high=band.high[:, 1],
        coherence_floor=padding**2 / (free * ring_counts(padding * H, padding * W).numpy()),
        wiener=wiener_filter(S, np.array(crops.times)[:, None]),
        power=S,
        count=M,
        recipe={
            "weights": weights_hash(model),
            "seed": seed,
            "window": window,
            "padding": padding,
            "means": "class means removed" if remove_means else "kept",
            "normalisation": "sums over images, channels and the coefficients of a ring",
            "interval": RECIPE,
        },
    )
