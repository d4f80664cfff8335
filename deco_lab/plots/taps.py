"""The paper's Algorithm 3 as figures: curves at each tap, and maps of t against frequency.

Token maps end at 1 / (2P) cycles per pixel, and what lies above is left blank: there is no token
there. Shaded bands are 95% intervals over images.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deco_lab.plots.style import GREY, colour_of, dress, frequency_ticks, new_figure
from deco_lab.spectra import TapSpectrum, zigzag_order

_RANGE_DB = 60.0
"""Energies this many decibels below the largest are drawn as if they were there."""
_SIDES = (0.7, 1.06)
"""Room beside the lowest and the highest frequency on a logarithmic axis, as factors."""


def _mark_nyquist(axes: Axes, patch_sizes: set[int]) -> None:
    for P in sorted(patch_sizes):
        axes.axvline(0.5 / P, color=GREY, linestyle=":", linewidth=1)
        axes.annotate(
            f"Nyquist of {'tokens' if P > 1 else 'pixels'}", (0.5 / P, 1.01), fontsize=8,
            xycoords=axes.get_xaxis_transform(), ha="right", va="bottom", color=GREY,
        )  # fmt: skip


def tap_curves(
    spectra: Mapping[str, TapSpectrum], t: float | None = None, *, raw: bool = False
) -> Figure:
    """Return the curves of several taps or models: by zigzag index, and by physical frequency.

    The left panel is the paper's Figure 4. Equal index on tokens and on pixels are frequencies P
    times apart, which the right panel tells.

    Parameters
    ----------
    spectra : mapping of str to TapSpectrum
        From `tap_spectrum` or `run_tap_spectrum`.
    t : float, optional
        One of their times; the mean over all when not given.
    raw : bool
        Draw mean squared coefficients, on a logarithmic axis, instead of log(1 + E) / max.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharey=not raw)
    lowest = 1.0
    for i, (label, found) in enumerate(spectra.items()):
        color, row = colour_of(label, i), found.row(t)
        scale = np.log1p(found.energy[row]).max() or 1.0
        n = found.block_size
        for axes, x, name in (
            (left, np.arange(n * n), "energy" if raw else "curve"),
            (right, found.frequency[1:], "radial"),
        ):
            ends = [getattr(found, name + end)[row] for end in ("", "_low", "_high")]
            if name == "energy":
                ends = [_in_zigzag_order(end) for end in ends]
            elif name == "radial":
                ends = [end[1:] if raw else np.log1p(end[1:]) / scale for end in ends]
            value, low, high = ends
            if raw:
                low = np.maximum(low, value / 100)  # an interval may reach below what a log shows
            marker = "o" if axes is right else ""
            axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(
                x, value, color=color, linewidth=1.6, marker=marker, markersize=3,
                label=f"{label} (P = {found.patch_size})",
            )  # fmt: skip
        lowest = min(lowest, float(found.frequency[1]))
    y = "mean squared coefficient" if raw else "log(1 + E) / max"
    when = "mean over t" if t is None else f"t = {t:g}"
    dress(
        left,
        x="DCT coefficient (zigzag index)",
        y=y,
        title=f"by index, each on its own grid, {when}",
    )
    dress(right, x="frequency (cycles per pixel)", y="", title="by physical frequency, without DC")
    right.set_xscale("log", base=2)
    right.set_xlim(lowest * _SIDES[0], 0.5 * _SIDES[1])
    _mark_nyquist(right, {found.patch_size for found in spectra.values()})
    frequency_ticks(right)
    if raw:
        left.set_yscale("log")
        right.set_yscale("log")
    else:
        left.set_ylim(0, 1.03)
    left.legend(frameon=False, fontsize=8)
    return figure


def _in_zigzag_order(energy: np.ndarray) -> np.ndarray:
    return energy.ravel()[list(zigzag_order(energy.shape[-1]))]


def tap_maps(spectra: Mapping[str, TapSpectrum]) -> Figure:
    """Return maps of raw energy over t and physical frequency, one panel for each label.

    Each panel has its own range of decibels, 60 at most below its largest energy without DC; the
    frequency axis is the same for all. Above the Nyquist frequency of a token map it is hatched.

    Parameters
    ----------
    spectra : mapping of str to TapSpectrum
        From `tap_spectrum` or `run_tap_spectrum`, of two times or more.
    """
    figure = new_figure(3.6 * len(spectra) + 0.6, 3.6)
    panels = figure.subplots(1, len(spectra), sharey=True, squeeze=False)[0]
    lowest = min(float(found.frequency[1]) for found in spectra.values())
    for i, (axes, (label, found)) in enumerate(zip(panels, spectra.items(), strict=True)):
        energy = found.radial[:-1, 1:].T  # (R - 1, T)
        top = energy.max() or 1.0
        decibel = 10 * np.log10(np.maximum(energy, top * 10 ** (-_RANGE_DB / 10)))
        image = axes.pcolormesh(
            _borders(found.times), _borders(found.frequency[1:], found.frequency[-1]), decibel,
            cmap="cividis", rasterized=True,
        )  # fmt: skip
        axes.set_yscale("log", base=2)
        axes.set_ylim(lowest * _SIDES[0], 0.5)
        if found.patch_size > 1:
            axes.axhspan(
                found.frequency[-1],
                0.5,
                facecolor="white",
                edgecolor="0.8",
                hatch="//",
                linewidth=0,
            )
            axes.text(
                0.5, 0.75, f"beyond the token grid\n(above 1/{2 * found.patch_size})", fontsize=8,
                transform=axes.transAxes, ha="center", color=GREY,
                bbox={"facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
        y = "" if i else "frequency (cycles per pixel)"
        dress(axes, x="t (0 noise, 1 image)", y=y, title=label)
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes)
        bar.ax.set_title("dB", fontsize=9)
    figure.suptitle("mean squared coefficient; white noise of variance 1 is 0 dB", fontsize=9)
    low, high = panels[0].get_ylim()
    octaves = [2.0**-k for k in range(1, 13) if low <= 2.0**-k <= high]
    panels[0].set_yticks(octaves, [f"1/{round(1 / octave)}" for octave in octaves])
    return figure


def _borders(centres: np.ndarray, most: float = 1.0) -> np.ndarray:
    """Return the borders of cells around rising centres, half way between; at most `most`."""
    if len(centres) < 2:
        raise ValueError(f"a map over t needs two times at least, got {len(centres)}; use curves")
    between = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - between[0], 2 * centres[-1] - between[-1]
    return np.concatenate([[max(first, 0)], between, [min(last, most)]])
