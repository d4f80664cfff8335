from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deco_lab.plots import measures_figure
from deco_lab.spectra import MEAN_AND_OCTAVES, OCTAVES, BandEffects, BandResponse, LinearReadout

TIMES, K = np.array([0.1, 0.5, 0.9]), len(OCTAVES) + 1
RNG = np.random.default_rng(0)


def around(name: str, *shape: int) -> dict[str, Any]:
    value = RNG.uniform(0, 1, shape)
    return {name: value, f"{name}_low": value - 0.05, f"{name}_high": value + 0.1}


def response(paths: tuple[str, ...] = ("direct", "through the DiT", "total")) -> BandResponse:
    fields = [around(name, 3, len(paths), K + 1) for name in ("gain", "leaving", "linear")]
    edges = np.array(MEAN_AND_OCTAVES)
    return BandResponse(
        times=TIMES, edges=edges, paths=paths, of="predicted", count=9,
        **fields[0], **fields[1], **fields[2],
    )  # fmt: skip


def effects() -> BandEffects:
    rest = {
        f"{whole}_{name}": np.ones((3, K + 1))
        for whole in ("predicted", "velocity")
        for name in ("energy", "cancellation")
    }
    return BandEffects(
        times=TIMES, edges=np.array(MEAN_AND_OCTAVES), count=9, **rest,
        **around("predicted", 3, 4, K + 1), **around("velocity", 3, 4, K + 1),
    )  # fmt: skip


def readout(tokens: str = "condition") -> LinearReadout:
    return LinearReadout(
        times=TIMES, edges=np.array(OCTAVES), sources=(tokens, "pixels", "both", "shuffled"),
        count=9, **around("r2", 3, 4, 4, K),
    )  # fmt: skip


def curves(axes: Any) -> dict[str, np.ndarray]:
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines}
    return {label: y for label, y in lines.items() if not label.startswith("_")}


def test_measures_figure_draws_each_measure_of_each_band():
    one, parts, read = response(), effects(), readout()
    figure = measures_figure(one, read, parts)
    rows = np.array(figure.axes).reshape(3, K)
    for band in range(K):
        drawn = curves(rows[0, band])
        assert list(drawn) == list(one.paths)
        np.testing.assert_array_equal(drawn["direct"], one.gain[:, 0, band + 1])  # but the mean
        shares = curves(rows[1, band])["main effect of the condition"]
        np.testing.assert_array_equal(shares, parts.predicted[:, 1, band + 1])
        drawn = curves(rows[2, band])
        assert len(drawn) == 6
        np.testing.assert_array_equal(
            drawn["noise, from pixels"], read.r2[:, 1, read.targets.index("noise"), band]
        )
    assert rows[0, 0].get_title("left") == "below 1/16 cycles per pixel"
    assert "predicted image" in rows[0, 0].get_ylabel()
    assert rows[2, 3].get_xlabel() == "t (0 noise, 1 image)"
    figure._repr_png_()  # type: ignore[attr-defined]


def test_measures_figure_of_a_model_without_a_decoder_has_no_parts():
    figure = measures_figure(response(("total",)), readout("tokens"))
    assert len(figure.axes) == 2 * K
    assert list(curves(figure.axes[0])) == ["total"]
    assert "predicted image, from tokens" in curves(figure.axes[-1])


def test_measures_figure_says_where_parts_cancel():
    parts = replace(effects(), predicted_cancellation=np.full((3, K + 1), 3.0))
    assert "the parts cancel" in measures_figure(response(), readout(), parts).get_supxlabel()


def test_measures_figure_refuses_other_bands():
    with pytest.raises(ValueError, match=r"every band of the readout, got none .*above 1/4"):
        measures_figure(replace(response(), edges=np.array([0.0, 1 / 8])), readout())
