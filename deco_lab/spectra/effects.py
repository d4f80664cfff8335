"""Which bands a condition and the pixels draw over t, of re-noised crops or of a sampling run.

The shares are those of `factorial`, of the predicted image and of the velocity, in each band of
radial frequency and at each t, over all images and with intervals:

    baseline + condition_main + pixels_main + interaction = 1      in every band; each may be < 0

What stands for none of an input is that of other images. Where the parts cancel, their energies
being more than twice the whole's together, there are no shares, and `unshared` says so.

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
from deco_lab.spectra.bands import MEAN_AND_OCTAVES, band_names
from deco_lab.spectra.bootstrap import RECIPE, Groups, bootstrap_intervals
from deco_lab.spectra.decompose import HasDecoder
from deco_lab.spectra.factorial import (
    CANCELS,
    NORMALISATION,
    OTHERS,
    PARTS,
    WHOLES,
    AskedStates,
    cancellation,
    part_products,
    part_shares,
    unshared,
)
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
    """Shares of four parts in K bands at T times, with 95% intervals over M images."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    predicted: Array
    """(T, 4, K), shares of the predicted image, parts in the order of `parts`; they sum to 1 over
    the parts, and are NaN where the parts cancel and in a band without energy."""
    predicted_low: Array
    """(T, 4, K), lower ends of the intervals; NaN for a single group, as are the upper ends."""
    predicted_high: Array
    """(T, 4, K), upper ends."""
    predicted_energy: Array
    """(T, K), mean square of the predicted image in each band; the bands sum to its own."""
    predicted_cancellation: Array
    """(T, K), energies of the parts, summed, over that of the predicted image; estimated as for
    endless draws, so that the other images' own do not count."""
    velocity: Array
    """(T, 4, K), shares of the velocity, as far as there are any."""
    velocity_low: Array
    """(T, 4, K), lower ends."""
    velocity_high: Array
    """(T, 4, K), upper ends."""
    velocity_energy: Array
    """(T, K), mean square of the velocity in each band."""
    velocity_cancellation: Array
    """(T, K), energies of the parts, summed, over that of the velocity."""
    count: int
    """M, images."""
    parts: tuple[str, ...] = PARTS
    """Names along the axis of 4."""

    def cancels(self, whole: str = "predicted") -> NDArray[np.bool_]:
        """Return in which bands the parts cancel, (T, K), so that they have no shares.

        Parameters
        ----------
        whole : str
            "predicted" or "velocity".
        """
        return getattr(self, f"{whole}_cancellation") > CANCELS

    def unshared(self, whole: str = "predicted") -> str:
        """Return a sentence about the bands without shares, "" where there are none.

        Parameters
        ----------
        whole : str
            "predicted" or "velocity".
        """
        names = band_names(self.edges.tolist())
        return unshared(self.cancels(whole), self.times.tolist(), names, WHOLES[whole])


def _effects(
    model: HasDecoder,
    states: States,
    *,
    seed: int,
    edges: Sequence[float],
    references: tuple[str, str],
    draws: int,
    window: str | None,
) -> BandEffects:
    check_estimator(window)
    asked = AskedStates(model, states, draws if OTHERS in references else 0, seed)
    times, values = measured(
        asked,
        lambda each: part_products(
            model, each, edges=edges, references=[references], seed=seed, window=window
        )[:, 0],
    )
    band = bootstrap_intervals(part_shares, values, groups=states.groups)
    sums = values.mean(0)
    named = {}
    for i, whole in enumerate(WHOLES):
        beyond = cancellation(sums[:, i])
        for end, shares in (("", band.value), ("_low", band.low), ("_high", band.high)):
            named[whole + end] = np.where(beyond[:, None] > CANCELS, np.nan, shares[:, i])
        named |= {f"{whole}_energy": sums[:, i, 4], f"{whole}_cancellation": beyond}
    return BandEffects(
        times=np.array(times),
        edges=np.array(edges, dtype=np.float64),
        count=len(values),
        recipe=states.recipe()
        | {
            "weights": weights_hash(model),
            "seed": seed,
            "condition_reference": references[0],
            "pixel_reference": references[1],
            "draws": draws,
            "window": window,
            "normalisation": NORMALISATION,
            "interval": RECIPE,
        },
        **named,
    )


@takes_arrays
def band_effects(
    model: HasDecoder,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    seed: int = 0,
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    condition_reference: str = OTHERS,
    pixel_reference: str = OTHERS,
    draws: int = 4,
    window: str | None = None,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> BandEffects:
    """Return each part's share of each band over t, for real crops with noise.

    Costs, for each image and time, one pass of the DiT (two with the reference "null") and
    3 * draws + 1 of the decoder. With other images as references, all states and conditions of a
    time are held on the CPU.

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
        another stream; the choice of other images is by it too.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel. One at 0, as in the default, parts off the
        channels' means.
    condition_reference, pixel_reference : str
        What stands for none. "others" (default): the condition and the noisy pixels of other
        images at the same t, of the same label if each label has more than `draws` images. The
        constants of `decompose` are there for who wants them, with care: nothing like them occurs
        in training, and what the decoder draws of them may exceed the whole ("null" asks another
        thing: what the label adds).
    draws : int
        How many other images stand for each one's inputs, at most, from 2; the parts are means
        over them.
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
        Shares of the predicted image and of the velocity, with their intervals.

    Raises
    ------
    ValueError
        For a model without a decoder, images that are empty, misshapen or not finite, labels or
        times out of range, groups that are not one for each image, fewer than three images or two
        draws where others stand for an input, or as for `decompose` and `split_bands`.
    """
    check_decoder(model)
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    return _effects(
        model,
        crops,
        seed=seed,
        edges=edges,
        references=(condition_reference, pixel_reference),
        draws=draws,
        window=window,
    )


def run_effects(
    model: HasDecoder,
    steps: Iterable[State],
    class_ids: Tensor | Sequence[int],
    *,
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    condition_reference: str = OTHERS,
    pixel_reference: str = OTHERS,
    draws: int = 4,
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
    edges, condition_reference, pixel_reference, draws, window, batch_size, groups
        As for `band_effects`.
    seed : int
        Of the choice of other images, and of the pixel reference "noise".

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
        draws=draws,
        window=window,
    )
