"""The figure of the bench: every value where it belongs."""

import numpy as np

from deco_lab.plots import excess_figure
from deco_lab.spectra import Intervals


def test_excess_figure_draws_each_value_with_its_interval():
    value = np.array([[0.4, 0.1, 0.1, 0.9], [0.2, 0.2, 0.4, -0.1]])
    arms = {"deco": Intervals(value, value - 0.05, value + 0.1), "dit": Intervals(*[value + 1] * 3)}
    figure = excess_figure((0.3, 0.8), arms)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["t = 0.3", "t = 0.8"]
    for i, axes in enumerate(figure.axes):
        line, *_, (bars,) = axes.containers[0]
        np.testing.assert_allclose(np.asarray(line.get_ydata())[:3], value[i, :3])
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends[:3], np.stack([value - 0.05, value + 0.1], -1)[i, :3])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["deco", "dit"]


def test_excess_figure_of_one_training_has_no_bars():
    value = np.full((1, 4), 0.3)
    nothing = np.full_like(value, np.nan)
    figure = excess_figure((0.5,), {"deco": Intervals(value, nothing, nothing)})
    _, *_, (bars,) = figure.axes[0].containers[0]
    assert all(np.ptp(segment[:, 1]) == 0 for segment in bars.get_segments())
