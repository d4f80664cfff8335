"""What can be read from the tokens after each block of the DiT."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from deco_lab.palette import LIGHT
from deco_lab.plots.style import (
    dress,
    guide,
    legend_above,
    marker_of,
    new_figure,
    shaded,
)
from deco_lab.result import Estimate
from deco_lab.spectra import LinearReadout, band_names

TITLES = {
    "image": "true image",
    "noise": "noise",
    "predicted": "predicted image",
    "velocity": "velocity",
}


def layer_curves(blocks: Sequence[LinearReadout], target: str = "image") -> Figure:
    """Return R^2 of a target by block, a line with its 95% interval for each band, a panel a time.

    Parameters
    ----------
    blocks : sequence of LinearReadout
        From `layer_readout`, the first block's first.
    target : str
        One of their `targets`.

    Raises
    ------
    ValueError
        For a target that they have not.
    """
    first = blocks[0]
    if target not in first.targets:
        raise ValueError(f"target must be one of {', '.join(first.targets)}, got {target!r}")
    q, names = first.targets.index(target), band_names(first.edges.tolist())
    places = np.arange(1, len(blocks) + 1)
    figure = new_figure(3.2 * len(first.times) + 0.4, 3.4)
    panels = figure.subplots(1, len(first.times), sharey=True, squeeze=False)[0]
    for i, (axes, t) in enumerate(zip(panels, first.times, strict=True)):
        for k, name in enumerate(names):
            ends = np.array([read.r2[i, 0, q, k].ends for read in blocks], float).T
            shaded(
                axes, places, Estimate(*ends), color=LIGHT[f"band-{k % 4}"], marker=marker_of(k),
                label=f"{name} cycles per pixel",
            )  # fmt: skip
        guide(axes, 0)
        axes.set_xticks(places)
        axes.set_ylim(bottom=max(-0.5, axes.get_ylim()[0]), top=1.02)
        said = f"R² of the {TITLES[target]}"
        dress(axes, x="block of the DiT", y="" if i else said, title=f"t = {t:g}")
    legend_above(figure, panels[0], 2)
    return figure
