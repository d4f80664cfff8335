"""What interventions did to final images, band by band.

Error bars are 95% intervals over images.
"""

import numpy as np
from matplotlib.figure import Figure

from deco_lab.plots.style import (
    GREY,
    band_title,
    beside,
    colour_of,
    dress,
    floored,
    legend_above,
    marker_of,
    new_figure,
    whiskers,
)
from deco_lab.spectra import InterventionEffect, band_names

_FLOOR = 1e-3
"""Energies below this part of what they were are drawn as if they were this."""


def intervention_figure(effect: InterventionEffect) -> Figure:
    """Return energy and correlation of the final images by band, conditions against pixels.

    Each panel is one band: above, the energy over that of the images left alone; below, the
    correlation with them. The dotted line is no change. Energies below a thousandth are drawn
    there.

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
    for panels, what in zip(rows, ("energy", "correlation"), strict=True):
        found = floored(effect.energy, _FLOOR) if what == "energy" else effect.correlation
        for band, axes in enumerate(panels):
            axes.axvline(1, color=GREY, linestyle=":", linewidth=1)
            for r, label in enumerate(effect.pixels):
                drawn = found[:, r, band]
                axes.errorbar(
                    drawn.value, np.arange(Q) + beside(r, R), xerr=whiskers(drawn),
                    color=colour_of(label, r), marker=marker_of(r),
                    linestyle="", markersize=4.5, capsize=2, label=f"pixels: {label}",
                )  # fmt: skip
            above = what == "energy"
            title = band_title(names[band], "\n") if above else ""
            x = "energy, left alone is 1" if above else "correlation with left alone"
            dress(axes, x=x, y="", title=title)
            if above:
                axes.set_xscale("log")
            axes.grid(visible=False, axis="y")
    rows[0, 0].set_yticks(range(Q), effect.conditions)
    rows[0, 0].set_ylim(Q - 0.5, -0.5)  # in the order of the names, from above
    rows[1, 0].set_xlim(min(-0.03, np.nanmin(effect.correlation.low) - 0.05), 1.05)
    for axes in rows[:, 0]:
        axes.set_ylabel("condition")
    legend_above(figure, rows[0, 0])
    return figure
