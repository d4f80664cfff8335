"""What the DiT and the pixel path do to each band: a factorial experiment of 2 x 2 decodes.

With g the pixel decoder, s the DiT's condition and p the noisy pixels, s0 and p0 their references
(see `decompose`), four parts sum to the velocity [1]:

    baseline     g(s0, p0)
    dit          g(s, p0) - g(s0, p0)                              what the DiT does alone
    pixels       g(s0, p) - g(s0, p0)                              what the pixel path does alone
    interaction  g(s, p) - g(s, p0) - g(s0, p) + g(s0, p0)         what they only do together

and so do the shares in each band k, over all images i, which sum to 1 and may be negative:

    share_k(part) = sum_i <part_i, band_k(velocity_i)> / sum_i <velocity_i, band_k(velocity_i)>

(Shapley's dit, `decompose`'s default, is dit + interaction / 2.) The same experiment is read for
the predicted image, h(s, p) = p + (1 - t) g(s, p): there the pixel path holds the noisy pixels
themselves, so its part is what a decoder that is told nothing would leave of them, noise included.

References
----------
[1] Box, Hunter, Hunter, "Statistics for Experimenters", 2005, chapter 5.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.flow import predicted_image
from deco_lab.spectra.decompose import HasDecoder, decompose
from deco_lab.spectra.products import band_products, nan_if_empty
from deco_lab.spectra.states import Batch
from deco_lab.wrapper import Wrapper

Array = NDArray[np.float64]

PARTS = ("baseline", "dit", "pixels", "interaction")
"""What a velocity, or a predicted image, is the sum of."""

NORMALISATION = "sum over images <part, band> / sum over images <whole, band>"
"""What `part_shares` divides by what, for recipes."""


class _Drawing(Wrapper):
    """A model at one state whose decoder returns velocity and predicted image, (B, 2C, H, W).

    `decompose` splits whatever a decoder returns, so both come of one call. The DiT's pass for
    each set of labels is kept: x and t are the same for all references.
    """

    def __init__(self, model: Any, t: Tensor) -> None:
        super().__init__(model)
        self._t = t
        self._conditions: dict[tuple[int, ...], Tensor] = {}

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        labels = tuple(class_ids.tolist())
        if labels not in self._conditions:
            self._conditions[labels] = self.model.condition(x, t, class_ids)
        return self._conditions[labels]

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        velocity = self.model.decode(x, condition)
        return torch.cat([velocity, predicted_image(x, velocity, self._t)], 1)


def part_products(
    model: HasDecoder,
    batch: Batch,
    *,
    edges: Sequence[float],
    references: Sequence[tuple[str, str]],
    seed: int,
    window: str | None = None,
) -> Tensor:
    """Return each image's inner products of parts and whole in each band.

    Parameters
    ----------
    model : object
        As for `decompose`.
    batch : Batch
        Of B images.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    references : sequence of (str, str)
        R pairs of a condition reference and a pixel reference, as for `decompose`.
    seed : int
        Of the pixel reference "noise"; that of the batch's first image is seed + batch.first.
    window : str, optional
        As for `band_products`.

    Returns
    -------
    Tensor
        (B, R, 2, 5, K): of the velocity, then of the predicted image; the axis of 5 holds the
        four `PARTS` and the whole itself. Per pixel and channel, float64, on the CPU.

    Raises
    ------
    ValueError
        As for `decompose` and `split_bands`.
    """
    drawing = _Drawing(model, batch.t)
    found = []
    for condition_reference, pixel_reference in references:
        split = decompose(
            drawing,
            batch.x,
            batch.t,
            batch.class_ids,
            condition_reference=condition_reference,
            pixel_reference=pixel_reference,
            order="dit_first",  # so that `dit` holds nothing of the interaction
            seed=seed + batch.first,
        )
        pixels = split.decoder - split.interaction
        parts = [split.baseline, split.dit, pixels, split.interaction, split.velocity]
        both = torch.stack(parts).chunk(2, dim=2)
        found.append(torch.stack([band_products(half, half[-1], edges, window) for half in both]))
    return torch.stack(found).movedim(3, 0)


def part_shares(sums: Array) -> Array:
    """Return the parts' shares, (..., 4, K), of summed inner products, (..., 5, K).

    NaN in a band where the whole has less than 1e-12 of its energy.
    """
    return sums[..., :-1, :] / nan_if_empty(sums[..., -1:, :])
