from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from deco_lab.plots import split_curves
from deco_lab.spectra import BandEffects

TIMES = np.array([0.2, 0.5, 0.8])


def some_effects(seed: int) -> BandEffects:
    shares = np.random.default_rng(seed).uniform(0, 1, (2, 3, 4, 2))
    energy = np.ones((3, 2))
    return BandEffects(
        times=TIMES,
        edges=np.array([0.25]),
        velocity=shares[0],
        velocity_low=shares[0] - 0.1,
        velocity_high=shares[0] + 0.2,
        velocity_energy=energy,
        predicted=shares[1],
        predicted_low=shares[1] - 0.1,
        predicted_high=shares[1] + 0.2,
        predicted_energy=energy,
        count=5,
        recipe={},
    )


def lines_of(figure: Figure, panel: int) -> dict[str, np.ndarray]:
    """Return the drawn curves of a panel by label, without the guides."""
    curves = {str(line.get_label()): line for line in figure.axes[panel].lines}
    return {k: np.asarray(v.get_ydata()) for k, v in curves.items() if not k.startswith("_")}


@pytest.mark.parametrize("whole", ["predicted", "velocity"])
def test_split_curves_draws_the_highest_band_of_each_model(whole: str):
    effects = {"mine": some_effects(0), "tiny": some_effects(1)}
    figure = split_curves(effects, whole=whole)
    for panel, part in enumerate(("dit", "pixels")):
        drawn = lines_of(figure, panel)
        assert list(drawn) == ["mine", "tiny"]
        for label, one in effects.items():
            expected = getattr(one, whole)[:, one.parts.index(part), -1]
            np.testing.assert_allclose(drawn[label], expected)
    figure._repr_png_()  # type: ignore[attr-defined]


def test_split_curves_shades_the_intervals():
    one = some_effects(2)
    figure = split_curves({"mine": one})
    for panel, part in enumerate(("dit", "pixels")):
        (band,) = figure.axes[panel].collections
        corners = np.asarray(band.get_paths()[0].vertices)
        at = one.parts.index(part)
        for k, t in enumerate(TIMES):
            ys = corners[np.isclose(corners[:, 0], t), 1]
            assert ys.min() == pytest.approx(one.predicted_low[k, at, -1])
            assert ys.max() == pytest.approx(one.predicted_high[k, at, -1])


def test_split_curves_says_band_whole_and_unit():
    figure = split_curves({"mine": some_effects(0)})
    label = figure.axes[0].get_ylabel()
    assert "predicted image" in label
    assert "1/4" in label
    assert "cycles per pixel" in label
    assert all("t (0 noise" in axes.get_xlabel() for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine"]


def test_split_curves_refuses_other_bands_and_wholes():
    one = some_effects(0)
    other = replace(one, edges=np.array([0.125]))
    with pytest.raises(ValueError, match="same highest band, got"):
        split_curves({"mine": one, "other": other})
    with pytest.raises(ValueError, match="got none"):
        split_curves({})
    with pytest.raises(ValueError, match="got 'image'"):
        split_curves({"mine": one}, whole="image")
