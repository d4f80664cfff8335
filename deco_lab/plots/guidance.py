"""What guidance adds, band by band, and what rules of guidance make of pictures.

Shaded bands and error bars are 95% intervals over images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from deco_lab.plots.pictures import show_row
from deco_lab.plots.style import (
    COLOURS,
    GREY,
    TIME,
    array_of,
    band_title,
    colour_of,
    dress,
    floored,
    frequency_ticks,
    guide,
    legend_above,
    line_of,
    marker_of,
    new_figure,
    patch_lines,
    shaded,
    whiskers,
)
from deco_lab.result import Estimate
from deco_lab.spectra import GuidanceSpectrum, band_names

BURNT = to_rgb("#D55E00")
"""The colour of pixels outside [-1, 1]."""

_POWER = "power (white noise is 1)"


def _power_of(spectrum: GuidanceSpectrum, band: int) -> Estimate:
    """Return the power in a band: a lower end of 0 and less is far below, on a logarithmic axis."""
    power = spectrum.power[:, band]
    return floored(power, power.value * 1e-3)


def guidance_curves(spectrum: GuidanceSpectrum, image_power: Any = None) -> Figure:
    """Return power of cond - uncond over t in each band, and below it two cosines.

    Beside the power is that of uncond. The cosine with cond's predicted image tells what guidance
    does to the picture. That with uncond is a test of calibration: a perfect model's is 0 on crops.
    Between the grey lines lie cosines that white noises which have nothing in common reach, on
    average, plus and minus the root of `chance`.

    Parameters
    ----------
    spectrum : GuidanceSpectrum
        From `guidance_spectrum`, K bands.
    image_power : array, optional
        (K,), power per coefficient of real images in each band, drawn dotted.
    """
    names = band_names(spectrum.edges.tolist())
    figure = new_figure(2.4 * len(names) + 0.6, 5)
    rows = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    kinds = (
        ("image_cosine", "cosine with cond's predicted image", COLOURS[0], "-", "o"),
        ("cosine", "cosine with uncond: 0 if calibrated", "black", "--", "s"),
    )
    for band, (upper, lower) in enumerate(rows.T):
        shaded(
            upper, spectrum.times, _power_of(spectrum, band), label="cond - uncond",
            color=COLOURS[1], marker="o",
        )  # fmt: skip
        upper.plot(
            spectrum.times, spectrum.uncond_power[:, band], color="black", linewidth=1.6,
            linestyle="--", label="uncond",
        )  # fmt: skip
        if image_power is not None:
            upper.axhline(
                array_of(image_power)[band], color=GREY, linestyle=":", linewidth=1.4,
                label="real images",
            )  # fmt: skip
        upper.set_yscale("log")
        dress(upper, x="", y="" if band else _POWER, title=band_title(names[band]))
        for sign in (-1, 1):
            level = sign * np.sqrt(spectrum.chance[band])
            lower.axhline(level, color=GREY, linestyle=":", linewidth=1)
        for name, label, color, line, marker in kinds:
            shaded(
                lower, spectrum.times, getattr(spectrum, name)[:, band], label=label, color=color,
                linestyle=line, marker=marker,
            )  # fmt: skip
        dress(lower, x=TIME, y="" if band else "cosine of cond - uncond")
    reach = 1.1 * np.nanmax(np.abs([spectrum.cosine.value, spectrum.image_cosine.value]))
    rows[1, 0].set_ylim(-min(reach, 1.05), min(reach, 1.05))
    legend_above(figure, rows[0, 0])
    rows[1, -1].legend(frameon=False, fontsize=8)
    return figure


def guidance_growth(spectra: Mapping[str, GuidanceSpectrum]) -> Figure:
    """Return power of cond - uncond over t in each band, a colour for each kind of states.

    Parameters
    ----------
    spectra : mapping of str to GuidanceSpectrum
        By what to call the states they were taken at; all with the same bands.
    """
    edges = next(iter(spectra.values())).edges.tolist()
    names = band_names(edges)
    figure = new_figure(2.4 * len(names) + 0.6, 3.2)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for band, axes in enumerate(panels):
        for i, (label, spectrum) in enumerate(spectra.items()):
            shaded(
                axes, spectrum.times, _power_of(spectrum, band), label=label,
                color=colour_of(label, i), marker=marker_of(i), linestyle=line_of(i),
            )  # fmt: skip
        axes.set_yscale("log")
        y = "" if band else "power of cond - uncond"
        dress(axes, x=TIME, y=y, title=band_title(names[band]))
    legend_above(figure, panels[0])
    return figure


def burnt_pixels(images: Any) -> np.ndarray:
    """Return pictures (B, 3, H, W) in [-1, 1], faint grey except for pixels outside [-1, 1].

    A pixel is burnt where any of its channels leaves the range.
    """
    images = array_of(images)
    grey = 0.5 + 0.25 * np.clip(images.mean(1, keepdims=True), -1, 1)
    burnt = (np.abs(images) > 1).any(1, keepdims=True)
    colour = 2 * np.array(BURNT)[:, None, None] - 1
    return np.where(burnt, colour, np.broadcast_to(grey, images.shape))


def _change_axes(axes: Axes, x: str = "frequency (cycles per pixel)", y: str = "") -> None:
    axes.set_xscale("log", base=2)
    frequency_ticks(axes)
    guide(axes, 0)
    dress(axes, x=x, y=y)


def change_curves(
    frequency: Any,
    changes: Mapping[str, Estimate],
    panels: Mapping[str, Sequence[str]],
    *,
    patch_size: int | None = None,
) -> Figure:
    """Return radial power of samples over that of real images, in dB, in panels side by side.

    Parameters
    ----------
    frequency : array
        (R,), the rings in cycles per pixel; the first, DC, has no place on the axis.
    changes : mapping of str to Estimate
        (R,) each, in dB.
    panels : mapping of str to sequence of str
        Which changes to draw in a panel, by its title. What stands in all of them is black.
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
    """
    f = array_of(frequency)[1:]
    everywhere = set.intersection(*(set(names) for names in panels.values()))
    figure = new_figure(3.6 * len(panels), 3.6)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, names) in zip(grid, panels.items(), strict=True):
        shared = [name for name in names if name in everywhere and len(panels) > 1]
        own = [name for name in names if name not in shared]
        for name in names:
            place = (own if name in own else shared).index(name)
            place += place // (len(COLOURS) - 1)  # black, the last, is for what is shared
            color = colour_of(name, place) if name in own else "#000000"
            shaded(axes, f, changes[name][1:], label=name, color=color, linestyle=line_of(place))
        _change_axes(axes)
        patch_lines(axes, patch_size)
        axes.set_title(title, fontsize=10, loc="left", pad=6)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    grid[0].set_ylabel("power over that of crops (dB)")
    return figure


def burn_figure(contrast: Mapping[str, Estimate], clipped: Mapping[str, Estimate]) -> Figure:
    """Return contrast and the share of values outside [-1, 1] for each rule, as points on lines.

    Parameters
    ----------
    contrast : mapping of str to Estimate
        Of a single figure each: rms contrast over that of real images, 1 for equal.
    clipped : mapping of str to Estimate
        Of a single figure each, in [0, 1].
    """
    figure = new_figure(9, 0.9 + 0.28 * len(contrast))
    panels = figure.subplots(1, 2, sharey=True)
    drawn = ((contrast, "rms contrast over that of crops", 1), (clipped, "values outside ±1", 0))
    for axes, (found, x, same) in zip(panels, drawn, strict=True):
        ends = np.array([each.ends for each in found.values()], np.float64).T
        points, places = Estimate(*ends), np.arange(len(found))
        axes.errorbar(
            points.value, places, xerr=whiskers(points), fmt="o",
            color=COLOURS[0], capsize=3, markersize=5, linewidth=1.4,
        )  # fmt: skip
        axes.axvline(same, color=GREY, linestyle=":", linewidth=1)
        dress(axes, x=x, y="")
        axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
        axes.set_yticks(places, list(found))
    panels[0].invert_yaxis()
    return figure


def guided_figure(
    images: Any,
    frequency: Any,
    change: Estimate,
    reference: Estimate,
    title: str,
    *,
    patch_size: int | None = None,
) -> Figure:
    """Return pictures, below them which pixels are burnt, and beside them the change of power.

    Parameters
    ----------
    images : array
        (B, 3, H, W), in [-1, 1] except for what is burnt.
    frequency : array
        (R,), the rings in cycles per pixel, DC first.
    change, reference : Estimate
        (R,), power over that of real images in dB: of these samples, and grey, to compare. The
        axis always reaches from -4 to 8 dB, so that figures of different rules compare.
    title : str
        What made the pictures.
    patch_size : int, optional
        P of a model that draws in patches: the lines m/P of their grid are dashed.
    """
    images = array_of(images)
    count = len(images)
    figure = new_figure(1.2 * count + 4.4, 3.1)
    grid = figure.add_gridspec(2, count + 1, width_ratios=[1] * count + [3])
    for row, (label, shown) in enumerate({"": images, "burnt": burnt_pixels(images)}.items()):
        show_row([figure.add_subplot(grid[row, i]) for i in range(count)], shown, label)
    axes = figure.add_subplot(grid[:, count])
    f = array_of(frequency)[1:]
    axes.plot(
        f, reference.value[1:], color=GREY, linewidth=1.2, linestyle="--", label="no guidance"
    )
    shaded(axes, f, change[1:], label="these samples", color=COLOURS[1])
    _change_axes(axes, y="power over that of crops (dB)")
    patch_lines(axes, patch_size)
    axes.set_ylim(-4, 8)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    these = "this image" if count == 1 else f"these {count} images"
    share = f"{100 * float((np.abs(images) > 1).mean()):.1f}% of the values of {these} outside ±1"
    figure.suptitle(f"{title}: {share}", fontsize=10)
    return figure
