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

from deco_lab.flow import predicted_image
from deco_lab.result import Estimate
from deco_lab.spectra.bands import OCTAVES, bands_of, check_edges
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.dct import block_dct
from deco_lab.spectra.frequencies import radius
from deco_lab.spectra.ridge import cross_fitted
from deco_lab.spectra.states import (
    Array,
    Crops,
    InBands,
    check_finite,
    check_patch_size,
    check_states,
    made_by,
    velocity_of,
)

TARGETS = ("predicted", "velocity", "image", "noise")


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearReadout(InBands):
    """R^2 of Q targets from S sources in K bands at T times, over M images.

    Bands are of within-patch frequency; the lowest holds the patches' means.
    """

    sources: tuple[str, ...]
    """Names along the axis of S: "condition" (or "tokens", of a single DiT), "pixels", "both" and
    "shuffled", or those that were asked for; of a model without tokens "pixels" only."""
    r2: Estimate
    """(T, S, Q, K), at most 1; NaN in a band without a coefficient or without a target. The
    regressions are as they are in every resample."""
    targets: tuple[str, ...] = TARGETS
    """Names along the axis of Q."""


def _patches(images: Tensor, P: int) -> Tensor:
    """Return the DCT of every patch, (B, N, C P P), float64, on the CPU."""
    blocks = block_dct(images.detach().cpu().double(), P)
    return blocks.flatten(4).permute(0, 2, 3, 1, 4).flatten(3).flatten(1, 2)


def _seen(model: Any, crops: Crops, time: float, P: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return tokens (M, N, D), noisy patches (M, N, C P P) and targets (M, N, 4, C P P)."""
    tokens, pixels, targets = [], [], []
    for batch in crops.batches(model, time):
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


@torch.no_grad()
def linear_readout(
    model: Any,
    states: Crops,
    *,
    edges: Sequence[float] = OCTAVES,
    folds: int = 5,
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
        `features(x, t, class_ids)` and the call for its velocity, or the call only.
    states : Crops
        M images of at least three groups: what is read of an image was fitted on other groups. By
        their seed is the order of the control.
    edges : sequence of float
        K - 1 rising edges in cycles per pixel.
    folds : int
        Into how many parts the groups are dealt, at least 3.
    sources : sequence of str, optional
        Names of those to read from, each of which costs the same again; all when not given.

    Returns
    -------
    LinearReadout
        By source, target and band.

    Raises
    ------
    ValueError
        For a model without a patch size, edges that do not rise, answers that are not finite,
        sources that the model has not, or as for `Crops` and `cross_fitted`.
    """
    check_states(states, Crops)
    check_edges(edges)
    P, C = check_patch_size(model), states.images.shape[1]
    group = states.groups
    u = torch.arange(P, dtype=torch.float64)
    band = bands_of(radius(u, 2 * P, u, 2 * P), edges).flatten().repeat(C)
    in_band = torch.nn.functional.one_hot(band, len(edges) + 1).double()

    values, name = [], "condition" if hasattr(model, "decode") else "tokens"
    read: dict[str, Tensor] = {}
    for time in states.times:
        tokens, pixels, targets = _seen(model, states, time, P)
        read = {"pixels": pixels}
        if tokens is not None:
            both = torch.cat([tokens / tokens.std(), pixels / pixels.std()], 2)
            shuffled = _shuffled(tokens, group, states.seed)
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
    r2 = bootstrap_intervals(_r2, torch.stack(values, 1).numpy(), groups=group)
    return LinearReadout(
        times=np.array(states.times),
        edges=np.array(edges, dtype=np.float64),
        sources=tuple(read),
        r2=r2,
        count=r2.count,
        recipe=made_by(
            model,
            states,
            group_of_each=group.tolist(),
            folds=folds,
            regression="ridge, penalty by a fold of its own",
        ),
    )
