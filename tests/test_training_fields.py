"""The bench of fields: its arms are matched, its statistics known, and its command goes on."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import FIELDS, PRESETS
from deco_lab.data import field_power
from deco_lab.evaluation import fields
from deco_lab.models import build
from deco_lab.spectra.bootstrap import over_seeds
from deco_lab.training.fields import ARMS, _measured, main
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


class Means:
    """Tokens are the sums over patches of x, over 8: of each channel one coefficient of its DCT."""

    config = SimpleNamespace(image_size=32, patch_size=8, num_classes=5)

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return -x

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return 8 * F.avg_pool2d(x, 8).flatten(2).mT


def test_tokens_hold_what_the_means_of_patches_do():
    found = fields.tokens_hold(Means(), 128)
    box = torch.fft.fft2(F.pad(torch.full((8, 8), 1 / 8).double(), (0, 24, 0, 24))).abs().square()
    for label in fields.GAUSSIAN:
        mean = float((box * field_power(label, 32)).mean())  # of the image; that of noise is 1
        for i, t in enumerate(fields.BENCH_TIMES):
            noise = (1 - t) ** 2 / ((1 - t) ** 2 + t**2 * mean)
            assert found["noise_read"][label][i][0] == pytest.approx(noise, abs=0.03)
            assert found["image_read"][label][i][0] == pytest.approx(1 - noise, abs=0.03)
            assert found["noise_share"][label][i] == pytest.approx(noise, abs=0.03)
            np.testing.assert_allclose(found["noise_read"][label][i][1:], 0, atol=0.02)
    copied = -np.diff(found["algorithm_3"], axis=0)[0, :, 1:, 1:]  # white, and little else is there
    power = [(1 - t) ** 2 for t in fields.BENCH_TIMES]
    np.testing.assert_allclose(copied.mean((1, 2)), power, atol=0.04)
    fine = fields.fine_share([found])[0]
    assert (fine[1] < fine[0]).all()
    assert (fine[0] < 8 / 15).all()


def test_fine_share_of_white_tokens_is_that_of_the_coefficients():
    measured = [{"algorithm_3": np.ones((2, 3, 4, 4))}] * 5
    np.testing.assert_allclose(fields.fine_share(measured), 8 / 15)
    assert fields.fine_share(measured).shape == (5, 2, 3)


def test_measured_are_not_measured_again(tmp_path: Path, monkeypatch):
    weights = files("deco_lab") / "weights" / "fields-dit.safetensors"
    shutil.copy(str(weights), tmp_path / "model.safetensors")
    for excess in (1.0, 2.0):
        monkeypatch.setattr(fields, "measure", lambda model, per_class, e=excess: {"excess": e})
        assert _measured(tmp_path, 8)["excess"] == 1.0
    assert _measured(tmp_path, 9)["excess"] == 2.0


@pytest.mark.slow
def test_main_trains_measures_and_goes_on(tmp_path: Path, capsys):
    out = tmp_path / "bench"
    given = ["--arms", "dit-v", "dit-x", "--seeds", "1", "--steps", "2", "--per-class", "8"]
    main([*given, "--out", str(out)])
    said = capsys.readouterr().out
    assert "t = 0.3, less dit-v" in said
    assert "noise read, t = 0.3" in said
    assert "fine share, without it, less dit-v" in said
    stored = json.loads((out / "bench.json").read_text())
    assert np.shape(stored["arms"]["dit-x"][0]["excess"]) == (5, 3, 4)
    assert stored["arms"]["dit-x"][0]["paths"] == ["total"]
    assert np.shape(stored["arms"]["dit-x"][0]["algorithm_3"]) == (2, 3, 4, 4)
    assert (out / "bench.png").exists()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    main([*given, "--out", str(out)])
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
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
    return " | ".join(format(found, spec) for found in over_seeds(values))


def test_card_has_the_table_of_the_bundled_bench():
    card = (files("deco_lab") / "weights" / "fields-bench.md").read_text()
    bench = fields.bundled_bench()
    assert fields.table(bench).rstrip() in card
    assert fields.tokens_table(bench).rstrip() in card
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


def test_card_says_of_algorithm_3_what_the_bench_does():
    card = (files("deco_lab") / "weights" / "fields-bench.md").read_text()
    bench = fields.bundled_bench()
    fine = {arm: fields.fine_share(found) for arm, found in bench.items()}
    for i, by in enumerate(("DeCo's by", "linear in the noise by")):
        gaps = row((fine["dit-v"] - fine["deco"])[:, i], "+z.3f").replace(" | ", ", ", 1)
        assert f"{by} {gaps.replace(' | ', ' and ')}" in card
        assert (over_seeds((fine["dit-v"] - fine["deco"])[:, i]).low > 0).all()
    unsettled = row((fine["dit-x"] - fine["deco"])[:, 1, :1], "+z.3f")
    assert f"not settled at t = 0.3, {unsettled}." in card
    for arm, share, read in (
        ("dit-v", "{} of the single DiT's token energy", "{} can be read from its tokens"),
        ("deco", "{} of the DeCo's", "{} from the DeCo's"),
    ):
        shares, reads = (
            np.array([each[name] for each in bench[arm]])[:, :, 0].mean(1)
            for name in ("noise_share", "noise_read")
        )
        assert share.format(row(shares[:, None], ".0%")) in card
        assert read.format(row(reads[:, -1:], ".2f")) in card


@pytest.mark.slow
def test_bundled_pair_is_of_the_bench():
    """The bundled weights, rounded, err as the trainings that they are of, field by field."""
    measured = fields.measure(deco_lab.load("fields-dit", device="cpu"), probed=2)
    stored = fields.bundled_bench()["dit-v"][0]
    np.testing.assert_allclose(measured["excess"], stored["excess"], atol=0.02, rtol=0.01)
    for name in ("noise_read", "image_read", "noise_share", "algorithm_3"):
        np.testing.assert_allclose(measured[name], stored[name], atol=0.02, rtol=0.02)


def test_main_writes_over_no_other_file(tmp_path: Path, capsys):
    (tmp_path / "bench.json").write_text('{"mine": 1}')
    with pytest.raises(SystemExit, match=r"out must hold no bench\.json but a bench's"):
        main(["--arms", "deco", "--seeds", "1", "--steps", "1", "--out", str(tmp_path)])
    assert [*tmp_path.iterdir()] == [tmp_path / "bench.json"]
