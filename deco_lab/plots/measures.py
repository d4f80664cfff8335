"""The three measures of who draws which frequencies, side by side: response, parts, readout.

Shaded bands are 95% intervals over groups of images.
"""

import numpy as np
from matplotlib.figure import Figure

from deco_lab.plots.style import (
    PART_COLOURS,
    TIME,
    WHOLES,
    as_percent,
    band_title,
    colour_of,
    dress,
    guide,
    limit_shares,
    new_figure,
    note_below,
    shaded,
    title_of,
)
from deco_lab.spectra import BandEffects, BandResponse, LinearReadout, band_names

_PATH_COLOURS = {
    "direct": PART_COLOURS["pixels_main"],
    "through the DiT": PART_COLOURS["condition_main"],
    "total": "#000000",
}
_SOURCE_COLOURS = {
    "pixels": PART_COLOURS["pixels_main"],
    "condition": PART_COLOURS["condition_main"],
    "tokens": PART_COLOURS["condition_main"],
}
_TARGET_LINES = {"predicted": "-", "image": "--", "noise": ":"}
_TARGET_TITLES = {"predicted": "predicted image", "image": "true image", "noise": "noise"}


def measures_figure(
    response: BandResponse, readout: LinearReadout, effects: BandEffects | None = None
) -> Figure:
    """Return three rows of curves over t, a column for each band: all of one model.

    Above, how a wave of the noisy image passes to the answer, by path; then each part's share of
    the predicted image; below, what a linear map reads from the tokens and from the noisy pixels.

    Parameters
    ----------
    response : BandResponse
        From `band_response`.
    readout : LinearReadout
        From `linear_readout`; its bands are the columns, and the lowest holds the patches' means.
    effects : BandEffects, optional
        From `band_effects`; a model without a pixel decoder has no parts, and two rows.

    Raises
    ------
    ValueError
        Where one of the others lacks a band of the readout.
    """
    names = band_names(readout.edges.tolist())
    for other in (response, effects):
        missing = set(names) - set(band_names(other.edges.tolist())) if other else set()
        if missing:
            raise ValueError(
                f"response and effects must have every band of the readout, got none "
                f"{', '.join(sorted(missing))}; give all three the same edges, or those and 0"
            )
    count = 3 if effects else 2
    figure = new_figure(2.3 * len(names) + 2.6, 2.1 * count + 0.7)
    rows = figure.subplots(count, len(names), sharex=True, sharey="row", squeeze=False)
    for column, name in enumerate(names):
        at = band_names(response.edges.tolist()).index(name)
        for q, path in enumerate(response.paths):
            shaded(
                rows[0, column], response.times, response.gain[:, q, at],
                color=_PATH_COLOURS[path], marker="o", label=path,
            )  # fmt: skip
        if effects:
            at = band_names(effects.edges.tolist()).index(name)
            for i, part in enumerate(effects.parts):
                shaded(
                    rows[1, column], effects.times, effects.predicted[:, i, at],
                    color=colour_of(part, i), marker="o", label=title_of(part),
                )  # fmt: skip
        for s, source in enumerate(readout.sources):
            for target, line in _TARGET_LINES.items():
                if source in _SOURCE_COLOURS:
                    q = readout.targets.index(target)
                    shaded(
                        rows[-1, column], readout.times, readout.r2[:, s, q, column],
                        color=_SOURCE_COLOURS[source], linestyle=line, marker="o",
                        label=f"{_TARGET_TITLES[target]}, from {source}",
                    )  # fmt: skip
    said = [
        f"gain of the {WHOLES[response.of]}",
        "share of the\npredicted image",
        "R² of a readout",
    ]
    for i, (panels, label) in enumerate(zip(rows, said if effects else said[::2], strict=True)):
        for column, axes in enumerate(panels):
            guide(axes, 0)
            dress(
                axes,
                x=TIME if i == count - 1 else "",
                y="" if column else label,
                title="" if i else band_title(names[column]),
            )
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    if effects:
        as_percent(rows[1, 0].yaxis)
        limit_shares(rows[1, 0], effects.predicted.value[:, :, -len(names) :])
        note_below(figure, [effects.unshared()])
    limit_shares(rows[-1, 0], np.clip(readout.r2.value, -0.1, 1))
    return figure
