import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from deco_lab import checkpoints
from deco_lab.config import PHOTOGRAPHS, DiTConfig
from deco_lab.evaluation.compare import BANDS, band_errors, behaviour, comparison, main, shares
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.models import build


class Known:
    """A model that errs by a known amount: the velocity is the target plus `error`."""

    def __init__(self, images, noise, error, tokens):
        self.target, self.error, self.tokens = images - noise, error, tokens
        self.done = {"velocity": 0, "features": 0}

    def _rows(self, values, kind, count):
        start = self.done[kind]
        self.done[kind] += count
        return values[start : start + count]

    def __call__(self, x, t, class_ids):
        return self._rows(self.target + self.error, "velocity", len(x))

    def features(self, x, t, class_ids):
        return self._rows(self.tokens, "features", len(x))


def case(error, tokens=None, count: int = 6):
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(count, 3, 16, 16, generator=generator) for _ in range(2))
    tokens = torch.randn(count, 64, 5, generator=generator) if tokens is None else tokens
    model = Known(images, noise, error, tokens)
    t, labels = torch.linspace(0.1, 0.9, count), torch.zeros(count, dtype=torch.long)
    return behaviour(model, images, noise, t, labels, batch_size=4), model


def random_error(scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_behaviour_has_the_losses_of_training():
    error = random_error()
    found, model = case(error)
    given = model.target + error, model.target
    expected = [float(flow_matching_loss(*given)), float(frequency_loss(*given))]
    assert found.losses.mean(0) == pytest.approx(expected, rel=1e-5)


def test_behaviour_places_a_grey_error_at_dc_of_y():
    found, _ = case(torch.full((6, 3, 16, 16), 0.25))
    energy = found.error_energy.mean(0)
    assert energy[0, 0, 0] == pytest.approx((8 * 0.25) ** 2, rel=1e-5)
    assert energy.sum() == pytest.approx(energy[0, 0, 0], rel=1e-6)


def test_band_errors_are_means_of_their_coefficients():
    """A coefficient 3 / 16 lies in the third band, of 8 coefficients by their radius in [2, 4)."""
    energy = np.zeros((1, 3, 8, 8))
    energy[0, :2, 0, 3] = 1
    radius = np.hypot(*np.mgrid[:8, :8])
    count = ((radius >= 2) & (radius < 4)).sum()
    expected = [[0, 0, 1 / count, 0, 0, 0, 0.5 / count, 0]]
    np.testing.assert_allclose(band_errors(energy), expected)


def test_comparison_of_twice_the_error_is_exact():
    """Four times the loss, 6.02 dB in every band, and no spread: the crops drop out."""
    error = random_error()
    found = comparison({"one": [case(error)[0]], "two": [case(2 * error)[0]]})
    assert found["one"]["FM change (%)"].value == 0
    for title in ("FM change (%)", "FreqFM change (%)"):
        estimate = found["two"][title]
        assert estimate.value == pytest.approx(300, rel=1e-4)
        assert estimate.high - estimate.low < 0.1
    decibel = {title: e.value for title, e in found["two"].items() if title.endswith("(dB)")}
    assert len(decibel) == 2 * len(BANDS)
    assert list(decibel.values()) == pytest.approx([20 * math.log10(2)] * len(decibel), rel=1e-4)


def test_comparison_of_trainings_has_students_interval_of_their_paired_changes():
    scales = np.array([1.0, 2.0, 4.0, 3.0])  # chance of training, shared by the paired
    ratios = np.array([1.5, 1.6, 1.8, 1.4])
    firsts, others = (
        [case(random_error(0.1 * scale))[0] for scale in of] for of in (scales, scales * ratios)
    )
    change = comparison({"one": firsts, "two": others})["two"]["FM change (%)"]
    changes = 100 * (ratios**2 - 1)
    assert change.value == pytest.approx(changes.mean(), rel=1e-4)
    half = stats.t.ppf(0.975, 3) * stats.sem(changes)
    assert (change.high - change.low) / 2 == pytest.approx(half, rel=1e-4)
    assert change.count == 4


def test_comparison_draws_groups_of_rows():
    error = random_error() * torch.arange(1.0, 7)[[0, 0, 0, 5, 5, 5], None, None, None]
    arms = {"one": [case(random_error())[0]], "two": [case(error)[0]]}
    alone, grouped = (
        comparison(arms, groups=groups)["two"]["FM"] for groups in (None, list("aaabbb"))
    )
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 5 * (alone.high - alone.low)  # Student's of 1, of 5


def test_shares_of_even_and_of_white_tokens():
    """Tokens that are equal everywhere have DC alone; white ones have half of it above."""
    even, _ = case(random_error(), tokens=torch.full((6, 64, 5), 2.0))
    assert even.token_energy.shape == (6, 8, 8)
    assert shares(even.token_energy.mean(0))[0] == pytest.approx(0, abs=1e-9)
    white = torch.randn(6, 64, 800, generator=torch.Generator().manual_seed(3))
    energy = case(random_error(), tokens=white)[0].token_energy
    curve, raw = shares(energy.mean(0))
    assert (curve, raw) == (pytest.approx(1, abs=0.05), pytest.approx(32 / 63, abs=0.01))
    assert shares(9 * energy.mean(0))[1] == pytest.approx(raw)
    np.testing.assert_allclose(shares(energy)[2], shares(energy[2]))


@pytest.mark.slow
def test_main_compares_the_bundled_pair(tmp_path: Path, capsys):
    main(["tiny", "tiny-dit", "--per-class", "2", "--out", str(tmp_path / "pair")])
    printed = capsys.readouterr().out
    assert "34 noisy crops, 2 a class" in printed
    assert "95% intervals over the 17 photographs" in printed
    assert "one training each: this says what these files do, not what their losses" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"pair.json", "pair_token.png", "pair_velocity.png"}
    stored = json.loads((tmp_path / "pair.json").read_text())
    assert stored["tiny-dit"]["FM change (%)"]["low"] > 0


def small_file(folder: Path, seed: int = 0) -> str:
    config = DiTConfig(
        image_size=16, patch_size=8, num_classes=17, class_names=PHOTOGRAPHS, hidden_size=16,
        num_heads=2, depth=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = build(config)
    for parameter in model.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoints.save(model, folder / f"small{seed}.safetensors")
    return str(folder / f"small{seed}.safetensors")


@pytest.fixture
def small(tmp_path: Path) -> str:
    return small_file(tmp_path)


@pytest.mark.slow
def test_main_compares_arms_of_several_trainings(tmp_path: Path, capsys):
    a, b, c, d = (small_file(tmp_path, seed) for seed in range(4))
    out = ["--per-class", "1", "--out", str(tmp_path / "x")]
    main(["--arm", "first", a, b, "--arm", "second", c, d, *out])
    printed = capsys.readouterr().out
    assert "95% intervals over 2 trainings, paired in their order" in printed
    assert "2 trainings each: this says what training does on these photographs" in printed
    stored = json.loads((tmp_path / "x.json").read_text())
    main([a, b, c, d, *out])
    alone = json.loads((tmp_path / "x.json").read_text())
    for name, files in (("first", ("small0", "small1")), ("second", ("small2", "small3"))):
        mean = np.mean([alone[file]["FM"]["value"] for file in files])
        assert stored[name]["FM"]["value"] == pytest.approx(mean)
    assert stored["second"]["FM"]["count"] == 2


@pytest.mark.slow
def test_main_shows_what_it_found_where_the_disk_is_full_and_goes_on(
    small: str, tmp_path: Path, capsys, full_disk
):
    options = [small, "--per-class", "1", "--out", str(tmp_path / "x")]
    with full_disk(1000), pytest.raises(SystemExit) as stop:
        main(options)
    assert f"error: {tmp_path}/x.json cannot be written (File too large)" in str(stop.value)
    assert "17 noisy crops" in capsys.readouterr().out
    main(options)
    assert {p.name for p in tmp_path.glob("x*")} == {"x.json", "x_token.png", "x_velocity.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("none --out {0}/x", r"/x, and .*/x_token\.png is another file; give another"),
        ("none --out {0}/y", r"/y, and .*/y\.json is another file; give another"),
        ("tiny tiny", "models must have different names, got tiny, tiny"),
        ("", "give either models, one training each, or --arm"),
        ("tiny --arm a x y", "give either models, one training each, or --arm"),
        *(
            (arms, "each --arm must have a name and two or more trainings")
            for arms in (
                "--arm a x --arm b y",
                "--arm a x y --arm b z",
                "--arm a x y --arm b x z",
                "--arm a --arm b",
            )
        ),
        ("tiny --per-class 0", "per_class must be a whole number of at least 1, got 0"),
        ("tiny none", "name_or_path must be a bundled model"),
        ("tiny {0}/other.safetensors", "got other of 14 other classes; use python -m"),
        ("tiny {0}/small0.safetensors", "models must share image_size, got 16, 64"),
    ],
)
def test_main_refuses(words: str, message: str, small: str, tmp_path: Path, capsys):
    """As many classes as photographs do not make them the photographs."""
    config = DiTConfig(
        image_size=64, patch_size=16, num_classes=14, hidden_size=16, num_heads=2, depth=1
    )
    checkpoints.save(build(config), tmp_path / "other.safetensors")
    (tmp_path / "x_token.png").write_bytes(b"mine")
    (tmp_path / "y.json").write_text('{"settings": {"model": "tiny"}}', encoding="utf-8")
    words = f"--out {tmp_path}/new {words}" if "--out" not in words else words
    with pytest.raises(SystemExit, match="2"):
        main(words.format(tmp_path).split())
    assert re.fullmatch(f".*: error: .*{message}.*\n", capsys.readouterr().err)
