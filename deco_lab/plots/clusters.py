"""Maps of the DiT's clustered tokens beside the image whose tokens they are."""

from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from deco_lab.plots.pictures import picture_of, show
from deco_lab.plots.style import array_of, new_figure
from deco_lab.spectra import TokenClusters

CLUSTER_COLOURS = (
    "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442",
)  # fmt: skip
"""Okabe and Ito's eight, from dark to light as the labels go: they keep their order in grey."""

_TAP_TITLES = {"condition": "condition, silu(time + tokens)", "tokens": "DiT's last tokens"}


def cluster_maps(found: TokenClusters, images: Any, image: int = 0) -> Figure:
    """Return one image and, beside it, the map of its tokens' clusters at each t.

    Each token is a square over the pixels of its patch. One colour is one cluster at every t and in
    every image. Colours go from dark to light as the mean of the pixels below the cluster does,
    over all images and times, where image means were taken off against each image's own.

    Parameters
    ----------
    found : TokenClusters
        From `token_clusters` or `run_token_clusters`, of at most 8 clusters.
    images : array
        (M, 3, H, W) or (M, 1, H, W), in [-1, 1]: the images that were analysed, or the run's last.
    image : int
        Which of them to draw.

    Raises
    ------
    ValueError
        Where images are not those of the maps, there is no such image, or more than 8 clusters.
    """
    images = array_of(images)
    T, M, rows, columns = found.maps.shape
    P, K = found.patch_size, found.centres.shape[1]
    expected = (M, rows * P, columns * P)
    if images.ndim != 4 or (len(images), *images.shape[2:]) != expected:
        raise ValueError(
            f"images must be the {M} of the maps, {rows * P} x {columns * P} pixels each, got "
            f"{images.shape}; pass what was analysed"
        )
    if not 0 <= image < M:
        raise ValueError(f"image must be from 0 to {M - 1}, got {image}")
    if len(CLUSTER_COLOURS) < K:
        raise ValueError(
            f"found must have at most {len(CLUSTER_COLOURS)} clusters, which colours can tell "
            f"apart, got {K}; compute it with fewer"
        )
    cell = 1.7
    figure = new_figure(cell * (T + 1) + 1, cell * rows / columns + 0.8)
    picture, *panels = figure.subplots(1, T + 1, squeeze=False)[0]
    show(picture, picture_of(images[image]), "image")
    norm = BoundaryNorm(np.arange(K + 1) - 0.5, K)
    places = np.linspace(0, len(CLUSTER_COLOURS) - 1, K).round().astype(int)
    colours = ListedColormap([CLUSTER_COLOURS[place] for place in places])
    drawn = None
    for axes, t, labels in zip(panels, found.times, found.maps[:, image], strict=True):
        drawn = axes.imshow(
            labels, cmap=colours, norm=norm, interpolation="nearest",
            extent=(-0.5, columns * P - 0.5, rows * P - 0.5, -0.5),
        )  # fmt: skip
        axes.set_axis_off()
        axes.set_title(f"t = {t:.2g}", fontsize=9)
    assert drawn is not None
    centred = found.recipe.get("remove_image_mean", False)
    bar = figure.colorbar(
        drawn, ax=panels, fraction=0.03, pad=0.01, aspect=18, ticks=FixedLocator([0, K - 1])
    )
    ends = ("darker than\nits image", "brighter than\nits image")
    bar.ax.set_yticklabels(ends if centred else ("darkest", "brightest"), fontsize=8)
    bar.ax.tick_params(which="both", length=0)
    figure.suptitle(
        f"{K} clusters of the {_TAP_TITLES[found.tap]}\n"
        + ("less the image's mean; " if centred else "")
        + f"a square is a patch of {P} x {P} pixels",
        fontsize=9,
    )
    return figure
