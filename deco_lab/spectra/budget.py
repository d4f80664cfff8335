"""What the DiT writes inside a patch: the condition's budget over within-patch frequencies.

At fixed pixels a token's condition s, D numbers, moves its own patch of P x P pixels and nothing
else. Near the s of a real noisy image this is the linear map J = d velocity / d s, and with T the
orthonormal P x P DCT of each channel and C the covariance of real conditions,

    written  = mean over tokens of diag(T J C J^T T^T)                what it does write
    writable = mean over tokens of diag(T J J^T T^T) tr(C) / D        what it can write

is the energy that the condition's variation puts into each coefficient: as it really varies, and
as it would if it varied as much in total, but alike in all directions. Index u of the DCT is
u / (2P) cycles per pixel; index (0, 0) is the patch's mean, which the token grid's spectrum shows,
and all else is above that grid's Nyquist in some direction, or aliased to it.

J differs from token to token and is never formed: with random directions z of covariance 1,

    diag(T J C J^T T^T) = E[(T J C^(1/2) z)^2]

and one directional derivative serves all tokens of a batch, each with a z of its own. These are
the rows of sqrt(D) Q, Q random and orthogonal, in turn: less scatter than independent draws, and
none at all for a J that is the same everywhere, once the probes times tokens are a multiple of D.

The map is a linearisation, at each condition, of a decoder that is not linear. How much it leaves
out is measured: `missed` is the part of the energy of decode(x, s) - decode(x, mean s) that
J (s - mean s) is off by.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, section 4.2.
[2] Bekas, Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", Applied Numerical
    Mathematics 57, 2007.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bootstrap import RECIPE, Estimate, Groups, estimates
from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.jacobian import (
    TIMES,
    check_colours,
    check_patch_size,
    directional_derivative,
)
from deco_lab.spectra.states import Crops, NoisyBatch, check_crops, check_decoder, check_finite

Array = NDArray[np.float64]

_PROBE_SEED = 0xB0D6E7
KINDS = ("written", "writable")


@dataclass(frozen=True, kw_only=True)
class ConditionBudget(Analysis):
    """Energies are of the velocity, for each coefficient and channel of an orthonormal DCT."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    frequency: Array
    """(P,), cycles per pixel of a DCT index, u / (2P)."""
    written: Array
    """(T, M, 3, P, P), mean over each image's tokens: with the covariance of real conditions."""
    writable: Array
    """(T, M, 3, P, P), the same with white conditions of equal total variance."""
    variance: Array
    """(T, D), eigenvalues of the covariance of real conditions, largest first."""
    maps: Array
    """(T, K, 3, P, P), what one standard deviation along each of the K leading directions draws
    into a patch's pixels, mean over images and tokens; the sign is arbitrary."""
    missed: Array
    """(T,), energy that the linearisation is off by, over the energy it describes; 0 is exact."""
    groups: NDArray[np.int64] | None = None
    """(M,), the group of each image, a number from 0; None where every image is by itself."""

    def share_above(self, frequency: float, kind: str = "written") -> list[Estimate]:
        """Return the share of energy at or above a frequency, at each time.

        Parameters
        ----------
        frequency : float
            In cycles per pixel, radial: hypot(u, v) / (2P). Anything above 0 and up to 1 / (2P)
            leaves out the patch's mean alone.
        kind : str
            "written" or "writable".

        Returns
        -------
        list of Estimate
            Of length T, with intervals over images of whatever class, the covariance held fixed;
            NaN where no energy is written.

        Raises
        ------
        ValueError
            For an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        energy = self.written if kind == "written" else self.writable
        high = np.hypot(self.frequency[:, None], self.frequency) >= frequency - 1e-12
        above, total = energy[..., high].sum((2, 3)), energy.sum((2, 3, 4))
        return estimates(_share, np.stack([above, total], -1).swapaxes(0, 1), groups=self.groups)


def _share(sums: Array) -> Array:
    """Return above / total, (..., T), of (..., T, 2); NaN where no energy is written."""
    above, total = np.moveaxis(sums, -1, 0)
    return above / np.where(total > 0, total, np.nan)


def _derivative(model: Any, x: Tensor, condition: Tensor, direction: Tensor) -> Tensor:
    """Return J direction for every token at once, (B, 3, H, W)."""
    direction = direction.to(condition).expand_as(condition).contiguous()
    return directional_derivative(lambda s: model.decode(x, s), (condition,), (direction,))


def _check_tokens_keep_to_their_patch(model: Any, x: Tensor, condition: Tensor, P: int) -> None:
    N = condition.shape[1]
    even = (torch.arange(N, device=x.device) % 2 == 0)[None, :, None]
    moved = (
        block_dct(_derivative(model, x, condition, even.to(condition)), P).square().sum((1, 4, 5))
    )
    outside = moved.flatten(1)[:, 1::2].sum()
    if outside > 1e-6 * moved.sum():
        raise ValueError(
            "model.decode must draw each patch from its own token alone, but "
            f"{float(outside / moved.sum()):.0%} of what a token moves lies in other patches; "
            "the budget is that of a decoder without spatial mixing"
        )


def _conditions(model: Any, crops: Crops, t: float) -> Iterator[tuple[NoisyBatch, Tensor]]:
    """Yield batches and what the DiT makes of them, (B, N, D)."""
    for batch in crops.batches(t):
        yield batch, check_finite(model.condition(batch.x, batch.t, batch.class_ids), t)


def _statistics(batches: Any, D: int) -> tuple[Tensor, Tensor]:
    """Return mean, (D,), and covariance, (D, D), of all tokens' conditions, in float64."""
    count, total = 0, torch.zeros(D, dtype=torch.float64)
    square = torch.zeros(D, D, dtype=torch.float64)
    for _, condition in batches:
        tokens = condition.flatten(0, 1).cpu().double()
        count += len(tokens)
        total += tokens.sum(0)
        square += tokens.T @ tokens
    mean = total / count
    return mean, square / count - mean[:, None] * mean


@takes_arrays
@torch.no_grad()
def condition_budget(
    model: Any,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float] = TIMES,
    probes: int = 4,
    directions: int = 3,
    seed: int = 0,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> ConditionBudget:
    """Return which within-patch frequencies the DiT can write, and which it does.

    Costs, for each image and time, two passes of the DiT and 2 * probes + directions + 2
    derivatives of the decoder; memory is that of one batch and of two D x D matrices.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)`, `decode(x, condition)` and `config.patch_size`. Each
        token must draw its own patch alone.
    images : Tensor
        (M, 3, H, W) in [-1, 1], real images; sides are multiples of patch_size.
    class_ids : Tensor or sequence of int
        (M,), labels.
    times : sequence of float
        T times in [0, 1]; each has a covariance of its own.
    probes : int
        Random directions for each token. An energy scatters by sqrt(2 / (M N probes)) or less of
        itself: 2% for 16 images of 64 tokens at 4 probes.
    directions : int
        Leading directions K to draw, from 0 to D.
    seed : int
        Image i is re-noised by seed + i, at every time alike.
    batch_size : int
        Images a pass; the result depends on it by rounding only.
    groups : sequence or array, optional
        As for `band_effects`.

    Raises
    ------
    ValueError
        For a model without a decoder or one that mixes patches, images that are not finite, not
        (M, 3, H, W), empty or no multiple of patch_size, labels, times or counts that do not fit.
    """
    check_decoder(model)
    check_colours(images)
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    M, P = len(images), check_patch_size(model)
    N = (images.shape[2] // P) * (images.shape[3] // P)
    D = next(_conditions(model, crops, crops.times[0]))[1].shape[2]
    if probes < 1 or not 0 <= directions <= D:
        raise ValueError(
            f"probes must be at least 1 and directions from 0 to D={D}, got {probes} and "
            f"{directions}; 4 and 3 are usual"
        )
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    orthogonal = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64))[0]
    energy = {kind: np.zeros((len(times), M, 3, P, P)) for kind in KINDS}
    variance, maps = np.zeros((len(times), D)), np.zeros((len(times), directions, 3, P, P))
    missed = np.zeros(len(times))

    for k, t in enumerate(crops.times):
        mean, covariance = _statistics(_conditions(model, crops, t), D)
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        eigenvalues, vectors = eigenvalues.flip(0).clamp(min=0), vectors.flip(1)
        deviations = vectors * eigenvalues.sqrt()  # column j: one standard deviation along it
        white = torch.eye(D, dtype=torch.float64) * eigenvalues.mean().sqrt()
        # The symmetric root: unlike the vectors themselves, it is the same after rounding.
        spread = {"written": deviations @ vectors.T, "writable": white}
        variance[k] = eigenvalues.numpy()
        off, described = 0.0, 0.0
        for batch, condition in _conditions(model, crops, t):
            x, rows = batch.x, torch.arange(batch.first, batch.first + len(batch.x))
            if batch.first == 0:
                _check_tokens_keep_to_their_patch(model, x, condition, P)
            for probe in range(probes):
                first = (rows[:, None] * probes + probe) * N + torch.arange(N)
                z = orthogonal[first % D] * D**0.5
                for kind in KINDS:
                    direction = z @ spread[kind].to(z)
                    drawn = block_dct(_derivative(model, x, condition, direction), P)
                    squares = drawn.cpu().double().square().mean((2, 3))
                    energy[kind][k, rows.numpy()] += squares.numpy() / probes
            for j in range(directions):
                drawn = _derivative(model, x, condition, deviations[:, j]).cpu().double()
                patches = drawn.unfold(2, P, P).unfold(3, P, P)
                maps[k, j] += patches.mean((2, 3)).sum(0).numpy() / M

            away = condition - mean.to(condition)
            finite = model.decode(x, condition) - model.decode(x, (condition - away))
            linear = _derivative(model, x, condition, away)
            off += float((finite - linear).cpu().double().square().sum())
            described += float(finite.cpu().double().square().sum())
        missed[k] = off / described if described > 0 else np.nan

    return ConditionBudget(
        times=np.array(crops.times),
        frequency=np.arange(P) / (2 * P),
        variance=variance,
        maps=maps,
        missed=missed,
        groups=crops.groups,
        recipe=crops.recipe()
        | {
            "weights": weights_hash(model),
            "probes": probes,
            "linearisation": "at each token's own condition, at fixed noisy pixels",
            "covariance": "over all tokens of all images, at each time by itself",
            "normalisation": "velocity squared, for each coefficient of the orthonormal P x P DCT",
            "interval": RECIPE,
        },
        **energy,
    )
