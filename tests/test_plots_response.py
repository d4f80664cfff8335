"""The figure of responses: every gain where it belongs."""

from typing import cast

import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer

from deco_lab.plots import response_curves
from deco_lab.spectra import OCTAVES, BandResponse, band_response


@pytest.fixture(scope="module")
def found() -> BandResponse:
    class Halves:
        def condition(self, x, t, class_ids):
            return x.mean((2, 3), keepdim=True)

        def decode(self, x, condition):
            return condition - 0.5 * x

        def __call__(self, x, t, class_ids):
            return self.decode(x, self.condition(x, t, class_ids))

    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return band_response(Halves(), images, [0, 0, 0], times=(0.2, 0.6), edges=OCTAVES)


def test_response_curves_draw_each_path_and_the_reference(found):
    reference = np.array([[1.0, 0.5, 0.2, 0.1], [1.0, 0.7, 0.3, 0.2]])
    figure = response_curves(found, reference)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["t = 0.2", "t = 0.6"]
    for i, axes in enumerate(figure.axes):
        bars = cast(BarContainer, axes.containers[0])
        np.testing.assert_allclose(np.array(bars.datavalues, np.float64), reference[i])
        curves = [container[0].get_ydata() for container in axes.containers[1:]]
        np.testing.assert_allclose(curves, found.gain[i])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Wiener's filter", "direct", "through the DiT", "total"]
    assert not response_curves(found).axes[0].patches
