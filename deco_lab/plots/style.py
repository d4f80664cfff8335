"""What all figures share: colours and marks, axes, intervals, and arrays from anywhere.

The colours are Okabe and Ito's [1], which people with any colour vision tell apart. The background
is white, in dark surroundings too. Nothing here or in the figures touches pyplot, so figures can
be made in any thread and need not be closed.

References
----------
[1] Okabe, Ito, "Color Universal Design", https://jfly.uni-koeln.de/color/
"""

from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, PercentFormatter

from deco_lab.palette import LIGHT
from deco_lab.result import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours without yellow, which white swallows."""

PART_COLOURS = {
    "baseline": LIGHT["baseline"],
    "dit": LIGHT["condition"],
    "condition_main": LIGHT["condition"],
    "decoder": LIGHT["pixels"],
    "pixels_main": LIGHT["pixels"],
    "interaction": LIGHT["interaction"],
    "velocity": LIGHT["velocity"],
}
"""One colour for each part of a decomposition, in every figure: blue is the condition's."""

PART_TITLES = {
    "condition_main": "main effect of the condition",
    "pixels_main": "main effect of the pixels",
    "dit": "Shapley value of the condition",
    "decoder": "Shapley value of the pixels",
}
"""Parts whose name is not how it is written; `decompose`'s, by its order "shapley"."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Not as many as colours, so that both together tell 42 series apart."""

LINES = ("-", "--", ":", "-.")

TIME = "t (0 noise, 1 image)"
"""How an axis of times is labelled."""

WHOLES = {"predicted": "predicted image", "velocity": "velocity"}
"""What a part may be a share of, by the name of the field and as it is written."""

GREY = "#6E6E6E"
"""Of guides and notes."""


PATCH_LINE = "#CC79A7"
"""Of the lines of a patch grid."""


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


def marker_of(index: int) -> str:
    """Return the index-th series' marker, from the first again after the last."""
    return MARKERS[index % len(MARKERS)]


def line_of(index: int) -> str:
    """Return the index-th series' line style: solid until the colours have all been used."""
    return LINES[index // len(COLOURS) % len(LINES)]


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


def patch_lines(axes: Axes, patch_size: int | None, *, vertical: bool = False) -> None:
    """Mark the lines m/P of a patch grid on an axis of cycles per pixel, where P is given.

    Of m = 1 ... P/2, those within the axis as it is; the axis is horizontal unless told `vertical`.

    Raises
    ------
    ValueError
        For a patch_size below 2.
    """
    if patch_size is None:
        return
    if patch_size < 2:
        raise ValueError(f"patch_size must be at least 2, got {patch_size}; 1/2 is Nyquist")
    low, high = axes.get_ylim() if vertical else axes.get_xlim()
    draw = axes.axhline if vertical else axes.axvline
    label: str | None = f"m/{patch_size}, patch grid"
    for m in range(1, patch_size // 2 + 1):
        if low <= m / patch_size <= high:
            draw(
                m / patch_size,
                color=PATCH_LINE,
                linestyle=(0, (4, 3)),
                linewidth=0.9,
                zorder=1.5,
                label=label,
            )
            label = None


def guide(axes: Axes, value: float) -> None:
    """Draw a dotted line at a value that says something, such as no change."""
    axes.axhline(value, color=GREY, linestyle=":", linewidth=1)


def shaded(axes: Axes, x: Any, found: Estimate, *, color: str, **style: Any) -> None:
    """Draw a line with its interval behind it.

    Parameters
    ----------
    axes : Axes
        To draw on.
    x : array
        (n,).
    found : Estimate
        (n,).
    color : str
        Of both.
    **style
        Of the line, for matplotlib: label, marker, linestyle.
    """
    axes.fill_between(x, found.low, found.high, color=color, alpha=0.2, linewidth=0)
    axes.plot(x, found.value, color=color, **{"linewidth": 1.6, "markersize": 3} | style)


def floored(found: Estimate, floor: Any) -> Estimate:
    """Return an estimate for a logarithmic axis: nothing of it lies below the floor."""
    return Estimate(*(np.maximum(end, floor) for end in found.ends), count=found.count)


def whiskers(found: Estimate) -> np.ndarray:
    """Return how far the ends of intervals are from their values, (2, ...), for matplotlib.

    Never negative, and 0 where there is no interval.
    """
    value, low, high = found.ends
    return np.nan_to_num(np.maximum([np.subtract(value, low), np.subtract(high, value)], 0))


def beside(index: int, count: int, step: float = 0.2) -> float:
    """Return how far the index-th of count marks stands from the middle of their place.

    They are `step` apart where that leaves room to the next place, which is 1 away.
    """
    return (index - (count - 1) / 2) * min(step, 0.8 / count)


def time_row(times: np.ndarray, t: float, of: str = "") -> int:
    """Return the place of t among the times (of what); raise ValueError if it is not one."""
    found = np.flatnonzero(np.isclose(times, t))
    if not len(found):
        known = ", ".join(f"{time:g}" for time in times)
        whose = f' of "{of}"' if of else ""
        raise ValueError(f"t must be one of the times{whose} that were measured, {known}, got {t}")
    return int(found[0])


def as_percent(axis: Axis) -> None:
    """Label an axis of shares in percent."""
    axis.set_major_formatter(PercentFormatter(1, decimals=0))


def limit_shares(axes: Axes, drawn: Any) -> None:
    """Show all shares that are drawn and 0 and 1, but nothing below -150% or above 200%.

    Parts that cancel each other have shares without bounds; next to them others would be flat.
    """
    there = np.ravel(drawn)[np.isfinite(np.ravel(drawn))]
    low, high = there.min(initial=0) - 0.1, there.max(initial=1) + 0.1
    axes.set_ylim(max(-1.5, low), min(2.0, high))


def band_title(name: str, gap: str = " ") -> str:
    """Return a band's name with its unit, where it has one."""
    return "mean colour" if name == "mean" else f"{name}{gap}cycles per pixel"


def note_below(figure: Figure, sentences: Sequence[str]) -> None:
    """Write sentences below all panels, except for the empty ones."""
    said = [sentence for sentence in sentences if sentence]
    if said:
        width = int(15 * figure.get_figwidth())  # characters of that size
        figure.supxlabel(
            "\n".join("\n".join(wrap(sentence, width)) for sentence in said),
            fontsize=8, color=GREY, x=0.01, ha="left",
        )  # fmt: skip


def legend_above(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Put the legend of one panel above all; in one row where no number of columns is given."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns or len(labels), frameon=False,
        fontsize=9,
    )  # fmt: skip
