"""Pictures: images side by side, in rows of their own name, and the parts of a velocity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deco_lab.plots.style import array_of, new_figure
from deco_lab.spectra import Decomposition


def picture_of(image: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Turn (3 or 1, H, W) in [-scale, scale] into (H, W, 3) in [0, 1]; clip what lies outside."""
    picture = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return np.clip(picture / scale / 2 + 0.5, 0, 1)


def show(axes: Axes, picture: np.ndarray, title: str = "") -> None:
    """Draw a picture, (H, W, 3) in [0, 1], each pixel a sharp square, without ticks or a frame."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)


def show_row(row: Sequence[Axes], images: np.ndarray, label: str) -> None:
    """Draw images (B, 3, H, W) in [-1, 1] on as many axes, with their name at the left."""
    for axes, image in zip(row, images, strict=True):
        show(axes, picture_of(image))
    row[0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")


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
        show(grid.flat[i], picture_of(image), titles[i] if titles is not None else "")
    return figure


def decomposition_figure(parts: Decomposition, max_images: int = 4) -> Figure:
    """Return a row of five pictures for each image: the parts, the interaction and the velocity.

    All pictures share one scale, so that what is pale is small: grey is 0, and the largest value
    of all (except for the topmost 0.5%) is full colour. The title gives it and the references.

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
            show(axes, picture_of(array[row], scale), f"rms {rms:.2f}")
            if row == 0:
                sign = {"dit": "+ ", "decoder": "+ ", "velocity": "= "}.get(name, "")
                title = parts.names.get(name, name).replace(" of", "\nof")
                axes.set_title(f"{sign}{title}\nrms {rms:.2f}", fontsize=9)
    figure.suptitle(
        f"grey is 0, full colour ±{scale:.2g} in velocity; condition against "
        f'"{parts.condition_reference}", pixels against "{parts.pixel_reference}", '
        f'order "{parts.order}"',
        fontsize=9,
    )
    return figure


def picture_rows(rows: Mapping[str, Any], titles: Sequence[str]) -> Figure:
    """Return rows of pictures, each with its name at the left.

    Parameters
    ----------
    rows : mapping of str to array
        (B, 3, H, W) each, in [-1, 1]; what lies outside is clipped.
    titles : sequence of str
        B, above the columns.
    """
    figure = new_figure(1.8 + 1.15 * len(titles), 0.3 + 1.15 * len(rows))
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, (label, images) in zip(grid, rows.items(), strict=True):
        show_row(line, array_of(images), label)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    return figure
