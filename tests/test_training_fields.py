"""The bench of fields: its arms are matched, its statistics known, and its command goes on."""

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

import deco_lab
from deco_lab.config import FIELDS, PRESETS
from deco_lab.evaluation import fields
from deco_lab.models import build
from deco_lab.training.fields import ARMS, main
from deco_lab.training.order import read_order


def test_arms_are_matched_and_differ_in_what_their_names_say():
    orders = {arm: read_order(["--data", "fields", *options]) for arm, options in ARMS.items()}
    counts = []
    for order in orders.values():
        counts.append(sum(p.numel() for p in build(order.model).parameters()))
        assert order.model.hidden_size < 3 * order.model.patch_size**2  # too narrow for a patch
        assert order.model.class_names == FIELDS
    assert max(counts) < 1.01 * min(counts)
    assert orders["deco"].model == orders["no-freqfm"].model == PRESETS["fields"]
    assert orders["dit-v"].model == PRESETS["fields-dit"]
    weights = {arm: order.training.frequency_weight for arm, order in orders.items()}
    assert weights == {**dict.fromkeys(ARMS, 0), "deco": 1, "blind": 1, "patch-8": 1}
    assert orders["dit-x"].model.predicts == "image"


def test_over_seeds_gives_students_interval():
    values = np.random.default_rng(0).normal(3, 1, (5, 2))
    found = fields.over_seeds(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.low, expected.low)
    np.testing.assert_allclose(found.high, expected.high)
    assert np.isnan(fields.over_seeds(values[:1]).low).all()


def test_table_compares_arms_seed_by_seed():
    """One arm is the other plus 1, whatever the seeds do: the difference has no spread."""
    chance = np.random.default_rng(1).random((3, 5, 3, 4))
    arms = {
        "deco": [{"excess": each} for each in chance],
        "other": [{"excess": each + 1} for each in chance],
    }
    text = fields.table(arms)
    assert text.count("1.000 [1.000, 1.000]") == 12
    mean = chance[:, :3, 0].mean((0, 1))
    assert f"{mean[0]:.3f} [" in text


@pytest.mark.slow
def test_main_trains_measures_and_goes_on(tmp_path: Path, capsys):
    out = tmp_path / "bench"
    given = ["--arms", "dit-v", "dit-x", "--seeds", "1", "--steps", "2", "--per-class", "8"]
    main([*given, "--out", str(out)])
    said = capsys.readouterr().out
    assert "t = 0.3, less dit-v" in said
    stored = json.loads((out / "bench.json").read_text())
    assert np.shape(stored["arms"]["dit-x"][0]["excess"]) == (5, 3, 4)
    assert stored["arms"]["dit-x"][0]["paths"] == ["total"]
    assert (out / "bench.png").exists()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    main([*given, "--out", str(out)])
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_main_names_the_log_of_a_training_that_stops(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("deco_lab.training.fields.ARMS", {"deco": ("--preset", "nothing")})
    with pytest.raises(SystemExit, match=r"the training of .*deco-0 stopped, see .*deco-0\.log"):
        main(["--arms", "deco", "--seeds", "1", "--out", str(tmp_path / "bench")])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--seeds 0", "seeds must be at least 1, got 0"),
        ("--arms deco other", "arms must be some of deco, no-freqfm, .*, got deco, other"),
    ],
)
def test_main_says_in_a_sentence_what_is_wrong(line: str, message: str, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    assert re.search(message, capsys.readouterr().err)


def row(values: np.ndarray, spec: str) -> str:
    """Return what several trainings say of each band, as the card writes it."""
    cells = zip(*fields.over_seeds(values), strict=True)
    return " | ".join("{} [{}, {}]".format(*(format(e, spec) for e in ends)) for ends in cells)


def test_card_has_the_table_of_the_bundled_bench():
    card = (files("deco_lab") / "weights" / "fields-bench.md").read_text()
    bench = fields.bundled_bench()
    assert fields.table(bench).rstrip() in card
    assert list(bench) == list(ARMS)
    assert {len(found) for found in bench.values()} == {5}
    for found in bench.values():
        assert {each["settings"]["step"] for each in found} == {1600}
        assert f"| {found[0]['parameters']:,} |" in card
    gains = np.array([found["response"] for found in bench["deco"]])[:, 1]
    by_class = np.array([found["excess"] for found in bench["deco"]])
    for i, t in enumerate(fields.BENCH_TIMES):
        for q, path in enumerate(("direct", "through the DiT")):
            assert f"| {t:g} | {path} | {row(gains[:, i, q], 'z.2f')} |" in card
        wiener = " | ".join(f"{value:.2f}" for value in fields.wiener_response(32)[1, i])
        assert f"| {t:g} | Wiener's filter | {wiener} |" in card
        assert f"| {t:g} | {row(by_class[:, 3, i] - by_class[:, 4, i], '+z.3f')} |" in card


def test_bundled_pair_is_of_the_bench():
    """The bundled weights, rounded, err as the trainings that they are of, field by field."""
    measured = fields.measure(deco_lab.load("fields-dit", device="cpu"), probed=2)
    stored = fields.bundled_bench()["dit-v"][0]
    np.testing.assert_allclose(measured["excess"], stored["excess"], atol=0.02, rtol=0.01)
