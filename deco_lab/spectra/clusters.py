"""Which patches the DiT tells apart: its tokens in K clusters, drawn as a map, at each t.

K-means [1, Algorithm 2] at each t by itself, on the tokens h of all M images together:

    minimise  sum_mn |h_mn - c_k(mn)|^2        explained = 1 - within / total sum of squares

One fit for all t would find the times, since the condition silu(time + tokens) holds t. Each
image's mean token is taken off first: it holds the class and the whole picture, which no map of
that picture can show, and clusters spent on it paint every image in one colour. Clusters are
numbered from dark to bright by the pixels below them. K-means explains a share of white noise too;
that a map has regions, noise does not have:

    regions = (same - chance) / (1 - chance)

for labels of adjacent tokens; chance is that of any two tokens of their image.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, Figure 2c and Algorithm 2.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deco_lab.result import Estimate
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.states import (
    Array,
    Batch,
    NoisyBatch,
    OverTime,
    States,
    check_finite,
    check_states,
    made_by,
)
from deco_lab.spectra.taps import check_tap, tap_maps

Labels = NDArray[np.int64]

TOKEN_TAPS = ("condition", "tokens")
"""The taps of `taps` that are token maps."""

_STARTS = 10
"""K-means starts at each t, of which the best counts."""

_ALIKE = 1e-5
"""Tokens closer than this part of their root mean square are one: rounding of float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenClusters(OverTime):
    """Maps of K clusters of M images' tokens at T times.

    Intervals hold the clusters as found: k-means from another seed may differ by more.
    """

    maps: Labels
    """(T, M, rows, columns), labels from 0, the darkest, to K - 1; those of a run by its
    states, noise and all."""
    centres: Array
    """(T, K, D), mean token of each cluster, less its image's mean."""
    explained: Estimate
    """(T,), share of the variance of tokens within images that lies between the clusters."""
    regions: Estimate
    """(T,), at most 1: how far adjacent tokens share labels beyond chance; NaN for flat maps."""
    tap: str
    """Where the tokens were read, a name in `TOKEN_TAPS`."""
    patch_size: int
    """Side of the patch below one token, in pixels."""


@torch.no_grad()
def token_clusters(
    model: Any, states: States, *, tap: str = "condition", clusters: int = 8
) -> TokenClusters:
    """Return maps of the DiT's tokens over t.

    Costs one pass of the DiT for each image and time. The tokens of all images at one time,
    M * N * D numbers in float64, are in memory.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` or `features(x, t, class_ids)`, whichever `tap` needs.
    states : Crops or Run
        M images of at least two patches each. Their seed is that of k-means as well.
    tap : str
        "condition" (default), what the pixel decoder receives, silu(time + tokens); or "tokens",
        the last block's, which a single DiT has too.
    clusters : int
        K, at least 2. The paper has 8.

    Returns
    -------
    TokenClusters
        The same arguments give the same maps.

    Raises
    ------
    ValueError
        For a tap that is unknown or that the model has not, tokens that are not finite, fewer
        distinct tokens than clusters, or as for `Crops` and `Run`.
    """
    check_states(states)
    if tap not in TOKEN_TAPS:
        raise ValueError(f"tap must be one of {', '.join(TOKEN_TAPS)}, got {tap!r}")
    check_tap(model, tap)
    if clusters < 2:
        raise ValueError(f"clusters must be at least 2, got {clusters}; the paper has 8")
    times, maps, centres, sums, patch_size = [], [], [], [], 0
    for time, batches in states.moments(model):
        read = [_tokens(model, tap, batch) for batch in batches]
        tokens, grey = (np.concatenate(part) for part in list(zip(*read, strict=True))[:2])
        patch_size = read[0][2]
        labels, found, off = _fit(tokens, grey, clusters, states.seed, time)
        times.append(time)
        maps.append(labels)
        centres.append(found)
        sums.append(np.concatenate([off, _neighbours(labels, clusters)], -1))
    figures = bootstrap_intervals(_figures, np.stack(sums, 1), groups=states.groups)
    return TokenClusters(
        times=np.array(times),
        maps=np.stack(maps),
        centres=np.stack(centres),
        explained=figures[:, 0],
        regions=figures[:, 1],
        tap=tap,
        patch_size=patch_size,
        count=figures.count,
        recipe=made_by(
            model,
            states,
            k_means=f"best of {_STARTS} k-means++ starts, at each t by itself",
            labels="from dark to bright",
        ),
    )


def _tokens(model: Any, tap: str, batch: Batch) -> tuple[Array, Array, int]:
    """Return tokens and mean pixels below, less their image's, and the patch size.

    (B, rows, columns, D) and (B, rows, columns); the pixels are those of the image where there is
    one, else the state's.
    """
    grid = check_finite(tap_maps(model, batch, tap), batch.time).movedim(1, -1)
    rows, columns = grid.shape[1:3]
    if rows * columns < 2:
        raise ValueError(
            f"images must hold at least two patches, got {tuple(batch.x.shape[-2:])}; resize them"
        )
    pixels = batch.image if isinstance(batch, NoisyBatch) else batch.x
    grey = pixels.mean(1).unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4))
    values = (grid.cpu().double(), grey.cpu().double())
    tokens, below = ((v - v.mean((1, 2), keepdim=True)).numpy() for v in values)
    return tokens, below, batch.x.shape[-1] // columns


def _fit(
    tokens: Array, grey: Array, clusters: int, seed: int, t: float
) -> tuple[Labels, Array, Array]:
    """Return labels (M, rows, columns), centres (K, D) and sums of squares within and in all."""
    from sklearn.cluster import KMeans

    flat = tokens.reshape(-1, tokens.shape[-1])
    direction = np.random.default_rng(0).standard_normal((flat.shape[1], 2))
    along = flat @ direction / (np.sqrt(np.square(flat).sum(1).mean()) or 1.0)
    distinct = len(np.unique(np.round(along / _ALIKE), axis=0))
    if distinct < clusters:
        raise ValueError(
            f"clusters must be at most the number of distinct tokens, {distinct} at t={t:g}, got "
            f"{clusters}; use fewer clusters or more images"
        )
    k_means = KMeans(clusters, n_init=_STARTS, random_state=seed)  # type: ignore[arg-type]
    labels = k_means.fit_predict(flat)
    mean = np.bincount(labels, grey.ravel(), clusters) / np.bincount(labels, minlength=clusters)
    order = np.argsort(mean, kind="stable")
    labels = np.argsort(order)[labels].reshape(tokens.shape[:3])
    centres = k_means.cluster_centers_[order]
    off = [np.square(part).sum((1, 2, 3)) for part in (tokens - centres[labels], tokens)]
    return labels, centres, np.stack(off, -1)


def _neighbours(labels: Labels, clusters: int) -> Array:
    """Return how often adjacent tokens, and any two, share a label, (M, 2), of (M, h, w)."""
    down, right = labels[:, 1:] == labels[:, :-1], labels[..., 1:] == labels[..., :-1]
    same = down.sum((1, 2)) + right.sum((1, 2))
    N = labels[0].size
    sizes = (labels[..., None] == np.arange(clusters)).sum((1, 2))
    chance = (sizes * (sizes - 1)).sum(-1) / (N * (N - 1))
    return np.stack([same / (down[0].size + right[0].size), chance], -1)


def _figures(sums: Array) -> Array:
    """Return what clusters explain and how far they are regions, (..., 2), of sums (..., 4)."""
    within, total, same, chance = np.moveaxis(sums, -1, 0)
    part = np.stack([total - within, same - chance], -1)
    whole = np.stack([total, 1 - chance], -1)
    return part / np.where(whole > 0, whole, np.nan)
