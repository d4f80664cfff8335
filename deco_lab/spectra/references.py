"""How far the shares of `effects` depend on what stands for "no condition" and "no pixels".

    low, high = min, max over all choices of references of share_k(part)

A share that the choice moves is an answer to the question, not a fact about the model: the range
belongs beside the figure. It is no confidence interval; that is `band_effects`'s. Choices whose
parts cancel have no shares, and are not in the range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bands import MEAN_AND_OCTAVES
from deco_lab.spectra.decompose import HasDecoder
from deco_lab.spectra.factorial import (
    CANCELS,
    CONDITION_REFERENCES,
    NORMALISATION,
    OTHERS,
    PARTS,
    PIXEL_REFERENCES,
    AskedStates,
    cancellation,
    part_products,
    part_shares,
)
from deco_lab.spectra.frequencies import check_estimator
from deco_lab.spectra.states import check_crops, check_decoder, measured

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceSensitivity(Analysis):
    """The same shares for every choice of references, and their range."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    edges: Array
    """(K - 1,), between bands, in cycles per pixel."""
    condition_references: tuple[str, ...]
    """Q names."""
    pixel_references: tuple[str, ...]
    """R names."""
    predicted: Array
    """(Q, R, T, 4, K), shares of the predicted image; NaN where the parts cancel."""
    predicted_low: Array
    """(T, 4, K), smallest share over all choices that have one; NaN where none has."""
    predicted_high: Array
    """(T, 4, K), largest share."""
    velocity: Array
    """(Q, R, T, 4, K), shares of the velocity, likewise."""
    velocity_low: Array
    """(T, 4, K), smallest share."""
    velocity_high: Array
    """(T, 4, K), largest share."""
    count: int
    """M, images."""
    parts: tuple[str, ...] = PARTS
    """Names along the axis of 4."""


@takes_arrays
def reference_sensitivity(
    model: HasDecoder,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    seed: int = 0,
    edges: Sequence[float] = MEAN_AND_OCTAVES,
    condition_references: Sequence[str] = CONDITION_REFERENCES,
    pixel_references: Sequence[str] = PIXEL_REFERENCES,
    draws: int = 4,
    window: str | None = None,
    batch_size: int = 16,
) -> ReferenceSensitivity:
    """Return the shares of `band_effects` for every choice of references, and their range.

    Costs, for each image and time, two passes of the DiT and four of the decoder for each choice,
    or 3 * draws + 1 where it is other images.

    Parameters
    ----------
    model, images, class_ids, times, seed, edges, draws, window, batch_size
        As for `band_effects`.
    condition_references, pixel_references : sequence of str
        The choices to compare, crossed; all that `band_effects` knows when not given.

    Returns
    -------
    ReferenceSensitivity
        The range says how far a share is a matter of the question, not of the sample of images.

    Raises
    ------
    ValueError
        As for `band_effects`, or without any references.
    """
    check_decoder(model)
    crops = check_crops(images, class_ids, times, seed, model, batch_size)
    check_estimator(window)
    references = list(product(condition_references, pixel_references))
    if not references:
        raise ValueError(
            "condition_references and pixel_references must name one each at least, got "
            f"{tuple(condition_references)} and {tuple(pixel_references)}; leave them out for all"
        )
    held = draws if any(OTHERS in pair for pair in references) else 0
    _, values = measured(
        AskedStates(model, crops, held, seed),
        lambda each: part_products(
            model, each, edges=edges, references=references, seed=seed, window=window
        ),
    )
    sums = values.sum(0).swapaxes(0, 1)  # (choices, T, 2, 6, K)
    cancels = cancellation(sums)[..., None, :] > CANCELS
    shares = np.where(cancels, np.nan, part_shares(sums))
    choices = (len(condition_references), len(pixel_references))
    named = {}
    for i, whole in enumerate(("velocity", "predicted")):
        of_whole = shares[:, :, i]
        named[whole] = of_whole.reshape(*choices, *of_whole.shape[1:])
        named[f"{whole}_low"] = np.fmin.reduce(of_whole)
        named[f"{whole}_high"] = np.fmax.reduce(of_whole)
    return ReferenceSensitivity(
        times=np.array(crops.times),
        edges=np.array(edges, dtype=np.float64),
        condition_references=tuple(condition_references),
        pixel_references=tuple(pixel_references),
        count=len(images),
        recipe=crops.recipe()
        | {
            "weights": weights_hash(model),
            "window": window,
            "normalisation": NORMALISATION,
        },
        **named,
    )
