"""Seams: steps by their place on the patch grid, what detectors say, and where they are.

Error bars are 95% intervals over images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from deco_lab.plots.pictures import picture_of, show
from deco_lab.plots.style import (
    array_of,
    beside,
    colour_of,
    dress,
    guide,
    line_of,
    marker_of,
    new_figure,
    plain_ticks,
    whiskers,
)
from deco_lab.result import Estimate
from deco_lab.spectra import Seams


def seam_curves(seams: Mapping[str, Seams]) -> Figure:
    """Return the mean step between neighbours by its place on the grid, and what detectors say.

    Parameters
    ----------
    seams : mapping of str to Seams
        From `find_seams`, for each label; all of one patch size.
    """
    figure = new_figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    for i, (label, found) in enumerate(seams.items()):
        color, marker = colour_of(label, i), marker_of(i)
        left.plot(
            found.step_by_offset, color=color, linestyle=line_of(i), marker=marker, markersize=4,
            label=label,
        )  # fmt: skip
        estimates = found.estimates()
        excess = Estimate(*np.array([e.ends for e in estimates.values()]).T)
        place = np.arange(len(excess)) + beside(i, len(seams), 0.15)
        right.errorbar(
            place, excess.value, whiskers(excess), color=color, linestyle="", marker=marker,
            markersize=4, capsize=3, label=label,
        )  # fmt: skip
        right.set_xticks(range(len(excess)), [name.replace("_", " ") for name in estimates])
    guide(left, 1)
    guide(right, 0)
    dress(left, x="place on the patch grid (pixels; 0 is a border)", y="step over its mean")
    dress(right, x="detector", y="excess (log ratio; 0 is no seam)")
    right.grid(visible=False, axis="x")
    left.legend(frameon=False, fontsize=9)
    return figure


def grid_figure(
    seams: Mapping[str, Seams],
    edge_ratios: Mapping[str, Any],
    pictures: Mapping[str, Any] | None = None,
) -> Figure:
    """Return where pictures show a patch grid, and how much, a row for each set of them.

    Left the ratio of differences across patch edges over those inside, with the grid at each of its
    places: 0 is its own. Beside it the same ratio around each patch, from 1/2 to 2.

    Parameters
    ----------
    seams : mapping of str to Seams
        From `find_seams`, for each label.
    edge_ratios : mapping of str to array
        (rows, columns) for each label, or None where pictures are of several sizes.
    pictures : mapping of str to array, optional
        (3, H, W) or (1, H, W) in [-1, 1], to show beside the map of a label that is of one picture.
    """
    pictures = pictures or {}
    widths = (1.4, 1, 1) if pictures else (1.4, 1)
    figure = new_figure(2.7 * sum(widths), 0.6 + 2.6 * len(seams))
    rows = figure.subplots(len(seams), len(widths), squeeze=False, width_ratios=widths)
    for i, (label, found) in enumerate(seams.items()):
        left, middle = rows[i][:2]
        ratios = found.ratios()
        left.errorbar(
            np.arange(len(ratios)), ratios.value, whiskers(ratios), color=colour_of(label, i),
            marker=marker_of(i), markersize=4, capsize=3, linewidth=1.2,
        )  # fmt: skip
        guide(left, 1)
        x = "place of the grid (pixels; 0 is its own)" if i == len(seams) - 1 else ""
        dress(left, x=x, y="across edges / inside", title=f"{label}, P = {found.patch_size}")
        for axes in rows[i][1:]:
            axes.set_axis_off()
        if edge_ratios[label] is not None:
            norm = LogNorm(0.5, 2)
            image = middle.imshow(array_of(edge_ratios[label]), cmap="PuOr_r", norm=norm)
            middle.set_title("around each patch", fontsize=9, loc="left")
            bar = figure.colorbar(image, ax=middle, extend="both", shrink=0.85)
            plain_ticks(bar.ax.yaxis)
        if label in pictures:
            show(rows[i][2], picture_of(array_of(pictures[label])))
    return figure
