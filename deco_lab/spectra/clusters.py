"""Which patches the DiT tells apart: its tokens in K clusters, drawn as a map, at each t.

K-means [1, Algorithm 2] at each t by itself, on the tokens h of all M images together:

    minimise  sum_mn |h_mn - c_k(mn)|^2        explained = 1 - within / total sum of squares

One fit for all t would find the times, since the condition silu(time + tokens) holds t. For the
same reason each image's mean token is taken off first: it holds the class and the whole picture,
which no map of that picture can show, and clusters spent on it paint every image in one colour.
How much of the variance it is, `between`, is reported.

K-means numbers its clusters as it likes. From one t to the next they are matched so that as many
tokens as possible keep their label (the assignment problem on the K x K table of both labels), and
then numbered from dark to bright by the pixels below them, so that one colour stays with one
region. Three figures say what a map is worth:

    kept       share of tokens with the same label at two neighbouring times, after matching
    agreement  adjusted Rand index of the two maps [2]: 0 by chance, 1 if they are the same
    regions    (same - chance) / (1 - chance), for labels of adjacent tokens; chance is that of
               any two tokens of their image

K-means explains a share of white noise too; of noise, maps have neither regions nor agreement.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365, Figure 2c and Algorithm 2.
[2] Hubert, Arabie, "Comparing partitions", Journal of Classification 2, 1985, equation 5.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deco_lab.arrays import takes_arrays
from deco_lab.spectra.analysis import Analysis, weights_hash
from deco_lab.spectra.bootstrap import RECIPE, Groups, bootstrap_intervals
from deco_lab.spectra.partitions import adjusted_rand, matched, neighbours
from deco_lab.spectra.states import (
    Batch,
    NoisyBatch,
    Run,
    State,
    States,
    check_batch_size,
    check_crops,
)
from deco_lab.spectra.taps import check_tap, tap_maps

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

TOKEN_TAPS = ("condition", "tokens")
"""The taps of `taps` that are token maps."""

_STARTS = 10
"""K-means starts at each t, of which the best counts."""

_ALIKE = 1e-5
"""Tokens closer than this part of their root mean square are one: rounding of float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenClusters(Analysis):
    """Maps of K clusters of M images' tokens at T times, with 95% bands over images.

    The ends of an interval are NaN for a single image. They hold the clusters as found: k-means
    from another seed may differ by more (agreement from t = 0.3 to 0.5 on the bundled model and 112
    crops was 0.65, 0.79 and 0.82 with three seeds).
    """

    times: Array
    """(T,), in [0, 1]: 0 is noise."""
    maps: Labels
    """(T, M, rows, columns), labels from 0, the darkest, to K - 1; the same for the same region."""
    centres: Array
    """(T, K, D), mean token of each cluster, of what was clustered."""
    explained: Array
    """(T,), share of the clustered tokens' variance that lies between the clusters."""
    explained_low: Array
    """(T,), lower ends of the intervals."""
    explained_high: Array
    """(T,), upper ends."""
    between: Array
    """(T,), share of all tokens' variance that lies between the images' mean tokens."""
    between_low: Array
    """(T,)."""
    between_high: Array
    """(T,)."""
    regions: Array
    """(T,), at most 1: how far adjacent tokens share labels beyond chance; NaN for flat maps."""
    regions_low: Array
    """(T,)."""
    regions_high: Array
    """(T,)."""
    kept: Array
    """(T - 1,), share of the tokens that keep their label until the next time."""
    kept_low: Array
    """(T - 1,)."""
    kept_high: Array
    """(T - 1,)."""
    agreement: Array
    """(T - 1,), adjusted Rand index of the maps at neighbouring times, over all images at once."""
    agreement_low: Array
    """(T - 1,)."""
    agreement_high: Array
    """(T - 1,)."""
    tap: str
    """Where the tokens were read, a name in `TOKEN_TAPS`."""
    patch_size: int
    """Side of the patch below one token, in pixels."""
    count: int
    """M, images."""


@takes_arrays
@torch.no_grad()
def token_clusters(
    model: Any,
    images: Tensor,
    class_ids: Tensor | Sequence[int],
    *,
    times: Sequence[float],
    tap: str = "condition",
    clusters: int = 8,
    remove_image_mean: bool = True,
    seed: int = 0,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> TokenClusters:
    """Return maps of the DiT's tokens over t, for real crops with noise.

    Costs one pass of the DiT for each image and time. The images pass through the model in
    batches; the tokens of all images at one time, M * N * D numbers in float64, are in memory.

    Parameters
    ----------
    model : object
        With `condition(x, t, class_ids)` or `features(x, t, class_ids)`, whichever `tap` needs,
        and `config.patch_size`.
    images : Tensor
        (M, C, H, W), in [-1, 1], of any floating-point type; computed with in float32 or float64.
        H and W are multiples of the patch size, and hold at least two patches.
    class_ids : Tensor or sequence of int
        (M,), labels.
    times : sequence of float
        T of them, in [0, 1]: 0 is noise. Neighbours in this order are matched and compared.
    tap : str
        "condition" (default), what the pixel decoder receives, silu(time + tokens); or "tokens",
        the last block's, which a single DiT has too.
    clusters : int
        K, at least 2. The paper has 8.
    remove_image_mean : bool
        Take each image's mean token off. Differs from [1], which says nothing of it: False
        clusters the tokens as they are, so that clusters tell images apart as well.
    seed : int
        Image i has the noise of seed + i at every t; seed is also that of k-means.
    batch_size : int
        Images on the device at once.
    groups : sequence or array, optional
        As for `band_effects`.

    Returns
    -------
    TokenClusters
        Maps, centres, and what they are worth. The same arguments give the same maps.

    Raises
    ------
    ValueError
        For a tap that is unknown or that the model has not, images that are empty, misshapen, not
        finite or no multiple of the patch size, labels or times out of range, tokens that are not
        finite, or fewer distinct tokens than clusters.
    """
    _check(model, tap, clusters)
    crops = check_crops(images, class_ids, times, seed, model, batch_size, groups)
    return _token_clusters(
        model,
        crops,
        tap=tap,
        clusters=clusters,
        remove_image_mean=remove_image_mean,
        seed=seed,
    )


@torch.no_grad()
def run_token_clusters(
    model: Any,
    steps: Iterable[State],
    class_ids: Tensor | Sequence[int],
    *,
    tap: str = "condition",
    clusters: int = 8,
    remove_image_mean: bool = True,
    seed: int = 0,
    batch_size: int = 16,
    groups: Groups | None = None,
) -> TokenClusters:
    """Return maps of the DiT's tokens over t, for the states of a sampling run.

    The tokens are those of the class alone, whatever the run's guidance. The state at t = 1, where
    nothing is left to draw, is passed over. Labels go from dark to bright by the last state of the
    others.

    Parameters
    ----------
    model : object
        As for `token_clusters`.
    steps : iterable of objects with t and x
        Such as `sample_steps` yields: x (M, C, H, W), the same M images at each t. It is read step
        by step, and no step is kept. Pass some of a run's steps for maps at few times.
    class_ids : Tensor or sequence of int
        (M,), labels of the run.
    tap, clusters, remove_image_mean, batch_size, groups
        As for `token_clusters`.
    seed : int
        Of k-means.

    Returns
    -------
    TokenClusters
        Times are those of the states.

    Raises
    ------
    ValueError
        As for `token_clusters`; where no state lies below t = 1, or states differ in shape.
    """
    _check(model, tap, clusters)
    check_batch_size(batch_size)
    return _token_clusters(
        model,
        Run(steps, class_ids, model, batch_size, groups),
        tap=tap,
        clusters=clusters,
        remove_image_mean=remove_image_mean,
        seed=seed,
    )


def _check(model: Any, tap: str, clusters: int) -> None:
    if tap not in TOKEN_TAPS:
        raise ValueError(f"tap must be one of {', '.join(TOKEN_TAPS)}, got {tap!r}")
    check_tap(model, tap)
    if clusters < 2:
        raise ValueError(f"clusters must be at least 2, got {clusters}; the paper has 8")


def _tokens(model: Any, tap: str, batch: Batch) -> tuple[Array, Array, int]:
    """Return tokens, (B, rows, columns, D), the mean of the pixels below, and the patch size.

    The pixels, (B, rows, columns), are those of the image where there is one, else the state's.
    """
    grid = tap_maps(model, batch, tap).movedim(1, -1)
    rows, columns = grid.shape[1:3]
    if rows * columns < 2:
        raise ValueError(
            f"images must hold at least two patches, got {tuple(batch.x.shape[-2:])}; resize them"
        )
    pixels = batch.image if isinstance(batch, NoisyBatch) else batch.x
    grey = pixels.mean(1).unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4))
    P = batch.x.shape[-1] // columns
    return grid.cpu().double().numpy(), grey.cpu().double().numpy(), P


def _less_image_mean(values: Array) -> Array:
    """Return values (M, rows, columns, ...) less each image's mean."""
    return values - values.mean((1, 2), keepdims=True)


@dataclass(frozen=True)
class _Fit:
    labels: Labels
    """(M, rows, columns), numbered as k-means does."""
    centres: Array
    """(K, D)."""
    sums: Array
    """(M, 4), sums of squares: within clusters, total, within images, of all tokens."""


def _fit(tokens: Array, clusters: int, remove_image_mean: bool, seed: int, t: float) -> _Fit:
    """Return k-means of tokens (M, rows, columns, D)."""
    from sklearn.cluster import KMeans

    if not np.isfinite(tokens).all():
        raise ValueError(f"tokens must be finite, got NaN or infinity at t={t:g}; check the model")
    image_means = tokens.mean((1, 2), keepdims=True)
    mean = image_means.mean(0, keepdims=True)
    scale = np.sqrt(np.mean([np.square(image).mean() for image in tokens])) or 1.0
    chosen = tokens - (image_means if remove_image_mean else mean)
    flat = chosen.reshape(-1, chosen.shape[-1])
    distinct = _distinct(flat / scale)
    if distinct < clusters:
        raise ValueError(
            f"clusters must be at most the number of distinct tokens, {distinct} at t={t:g}, got "
            f"{clusters}; use fewer clusters or more images"
        )
    k_means = KMeans(clusters, n_init=_STARTS, random_state=seed)  # type: ignore[arg-type]
    labels = k_means.fit_predict(flat).reshape(chosen.shape[:3]).astype(np.int64)
    sums = np.empty((len(tokens), 4))
    for i, image in enumerate(tokens):  # image by image, so that no further copy of all is made
        rest = chosen[i] - k_means.cluster_centers_[labels[i]]
        parts = (rest, chosen[i], image - image_means[i], image - mean[0])
        sums[i] = [np.square(part).sum() for part in parts]
    return _Fit(labels, k_means.cluster_centers_, sums)


def _distinct(tokens: Array) -> int:
    """Return how many of the tokens, (N, D) of rms 1, differ by more than rounding."""
    direction = np.random.default_rng(0).standard_normal((tokens.shape[1], 2))
    along = tokens @ direction / tokens.shape[1] ** 0.5
    return len(np.unique(np.round(along / _ALIKE), axis=0))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _shares(sums: Array) -> Array:
    """Return what clusters explain and what lies between images, (..., 2), of sums (..., 4)."""
    within, total, within_images, everything = np.moveaxis(sums, -1, 0)
    return np.stack([1 - _ratio(within, total), 1 - _ratio(within_images, everything)], -1)


def _beyond_chance(shares: Array) -> Array:
    same, chance = np.moveaxis(shares, -1, 0)
    return _ratio(same - chance, 1 - chance)


def _token_clusters(
    model: Any,
    states: States,
    *,
    tap: str,
    clusters: int,
    remove_image_mean: bool,
    seed: int,
) -> TokenClusters:
    """Cluster at each time, match the labels, number them from dark to bright, measure the maps."""
    times, fits, brightness, patch_size = [], [], np.empty(0), 0
    for time, batches in states.moments():
        read = [_tokens(model, tap, batch) for batch in batches]
        tokens, grey, (patch_size, *_) = zip(*read, strict=True)
        fits.append(_fit(np.concatenate(tokens), clusters, remove_image_mean, seed, time))
        times.append(time)
        brightness = np.concatenate(grey)
    if remove_image_mean:
        brightness = _less_image_mean(brightness)
    K, M = clusters, len(brightness)
    labels, centres = [fits[0].labels], [fits[0].centres]
    for fit in fits[1:]:
        new = matched(labels[-1], fit.labels, K)
        labels.append(new[fit.labels])
        centres.append(fit.centres[np.argsort(new)])
    maps = np.stack(labels)
    weights = np.broadcast_to(brightness, maps.shape).ravel()
    mean = np.bincount(maps.ravel(), weights, K) / np.bincount(maps.ravel(), minlength=K)
    order = np.argsort(mean, kind="stable")
    maps = np.argsort(order)[maps]

    one_hot = (maps.reshape(len(maps), M, -1, 1) == np.arange(K)).astype(np.float64)
    tables = np.einsum("tmni,tmnj->mtij", one_hot[:-1], one_hot[1:])
    intervals = partial(bootstrap_intervals, groups=states.groups)
    shares = intervals(_shares, np.stack([fit.sums for fit in fits], 1))
    bands = {
        "explained": [end[..., 0] for end in shares],
        "between": [end[..., 1] for end in shares],
        "regions": intervals(_beyond_chance, neighbours(maps, K)),
        "kept": intervals(
            lambda table: np.trace(table, axis1=-2, axis2=-1) / table.sum((-2, -1)), tables
        ),
        "agreement": intervals(lambda table: adjusted_rand(table * M), tables),
    }
    ends = ("", "_low", "_high")
    return TokenClusters(
        times=np.array(times, np.float64),
        maps=maps,
        centres=np.stack(centres)[:, order],
        tap=tap,
        patch_size=patch_size,
        count=M,
        recipe=states.recipe()
        | {
            "weights": weights_hash(model),
            "seed": seed,
            "remove_image_mean": remove_image_mean,
            "k_means": f"best of {_STARTS} k-means++ starts, at each t by itself",
            "labels": "matched over t, then from dark to bright",
            "interval": RECIPE,
        },
        **{
            name + end: v for name, band in bands.items() for end, v in zip(ends, band, strict=True)
        },
    )
