"""Curves and bars: energy by frequency, shares by band, loss by step.

DC has no place on a logarithmic frequency axis and is left out there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from deco_lab.plots.style import (
    GREY,
    array_of,
    colour_of,
    dress,
    frequency_ticks,
    new_figure,
    plain_ticks,
    title_of,
)
from deco_lab.spectra import RadialPower, band_names, log_energy, zigzag_order


def _ring_means(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rounded radii 1, 2, ... of DCT indices up to Nyquist, and the mean energy at each."""
    n = energy.shape[-1]
    radius = np.rint(np.hypot(*np.mgrid[:n, :n])).astype(int)
    rings = np.unique(radius[(radius > 0) & (radius <= n)])
    return rings, np.array([energy[radius == ring].mean() for ring in rings])


def dct_curves(
    energies: Mapping[str, Any],
    *,
    patch_sizes: Mapping[str, int] | None = None,
    raw: bool = False,
) -> Figure:
    """Return DCT energies by zigzag index and, beside it, by physical frequency.

    The left panel is the paper's Figure 4. Equal index on tokens and on pixels are frequencies P
    times apart, which the right panel tells: there, coefficients of about equal radial frequency
    are averaged, up to the Nyquist frequency of each grid, which is dotted.

    Parameters
    ----------
    energies : mapping of str to array
        (n, n) for each label, from `dct_energy`.
    patch_sizes : mapping of str to int, optional
        For a label whose energy is that of a token map, its patch size in pixels; 1 for others.
    raw : bool
        Draw the mean squared coefficients themselves, on a logarithmic axis, instead of the
        paper's log(1 + E) / max.
    """
    patch_sizes = patch_sizes or {}
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    for i, (label, values) in enumerate(energies.items()):
        energy = array_of(values)
        n = energy.shape[-1]
        rings, ring_energy = _ring_means(energy)
        P = patch_sizes.get(label, 1)
        if raw:
            curve = energy.ravel()[list(zigzag_order(n))]
            ring_curve = ring_energy
        else:
            curve = log_energy(torch.from_numpy(energy)).numpy()
            ring_curve = np.log1p(ring_energy) / (np.log1p(energy).max() or 1)
        name = title_of(label) + (f" (tokens of {P} x {P} pixels)" if P > 1 else "")
        style: dict[str, Any] = {"color": colour_of(label, i), "linewidth": 1.6}
        left.plot(np.arange(n * n), curve, label=name, **style)
        right.plot(rings / (2 * n * P), ring_curve, marker="o", markersize=3, label=name, **style)
    y = "mean squared coefficient" if raw else "log(1 + E) / max"
    dress(left, x="DCT coefficient (zigzag index)", y=y, title="by index, each on its own grid")
    dress(right, x="frequency (cycles per pixel)", y="", title="by physical frequency")
    right.set_xscale("log", base=2)
    for P in sorted({patch_sizes.get(label, 1) for label in energies}):
        right.axvline(0.5 / P, color=GREY, linestyle=":", linewidth=1)
        grid = "tokens" if P > 1 else "pixels"
        right.annotate(
            f"Nyquist of {grid}", (0.5 / P, 1.01), xycoords=right.get_xaxis_transform(),
            ha="center", va="bottom", fontsize=8, color=GREY,
        )  # fmt: skip
    frequency_ticks(right)
    if raw:
        left.set_yscale("log")
    left.legend(frameon=False, fontsize=9)
    return figure


def radial_curves(powers: Mapping[str, RadialPower]) -> Figure:
    """Return radial power against frequency, both logarithmic; white noise of variance 1 is 1."""
    figure = new_figure(5.5, 3.6)
    axes = figure.subplots()
    for i, (label, radial) in enumerate(powers.items()):
        axes.plot(
            array_of(radial.frequency)[1:],
            array_of(radial.power)[1:],
            color=colour_of(label, i),
            linewidth=1.6,
            label=title_of(label),
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.axhline(1, color=GREY, linestyle=":", linewidth=1)
    dress(axes, x="frequency (cycles per pixel)", y="power (white noise of variance 1 is 1)")
    frequency_ticks(axes)
    axes.legend(frameon=False, fontsize=9)
    return figure


def band_share_bars(shares: Mapping[str, Any], edges: Sequence[float]) -> Figure:
    """Return each part's share of each band at one moment, as bars side by side.

    Parameters
    ----------
    shares : mapping of str to array
        (K,) for each part, from `band_shares`.
    edges : sequence of float
        The K - 1 edges in cycles per pixel that the shares were computed with.
    """
    figure = new_figure(6.5, 3.4)
    axes = figure.subplots()
    names = band_names(edges)
    width = 0.8 / len(shares)
    for i, (label, values) in enumerate(shares.items()):
        places = np.arange(len(names)) + (i - (len(shares) - 1) / 2) * width
        axes.bar(places, array_of(values), width, color=colour_of(label, i), label=title_of(label))
    axes.axhline(0, color="black", linewidth=0.8)
    dress(axes, x="band (cycles per pixel)", y="share of the band")
    axes.set_xticks(range(len(names)), names)
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside upper left", ncols=len(shares), frameon=False, fontsize=9)
    return figure


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
        axes.plot(steps, smooth(loss, smoothing), color=colour, linewidth=1.8, label=label)
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
