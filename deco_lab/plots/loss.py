"""What the frequency-aware loss stresses: its weights, shares of the loss, and what comes of it.

Weights are those of `frequency_weights`, (3, 8, 8) for Y, Cb and Cr; bands are of radial frequency
in cycles per pixel. Bars and points carry their 95% intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from deco_lab.plots.pictures import picture_of, show
from deco_lab.plots.style import (
    COLOURS,
    GREY,
    array_of,
    as_percent,
    beside,
    dress,
    legend_above,
    new_figure,
    plain_ticks,
    whiskers,
)
from deco_lab.result import Estimate
from deco_lab.spectra import (
    LossBands,
    WeightTable,
    favoured_parts,
)

TERM_COLOURS = {"FM": "#0072B2", "FreqFM": "#D55E00", "total": "#6E6E6E"}
"""One colour for each term of the loss, in every figure."""

CHANNELS = ("Y", "Cb", "Cr")
CHANNEL_COLOURS = {"Y": "#000000", "Cb": "#0072B2", "Cr": "#D55E00", "Cb and Cr": "#CC79A7"}


def weights_figure(weights: Any) -> Figure:
    """Return the frequency-aware loss's weights, (3, 8, 8), as three tables with their values."""
    weights = array_of(weights)
    figure = new_figure(11, 3.7)
    panels = figure.subplots(1, 3)
    reach = max(weights.max(), 1 / weights.min(), 1.01)
    norm = LogNorm(1 / reach, reach)
    image = None
    for axes, table, title in zip(panels, weights, CHANNELS, strict=True):
        image = axes.imshow(table, cmap="PuOr_r", norm=norm)
        for (row, column), value in np.ndenumerate(table):
            strong = abs(np.log(value)) > 0.6 * np.log(reach)
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                color="white" if strong else "black",
            )  # fmt: skip
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("horizontal index (1/16 cycles per pixel)", fontsize=9)
        axes.set_xticks(range(8))
        axes.set_yticks(range(8))
        axes.tick_params(length=0, labelsize=8)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("vertical index (1/16 cycles per pixel)", fontsize=9)
    assert image is not None
    bar = figure.colorbar(image, ax=list(panels), shrink=0.8)
    bar.set_label("weight (the mean of each table is 1)")
    plain_ticks(bar.ax.yaxis)
    return figure


def weight_curves(table: WeightTable, *, steady: tuple[int, int] = (50, 90)) -> Figure:
    """Return how the weights depend on quality, one colour for each gamma.

    Parameters
    ----------
    table : WeightTable
        From `weight_table`, of at least two qualities.
    steady : tuple of int
        Qualities to shade between, where the knob does little.
    """
    panels = {
        "share of the weight from 1/4 cycles per pixel up": table.share_above,
        "weight of the block's mean, (0, 0)": table.mean,
        "largest weight": table.largest,
    }
    figure = new_figure(11, 3.7)
    for axes, (title, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.axvspan(*steady, color="0.93", zorder=0)
        for g, gamma in enumerate(table.gamma):
            for name, line, rows in zip(table.tables, ("-", "--"), values, strict=True):
                axes.plot(
                    table.quality, rows[:, g], line, color=COLOURS[g % len(COLOURS)],
                    linewidth=1.6, label=f"gamma {gamma:g}, {name}",
                )  # fmt: skip
        dress(axes, x="JPEG quality", y="", title=title)
    share, *weights = figure.axes
    share.set_ylim(0, 1)
    as_percent(share.yaxis)
    for axes in weights:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
        axes.set_ylabel("weight (table's mean is 1)")
    figure.legend(
        *share.get_legend_handles_labels(), loc="outside lower center",
        ncols=len(table.gamma), frameon=False, fontsize=9,
    )  # fmt: skip
    return figure


def loss_share_bars(found: Mapping[str, LossBands]) -> Figure:
    """Return each band's share of FM, FreqFM and their sum, and of the squared gradient beside it.

    One row of panels for each result. Dotted lines are what an error that is white, all
    coefficients alike, would give FM: a band's number of coefficients out of 64.

    Parameters
    ----------
    found : mapping of str to LossBands
        From `loss_bands`, all with the same bands, by what to call them.
    """
    figure = new_figure(10, 0.9 + 2.3 * len(found))
    grid = figure.subplots(len(found), 2, sharey=True, squeeze=False)
    names = {"loss": "loss", "gradient": "squared gradient"}
    for row, (label, result) in zip(grid, found.items(), strict=True):
        for axes, (of, name) in zip(row, names.items(), strict=True):
            _share_bars(axes, result, of)
            dress(axes, x="", y="share", title=f"{name}, {label}")
            axes.grid(visible=False, axis="x")
            as_percent(axes.yaxis)
    for axes in grid[-1]:
        axes.set_xlabel("band (cycles per pixel)")
    legend_above(figure, grid[0, 0])
    return figure


def _share_bars(axes: Axes, result: LossBands, of: str) -> None:
    """Draw the shares of one result, with their intervals."""
    width = 0.8 / len(result.terms)
    places = np.arange(len(result.bands))
    for i, (term, estimates) in enumerate(result.band_shares(of).items()):
        axes.bar(
            places + beside(i, len(result.terms), width), estimates.value, width,
            color=TERM_COLOURS[term], yerr=whiskers(estimates), label=term,
            error_kw={"linewidth": 1, "capsize": 2},
        )  # fmt: skip
    even = [float((result.band_of == k).mean()) for k in places]
    axes.hlines(
        even, places - 0.45, places + 0.45, color="black", linestyle=":", linewidth=1.2,
        label="FM, were the error white",
    )  # fmt: skip
    axes.set_xticks(places, result.bands)


def error_change_figure(
    weights: Any,
    by_coefficient: Estimate,
    by_band: Mapping[str, Estimate],
    bands: Sequence[str],
) -> Figure:
    """Return how a model's error changed, by band and, beside it, against the loss's weights.

    Parameters
    ----------
    weights : array
        (3, 8, 8), from `frequency_weights`; Y is drawn 3% to the left of its own, Cr to the right.
    by_coefficient : Estimate
        (3, 8, 8), change of the error's energy in Y, Cb and Cr, in dB.
    by_band : mapping of str to Estimate
        (K,) each, in dB: "Y", "Cb", "Cr" or "Cb and Cr".
    bands : sequence of str
        K names of bands, from `band_names`.
    """
    weights = array_of(weights)
    figure = new_figure(11, 3.8)
    left, right = figure.subplots(1, 2)
    places = np.arange(len(bands))
    for i, (label, band) in enumerate(by_band.items()):
        left.errorbar(
            places + beside(i, len(by_band)), band.value, whiskers(band),
            fmt="so"[i % 2], color=CHANNEL_COLOURS[label], capsize=3, markersize=5, linewidth=1.4,
            label=label,
        )  # fmt: skip
    dress(left, x="band (cycles per pixel)", y="change of the error's energy (dB)", title="by band")
    left.set_xticks(places, bands)
    left.grid(visible=False, axis="x")
    for i, (channel, marker) in enumerate(zip(CHANNELS, "s^v", strict=True)):
        change = Estimate(*(end.ravel() for end in by_coefficient[i].ends))
        aside = weights[i].ravel() * 1.03 ** (i - 1)  # Cb and Cr have the same weights
        right.errorbar(
            aside, change.value, whiskers(change), fmt=marker, markersize=3.5, alpha=0.6,
            linewidth=0, elinewidth=0.5, color=CHANNEL_COLOURS[channel], label=channel,
        )  # fmt: skip
    dress(right, x="weight in FreqFM", y="change (dB)", title="by DCT coefficient")
    right.set_xscale("log")
    plain_ticks(right.xaxis)
    right.axvline(1, color=GREY, linestyle=":", linewidth=1)
    for axes in (left, right):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.legend(frameon=False, fontsize=9)
    return figure


def favoured_figure(
    images: Any, weights: Any, titles: Sequence[str], *, scale: float | None = None
) -> Figure:
    """Return images in a row, below them what the weights favour, and below that what they neglect.

    Parameters
    ----------
    images : array
        (B, 3, H, W) in RGB; H and W are multiples of 8.
    weights : array
        (3, 8, 8), from `frequency_weights`: 1 and above is favoured.
    titles : sequence of str
        One for each image.
    scale : float, optional
        The value of full colour, grey being 0; by default the images' largest, without the topmost
        0.5%. The figure says it.
    """
    parts = favoured_parts(torch.from_numpy(array_of(images)), torch.from_numpy(array_of(weights)))
    favoured, neglected = map(array_of, parts)
    rows = {"whole": array_of(images), "weight ≥ 1": favoured, "weight < 1": neglected}
    scale = scale or float(np.quantile(np.abs(rows["whole"]), 0.995)) or 1.0
    figure = new_figure(0.4 + 1.5 * len(titles), 0.4 + 1.75 * len(rows))
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, (label, array) in zip(grid, rows.items(), strict=True):
        for axes, image, title in zip(line, array, titles, strict=True):
            rms = f"rms {np.sqrt(np.square(image).mean()):.2f}"
            said = f"{title}\n{rms}" if label == "whole" else rms
            show(axes, picture_of(image, scale), said)
        line[0].set_ylabel(label, fontsize=9)
    figure.suptitle(f"grey is 0, full colour ±{scale:.2g}", fontsize=9)
    return figure
