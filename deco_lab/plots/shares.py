"""Shares of each band: of one moment, over t, by references, and of models beside each other.

Shaded bands and error bars are 95% intervals over images. The range over references is no such
interval, and is drawn as separate marks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deco_lab.plots.style import (
    COLOURS,
    TIME,
    WHOLES,
    array_of,
    as_percent,
    band_title,
    beside,
    colour_of,
    dress,
    guide,
    legend_above,
    limit_shares,
    line_of,
    marker_of,
    new_figure,
    note_below,
    shaded,
    time_row,
    title_of,
    whiskers,
)
from deco_lab.spectra import BandEffects, ReferenceSensitivity, band_names

_MAIN_EFFECTS = ("condition_main", "pixels_main")


def band_share_bars(shares: Mapping[str, Any], edges: Sequence[float]) -> Figure:
    """Return each part's share of each band at one moment, as bars side by side.

    Parameters
    ----------
    shares : mapping of str to array
        (K,) for each part, from `band_shares`; "dit" and "decoder" are called Shapley values.
    edges : sequence of float
        The K - 1 edges in cycles per pixel that the shares were computed with.
    """
    figure = new_figure(6.5, 3.4)
    axes = figure.subplots()
    names = band_names(edges)
    width = 0.8 / len(shares)
    for i, (label, values) in enumerate(shares.items()):
        places = np.arange(len(names)) + beside(i, len(shares), width)
        axes.bar(places, array_of(values), width, color=colour_of(label, i), label=title_of(label))
    axes.axhline(0, color="black", linewidth=0.8)
    _dress_bands(axes, names, x="band (cycles per pixel)", y="share of the band")
    legend_above(figure, axes)
    return figure


def effect_curves(effects: BandEffects) -> Figure:
    """Return each part's share of each band over t: of the predicted image, and of the velocity.

    Where the parts cancel, so that there are no shares, the note below says so.

    Parameters
    ----------
    effects : BandEffects
        From `band_effects` or `run_effects`.
    """
    names = band_names(effects.edges.tolist())
    figure = new_figure(2.4 * len(names) + 0.6, 5.2)
    rows = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    for panels, (whole, title) in zip(rows, WHOLES.items(), strict=True):
        ends = [getattr(effects, whole + end) for end in ("", "_low", "_high")]
        for band, axes in enumerate(panels):
            guide(axes, 0)
            guide(axes, 1)
            for i, part in enumerate(effects.parts):
                shaded(
                    axes, effects.times, [end[:, i, band] for end in ends],
                    label=title_of(part), color=colour_of(part, i), marker="o",
                )  # fmt: skip
            first = whole == "predicted"
            dress(
                axes,
                x="" if first else TIME,
                y="" if band else f"share of the {title}",
                title=band_title(names[band]) if first else "",
            )
            as_percent(axes.yaxis)
        limit_shares(panels[0], ends[0])
    legend_above(figure, rows[0, 0])
    note_below(figure, [effects.unshared(whole) for whole in WHOLES])
    return figure


def reference_ranges(sensitivity: ReferenceSensitivity, t: float) -> Figure:
    """Return the shares at one t for every choice of references, as marks side by side.

    Colour is the part, the mark's shape the condition's reference; the marks of one shape differ
    in the pixels' reference. The lines join the smallest to the largest.

    Parameters
    ----------
    sensitivity : ReferenceSensitivity
        From `reference_sensitivity`.
    t : float
        One of its times.
    """
    at = time_row(sensitivity.times, t)
    names = band_names(sensitivity.edges.tolist())
    parts = sensitivity.parts
    figure = new_figure(10, 3.8)
    panels = figure.subplots(1, 2)
    for axes, (whole, title) in zip(panels, WHOLES.items(), strict=True):
        shares = getattr(sensitivity, whole)[:, :, at]  # (Q, R, 4, K)
        guide(axes, 0)
        guide(axes, 1)
        for i, part in enumerate(parts):
            places = np.arange(len(names)) + beside(i, len(parts))
            ends = [getattr(sensitivity, f"{whole}_{end}")[at, i] for end in ("low", "high")]
            color = colour_of(part, i)
            axes.vlines(places, *ends, color=color, linewidth=1, label=title_of(part))
            for q in range(len(sensitivity.condition_references)):
                axes.plot(
                    np.repeat(places, shares.shape[1]), shares[q, :, i].T.ravel(),
                    linestyle="", marker=marker_of(q), markersize=4.5,
                    markerfacecolor="none", color=color,
                )  # fmt: skip
        y = f"share of the {title}"
        _dress_bands(axes, names, x="band (cycles per pixel)", y=y, title=f"{title}, t = {t:g}")
    handles = [
        Line2D([], [], color=colour_of(part, i), label=title_of(part))
        for i, part in enumerate(parts)
    ]
    handles += [
        Line2D(
            [], [], color="black", linestyle="", marker=marker_of(q), markerfacecolor="none",
            label=f'condition against "{name}"',
        )
        for q, name in enumerate(sensitivity.condition_references)
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=8
    )
    return figure


def split_curves(effects: Mapping[str, BandEffects], *, whole: str = "predicted") -> Figure:
    """Return both main effects' shares of the highest band over t, a line for each model.

    Parameters
    ----------
    effects : mapping of str to BandEffects
        For each model, from `band_effects` with the same edges; the times may differ.
    whole : {"predicted", "velocity"}
        Of which the shares are.

    Raises
    ------
    ValueError
        Without models, for another whole, or where the highest band differs between models.
    """
    if whole not in WHOLES:
        raise ValueError(f"whole must be one of {', '.join(WHOLES)}, got {whole!r}")
    bands = {band_names(one.edges.tolist())[-1] for one in effects.values()}
    if len(bands) != 1:
        raise ValueError(
            "effects must hold one model or more, all of the same highest band, got "
            f"{', '.join(sorted(bands)) or 'none'}; give band_effects the same edges"
        )
    figure = new_figure(9, 3.7)
    panels = figure.subplots(1, 2, sharey=True)
    drawn = []
    for axes, part in zip(panels, _MAIN_EFFECTS, strict=True):
        guide(axes, 0)
        guide(axes, 1)
        for i, (label, one) in enumerate(effects.items()):
            at = one.parts.index(part)
            ends = [getattr(one, whole + end)[:, at, -1] for end in ("", "_low", "_high")]
            drawn.append(ends[0])
            shaded(
                axes, one.times, ends, color=colour_of(label, i), linestyle=line_of(i),
                marker=marker_of(i), markersize=4, label=label,
            )  # fmt: skip
        dress(axes, x=TIME, y="", title=title_of(part))
        as_percent(axes.yaxis)
    panels[0].set_ylabel(f"share of the {WHOLES[whole]}\n{bands.pop()} cycles per pixel")
    limit_shares(panels[0], np.concatenate(drawn))
    legend_above(figure, panels[0])
    note_below(figure, [_said(label, one, whole) for label, one in effects.items()])
    return figure


def control_figure(
    effects: Mapping[str, BandEffects], t: float, *, parts: Sequence[str] = _MAIN_EFFECTS
) -> Figure:
    """Return the shares of some parts at one t in each band, a model's beside its null controls.

    Parameters
    ----------
    effects : mapping of str to BandEffects
        From `band_effects`, for each label; all of the same bands. The first is black.
    t : float
        One of their times.
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
    for panels, (whole, title) in zip(grid, WHOLES.items(), strict=True):
        for axes, part in zip(panels, parts, strict=True):
            guide(axes, 0)
            guide(axes, 1)
            for i, (label, found) in enumerate(effects.items()):
                row, column = time_row(found.times, t, label), found.parts.index(part)
                value, low, high = (
                    getattr(found, whole + end)[row, column] for end in ("", "_low", "_high")
                )
                axes.errorbar(
                    np.arange(len(names)) + beside(i, len(effects)), value,
                    yerr=whiskers(value, low, high), color=colours[i % len(colours)],
                    marker=marker_of(i), linestyle="", markersize=4.5, capsize=2, label=label,
                )  # fmt: skip
                drawn += [low, high]
            said = f"{title_of(part)}, share of the {title}, t = {t:g}"
            x = "band (cycles per pixel)" if whole == "velocity" else ""
            _dress_bands(axes, names, x=x, y="share", title=said)
    limit_shares(grid[0, 0], drawn)
    legend_above(figure, grid[0, 0])
    note_below(
        figure, [_said(label, one, whole) for label, one in effects.items() for whole in WHOLES]
    )
    return figure


def _said(label: str, effects: BandEffects, whole: str) -> str:
    """Return what a model's effects say of bands without shares, with its label."""
    said = effects.unshared(whole)
    return f"{label}: {said}" if said else ""


def _dress_bands(axes: Axes, names: Sequence[str], *, x: str, y: str, title: str = "") -> None:
    """Label axes of shares by band."""
    dress(axes, x=x, y=y)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False, axis="x")
    as_percent(axes.yaxis)
