"""What an evaluation found: the spectra of samples beside those of fresh crops."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from deco_lab.plots.style import COLOURS, GREY, array_of, dress, frequency_ticks, new_figure


def evaluation_figure(
    frequency: Any,
    power_ratios: Mapping[str, Any],
    coefficient_ratio: Any,
    *,
    title: str = "",
) -> Figure:
    """Return the power of samples over that of fresh crops, by frequency and by DCT coefficient.

    Above, for each label the mean over classes and, shaded, the range from the lowest class to the
    highest; DC is left out. Below, the coefficients of Y, Cb and Cr.

    Parameters
    ----------
    frequency : array
        (rings,), cycles per pixel.
    power_ratios : mapping of str to array
        (classes, rings) for each label, in dB.
    coefficient_ratio : array
        (3, n, n), of the first label's samples, in dB.
    title : str
        What was evaluated.
    """
    figure = new_figure(9, 6.4)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.15, 1))
    top, bottom = (figure.add_subfigure(place) for place in grid)
    axes = top.subplots()
    frequency = array_of(frequency)[1:]
    for (label, values), colour in zip(power_ratios.items(), COLOURS, strict=False):
        ratio = array_of(values)[:, 1:]
        axes.plot(frequency, ratio.mean(0), color=colour, label=label, linewidth=1.8)
        axes.fill_between(
            frequency, ratio.min(0), ratio.max(0), color=colour, alpha=0.15, linewidth=0
        )
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-12, 12)
    frequency_ticks(axes)
    dress(
        axes,
        x="radial frequency (cycles per pixel)",
        y="power over fresh crops (dB)",
        title=f"{title}: radial power, mean over classes and range of classes".lstrip(": "),
    )
    axes.legend(frameon=False, ncols=3, loc="lower left", fontsize=9)
    panels = bottom.subplots(1, 3)
    ratio = array_of(coefficient_ratio)
    pictures = [
        panel.imshow(r, cmap="RdBu_r", vmin=-10, vmax=10)
        for panel, r in zip(panels, ratio, strict=True)
    ]
    for panel, channel in zip(panels, ("Y", "Cb", "Cr"), strict=True):
        panel.set_title(f"{channel}, by DCT coefficient", fontsize=10, loc="left")
        panel.set_xlabel("horizontal index")
        panel.set_xticks(range(0, ratio.shape[-1], 2))
        panel.set_yticks(range(0, ratio.shape[-1], 2))
    panels[0].set_ylabel("vertical index")
    bar = bottom.colorbar(pictures[0], ax=list(panels), shrink=0.85, extend="both")
    bar.set_label("energy over fresh crops (dB)")
    return figure
