"""Which bands a condition and the pixels draw over t, of re-noised crops or of a sampling run.

The shares are those of `factorial`, of the predicted image and of the velocity, in each band of
radial frequency and at each t, over all images and with intervals:

    baseline + condition_main + pixels_main + interaction = 1      in every band; each may be < 0

What stands for none of an input is that of other images. Where the parts cancel, their energies
being more than twice the whole's together, there are no shares, and `unshared` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deco_lab.result import Estimate
from deco_lab.setting import check_choice
from deco_lab.spectra.bands import MEAN_AND_OCTAVES, band_names
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.decompose import HasDecoder
from deco_lab.spectra.factorial import (
    CANCELS,
    CONDITION_REFERENCES,
    NORMALISATION,
    OTHERS,
    PARTS,
    PIXEL_REFERENCES,
    WHOLES,
    cancellation,
    moment_products,
    part_shares,
    unshared,
)
from deco_lab.spectra.frequencies import check_estimator
from deco_lab.spectra.states import (
    Array,
    InBands,
    States,
    check_decoder,
    check_finite,
    check_states,
    made_by,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class BandEffects(InBands):
    """Shares of four parts in K bands at T times, over M images."""

    predicted: Estimate
    """(T, 4, K), shares of the predicted image, parts in the order of `parts`; they sum to 1 over
    the parts, and are NaN where the parts cancel and in a band without energy."""
    predicted_energy: Array
    """(T, K), mean square of the predicted image in each band; the bands sum to its own."""
    predicted_cancellation: Array
    """(T, K), energies of the parts, summed, over that of the predicted image; estimated as for
    endless draws, so that the other images' own do not count."""
    velocity: Estimate
    """(T, 4, K), shares of the velocity, as far as there are any."""
    velocity_energy: Array
    """(T, K), mean square of the velocity in each band."""
    velocity_cancellation: Array
    """(T, K), energies of the parts, summed, over that of the velocity."""
    parts: tuple[str, ...] = PARTS
    """Names along the axis of 4."""

    def cancels(self, whole: str = "predicted") -> NDArray[np.bool_]:
        """Return in which bands the parts of "predicted" or "velocity" cancel, (T, K)."""
        return getattr(self, f"{whole}_cancellation") > CANCELS

    def unshared(self, whole: str = "predicted") -> str:
        """Return a sentence about the bands without shares, "" where there are none."""
        names = band_names(self.edges.tolist())
        return unshared(self.cancels(whole), self.times.tolist(), names, WHOLES[whole])


def band_effects(
    model: HasDecoder,
    states: States,
    *,
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    condition_reference: str = OTHERS,
    pixel_reference: str = OTHERS,
    draws: int = 4,
    window: str | None = None,
) -> BandEffects:
    """Return each part's share of each band over t.

    Costs, for each image and time, one pass of the DiT (two with the reference "null") and
    3 * draws + 1 of the decoder. All states and conditions of a time are held on the CPU.

    Parameters
    ----------
    model : object
        As for `decompose`.
    states : Crops or Run
        M images. Their seed is that of the choice of other images, and of the pixel reference
        "noise".
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

    Raises
    ------
    ValueError
        For a model without a decoder, fewer than three images or two draws where others stand for
        an input, or as for `decompose`, `split_bands` and `Crops` or `Run`.
    """
    check_decoder(model)
    check_states(states)
    check_estimator(window)
    check_choice("condition_reference", condition_reference, CONDITION_REFERENCES)
    check_choice("pixel_reference", pixel_reference, PIXEL_REFERENCES)
    asked: dict[str, Any] = {
        "references": (condition_reference, pixel_reference),
        "draws": draws,
        "seed": states.seed,
        "edges": edges,
        "window": window,
    }
    times, values = [], []
    for time, batches in states.moments(model):
        times.append(time)
        values.append(check_finite(moment_products(model, batches, **asked), time))
    products = np.stack(values, 1)
    shares = bootstrap_intervals(part_shares, products, groups=states.groups)
    sums = products.mean(0)
    named = {}
    for i, whole in enumerate(WHOLES):
        beyond = cancellation(sums[:, i])
        there = np.where(beyond > CANCELS, np.nan, 1)[:, None]
        ends = {"value": shares.value, "low": shares.low, "high": shares.high}
        named[whole] = replace(shares, **{end: v[:, i] * there for end, v in ends.items()})
        named |= {f"{whole}_energy": sums[:, i, 4], f"{whole}_cancellation": beyond}
    return BandEffects(
        times=np.array(times),
        edges=np.array(edges, dtype=np.float64),
        count=len(products),
        recipe=made_by(
            model,
            states,
            condition_reference=condition_reference,
            pixel_reference=pixel_reference,
            draws=draws,
            window=window,
            normalisation=NORMALISATION,
        ),
        **named,
    )
