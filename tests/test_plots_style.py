from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_plots_guidance import FREQUENCY, some_change
from test_plots_parts import some_detail, some_transfer
from test_plots_taps import drawn, spectrum

from deco_lab.plots import (
    change_curves,
    dct_curves,
    detail_curves,
    evaluation_figure,
    guided_figure,
    tap_curves,
    tap_maps,
    transfer_curves,
)
from deco_lab.plots.style import PATCH_LINE

ENERGY = np.ones((8, 8))
IMAGES = np.zeros((2, 3, 4, 4))
RINGS = np.arange(33) / 64
SPECTRA: dict[str, tuple[Callable[..., Figure], tuple[Any, ...]]] = {
    "change": (change_curves, (FREQUENCY, {"plain": some_change()}, {"one": ["plain"]})),
    "dct": (dct_curves, ({"image": ENERGY},)),
    "detail": (detail_curves, (some_detail(), 0.5)),
    "evaluation": (evaluation_figure, (RINGS, {"tiny": np.ones((2, 33))}, np.ones((3, 8, 8)))),
    "guided": (guided_figure, (IMAGES, FREQUENCY, some_change(), some_change(), "plain")),
    "maps": (tap_maps, ({"image": spectrum(1)},)),
    "taps": (tap_curves, ({"image": spectrum(1)},)),
    "transfer": (transfer_curves, (some_transfer(), 0.5)),
}


def marked(figure: Figure) -> list[list[float]]:
    """Return the frequencies marked in each panel that has any."""
    found = []
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_color() == PATCH_LINE]
        upright = axes.get_ylabel() != "frequency (cycles per pixel)"
        ends = [np.asarray(line.get_xdata() if upright else line.get_ydata()) for line in lines]
        found.append([float(end[0]) for end in ends])
        assert all(np.ptp(end) == 0 for end in ends)
    return [lines for lines in found if lines]


@pytest.mark.parametrize("name", SPECTRA)
def test_spectra_mark_the_lines_of_a_patch_grid_on_request(name: str):
    draw, arguments = SPECTRA[name]
    assert not marked(draw(*arguments))
    figure = draw(*arguments, patch_size=8)
    panels = marked(figure)
    assert panels
    for lines in panels:
        assert set(lines) >= {1 / 4, 3 / 8}
        assert set(lines) <= {1 / 8, 1 / 4, 3 / 8, 1 / 2}
    drawn(figure)
    with pytest.raises(ValueError, match="patch_size must be at least 2, got 1"):
        draw(*arguments, patch_size=1)
