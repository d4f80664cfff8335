"""What the DiT writes inside a patch: the condition's budget over within-patch frequencies.

At fixed pixels a token's condition s, D numbers, moves its own patch of P x P pixels and nothing
else. So every token can be exchanged at once for another one, s', of the same time, and with T the
orthonormal P x P DCT of each channel

    written = mean over tokens and exchanges of (T [decode(x, s) - decode(x, s')])^2 / 2

is the energy that the condition's variation puts into each coefficient. Nothing is linearised: a
decoder that is linear in s, with the matrix J, has diag(T J C J^T T^T), C the covariance of real
conditions, and for any other both s and s' are conditions that the model meets. Index u of the DCT
is u / (2P) cycles per pixel; index (0, 0) is the patch's mean, which the token grid's spectrum
shows, and all else is above that grid's Nyquist in some direction, or aliased to it.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.result import Estimate
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.states import (
    Array,
    Crops,
    OverTime,
    check_decoder,
    check_finite,
    check_patch_size,
    check_states,
    made_by,
)

_EXCHANGE_SEED = 0xB0D6E7


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionBudget(OverTime):
    """Energies are of the velocity, for each coefficient and channel of an orthonormal DCT."""

    frequency: Array
    """(P,), cycles per pixel of a DCT index, u / (2P)."""
    written: Array
    """(T, M, 3, P, P), mean over each image's tokens: half of what exchanging them changes."""
    variance: Array
    """(T, D), eigenvalues of the covariance of real conditions, largest first."""
    maps: Array
    """(T, K, 3, P, P), half of what the patch's pixels change by from one standard deviation below
    a token to one above it, along each of the K leading directions, mean over images and tokens;
    the sign is arbitrary."""
    groups: NDArray[np.int64]
    """(M,), the group of each image, a number from 0."""

    def share_above(self, frequency: float) -> Estimate:
        """Return the share of energy at or above a frequency, at each time, (T,).

        Parameters
        ----------
        frequency : float
            In cycles per pixel, radial: hypot(u, v) / (2P). Anything above 0 and up to 1 / (2P)
            leaves out the patch's mean only. NaN where no energy is written.
        """
        high = np.hypot(self.frequency[:, None], self.frequency) >= frequency - 1e-12
        above, total = self.written[..., high].sum((2, 3)), self.written.sum((2, 3, 4))
        sums = np.stack([above, total], -1).swapaxes(0, 1)
        return bootstrap_intervals(_share, sums, groups=self.groups)


def _share(sums: Array) -> Array:
    """Return above / total, (..., T), of (..., T, 2); NaN where no energy is written."""
    above, total = np.moveaxis(sums, -1, 0)
    return above / np.where(total > 0, total, np.nan)


def _check_tokens_keep_to_their_patch(
    model: Any, x: Tensor, condition: Tensor, other: Tensor, P: int
) -> None:
    even = (torch.arange(condition.shape[1], device=x.device) % 2 == 0)[:, None]
    partly = torch.where(even, other, condition)
    moved = block_dct(model.decode(x, partly) - model.decode(x, condition), P).square()
    moved = moved.sum((1, 4, 5)).flatten(1)
    outside = moved[:, 1::2].sum()
    if outside > 1e-6 * moved.sum():
        raise ValueError(
            "model.decode must draw each patch from its own token only, but "
            f"{float(outside / moved.sum()):.0%} of what a token moves lies in other patches; "
            "the budget is that of a decoder without spatial mixing"
        )


@torch.no_grad()
def condition_budget(
    model: Any, states: Crops, *, exchanges: int = 4, directions: int = 3
) -> ConditionBudget:
    """Return which within-patch frequencies the DiT writes.

    Costs, for each image and time, one pass of the DiT and 1 + exchanges + 2 * directions of the
    decoder; the tokens of one time are held.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)`, `decode(x, condition)` and `config.patch_size`. Each
        token must draw its own patch and nothing else.
    states : Crops
        M images in RGB.
    exchanges : int
        How often all tokens of all images change places.
    directions : int
        Leading directions K to draw, from 0 to D.

    Raises
    ------
    ValueError
        For a model without a decoder or one that mixes patches, images that are not RGB, a single
        token, counts that do not fit, or as for `Crops`.
    """
    check_decoder(model)
    check_states(states, Crops)
    P = check_patch_size(model)
    M, C, H, W = states.images.shape
    N = (H // P) * (W // P)
    if C != 3:
        raise ValueError(
            f"images must be RGB, of shape (M, 3, H, W), got {tuple(states.images.shape)}; repeat "
            "a grey channel three times"
        )
    if exchanges < 1 or directions < 0 or M * N < 2:
        raise ValueError(
            "exchanges must be at least 1, directions at least 0 and tokens at least 2, got "
            f"{exchanges}, {directions} and {M * N}; 4 and 3 of several images are usual"
        )
    generator = torch.Generator().manual_seed(_EXCHANGE_SEED)
    partners = []
    for _ in range(exchanges):
        circle = torch.randperm(M * N, generator=generator)  # each token takes the next one's place
        partners.append(torch.empty_like(circle).scatter_(0, circle, circle.roll(1)).view(M, N))
    written = np.zeros((len(states.times), M, 3, P, P))
    variance, maps = [], np.zeros((len(states.times), directions, 3, P, P))

    for k, t in enumerate(states.times):
        tokens = torch.cat(
            [
                check_finite(model.condition(batch.x, batch.t, batch.class_ids), t)
                for batch in states.batches(model, t)
            ]
        )
        flat = tokens.flatten(0, 1)
        eigenvalues, vectors = torch.linalg.eigh(flat.cpu().double().T.cov(correction=0))
        if directions > len(eigenvalues):
            raise ValueError(
                f"directions must be from 0 to D={len(eigenvalues)}, got {directions}; 3 are usual"
            )
        variance.append(eigenvalues.flip(0).clamp(min=0).numpy())
        deviations = (vectors * eigenvalues.clamp(min=0).sqrt()).flip(1).to(tokens)
        for batch in states.batches(model, t):
            x, rows = batch.x, slice(batch.first, batch.first + len(batch.x))
            condition = tokens[rows]
            if batch.first == 0:
                other = flat[partners[0][rows].to(flat.device)]
                _check_tokens_keep_to_their_patch(model, x, condition, other, P)
            drawn = model.decode(x, condition)
            for partner in partners:
                other = flat[partner[rows].to(flat.device)]
                changed = block_dct(drawn - model.decode(x, other), P).cpu().double()
                written[k, rows] += changed.square().mean((2, 3)).numpy() / (2 * exchanges)
            for j in range(directions):
                above, below = (condition + sign * deviations[:, j] for sign in (1, -1))
                half = ((model.decode(x, above) - model.decode(x, below)) / 2).cpu().double()
                patches = half.unfold(2, P, P).unfold(3, P, P)
                maps[k, j] += patches.mean((2, 3)).sum(0).numpy() / M

    return ConditionBudget(
        times=np.array(states.times),
        frequency=np.arange(P) / (2 * P),
        written=written,
        variance=np.stack(variance),
        maps=maps,
        groups=states.groups,
        count=M,
        recipe=made_by(
            model,
            states,
            exchanges=exchanges,
            exchanged="with any token of the same time, of all images, at fixed noisy pixels",
            normalisation="velocity squared, for each coefficient of the orthonormal P x P DCT",
        ),
    )
