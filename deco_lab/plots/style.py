"""What all figures share: colours, fonts, axes, and arrays from anywhere.

The colours are Okabe and Ito's [1], which people with any colour vision tell apart. The background
is white, in dark surroundings too. Nothing here or in the figures touches pyplot, so figures can
be made in any thread and need not be closed.

References
----------
[1] Okabe, Ito, "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours without yellow, which white swallows."""

PART_COLOURS = {
    "baseline": "#6E6E6E",
    "dit": "#0072B2",
    "decoder": "#D55E00",
    "interaction": "#CC79A7",
    "velocity": "#000000",
}
"""One colour for each part of a decomposition, in every figure."""

PART_TITLES = {"dit": "DiT"}
"""Parts whose name is not how it is written."""

GREY = "#6E6E6E"
"""Of guides and notes."""


class StaticFigure(Figure):
    """A matplotlib figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def array_of(values: Any) -> np.ndarray:
    """Return tensors or anything array-like as a numpy array, float64."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def colour_of(label: str, index: int) -> str:
    """Return a part's own colour, or the index-th of the others."""
    return PART_COLOURS.get(label, COLOURS[index % len(COLOURS)])


def title_of(label: str) -> str:
    """Return how a label is written."""
    return PART_TITLES.get(label, label)


def new_figure(width: float, height: float) -> StaticFigure:
    """Return an empty figure, sizes in inches."""
    return StaticFigure(figsize=(width, height), layout="constrained", facecolor="white")


def dress(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Label the axes and quieten all that is not data."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10, loc="left", pad=16 if title else None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times the powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def frequency_ticks(axes: Axes) -> None:
    """Label a logarithmic frequency axis at the octaves below Nyquist, as fractions."""
    low, high = axes.get_xlim()
    octaves = [2.0**-k for k in range(1, 13) if low <= 2.0**-k <= high]
    axes.xaxis.set_major_locator(FixedLocator(octaves))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"1/{round(1 / octave)}" for octave in octaves])
