"""What can be read linearly from a model's tokens and from the noisy pixels, band by band.

For each patch, its token s and its own noisy pixels are asked for four things, by a ridge
regression that was fitted on other groups of images (see `ridge`):

    predicted   the patch of the image that the model predicts        image   that of the true image
    velocity    the patch of the model's velocity                     noise   that of the noise

Everything is in the orthonormal P x P DCT of a patch, index u at u / (2P) cycles per pixel, and is
summed up by bands of radial frequency k, over images i:

    R^2_k = 1 - sum_i |target_i - read_i|^2 / sum_i |target_i - mean|^2        in band k

1 is all, and 0, or somewhat less, is nothing: the mean does as well. The family of predictors is
fixed, and the same for each source, for what a token could tell an endless one is no measure: with
3 P^2 numbers or more it may hold its patch, noise and all. "shuffled" is the control: the tokens of
other places of images of other groups, from which nothing can be read. What tokens hold without
training, the caller asks of an untrained model.

References
----------
[1] Alain, Bengio, "Understanding intermediate layers using linear classifier probes",
    arXiv 1610.01644.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.flow import predicted_image
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bands import OCTAVES, bands_of, check_edges
from deco_lab.spectra.bootstrap import RECIPE, Groups, bootstrap_intervals
from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.frequencies import radius
from deco_lab.spectra.jacobian import check_patch_size
from deco_lab.spectra.ridge import cross_fitted
from deco_lab.spectra.states import Crops, check_crops, check_finite, velocity_of

Array = NDArray[np.float64]

TARGETS = ("predicted", "velocity", "image", "noise")


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearReadout(Analysis):
    """R^2 of Q targets from S sources in K bands at T times, with 95% intervals over M images."""

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    edges: Array
    """(K - 1,), between bands of within-patch frequency, in cycles per pixel; the lowest band
    holds the patches' means."""
    sources: tuple[str, ...]
    """Names along the axis of S: "condition" (or "tokens", of a single DiT), "pixels", "both" and
    "shuffled", or those that were asked for; of a model without tokens "pixels" alone."""
    r2: Array
    """(T, S, Q, K), at most 1; NaN in a band without a coefficient or without a target."""
    r2_low: Array
    """(T, S, Q, K), lower ends of the intervals, the regressions as they are; NaN for a single
    group."""
    r2_high: Array
    """(T, S, Q, K), upper ends."""
    count: int
    """M, images."""
    targets: tuple[str, ...] = TARGETS
    """Names along the axis of Q."""


def _patches(images: Tensor, P: int) -> Tensor:
    """Return the DCT of every patch, (B, N, C P P), float64, on the CPU."""
    blocks = block_dct(images.detach().cpu().double(), P)
    return blocks.flatten(4).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)


def _seen(model: Any, crops: Crops, time: float, P: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return tokens (M, N, D), noisy patches (M, N, C P P) and targets (M, N, 4, C P P)."""
    tokens, pixels, targets = [], [], []
    for batch in crops.batches(time):
        x, t, labels = batch.x, batch.t, batch.class_ids
        if hasattr(model, "condition") and hasattr(model, "decode"):
            tokens.append(model.condition(x, t, labels))
            velocity = model.decode(x, tokens[-1])
        else:
            if hasattr(model, "features"):
                tokens.append(model.features(x, t, labels))
            velocity = velocity_of(model, batch)
        answers = (predicted_image(x, velocity, t), velocity, batch.image, batch.noise)
        pixels.append(_patches(x, P))
        targets.append(torch.stack([_patches(answer, P) for answer in answers], 2))
    check_finite(torch.cat(targets), time)
    read = torch.cat([some.cpu().double() for some in tokens]) if tokens else None
    return read, torch.cat(pixels), torch.cat(targets)


def _shuffled(tokens: Tensor, group: NDArray[np.int64], seed: int) -> Tensor:
    """Return for each image the tokens of one of another group, in another order."""
    generator = np.random.default_rng(seed)
    order = np.argsort(group, kind="stable")
    other = np.empty_like(order)
    other[order] = np.roll(order, np.bincount(group).max())
    places = [generator.permutation(tokens.shape[1]) for _ in other]
    return torch.stack([tokens[i][place] for i, place in zip(other, places, strict=True)])


def _r2(sums: Array) -> Array:
    """Return 1 - errors / total, (..., S, Q, K), of both in one array, (..., S + 1, Q, K)."""
    total = sums[..., -1:, :, :]
    return 1 - sums[..., :-1, :, :] / np.where(total > 0, total, np.nan)


@takes_arrays
@torch.no_grad()
def linear_readout(
    model: Any,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    seed: int = 0,
    edges: Sequence[float] = OCTAVES,
    groups: Groups | None = None,
    folds: int = 5,
    batch_size: int = 16,
    sources: Sequence[str] | None = None,
) -> LinearReadout:
    """Return what a ridge regression reads of image, noise and answer from tokens and pixels.

    Costs one pass of the model for each image and time (two for a single DiT), and a ridge
    regression for each source and time, of D features or, from pixels, 3 P^2 more. The tokens and
    patches of a time are held in memory, on the CPU.

    Parameters
    ----------
    model : object
        With `config.patch_size`, and `condition(x, t, class_ids)` and `decode(x, condition)`, or
        `features(x, t, class_ids)` and the call for its velocity, or the call alone.
    images : Tensor
        (M, C, H, W), in [-1, 1]; sides are multiples of patch_size.
    class_ids : Tensor or sequence of int
        (M,), labels.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise.
    seed : int
        Image i has the noise of seed + i at every t; and of the control's order.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    groups : sequence, optional
        (M,), one label for each image, such as the photograph that it was cut from: what is read of
        an image was fitted on other groups, and intervals are over groups. None: every image by
        itself. At least three.
    folds : int
        Into how many parts the groups are dealt, at least 3.
    batch_size : int
        Images on the device at once.
    sources : sequence of str, optional
        Names of those to read from, each of which costs the same again; all when not given.

    Returns
    -------
    LinearReadout
        By source, target and band.

    Raises
    ------
    ValueError
        For a model without a patch size, images that are empty, misshapen or not finite, labels or
        times out of range, edges that do not rise, answers that are not finite, sources
        that the model has not, or as for `cross_fitted`.
    """
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    check_edges(edges)
    P, C, M = check_patch_size(model), images.shape[1], len(images)
    group = crops.groups
    u = torch.arange(P, dtype=torch.float64)
    band = bands_of(radius(u, 2 * P, u, 2 * P), edges).flatten().repeat(C)
    in_band = torch.nn.functional.one_hot(band, len(edges) + 1).double()

    values, name = [], "condition" if hasattr(model, "decode") else "tokens"
    read: dict[str, Tensor] = {}
    for time in crops.times:
        tokens, pixels, targets = _seen(model, crops, time, P)
        read = {"pixels": pixels}
        if tokens is not None:
            both = torch.cat([tokens / tokens.std(), pixels / pixels.std()], 2)
            shuffled = _shuffled(tokens, group, seed)
            read = {name: tokens, "pixels": pixels, "both": both, "shuffled": shuffled}
        if sources is not None:
            if not sources or not read.keys() >= set(sources):
                raise ValueError(
                    f"sources must be some of {', '.join(read)}, got "
                    f"{', '.join(sources) or 'none'}; leave them out for all"
                )
            read = {name: read[name] for name in sources}
        off = [
            targets
            - cross_fitted(x, targets.flatten(2), groups=group, folds=folds).view_as(targets)
            for x in read.values()
        ]
        off.append(targets - targets.mean((0, 1)))
        values.append(torch.stack([each.square().sum(1) @ in_band for each in off], 1))
    found = bootstrap_intervals(_r2, torch.stack(values, 1).numpy(), groups=crops.groups)
    return LinearReadout(
        times=np.array(crops.times),
        edges=np.array(edges, dtype=np.float64),
        sources=tuple(read),
        r2=found.value,
        r2_low=found.low,
        r2_high=found.high,
        count=M,
        recipe=crops.recipe()
        | {
            "weights": weights_hash(model),
            "group_of_each": group.tolist(),
            "folds": folds,
            "regression": "ridge, penalty by a fold of its own",
            "interval": RECIPE,
        },
    )
