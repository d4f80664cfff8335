"""What is detail and what noise, and what the DiT writes inside a patch.

Shaded bands and error bars are 95% intervals over images.
"""

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from deco_lab.plots.style import (
    COLOURS,
    GREY,
    dress,
    frequency_ticks,
    new_figure,
    patch_lines,
    shaded,
    time_row,
)
from deco_lab.spectra import (
    ConditionBudget,
    DetailSpectra,
)


def detail_curves(detail: DetailSpectra, t: float, *, patch_size: int | None = None) -> Figure:
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
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
    """
    at = time_row(detail.times, t)
    f = detail.frequency[1:]
    figure = new_figure(9, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    drawn = (
        (left, "predicted", "predicted image", COLOURS[0]),
        (left, "error", "its error", COLOURS[1]),
        (right, "velocity", "velocity", COLOURS[0]),
    )
    for axes in (left, right):
        shaded(axes, f, detail.power[1:], label="true image", color="black")
    for axes, name, label, color in drawn:
        shaded(axes, f, getattr(detail, name)[at, 1:], label=label, color=color)
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
        patch_lines(axes, patch_size)
        axes.legend(  # below: no place in the panel is free at every t
            frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17)
        )
    # The Gaussian velocity is 0 where t S = 1 - t: leave that out of the axis's range.
    drawn_low = (detail.power, detail.predicted[at], detail.error[at])
    lowest = min(found.value[1:].min() for found in drawn_low)
    left.set_ylim(bottom=max(lowest / 3, np.finfo(float).tiny))
    left.set_ylabel("power (white noise of variance 1 is 1)")
    return figure


def budget_figure(budget: ConditionBudget, t: float) -> Figure:
    """Return what the condition writes inside a patch at one t: by coefficient, and as pictures.

    A table over the P x P DCT of a patch, mean over images and channels, as shares of its sum.
    Beside it what one standard deviation along the leading directions draws; grey is 0.

    Parameters
    ----------
    budget : ConditionBudget
        From `condition_budget`.
    t : float
        One of its times.
    """
    at = time_row(budget.times, t)
    directions = budget.maps[at]  # (K, 3, P, P)
    figure = new_figure(5.6, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 0.4))
    table = budget.written[at].mean((0, 1))
    table = table / (table.sum() or 1)
    image = left.imshow(np.maximum(table, 1e-4), cmap="cividis", norm=LogNorm(1e-4, 1))
    left.set_title("what tokens write", fontsize=10, loc="left")
    left.set_xlabel(f"horizontal index (1/{2 * len(table)} cycles per pixel)", fontsize=9)
    left.set_ylabel("vertical index", fontsize=9)
    left.tick_params(labelsize=8)
    left.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(table):
        left.text(
            column, row, f"{100 * value:.1f}" if value >= 5e-4 else "", ha="center",
            va="center", fontsize=6, color="white" if value < 0.02 else "black",
        )  # fmt: skip
    bar = figure.colorbar(image, ax=left, shrink=0.8, label="share of the energy")
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    scale = np.abs(directions).max() or 1
    P = directions.shape[-1]
    stack = np.ones((len(directions) * (P + 1) - 1, P, 3))
    for k, drawn in enumerate(directions):
        stack[k * (P + 1) : k * (P + 1) + P] = drawn.transpose(1, 2, 0) / (2 * scale) + 0.5
    right.imshow(stack, interpolation="nearest")
    right.set_axis_off()
    right.set_title(f"leading directions\n(±{scale:.1f} in velocity)", fontsize=9)
    return figure
