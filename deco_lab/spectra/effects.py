"""Which bands the DiT and the pixel path draw over t, of re-noised crops or of a sampling run.

The shares are those of `factorial`, of the velocity and of the predicted image, in each band of
radial frequency and at each t, over all images and with bootstrap intervals:

    baseline + dit + pixels + interaction = 1        in every band, each may be negative

Re-noised crops ask what the model does on the path it was trained on; a sampling run asks what it
does on its own states, which may have left that path.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bands import OCTAVES
from deco_lab.spectra.bootstrap import RECIPE, Groups, bootstrap_intervals
from deco_lab.spectra.decompose import HasDecoder
from deco_lab.spectra.factorial import NORMALISATION, PARTS, part_products, part_shares
from deco_lab.spectra.frequencies import check_estimator
from deco_lab.spectra.states import (
    Run,
    State,
    States,
    check_batch_size,
    check_crops,
    check_decoder,
    measured,
)

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class BandEffects(Analysis):
    """Shares of four parts in K bands at T times, with 95% bands over M images."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    velocity: Array
    """(T, 4, K), shares of the velocity, parts in the order of `parts`; they sum to 1 over the
    parts, and are NaN in a band without energy."""
    velocity_low: Array
    """(T, 4, K), lower ends of the intervals; NaN for a single image, as are the upper ends."""
    velocity_high: Array
    """(T, 4, K), upper ends."""
    velocity_energy: Array
    """(T, K), mean square of the velocity in each band; the bands sum to its mean square."""
    predicted: Array
    """(T, 4, K), shares of the predicted image."""
    predicted_low: Array
    """(T, 4, K), lower ends."""
    predicted_high: Array
    """(T, 4, K), upper ends."""
    predicted_energy: Array
    """(T, K), mean square of the predicted image in each band."""
    count: int
    """M, images."""
    parts: tuple[str, ...] = PARTS
    """Names along the axis of 4."""


def _effects(
    model: HasDecoder,
    states: States,
    *,
    seed: int,
    edges: Sequence[float],
    references: tuple[str, str],
    window: str | None,
) -> BandEffects:
    check_estimator(window)
    times, values = measured(
        states,
        lambda batch: part_products(
            model, batch, edges=edges, references=[references], seed=seed, window=window
        )[:, 0],
    )
    band = bootstrap_intervals(part_shares, values, groups=states.groups)
    energy = values[..., -1, :].mean(0)
    return BandEffects(
        times=np.array(times),
        edges=np.array(edges, dtype=np.float64),
        velocity=band.value[:, 0],
        velocity_low=band.low[:, 0],
        velocity_high=band.high[:, 0],
        velocity_energy=energy[:, 0],
        predicted=band.value[:, 1],
        predicted_low=band.low[:, 1],
        predicted_high=band.high[:, 1],
        predicted_energy=energy[:, 1],
        count=len(values),
        recipe=states.recipe()
        | {
            "weights": weights_hash(model),
            "seed": seed,
            "condition_reference": references[0],
            "pixel_reference": references[1],
            "window": window,
            "normalisation": NORMALISATION,
            "interval": RECIPE,
        },
    )


@takes_arrays
def band_effects(
    model: HasDecoder,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    seed: int = 0,
    edges: Sequence[float] = OCTAVES,
    condition_reference: str = "mean",
    pixel_reference: str = "zero",
    window: str | None = None,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> BandEffects:
    """Return each part's share of each band over t, for real crops with noise.

    Costs, for each image and time, one pass of the DiT (two with the reference "null") and four
    of the decoder.

    Parameters
    ----------
    model : object
        As for `decompose`.
    images : Tensor
        (M, C, H, W), in [-1, 1], of any floating-point type; computed with in float32 or float64.
    class_ids : Tensor or sequence of int
        (M,), labels.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise.
    seed : int
        Image i has the noise of seed + i at every t, and so has the pixel reference "noise", from
        another stream.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    condition_reference, pixel_reference : str
        As for `decompose`.
    window : str, optional
        "hann" tapers parts and wholes to the images' borders before they are split into bands;
        None (default) keeps them.
    batch_size : int
        Images on the device at once.
    groups : sequence or array, optional
        (M,), a label for each image, the same for those that go together, such as crops of one
        photograph: intervals draw whole groups. None (default) takes every image by itself.

    Returns
    -------
    BandEffects
        Shares of the velocity and of the predicted image, with bootstrap bands.

    Raises
    ------
    ValueError
        For a model without a decoder, images that are empty, misshapen or not finite, labels or
        times out of range, groups that are not one for each image, or as for `decompose` and
        `split_bands`.
    """
    check_decoder(model)
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    return _effects(
        model,
        crops,
        seed=seed,
        edges=edges,
        references=(condition_reference, pixel_reference),
        window=window,
    )


def run_effects(
    model: HasDecoder,
    steps: Iterable[State],
    class_ids: Tensor | Sequence[int],
    *,
    edges: Sequence[float] = OCTAVES,
    condition_reference: str = "mean",
    pixel_reference: str = "zero",
    window: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> BandEffects:
    """Return each part's share of each band over t, for the states of a sampling run.

    The parts are those of the velocity of the class alone at each state, as for `band_effects`:
    guidance mixes two velocities afterwards. The state at t = 1, where nothing is left to draw, is
    passed over.

    Parameters
    ----------
    model : object
        As for `decompose`.
    steps : iterable of objects with t and x
        Such as `sample_steps` yields: x (M, C, H, W), the same M images at each t. It is read step
        by step, and no step is kept.
    class_ids : Tensor or sequence of int
        (M,), labels of the run.
    edges, condition_reference, pixel_reference, window, batch_size, groups
        As for `band_effects`.
    seed : int
        Of the pixel reference "noise".

    Returns
    -------
    BandEffects
        Times are those of the states.

    Raises
    ------
    ValueError
        As for `band_effects`; where no state lies below t = 1, or a state is not finite.
    """
    check_decoder(model)
    check_batch_size(batch_size)
    return _effects(
        model,
        Run(steps, class_ids, model, batch_size, groups),
        seed=seed,
        edges=edges,
        references=(condition_reference, pixel_reference),
        window=window,
    )
