"""The paper's Algorithm 3 as figures: energies, curves at each tap, and maps of t by frequency.

Token maps end at 1 / (2P) cycles per pixel, and what lies above is left blank: there is no token
there. Shaded bands are 95% intervals over images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deco_lab.plots.style import (
    GREY,
    array_of,
    colour_of,
    dress,
    floored,
    frequency_ticks,
    line_of,
    marker_of,
    new_figure,
    patch_lines,
    shaded,
    title_of,
)
from deco_lab.result import Estimate
from deco_lab.spectra import TapSpectrum, log_energy, zigzag_order

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
    spectra: Mapping[str, TapSpectrum],
    t: float | None = None,
    *,
    raw: bool = False,
    patch_size: int | None = None,
) -> Figure:
    """Return the curves of several taps or models: by zigzag index, and by physical frequency.

    The left panel is the paper's Figure 4. Equal index on tokens and on pixels are frequencies P
    times apart, which the right panel tells.

    Parameters
    ----------
    spectra : mapping of str to TapSpectrum
        From `tap_spectrum`.
    t : float, optional
        One of their times; the mean over all when not given.
    raw : bool
        Draw mean squared coefficients, on a logarithmic axis, instead of log(1 + E) / max. One
        that is not above 0, as where noise was taken out of little, is a gap.
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharey=not raw)
    lowest = 1.0
    for i, (label, found) in enumerate(spectra.items()):
        n, row = found.block_size, found.row(t)
        by_index, by_frequency = found.curve[row], found.radial_curve[row, 1:]
        if raw:
            by_index = _shown(Estimate(*map(_in_zigzag_order, found.energy[row].ends)))
            by_frequency = _shown(found.radial[row, 1:])
        for axes, x, drawn, marker in (
            (left, np.arange(n * n), by_index, ""),
            (right, found.frequency[1:], by_frequency, marker_of(i)),
        ):
            shaded(
                axes, x, drawn, color=colour_of(label, i), linestyle=line_of(i),
                marker=marker, label=f"{label} (P = {found.patch_size})",
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
    patch_lines(right, patch_size)
    if raw:
        left.set_yscale("log")
        right.set_yscale("log")
    else:
        left.set_ylim(0, 1.03)
    left.legend(frameon=False, fontsize=8)
    return figure


def dct_curves(
    energies: Mapping[str, Any],
    *,
    patch_sizes: Mapping[str, int] | None = None,
    raw: bool = False,
    patch_size: int | None = None,
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
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
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
            curve = _in_zigzag_order(energy)
            ring_curve = ring_energy
        else:
            curve = log_energy(torch.from_numpy(energy)).numpy()
            ring_curve = np.log1p(ring_energy) / (np.log1p(energy).max() or 1)
        name = title_of(label) + (f" (tokens of {P} x {P} pixels)" if P > 1 else "")
        style: dict[str, Any] = {"color": colour_of(label, i), "linestyle": line_of(i)}
        left.plot(np.arange(n * n), curve, linewidth=1.6, label=name, **style)
        right.plot(
            rings / (2 * n * P), ring_curve, linewidth=1.6, marker=marker_of(i), markersize=3,
            label=name, **style,
        )  # fmt: skip
    y = "mean squared coefficient" if raw else "log(1 + E) / max"
    dress(left, x="DCT coefficient (zigzag index)", y=y, title="by index, each on its own grid")
    dress(right, x="frequency (cycles per pixel)", y="", title="by physical frequency")
    right.set_xscale("log", base=2)
    _mark_nyquist(right, {patch_sizes.get(label, 1) for label in energies})
    frequency_ticks(right)
    patch_lines(right, patch_size)
    if raw:
        left.set_yscale("log")
    left.legend(frameon=False, fontsize=9)
    return figure


def _ring_means(energy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rounded radii 1, 2, ... of DCT indices up to Nyquist, and the mean energy at each."""
    n = energy.shape[-1]
    radius = np.rint(np.hypot(*np.mgrid[:n, :n])).astype(int)
    rings = np.unique(radius[(radius > 0) & (radius <= n)])
    return rings, np.array([energy[radius == ring].mean() for ring in rings])


def _shown(found: Estimate) -> Estimate:
    """Return an estimate for a logarithmic axis, which shows no low ends and no values below 0."""
    value = np.asarray(found.value)
    return floored(found, np.where(value > 0, value / 100, np.nan))


def _in_zigzag_order(energy: np.ndarray) -> np.ndarray:
    return energy.ravel()[list(zigzag_order(energy.shape[-1]))]


def tap_maps(spectra: Mapping[str, TapSpectrum], *, patch_size: int | None = None) -> Figure:
    """Return maps of raw energy over t and physical frequency, one panel for each label.

    Each panel has its own range of decibels, 60 at most below its largest energy without DC; the
    frequency axis is the same for all. Above the Nyquist frequency of a token map it is hatched.

    Parameters
    ----------
    spectra : mapping of str to TapSpectrum
        From `tap_spectrum`, of two times or more.
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
    """
    figure = new_figure(3.6 * len(spectra) + 0.6, 3.6)
    panels = figure.subplots(1, len(spectra), sharey=True, squeeze=False)[0]
    lowest = min(float(found.frequency[1]) for found in spectra.values())
    for i, (axes, (label, found)) in enumerate(zip(panels, spectra.items(), strict=True)):
        energy = found.radial.value[:-1, 1:].T  # (R - 1, T)
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
        patch_lines(axes, patch_size, vertical=True)
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
