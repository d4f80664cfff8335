"""Models beside each other: what part supplies how much of the picture's fine detail, over t.

A model of one's own stands beside a known one and beside random weights, which are the control.
Shaded bands are 95% intervals over images.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from deco_lab.plots.style import COLOURS, GREY, dress, new_figure
from deco_lab.spectra import BandEffects, band_names

_PANELS = {"dit": "by the DiT's condition", "pixels": "by the pixel path"}
_WHOLES = {"velocity": "velocity", "predicted": "predicted image"}
_STYLES = ("-", "--", ":", "-.")


def split_curves(effects: Mapping[str, BandEffects], *, whole: str = "predicted") -> Figure:
    """Return what DiT and pixel path supply of the highest band over t, a line for each model.

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
    if whole not in _WHOLES:
        raise ValueError(f"whole must be one of {', '.join(_WHOLES)}, got {whole!r}")
    bands = {band_names(one.edges.tolist())[-1] for one in effects.values()}
    if len(bands) != 1:
        raise ValueError(
            "effects must hold one model or more, all of the same highest band, got "
            f"{', '.join(sorted(bands)) or 'none'}; give band_effects the same edges"
        )
    figure = new_figure(9, 3.7)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (part, title) in zip(panels, _PANELS.items(), strict=True):
        for end in (0, 1):
            axes.axhline(end, color=GREY, linestyle=":", linewidth=1)
        for i, (label, one) in enumerate(effects.items()):
            at = one.parts.index(part)
            value, low, high = (
                getattr(one, whole + end)[:, at, -1] for end in ("", "_low", "_high")
            )
            color = COLOURS[i % len(COLOURS)]
            axes.fill_between(one.times, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(
                one.times, value, color=color, linestyle=_STYLES[i % len(_STYLES)],
                marker="o", markersize=4, linewidth=1.6, label=label,
            )  # fmt: skip
        dress(axes, x="t (0 noise, 1 image)", y="", title=title)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].set_ylabel(f"share of the {_WHOLES[whole]}\n{bands.pop()} cycles per pixel")
    values = [getattr(one, whole)[:, :, -1] for one in effects.values()]
    shown = np.concatenate(
        [v[:, [one.parts.index(part) for part in _PANELS]].ravel()
         for v, one in zip(values, effects.values(), strict=True)]
    )  # fmt: skip
    panels[0].set_ylim(
        max(-1.5, min(np.nanmin(shown), 0) - 0.1), min(2.0, max(np.nanmax(shown), 1) + 0.1)
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=9
    )
    return figure
