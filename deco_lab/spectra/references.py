"""How far the shares of `effects` depend on what stands for "no condition" and "no pixels".

    low, high = min, max over all choices of references of share_k(part)

A share that the choice moves is an answer to the question, not a fact about the model: the range
belongs beside the figure. It is no confidence interval; that is `band_effects`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bands import OCTAVES
from deco_lab.spectra.decompose import CONDITION_REFERENCES, PIXEL_REFERENCES, HasDecoder
from deco_lab.spectra.factorial import (
    NORMALISATION,
    PARTS,
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
    velocity: Array
    """(Q, R, T, 4, K), shares of the velocity."""
    velocity_low: Array
    """(T, 4, K), smallest share over all choices."""
    velocity_high: Array
    """(T, 4, K), largest share over all choices."""
    predicted: Array
    """(Q, R, T, 4, K), shares of the predicted image."""
    predicted_low: Array
    """(T, 4, K), smallest share over all choices."""
    predicted_high: Array
    """(T, 4, K), largest share over all choices."""
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
    edges: Sequence[float] = OCTAVES,
    condition_references: Sequence[str] = CONDITION_REFERENCES,
    pixel_references: Sequence[str] = PIXEL_REFERENCES,
    window: str | None = None,
    batch_size: int = 16,
) -> ReferenceSensitivity:
    """Return the shares of `band_effects` for every choice of references, and their range.

    Costs, for each image and time, two passes of the DiT and four of the decoder for each choice.

    Parameters
    ----------
    model, images, class_ids, times, seed, edges, window, batch_size
        As for `band_effects`.
    condition_references, pixel_references : sequence of str
        The choices to compare, crossed; all that `decompose` knows when not given.

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
    _, values = measured(
        crops,
        lambda batch: part_products(
            model, batch, edges=edges, references=references, seed=seed, window=window
        ),
    )
    shares = part_shares(values.sum(0).swapaxes(0, 1))  # (choices, T, 2, 4, K)
    choices = (len(condition_references), len(pixel_references))
    velocity, predicted = (shares[:, :, which] for which in (0, 1))
    return ReferenceSensitivity(
        times=np.array(crops.times),
        edges=np.array(edges, dtype=np.float64),
        condition_references=tuple(condition_references),
        pixel_references=tuple(pixel_references),
        velocity=velocity.reshape(*choices, *velocity.shape[1:]),
        velocity_low=velocity.min(0),
        velocity_high=velocity.max(0),
        predicted=predicted.reshape(*choices, *predicted.shape[1:]),
        predicted_low=predicted.min(0),
        predicted_high=predicted.max(0),
        count=len(images),
        recipe=crops.recipe()
        | {
            "weights": weights_hash(model),
            "window": window,
            "normalisation": NORMALISATION,
        },
    )
