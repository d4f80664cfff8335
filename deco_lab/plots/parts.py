"""What the DiT and the pixel decoder do: shares over t, gains, budgets, spectra and seams.

Shaded bands and error bars are 95% intervals over images. The range over references is no such
interval, and is drawn as separate marks.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from deco_lab.plots.style import (
    COLOURS,
    GREY,
    PART_COLOURS,
    dress,
    frequency_ticks,
    new_figure,
    plain_ticks,
    title_of,
)
from deco_lab.spectra import (
    BandEffects,
    ConditionBudget,
    DecoderGain,
    DetailSpectra,
    ReferenceSensitivity,
    Seams,
    TransferFunction,
    band_names,
)

_COLOURS = PART_COLOURS | {"pixels": PART_COLOURS["decoder"]}
_TITLES = {"pixels": "pixel path"}
_WHOLES = {"velocity": "velocity", "predicted": "predicted image"}
_MARKERS = ("o", "s", "^", "D")
_SHARE_LIMITS = (-1.5, 2.0)
"""Where a share leaves these, the axis is cut: parts that cancel each other have large ones."""


def _title(part: str) -> str:
    return _TITLES.get(part, title_of(part))


def _guide(axes: Axes, value: float) -> None:
    axes.axhline(value, color=GREY, linestyle=":", linewidth=1)


def _time_index(times: np.ndarray, t: float) -> int:
    """Return the place of t among the times; raise ValueError where it is not one of them."""
    found = np.flatnonzero(np.isclose(times, t))
    if not len(found):
        known = ", ".join(f"{time:g}" for time in times)
        raise ValueError(f"t must be one of the times that were measured, {known}, got {t}")
    return int(found[0])


def _curve(
    axes: Axes,
    x: np.ndarray,
    values: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    label: str,
    color: str,
    marker: str = "",
) -> None:
    """Draw values as a line, and their lower and upper ends as a band behind it."""
    value, low, high = values
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(x, value, color=color, linewidth=1.6, marker=marker, markersize=3, label=label)


def effect_curves(effects: BandEffects) -> Figure:
    """Return each part's share of each band over t: of the velocity, and of the predicted image.

    Parameters
    ----------
    effects : BandEffects
        From `band_effects` or `run_effects`. Shares below -150% or above 200% leave the panels.
    """
    names = band_names(effects.edges.tolist())
    figure = new_figure(2.4 * len(names) + 0.6, 5.2)
    rows = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    for panels, (whole, title) in zip(rows, _WHOLES.items(), strict=True):
        ends = [getattr(effects, whole + end) for end in ("", "_low", "_high")]
        for band, axes in enumerate(panels):
            _guide(axes, 0)
            _guide(axes, 1)
            for i, part in enumerate(effects.parts):
                value, low, high = (end[:, i, band] for end in ends)
                _curve(
                    axes, effects.times, (value, low, high),
                    label=_title(part), color=_COLOURS[part], marker="o",
                )  # fmt: skip
            last = whole == "predicted"
            dress(
                axes,
                x="t (0 noise, 1 image)" if last else "",
                y="" if band else f"share of the {title}",
                title="" if last else f"{names[band]} cycles per pixel",
            )
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        low, high = _SHARE_LIMITS
        lowest, highest = np.nanmin(ends[0]), max(np.nanmax(ends[0]), 1)
        panels[0].set_ylim(max(low, lowest - 0.1), min(high, highest + 0.1))
    handles, labels = rows[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=9
    )
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
    at = _time_index(sensitivity.times, t)
    names = band_names(sensitivity.edges.tolist())
    parts = sensitivity.parts
    figure = new_figure(10, 3.8)
    panels = figure.subplots(1, 2)
    for axes, (whole, title) in zip(panels, _WHOLES.items(), strict=True):
        shares = getattr(sensitivity, whole)[:, :, at]  # (Q, R, 4, K)
        _guide(axes, 0)
        _guide(axes, 1)
        for i, part in enumerate(parts):
            places = np.arange(len(names)) + (i - (len(parts) - 1) / 2) * 0.2
            ends = [getattr(sensitivity, f"{whole}_{end}")[at, i] for end in ("low", "high")]
            axes.vlines(places, *ends, color=_COLOURS[part], linewidth=1, label=_title(part))
            for q in range(len(sensitivity.condition_references)):
                axes.plot(
                    np.repeat(places, shares.shape[1]), shares[q, :, i].T.ravel(),
                    linestyle="", marker=_MARKERS[q % len(_MARKERS)], markersize=4.5,
                    markerfacecolor="none", color=_COLOURS[part],
                )  # fmt: skip
        dress(axes, x="band (cycles per pixel)", y=f"share of the {title}")
        axes.set_title(f"{title}, t = {t:g}", fontsize=10, loc="left")
        axes.set_xticks(range(len(names)), names)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles = [Line2D([], [], color=_COLOURS[part], label=_title(part)) for part in parts]
    handles += [
        Line2D(
            [], [], color="black", linestyle="", marker=marker, markerfacecolor="none",
            label=f'condition against "{name}"',
        )
        for name, marker in zip(sensitivity.condition_references, _MARKERS, strict=False)
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=8
    )
    return figure


def detail_curves(detail: DetailSpectra, t: float) -> Figure:
    """Return the spectra at one t: image, prediction and error, and beside them the velocity.

    Dashed is what the best model of Gaussian images of the same power would show; DC, which has no
    place on the axis, is left out. The vertical line is where signal meets noise in x_t. The
    Gaussian optimum's velocity is 0 where t S = 1 - t, and leaves the axis there.

    Parameters
    ----------
    detail : DetailSpectra
        From `detail_spectra`.
    t : float
        One of its times.
    """
    at = _time_index(detail.times, t)
    f = detail.frequency[1:]
    figure = new_figure(9, 3.9)
    left, right = figure.subplots(1, 2, sharey=True)
    drawn = (
        (left, "predicted", "predicted image", COLOURS[0]),
        (left, "error", "its error", COLOURS[1]),
        (right, "velocity", "velocity", COLOURS[0]),
    )
    for axes in (left, right):
        _curve(
            axes, f, (detail.power[1:], detail.power_low[1:], detail.power_high[1:]),
            label="true image", color="black",
        )  # fmt: skip
    for axes, name, label, color in drawn:
        value, low, high = (getattr(detail, name + end)[at, 1:] for end in ("", "_low", "_high"))
        _curve(axes, f, (value, low, high), label=label, color=color)
        axes.plot(
            f, getattr(detail, f"gaussian_{name}")[at, 1:], color=color, linewidth=1.2,
            linestyle="--", label=f"{label}, Gaussian optimum",
        )  # fmt: skip
    right.plot(f, np.ones_like(f), color=GREY, linestyle=":", label="the noise that was added")
    for axes, title in ((left, f"what is drawn, t = {t:g}"), (right, f"velocity, t = {t:g}")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        dress(axes, x="frequency (cycles per pixel)", y="", title=title)
        if np.isfinite(detail.meeting[at]):
            axes.axvline(detail.meeting[at], color=GREY, linewidth=1)
            axes.annotate(
                "signal meets noise", (detail.meeting[at], 1.01), fontsize=8, color=GREY,
                xycoords=axes.get_xaxis_transform(), ha="center", va="bottom",
            )  # fmt: skip
        frequency_ticks(axes)
        axes.legend(frameon=False, fontsize=8)
    # The Gaussian velocity is 0 where t S = 1 - t: leave that out of the axis's range.
    lowest = min(detail.power[1:].min(), detail.predicted[at, 1:].min(), detail.error[at, 1:].min())
    left.set_ylim(bottom=max(lowest / 3, np.finfo(float).tiny))
    left.set_ylabel("power (white noise of variance 1 is 1)")
    return figure


def transfer_curves(transfer: TransferFunction, t: float) -> Figure:
    """Return the filter from noisy to predicted image at one t against Wiener's, and its coherence.

    Parameters
    ----------
    transfer : TransferFunction
        From `transfer_function`.
    t : float
        One of its times.
    """
    at = _time_index(transfer.times, t)
    f = transfer.frequency[1:]
    figure = new_figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    for axes, name, color in ((left, "transfer", COLOURS[0]), (right, "coherence", COLOURS[0])):
        value, low, high = (getattr(transfer, name + end)[at, 1:] for end in ("", "_low", "_high"))
        _curve(axes, f, (value, low, high), label="model", color=color)
    left.plot(f, transfer.wiener[at, 1:], color="black", linestyle="--", label="Wiener filter")
    right.plot(
        f, transfer.coherence_floor[1:], color=GREY, linestyle=":",
        label="unrelated white images, on average",
    )  # fmt: skip
    dress(left, x="frequency (cycles per pixel)", y="gain", title=f"noisy to predicted, t = {t:g}")
    dress(right, x="frequency (cycles per pixel)", y="coherence", title="how much of it is linear")
    right.set_ylim(0, 1.03)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        frequency_ticks(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def gain_curves(gain: DecoderGain) -> Figure:
    """Return the decoder's mean slope over t against -1 / (1 - t), and its gain by place.

    Parameters
    ----------
    gain : DecoderGain
        From `decoder_gain`. The map is that of the middle one of its times, and its colours reach
        from nothing to twice the mean, so that what is even looks even.
    """
    figure = new_figure(8, 3.5)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    slopes = gain.slopes()
    value = np.array([slope.value for slope in slopes])
    ends = [np.array([getattr(slope, end) for slope in slopes]) for end in ("low", "high")]
    fine = np.linspace(0, min(0.97, gain.times.max() + 0.02), 100)
    left.plot(
        fine, 1 / (1 - fine), color="black", linestyle="--",
        label="1 / (1 - t): the condition knows the pixel",
    )  # fmt: skip
    left.errorbar(
        gain.times, -value, [np.maximum(-value + ends[1], 0), np.maximum(value - ends[0], 0)],
        color=COLOURS[1], linestyle="", marker="o", markersize=4, capsize=3,
        label="pixel decoder",
    )  # fmt: skip
    left.set_yscale("log")
    plain_ticks(left.yaxis)
    dress(left, x="t (0 noise, 1 image)", y="minus the mean slope", title="velocity against pixel")
    left.legend(frameon=False, fontsize=8)
    middle = len(gain.times) // 2
    table = gain.place_map[middle]
    image = right.imshow(table, cmap="Oranges", vmin=0, vmax=2 * table.mean())
    right.set_title(
        f"gain by place in the patch, t = {gain.times[middle]:g}\n"
        f"from {table.min():.3f} to {table.max():.3f}",
        fontsize=10,
        loc="left",
    )
    right.set_xlabel("column in the patch (pixels)")
    right.set_ylabel("row in the patch (pixels)")
    figure.colorbar(image, ax=right, label="rms gain", shrink=0.8)
    return figure


def budget_figure(budget: ConditionBudget, t: float) -> Figure:
    """Return what the condition writes inside a patch at one t: by coefficient, and as pictures.

    Two tables over the P x P DCT of a patch, mean over images and channels, each as shares of its
    own sum: what is written, and what equal variation in all directions of the condition would
    write. Beside them what one standard deviation along the leading directions draws; grey is 0.

    Parameters
    ----------
    budget : ConditionBudget
        From `condition_budget`.
    t : float
        One of its times.
    """
    at = _time_index(budget.times, t)
    directions = budget.maps[at]  # (K, 3, P, P)
    figure = new_figure(9, 3.4)
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.4))
    tables = [getattr(budget, kind)[at].mean((0, 1)) for kind in ("written", "writable")]
    tables = [table / (table.sum() or 1) for table in tables]
    norm = LogNorm(1e-4, 1)
    image = None
    titles = ("as conditions vary", "were all directions alike")
    for axes, table, title in zip(panels[:2], tables, titles, strict=True):
        image = axes.imshow(np.maximum(table, 1e-4), cmap="cividis", norm=norm)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(f"horizontal index (1/{2 * len(table)} cycles per pixel)", fontsize=8)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(table):
            axes.text(
                column, row, f"{100 * value:.1f}" if value >= 5e-4 else "", ha="center",
                va="center", fontsize=6, color="white" if value < 0.02 else "black",
            )  # fmt: skip
    panels[0].set_ylabel("vertical index", fontsize=8)
    assert image is not None
    bar = figure.colorbar(image, ax=list(panels[:2]), shrink=0.8, label="share of the energy")
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    scale = np.abs(directions).max() or 1
    P = directions.shape[-1]
    stack = np.ones((len(directions) * (P + 1) - 1, P, 3))
    for k, drawn in enumerate(directions):
        stack[k * (P + 1) : k * (P + 1) + P] = drawn.transpose(1, 2, 0) / (2 * scale) + 0.5
    panels[2].imshow(stack, interpolation="nearest")
    panels[2].set_axis_off()
    panels[2].set_title(f"leading directions\n(±{scale:.1f} in velocity)", fontsize=9)
    return figure


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
        color = COLOURS[i % len(COLOURS)]
        left.plot(found.step_by_offset, color=color, marker="o", markersize=4, label=label)
        estimates = found.estimates()
        value, low, high = (
            np.array([getattr(e, field) for e in estimates.values()])
            for field in ("value", "low", "high")
        )
        place = np.arange(len(value)) + (i - (len(seams) - 1) / 2) * 0.15
        right.errorbar(
            place, value, [value - low, high - value], color=color, linestyle="", marker="o",
            markersize=4, capsize=3, label=label,
        )  # fmt: skip
        right.set_xticks(range(len(value)), [name.replace("_", " ") for name in estimates])
    _guide(left, 1)
    _guide(right, 0)
    dress(left, x="place on the patch grid (pixels; 0 is a border)", y="step over its mean")
    dress(right, x="detector", y="excess (log ratio; 0 is no seam)")
    right.grid(visible=False, axis="x")
    left.legend(frameon=False, fontsize=9)
    return figure
