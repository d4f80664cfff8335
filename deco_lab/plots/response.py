"""How much of each band passes through a model, by path, beside what should."""

from typing import Any

import numpy as np

from deco_lab.plots.style import (
    GREY,
    StaticFigure,
    array_of,
    colour_of,
    dress,
    marker_of,
    new_figure,
    whiskers,
)
from deco_lab.spectra import BandResponse, band_names

_PATH_COLOURS = {"direct": "decoder", "through the DiT": "dit", "total": "velocity"}


def response_curves(
    found: BandResponse, reference: Any = None, *, reference_name: str = "Wiener's filter"
) -> StaticFigure:
    """Return the gain of each band by path, one panel for each time, with 95% intervals.

    Parameters
    ----------
    found : BandResponse
        Of a model.
    reference : array, optional
        (T, K), what the total should be; drawn as grey bars.
    reference_name : str
        What to call it.
    """
    names = band_names(tuple(found.edges))
    figure = new_figure(3.4 * len(found.times), 3.4)
    panels = figure.subplots(1, len(found.times), sharey=True, squeeze=False)[0]
    place = np.arange(len(names))
    for i, (axes, t) in enumerate(zip(panels, found.times, strict=True)):
        if reference is not None:
            axes.bar(place, array_of(reference)[i], 0.8, color="0.88", label=reference_name)
        for q, path in enumerate(found.paths):
            gain = found.gain[i, q]
            axes.errorbar(
                place, gain.value, whiskers(gain), label=path, marker=marker_of(q),
                color=colour_of(_PATH_COLOURS[path], q), linewidth=1.4, markersize=5,
            )  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_xticks(place, [name.replace(" ", "\n", 1) for name in names])
        whole = {"predicted": "predicted image", "velocity": "velocity"}[found.of]
        y = "" if i else f"response of the {whole}"
        dress(axes, x="cycles per pixel", y=y, title=f"t = {t:g}")
        axes.grid(visible=False, axis="x")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
