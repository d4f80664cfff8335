"""What interventions did to final images, and the main shares beside their null controls.

Error bars are 95% intervals over images.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from deco_lab.plots.style import COLOURS, GREY, dress, new_figure, title_of
from deco_lab.spectra import BandEffects, InterventionEffect, band_names

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_FLOOR = 1e-3
"""Energies below this part of what they were are drawn as if they were this."""
_SHARE_LIMITS = (-1.25, 1.75)
"""Where a share leaves these, the axis is cut: parts that cancel each other have large ones."""
_WHOLES = {"velocity": "velocity", "predicted": "predicted image"}
_TITLES = {"pixels": "pixel path"}


def _offset(i: int, count: int, width: float = 0.6) -> float:
    """Return where the i-th of count marks stands beside the middle of its place."""
    return (i - (count - 1) / 2) * width / max(count, 2)


def _bars(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the lengths of error bars, (2, n), never negative, 0 where there is no interval."""
    return np.nan_to_num(np.maximum([value - low, high - value], 0))


def intervention_figure(effect: InterventionEffect) -> Figure:
    """Return energy and coherence of the final images by band, conditions against pixels.

    Each panel is one band: above, the energy over that of the images left alone; below, the
    coherence with them. The dotted line is no change. Energies below a thousandth are drawn there.

    Parameters
    ----------
    effect : InterventionEffect
        From `crossed_effects`, of Q conditions and R choices of pixels.

    Raises
    ------
    ValueError
        Where nothing was crossed.
    """
    Q, R = len(effect.conditions), len(effect.pixels)
    if not Q or not R:
        raise ValueError(
            "effect must name the conditions and pixels that were crossed, got none; use "
            "crossed_effects"
        )
    names = band_names(effect.edges.tolist())
    figure = new_figure(2.3 * len(names) + 1.4, 0.36 * Q * 2 + 2.2)
    rows = figure.subplots(2, len(names), sharex="row", sharey=True, squeeze=False)
    for panels, what in zip(rows, ("energy", "coherence"), strict=True):
        ends = [getattr(effect, what + end) for end in ("", "_low", "_high")]
        if what == "energy":
            ends = [np.maximum(end, _FLOOR) for end in ends]
        for band, axes in enumerate(panels):
            axes.axvline(1, color=GREY, linestyle=":", linewidth=1)
            for r, label in enumerate(effect.pixels):
                value, low, high = (end[:, r, band] for end in ends)
                axes.errorbar(
                    value, np.arange(Q) + _offset(r, R, 0.4), xerr=_bars(value, low, high),
                    color=COLOURS[r % len(COLOURS)], marker=_MARKERS[r % len(_MARKERS)],
                    linestyle="", markersize=4.5, capsize=2, label=f"pixels: {label}",
                )  # fmt: skip
            above = what == "energy"
            title = f"{names[band]}\ncycles per pixel" if above else ""
            x = "energy, left alone is 1" if above else "coherence with left alone"
            dress(axes, x=x, y="", title=title)
            if above:
                axes.set_xscale("log")
            axes.grid(visible=False, axis="y")
    rows[0, 0].set_yticks(range(Q), effect.conditions)
    rows[0, 0].set_ylim(Q - 0.5, -0.5)  # in the order of the names, from above
    rows[1, 0].set_xlim(-0.03, 1.05)
    for axes in rows[:, 0]:
        axes.set_ylabel("condition")
    figure.legend(
        *rows[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=R,
        frameon=False, fontsize=9,
    )  # fmt: skip
    return figure


def control_figure(
    effects: Mapping[str, BandEffects], t: float, *, parts: Sequence[str] = ("dit", "pixels")
) -> Figure:
    """Return the shares of some parts at one t in each band, a model's beside its null controls.

    Parameters
    ----------
    effects : mapping of str to BandEffects
        From `band_effects`, for each label; all of the same bands. The first is black.
    t : float
        One of their times. Shares below -125% or above 175% leave the panels.
    parts : sequence of str
        Which parts to draw, names in their `parts`.

    Raises
    ------
    ValueError
        Where t is not among the times of one of them.
    """
    edges = next(iter(effects.values())).edges.tolist()
    names = band_names(edges)
    colours = (COLOURS[-1], *COLOURS[:-1])
    figure = new_figure(4.6 * len(parts) + 0.4, 5.6)
    grid = figure.subplots(2, len(parts), sharex=True, sharey=True, squeeze=False)
    drawn = []
    for panels, (whole, title) in zip(grid, _WHOLES.items(), strict=True):
        for axes, part in zip(panels, parts, strict=True):
            for guide in (0, 1):
                axes.axhline(guide, color=GREY, linestyle=":", linewidth=1)
            for i, (label, found) in enumerate(effects.items()):
                row, column = _row_at(found, t, label), found.parts.index(part)
                value, low, high = (
                    getattr(found, whole + end)[row, column] for end in ("", "_low", "_high")
                )
                axes.errorbar(
                    np.arange(len(names)) + _offset(i, len(effects)), value,
                    yerr=_bars(value, low, high), color=colours[i % len(colours)],
                    marker=_MARKERS[i % len(_MARKERS)], linestyle="", markersize=4.5, capsize=2,
                    label=label,
                )  # fmt: skip
                drawn += [low, high]
            said = f"{_TITLES.get(part, title_of(part))}, share of the {title}, t = {t:g}"
            _dress_shares(axes, said, names, last=whole == "predicted")
    low, high = _SHARE_LIMITS
    grid[0, 0].set_ylim(
        max(low, min(np.nanmin(drawn), 0) - 0.1), min(high, max(np.nanmax(drawn), 1) + 0.1)
    )
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=len(effects),
        frameon=False, fontsize=9,
    )  # fmt: skip
    return figure


def _dress_shares(axes: Axes, title: str, names: Sequence[str], *, last: bool) -> None:
    dress(axes, x="band (cycles per pixel)" if last else "", y="share")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _row_at(found: BandEffects, t: float, label: str) -> int:
    """Return the place of t among the times; raise ValueError where it is not one of them."""
    rows = np.flatnonzero(np.isclose(found.times, t))
    if not len(rows):
        known = ", ".join(f"{time:g}" for time in found.times)
        raise ValueError(f'the times of "{label}" must have t={t:g}, got {known}; measure it there')
    return int(rows[0])
