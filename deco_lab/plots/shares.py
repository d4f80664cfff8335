"""Shares of each band: over t, by references, and of models beside each other.

Shaded bands and error bars are 95% intervals over images. The range over references is no such
interval, and is drawn as separate marks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deco_lab.plots.style import (
    COLOURS,
    TIME,
    WHOLES,
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
from deco_lab.result import Estimate
from deco_lab.spectra import BandEffects, band_names

_MAIN_EFFECTS = ("condition_main", "pixels_main")


def effect_curves(effects: BandEffects) -> Figure:
    """Return each part's share of each band over t: of the predicted image, and of the velocity.

    Where the parts cancel, so that there are no shares, the note below says so.

    Parameters
    ----------
    effects : BandEffects
        From `band_effects`.
    """
    names = band_names(effects.edges.tolist())
    figure = new_figure(2.4 * len(names) + 0.6, 5.2)
    rows = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    for panels, (whole, title) in zip(rows, WHOLES.items(), strict=True):
        shares: Estimate = getattr(effects, whole)
        for band, axes in enumerate(panels):
            guide(axes, 0)
            guide(axes, 1)
            for i, part in enumerate(effects.parts):
                shaded(
                    axes, effects.times, shares[:, i, band],
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
        limit_shares(panels[0], shares.value)
    legend_above(figure, rows[0, 0])
    note_below(figure, [effects.unshared(whole) for whole in WHOLES])
    return figure


def reference_ranges(effects: Mapping[tuple[str, str], BandEffects], t: float) -> Figure:
    """Return the shares at one t for every choice of references, as marks side by side.

    Colour is the part, the mark's shape the condition's reference; the marks of one shape differ
    in the pixels' reference. The lines join the smallest to the largest.

    Parameters
    ----------
    effects : mapping of (str, str) to BandEffects
        By the references of condition and pixels, all of the same bands.
    t : float
        One of their times.
    """
    first = next(iter(effects.values()))
    names = band_names(first.edges.tolist())
    references = list(dict.fromkeys(condition for condition, _ in effects))
    figure = new_figure(10, 3.8)
    for axes, (whole, title) in zip(figure.subplots(1, 2), WHOLES.items(), strict=True):
        guide(axes, 0)
        guide(axes, 1)
        shares = np.stack(
            [getattr(each, whole).value[time_row(each.times, t)] for each in effects.values()]
        )  # (choices, 4, K)
        for i, part in enumerate(first.parts):
            places, color = np.arange(len(names)) + beside(i, len(first.parts)), colour_of(part, i)
            ends = np.fmin.reduce(shares[:, i]), np.fmax.reduce(shares[:, i])
            axes.vlines(places, *ends, color=color, linewidth=1, label=title_of(part))
            for (condition, _), choice in zip(effects, shares[:, i], strict=True):
                axes.plot(
                    places, choice, linestyle="", marker=marker_of(references.index(condition)),
                    markersize=4.5, markerfacecolor="none", color=color,
                )  # fmt: skip
        y = f"share of the {title}"
        _dress_bands(axes, names, x="band (cycles per pixel)", y=y, title=f"{title}, t = {t:g}")
    handles = [
        Line2D([], [], color=colour_of(part, i), label=title_of(part))
        for i, part in enumerate(first.parts)
    ]
    handles += [
        Line2D(
            [], [], color="black", linestyle="", marker=marker_of(q), markerfacecolor="none",
            label=f'condition against "{name}"',
        )
        for q, name in enumerate(references)
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=8)
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
            shares: Estimate = getattr(one, whole)[:, at, -1]
            drawn.append(shares.value)
            shaded(
                axes, one.times, shares, color=colour_of(label, i), linestyle=line_of(i),
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
                shares: Estimate = getattr(found, whole)[row, column]
                axes.errorbar(
                    np.arange(len(names)) + beside(i, len(effects)), shares.value,
                    yerr=whiskers(shares), color=colours[i % len(colours)],
                    marker=marker_of(i), linestyle="", markersize=4.5, capsize=2, label=label,
                )  # fmt: skip
                drawn += [shares.low, shares.high]
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
