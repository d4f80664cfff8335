"""Pictures: images side by side, the parts of a velocity, and the loss's weights as tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from deco_lab.plots.style import array_of, new_figure, plain_ticks, title_of
from deco_lab.spectra import Decomposition


def _picture(image: np.ndarray) -> np.ndarray:
    """Turn (3 or 1, H, W) in [-1, 1] into (H, W, 3) in [0, 1]."""
    picture = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return np.clip(picture / 2 + 0.5, 0, 1)


def _show(axes: Axes, picture: np.ndarray, title: str = "") -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def image_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    *,
    cell_inches: float = 1.4,
) -> Figure:
    """Return a grid of images, each pixel a sharp square.

    Parameters
    ----------
    images : array
        (B, 3, H, W) or (B, 1, H, W), in [-1, 1]; what lies outside is clipped.
    titles : sequence of str, optional
        One for each image.
    columns : int, optional
        Images in a row; 7 by default, or all where there are fewer.
    cell_inches : float
        Width of an image in the figure, in inches.

    Raises
    ------
    ValueError
        Where images have another shape, or there is not one title for each.
    """
    images = array_of(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            f"images must have shape (B, 3, H, W) or (B, 1, H, W), got {images.shape}; "
            "add the missing axes"
        )
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"titles must be {len(images)}, one for each image, got {len(titles)}")
    columns = min(columns or 7, len(images))
    rows = -(-len(images) // columns)
    height = cell_inches * images.shape[2] / images.shape[3] + (0.25 if titles is not None else 0)
    figure = new_figure(columns * cell_inches, rows * height)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, image in enumerate(images):
        _show(grid.flat[i], _picture(image), titles[i] if titles is not None else "")
    return figure


def decomposition_figure(parts: Decomposition, max_images: int = 4) -> Figure:
    """Return a row of five pictures for each image: the parts, the interaction and the velocity.

    All pictures share one scale, so that what is pale is small: grey is 0, and the largest value
    of all (but for the topmost 0.5%) is full colour. The title gives it and the references.

    Parameters
    ----------
    parts : Decomposition
        Of B images.
    max_images : int
        Draw the first of them, at most this many.
    """
    names = ("baseline", "dit", "decoder", "velocity", "interaction")
    arrays = {name: array_of(getattr(parts, name))[:max_images] for name in names}
    scale = max(float(np.quantile(np.abs(array), 0.995)) for array in arrays.values()) or 1.0
    rows, _, H, W = arrays["velocity"].shape
    figure = new_figure(9, 1 + 1.8 * rows * H / W)
    grid = figure.subplots(rows, len(names), squeeze=False)
    for row in range(rows):
        for axes, (name, array) in zip(grid[row], arrays.items(), strict=True):
            rms = np.sqrt(np.square(array[row]).mean())
            _show(axes, _picture(array[row] / scale), f"rms {rms:.2f}")
            if row == 0:
                sign = {"dit": "+ ", "decoder": "+ ", "velocity": "= "}.get(name, "")
                axes.set_title(f"{sign}{title_of(name)}\nrms {rms:.2f}", fontsize=9)
    figure.suptitle(
        f"grey is 0, full colour ±{scale:.2g} in velocity; condition against "
        f'"{parts.condition_reference}", pixels against "{parts.pixel_reference}", '
        f'order "{parts.order}"',
        fontsize=9,
    )
    return figure


def weights_figure(weights: Any) -> Figure:
    """Return the frequency-aware loss's weights, (3, 8, 8), as three tables with their values."""
    weights = array_of(weights)
    figure = new_figure(11, 3.7)
    panels = figure.subplots(1, 3)
    reach = max(weights.max(), 1 / weights.min(), 1.01)
    norm = LogNorm(1 / reach, reach)
    image = None
    for axes, table, title in zip(panels, weights, ("Y", "Cb", "Cr"), strict=True):
        image = axes.imshow(table, cmap="PuOr_r", norm=norm)
        for (row, column), value in np.ndenumerate(table):
            strong = abs(np.log(value)) > 0.6 * np.log(reach)
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                color="white" if strong else "black",
            )  # fmt: skip
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("horizontal frequency (index, 1/16 cycles per pixel)", fontsize=8)
        axes.set_xticks(range(8))
        axes.set_yticks(range(8))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("vertical frequency (index)", fontsize=8)
    assert image is not None
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8)
    bar.set_label("weight (the mean of each table is 1)")
    plain_ticks(bar.ax.yaxis)
    return figure
