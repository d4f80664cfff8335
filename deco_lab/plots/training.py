"""A model that is trained: its losses by step, and its samples' spectra beside fresh crops'."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deco_lab.plots.style import (
    GREY,
    array_of,
    colour_of,
    dress,
    frequency_ticks,
    line_of,
    new_figure,
    patch_lines,
    plain_ticks,
)


def loss_curve(steps: Any, losses: Mapping[str, Any], *, smoothing: int = 15) -> Figure:
    """Return training losses on a logarithmic axis, faint as measured and strong when smoothed.

    Parameters
    ----------
    steps : array
        (T,), the step of each measurement.
    losses : mapping of str to array
        (T,) for each loss, above 0.
    smoothing : int
        Measurements that `smooth` averages, an odd number.
    """
    steps = array_of(steps)
    figure = new_figure(6.5, 3.6)
    axes = figure.subplots()
    for i, (label, values) in enumerate(losses.items()):
        loss = array_of(values)
        colour = colour_of(label, i)
        axes.plot(steps, loss, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(
            steps, smooth(loss, smoothing), color=colour, linestyle=line_of(i), linewidth=1.8,
            label=label,
        )  # fmt: skip
    axes.set_yscale("log")
    plain_ticks(axes.yaxis)
    dress(axes, x="training step", y="loss")
    axes.legend(frameon=False, fontsize=9)
    return figure


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return values (T,), all above 0, smoothed over windows of `width` on a logarithmic axis.

    Each value becomes that of a line fitted to the logarithms around it: in the middle the
    geometric mean of a centred window, at both ends no hook. So the curve does not lag, and an
    exponential decay stays what it is. (A running mean lies far above a loss that falls fast.)
    """
    logs, reach = np.log(values), width // 2
    smoothed = np.empty(len(logs))
    for i in range(len(logs)):
        window = slice(max(0, i - reach), i + reach + 1)
        place = np.arange(len(logs))[window] - i
        centred = place - place.mean()
        slope = centred @ logs[window] / max(centred @ centred, 1)
        smoothed[i] = logs[window].mean() - slope * place.mean()
    return np.exp(smoothed)


def evaluation_figure(
    frequency: Any,
    power_ratios: Mapping[str, Any],
    coefficient_ratio: Any,
    *,
    title: str = "",
    patch_size: int | None = None,
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
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
    """
    figure = new_figure(9, 6.4)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.15, 1))
    top, bottom = (figure.add_subfigure(place) for place in grid)
    axes = top.subplots()
    frequency = array_of(frequency)[1:]
    for i, (label, values) in enumerate(power_ratios.items()):
        ratio, colour = array_of(values)[:, 1:], colour_of(label, i)
        axes.plot(
            frequency, ratio.mean(0), color=colour, linestyle=line_of(i), label=label,
            linewidth=1.8,
        )  # fmt: skip
        axes.fill_between(
            frequency, ratio.min(0), ratio.max(0), color=colour, alpha=0.15, linewidth=0
        )
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-12, 12)
    frequency_ticks(axes)
    patch_lines(axes, patch_size)
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
