"""How far models lie above the least error there is, by band: the figure of the bench of fields."""

from collections.abc import Mapping, Sequence

import numpy as np

from deco_lab.plots.style import (
    StaticFigure,
    beside,
    colour_of,
    dress,
    floored,
    marker_of,
    new_figure,
    whiskers,
)
from deco_lab.result import Estimate
from deco_lab.spectra import OCTAVES, band_names


def excess_figure(
    times: Sequence[float],
    curves: Mapping[str, Estimate],
    edges: Sequence[float] = OCTAVES,
    *,
    title: str = "",
) -> StaticFigure:
    """Return excess errors by band on a logarithmic axis, one panel for each time.

    Parameters
    ----------
    times : sequence of float
        T of them.
    curves : mapping of str to Estimate
        (T, K) for each arm or model. An end at or below 0 reaches the panel's
        lower edge.
    edges : sequence of float
        The K - 1 edges in cycles per pixel.
    title : str
        Above the panels.
    """
    names = band_names(edges)
    figure = new_figure(3.6 * len(times), 3.4)
    panels = figure.subplots(1, len(times), sharey=True, squeeze=False)[0]
    place = np.arange(len(names))
    values = np.concatenate([found.value.ravel() for found in curves.values()])
    floor = values[values > 0].min() / 3
    for i, (axes, t) in enumerate(zip(panels, times, strict=True)):
        for j, (label, found) in enumerate(curves.items()):
            drawn = floored(found[i], floor)
            axes.errorbar(
                place + beside(j, len(curves), 0.1), drawn.value, whiskers(drawn),
                color=colour_of(label, j), label=label, marker=marker_of(j), markersize=5,
                linestyle="none", linewidth=1.2,
            )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xticks(place, [name.replace(" ", "\n", 1) for name in names])
        dress(axes, x="cycles per pixel", y="" if i else "excess / least error", title=f"t = {t:g}")
        axes.set_xlim(-0.5, len(names) - 0.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
