"""When each band of an image settles while it is drawn, and what few steps do to it.

Shaded bands and bars are 95% intervals over images. Bands have one colour each, from low
frequencies to high; solvers have colours and markers of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from deco_lab.plots.pictures import picture_of, show
from deco_lab.plots.style import (
    COLOURS,
    GREY,
    array_of,
    band_title,
    beside,
    colour_of,
    dress,
    floored,
    line_of,
    marker_of,
    new_figure,
    shaded,
    whiskers,
)
from deco_lab.result import Estimate
from deco_lab.spectra import Settling, SolverError, band_names, bootstrap_intervals, split_bands


def settling_figure(settling: Settling, unrelated: Any = None) -> Figure:
    """Return how each band of the predicted images comes to agree with the final ones.

    Left the mean correlation over t, right the t from which it stays at each level: small marks are
    images, those that never settle at t = 1; large marks their median.

    Parameters
    ----------
    settling : Settling
        From `settling_times`, of K bands.
    unrelated : array, optional
        (K,), mean correlation of images that only have the class in common: drawn dotted.
    """
    names = band_names(settling.edges.tolist())
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    mean = bootstrap_intervals(lambda means: means, settling.correlation, groups=settling.groups)
    for k, name in enumerate(names):
        color = colour_of(name, k)
        shaded(
            left, settling.times, mean[:, k], color=color,
            linestyle=line_of(k), marker=marker_of(k), label=name,
        )  # fmt: skip
        if unrelated is not None:
            left.axhline(array_of(unrelated)[k], color=color, linestyle=":", linewidth=1.2)
    for level in settling.levels:
        left.axhline(level, color=GREY, linewidth=0.8)
    dress(left, x="t (0 noise, 1 image)", y="correlation with the final image")
    left.set(xlim=(0, 1), ylim=(min(0, np.nanmin(mean.value) - 0.03), 1.03))
    handles, _ = left.get_legend_handles_labels()
    if unrelated is not None:
        handles.append(Line2D([], [], color=GREY, linestyle=":", label="another seed's image"))
    left.legend(
        handles=handles, title="cycles per pixel", frameon=True, framealpha=0.9,
        edgecolor="none", fontsize=8, title_fontsize=8, loc="lower right",
    )  # fmt: skip
    _settling_marks(right, settling)
    right.set_yticks(range(len(names)), names)
    right.set(xlim=(-0.02, 1.02))
    dress(right, x="t from which it has settled", y="band (cycles per pixel)")
    right.grid(visible=False, axis="y")
    return figure


def _settling_marks(axes: Axes, settling: Settling) -> None:
    """Draw each image's settling times, and their medians with intervals."""
    K, L = settling.median.value.shape
    for n, level in enumerate(settling.levels):
        for k in range(K):
            each = np.nan_to_num(settling.settled[:, k, n], nan=1.0)
            place, color = k + beside(n, L, 0.32), COLOURS[k % len(COLOURS)]
            axes.plot(each, np.full(len(each), place), "|", color=color, alpha=0.5, markersize=7)
            median = settling.median[k, n]
            middle = np.nan_to_num(median.value, nan=1.0)
            ends = whiskers(replace(median, value=middle))
            axes.errorbar(
                middle, place, xerr=ends[:, None], color=color, marker=marker_of(k), markersize=7,
                markerfacecolor=color if n else "white", capsize=3, linewidth=1.4,
            )  # fmt: skip
            if k == K - 1:
                axes.annotate(
                    f"{level:g}", (middle, place), xytext=(0, 9), textcoords="offset points",
                    ha="center", va="bottom", fontsize=8, color=color,
                )  # fmt: skip
    axes.set_ylim(-0.5, K - 0.3)


def shift_figure(runs: Mapping[str, Settling], level: float) -> Figure:
    """Return when bands settle under several time shifts: in t, and in steps taken.

    Parameters
    ----------
    runs : mapping of str to Settling
        One for each time shift, by what to call it; all of the same bands.
    level : float
        One of their levels, in (0, 1).
    """
    first = next(iter(runs.values()))
    names = band_names(first.edges.tolist())
    figure = new_figure(10, 3.6)
    panels = figure.subplots(1, 3)
    for i, (label, run) in enumerate(runs.items()):
        color, marker = colour_of(label, i), marker_of(i)
        grid = np.append(run.times, 1.0)
        panels[0].plot(
            np.arange(len(grid)),
            grid,
            color=color,
            linestyle=line_of(i),
            linewidth=1.6,
            label=label,
        )
        found = [int(n) for n in np.flatnonzero(np.isclose(run.levels, level))]
        if not found:
            raise ValueError(f"level must be one of {run.levels.tolist()}, got {level}")
        ends = [np.nan_to_num(end, nan=1.0) for end in run.median[:, found[0]].ends]
        in_steps = [np.interp(end, grid, np.arange(len(grid))) for end in ends]
        places = np.arange(len(names)) + beside(i, len(runs), 0.16)
        for axes, drawn in zip(panels[1:], (Estimate(*ends), Estimate(*in_steps)), strict=True):
            axes.errorbar(
                places, drawn.value, whiskers(drawn), color=color, marker=marker,
                linestyle="", markersize=5, capsize=3, label=label,
            )  # fmt: skip
    dress(panels[0], x="steps taken", y="t (0 noise, 1 image)", title="where the steps are")
    dress(panels[1], x="", y="t (0 noise, 1 image)", title=f"correlation {level:g}, in t")
    dress(panels[2], x="", y="steps taken", title=f"correlation {level:g}, in steps")
    panels[1].set_ylim(0, 1.02)
    panels[2].set_ylim(0, len(first.times) * 1.02)
    panels[2].yaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels[1:]:
        axes.set_xlabel("band (cycles per pixel)")
        axes.set_xticks(range(len(names)), [name.replace(" to ", "\nto ") for name in names])
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(visible=False, axis="x")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def solver_error_curves(found: SolverError) -> Figure:
    """Return each solver's error against its network passes, a panel for each band, log-log.

    Dotted lines fall as the first and as the second power of the passes, so that slopes, which
    are orders of convergence, can be read off. Marks stand up to 6% beside their place, so that
    bars can be told apart; bars that reach far below all errors are cut.

    Parameters
    ----------
    found : SolverError
        From `solver_error`, of several numbers of steps for each solver.
    """
    names = band_names(found.edges.tolist())
    figure = new_figure(2.6 * len(names), 3.8)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    solvers = np.array(found.solvers)
    drawn = list(dict.fromkeys(found.solvers))
    aside = 1 + np.linspace(-0.06, 0.06, max(len(drawn), 2))
    for k, (axes, name) in enumerate(zip(panels, names, strict=True)):
        for i, solver in enumerate(drawn):
            rows = np.flatnonzero(solvers == solver)
            rows = rows[np.argsort(found.nfe[rows])]
            error = found.error[rows, k]
            error = floored(error, error.value / 1e3)  # 0 has no place on a logarithmic axis
            axes.errorbar(
                found.nfe[rows] * aside[i], error.value, whiskers(error),
                color=colour_of(solver, i), marker=marker_of(i), linestyle=line_of(i),
                markersize=4.5, linewidth=1.4, elinewidth=1, capsize=2, label=solver,
            )  # fmt: skip
        _order_guides(axes, found, k)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda part, _: f"{100 * part:g}%")
        axes.yaxis.set_minor_locator(NullLocator())
        dress(axes, x="network passes per image", y="", title=band_title(name))
    panels[0].set_ylabel("error (rms, of the band's own)")
    panels[0].set_ylim(np.nanmin(found.error.value) / 2, np.nanmax(found.error.value) * 2)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False,
        ncols=len(set(found.solvers)) + 2, fontsize=9,
    )  # fmt: skip
    return figure


def _order_guides(axes: Axes, found: SolverError, band: int) -> None:
    """Draw lines of slope -1 and -2 through the coarsest run's error."""
    coarse = int(np.argmin(found.nfe))
    ends = found.nfe[coarse] * np.array([1.0, found.nfe.max() / found.nfe[coarse]])
    for order, style in ((1, ":"), (2, "-.")):
        line = found.error.value[coarse, band] * (ends[0] / ends) ** order
        axes.plot(ends, line, color=GREY, linestyle=style, linewidth=1, label=f"order {order}")


def few_steps_figure(
    images: Mapping[str, Any], reference: Any, *, reference_title: str = "reference"
) -> Figure:
    """Return images drawn in few steps beside the reference, and their differences below.

    All differences share one scale: grey is none, and the largest of all (except for the topmost
    0.5%) is full colour. The rms is in grey levels of 255.

    Parameters
    ----------
    images : mapping of str to array
        (B, 3, H, W) each, in [-1, 1], by what to call them.
    reference : array
        (B, 3, H, W), in [-1, 1].
    reference_title : str
        What to call it.
    """
    wanted = array_of(reference)
    drawn = {title: array_of(image) for title, image in images.items()}
    differences = {title: image - wanted for title, image in drawn.items()}
    scale = max(float(np.quantile(np.abs(d), 0.995)) for d in differences.values()) or 1.0
    columns = len(drawn) + 1
    figure = new_figure(1.35 * columns, 2.9 * len(wanted) + 0.3)
    grid = figure.subplots(2 * len(wanted), columns, squeeze=False)
    for b, image in enumerate(wanted):
        above, below = grid[2 * b], grid[2 * b + 1]
        for axes, lower, title in zip(above, below, drawn, strict=False):
            difference = differences[title][b]
            levels = 127.5 * np.sqrt(np.square(difference).mean())
            show(axes, picture_of(drawn[title][b]), "" if b else title)
            show(lower, picture_of(difference, scale), f"rms {levels:.1f} of 255")
        show(above[-1], picture_of(image), "" if b else reference_title)
        below[-1].set_axis_off()
        above[0].set_ylabel("image", fontsize=9)
        below[0].set_ylabel("difference", fontsize=9)
    figure.suptitle(f"differences: grey is 0, full colour ±{127.5 * scale:.0f} of 255", fontsize=9)
    return figure


def band_pictures(
    predicted: Any, final: Any, edges: Sequence[float], *, title: str = "predicted"
) -> Figure:
    """Return an image and its bands, above those of the final image, and their correlation.

    Each band has its own scale, that of the final image's band: grey is 0, full colour its
    largest value except for the topmost 0.5%.

    Parameters
    ----------
    predicted, final : Tensor
        (3, H, W), in [-1, 1].
    edges : sequence of float
        K - 1 rising edges between bands, in cycles per pixel.
    title : str
        What to call the predicted image.
    """
    above, below = (array_of(split_bands(image[None], edges)[:, 0]) for image in (predicted, final))
    figure = new_figure(1.9 * (len(above) + 1), 4.3)
    rows = figure.subplots(2, len(above) + 1)
    show(rows[0, 0], picture_of(array_of(predicted)), title)
    show(rows[1, 0], picture_of(array_of(final)), "final")
    for k, (name, ours, theirs) in enumerate(zip(band_names(edges), above, below, strict=True), 1):
        scale = float(np.quantile(np.abs(theirs), 0.995)) or 1.0
        energy = np.square(ours).sum() * np.square(theirs).sum()
        correlation = (ours * theirs).sum() / np.sqrt(energy) if energy else np.nan
        show(rows[0, k], picture_of(ours, scale), f"{name}\ncorrelation {correlation:.2f}")
        show(rows[1, k], picture_of(theirs, scale), f"±{scale:.2f}")
    return figure
