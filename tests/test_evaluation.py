import io
import json
import math
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from deco_lab import checkpoints
from deco_lab.config import PHOTOGRAPHS, DeCoConfig
from deco_lab.data import (
    CropSampler,
    CropSource,
    PictureCrops,
    PictureDataset,
    SourceConfig,
    bundled_crops,
    open_source,
    to_picture,
)
from deco_lab.evaluation import (
    Judge,
    frechet_distance,
    image_features,
    nearest_distances,
    spectral_error,
)
from deco_lab.evaluation.__main__ import main, source_of
from deco_lab.evaluation.distances import class_spectral_errors, radial_powers
from deco_lab.evaluation.features import as_stored, coefficient_energy, gradient_features
from deco_lab.evaluation.report import name_of
from deco_lab.models import build


def noise(count: int, seed: int, scale: float = 0.3, size: int = 16) -> torch.Tensor:
    return scale * torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


ONES, LABELS = np.ones((4, 3)), np.array([0, 7])


# Distances


def test_frechet_distance_equals_scipy():
    generator = np.random.default_rng(0)
    first = generator.normal(size=(60, 7)) @ generator.normal(size=(7, 7))
    second = generator.normal(size=(80, 7)) @ generator.normal(size=(7, 7)) + 1
    covariances = [np.cov(f, rowvar=False) for f in (first, second)]
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * np.real(sqrtm(covariances[0] @ covariances[1]))
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_axes_is_closed():
    """Independent axes: squared difference of means plus that of standard deviations."""
    points = np.array([[s1, s2] for s1 in (-1, 1) for s2 in (-1, 1)]) * math.sqrt(3 / 4)
    first, second = points * [1, 2] + [5, 0], points * [3, 2] + [1, 1]
    assert frechet_distance(first, second) == pytest.approx(16 + 1 + 4, rel=1e-12)


def test_frechet_distance_of_a_set_to_itself_is_zero_with_fewer_rows_than_columns():
    features = np.random.default_rng(1).normal(size=(5, 30))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("measure", "given", "message"),
    [
        (frechet_distance, (ONES[:1], ONES), r"first must hold .* got \(1, 3\)"),
        (frechet_distance, (ONES, ONES * np.nan), "second must hold finite features"),
        (frechet_distance, (ONES, ONES[:, 1:]), "second must have the width of first, 3, got 2"),
        (spectral_error, (ONES[:2], LABELS, ONES[:2], 0 * LABELS), r"got none of \[7\]; draw real"),
    ],
)
def test_distances_refuse(measure, given, message):
    with pytest.raises(ValueError, match=message):
        measure(*given)


def test_spectral_error_of_twice_the_amplitude_is_six_decibel():
    images = noise(6, 0)
    labels = np.array([0, 0, 1, 1, 1, 1])
    power, doubled = radial_powers(images), radial_powers(2 * images)
    assert spectral_error(doubled, labels, power, labels) == pytest.approx(
        20 * math.log10(2), rel=1e-4
    )
    assert spectral_error(power, labels, power, labels) == 0


def test_spectral_error_counts_classes_alike_and_signs_apart():
    """One class 3 dB too strong, the other 3 dB too weak: 3 dB, not 0, whatever their numbers."""
    power = np.ones((5, 4))
    labels = np.array([0, 0, 0, 0, 1])
    factor = np.where(labels == 0, 10**0.3, 10**-0.3)[:, None]
    assert spectral_error(power * factor, labels, power, labels) == pytest.approx(3, rel=1e-5)
    ratio = class_spectral_errors(power * factor, labels, power, labels)
    assert ratio == pytest.approx(np.array([[3.0] * 4, [-3.0] * 4]), rel=1e-5)


def test_nearest_distances_are_zero_for_copies_and_exact_for_offsets():
    crops = noise(5, 0)
    images = torch.stack([crops[3], crops[1] + 0.25])
    assert nearest_distances(images, crops) == pytest.approx([0, 0.25], abs=2e-3)


# Features


def test_image_features_of_a_grey_image_are_closed():
    """Constant v: the only energy is the DC coefficient of Y, (8 v)^2."""
    features = image_features(torch.full((1, 3, 16, 24), 0.5), floor=2.0)[0]
    assert features.shape == (198,)
    assert features[0] == pytest.approx(math.log((8 * 0.5 * 127.5) ** 2 + 2), rel=1e-6)
    assert features[1:192] == pytest.approx(math.log(2), abs=1e-6)
    assert features[192:] == pytest.approx([0.5] * 3 + [0] * 3, abs=1e-6)


def test_coefficient_energy_of_noise_is_its_variance():
    grey = noise(200, 0, scale=0.1)[:, :1].expand(-1, 3, -1, -1)
    energy = coefficient_energy(grey).mean(0)
    torch.testing.assert_close(energy[0] / 12.75**2, torch.ones(8, 8).double(), rtol=0.25, atol=0)
    assert float(energy[1:].max()) < 1e-6


def test_image_features_pass_over_what_jpeg_would_not_keep():
    """Noise of one grey level moves the strict features far, and those that show hardly."""
    picture = torch.linspace(-0.5, 0.5, 32).expand(1, 3, 32, 32)
    noisy = picture + noise(1, 0, scale=1 / 127.5, size=32)
    seen, strict = (
        np.abs(image_features(noisy, f) - image_features(picture, f)).max() for f in (None, 0.01)
    )
    assert seen < 0.6
    assert strict > 3


@pytest.mark.parametrize(("axis", "orientation"), [(3, 0), (2, 4)])
def test_gradient_features_of_a_ramp_are_closed(axis: int, orientation: int):
    """4 grey levels a pixel one way: as much at each size times its step, all in one bin."""
    ramp = torch.arange(32.0).mul(4).sub(64) / 127.5
    picture = ramp.reshape([32 if i == axis else 1 for i in range(4)]).expand(2, 3, 32, 32)
    features = gradient_features(picture)
    assert features.shape == (2, 33)
    histograms = features[0, :24].reshape(3, 8)
    assert histograms[:, orientation] == pytest.approx(np.log(np.array([4, 8, 16]) + 1 / 8))
    others = np.delete(histograms, orientation, axis=1)
    assert others == pytest.approx(np.full((3, 7), math.log(1 / 8)))
    colours = features[0, 24:].reshape(3, 3)
    spread = 4 * ((32**2 - 1) / 12) ** 0.5
    assert colours[0] == pytest.approx([-2 / 32] * 3, rel=1e-5)
    assert colours[1] == pytest.approx([(spread + 1) / 16] * 3, rel=0.05)  # of n - 1
    assert colours[2] == pytest.approx([0] * 3, abs=1e-6)


def test_as_stored_rounds_to_eight_bits_and_clips():
    stored = as_stored(torch.tensor([-3.0, -1, 0.001, 1, 9]).reshape(1, 1, 1, 5))
    assert stored.flatten().tolist() == pytest.approx([-1, -1, 128 / 127.5 - 1, 1, 1], abs=1e-6)


# The judge


@pytest.fixture(scope="module")
def crops() -> CropSampler:
    """Three classes that colour, contrast and direction tell apart."""
    rows, columns = np.mgrid[:60, :60]
    stripes = 128 + 100 * np.sin(rows)
    checks = 128 + 60 * np.sign(np.sin(columns / 2) * np.sin(rows / 2))
    pictures = [
        np.stack([stripes, stripes, stripes], axis=-1),
        np.stack([checks, 0.5 * checks, 0.2 * checks], axis=-1),
        np.stack([columns * 4, rows * 4, 255 - columns * 4], axis=-1),
    ]
    return CropSampler([p.astype(np.uint8) for p in pictures], 16, num_scales=4)


@pytest.fixture(scope="module")
def judge(crops: CropSampler) -> Judge:
    return Judge(crops, crops, training_per_class=40, reference_per_class=40, nearest_per_class=60)


def drawn(crops: CropSampler, labels: list[int], seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return crops.sample(len(labels), generator, torch.tensor(labels)).images


def test_judge_finds_real_crops_real(judge: Judge):
    real = judge.real(20)
    assert real.figures.class_accuracy.value > 0.95
    assert real.figures.spectral_error.value < 1.5
    assert real.confusion.sum() == 60
    assert np.trace(real.confusion) == real.figures.class_accuracy.value * 60


def test_judge_finds_noise_wanting(judge: Judge):
    labels = [0, 1, 2] * 20
    found, real = judge(noise(60, 3, scale=1.0), labels).figures, judge.real(20).figures
    assert found.class_accuracy.value < 0.6
    assert found.spectral_error.value > 5 * real.spectral_error.value
    assert found.frechet_distance.value > 20 * real.frechet_distance.value
    assert found.nearest_crop.value > 2 * real.nearest_crop.value


def test_judge_leaves_doubt_where_all_are_right(judge: Judge):
    """Wilson's interval of n of n is [n / (n + z^2), 1]."""
    accuracy = judge.real(20).figures.class_accuracy
    assert accuracy.value == accuracy.high == 1
    assert accuracy.low == pytest.approx(60 / (60 + 1.96**2), abs=1e-3)


def test_judge_of_real_crops_draws_their_pictures():
    """Two pictures a class, one bright and one dark: few pictures leave more doubt than crops."""
    pictures = np.random.default_rng(0).integers(0, 60, (6, 24, 24, 3), dtype=np.uint8)
    pictures[::2] += 190
    labels = np.repeat(np.arange(3), 2)
    named = PictureDataset(
        lambda i: Image.fromarray(pictures[i]), labels, ("a", "b", "c"), "uvwxyz".__getitem__
    )
    few = PictureCrops(named, 16)
    judge = Judge(few, few, training_per_class=20, reference_per_class=20, nearest_per_class=20)
    real = judge.real(20).figures
    images, ids, cut_from = judge._draw(few, "real", 20)
    assert cut_from is not None
    assert set(cut_from.tolist()) == set(range(6))
    grouped, alone = (judge(images, ids, groups=groups).figures for groups in (cut_from, None))
    assert real == grouped
    share = real.class_accuracy
    assert share.count == 60
    z = 1.959964  # Wilson's of 6 trials
    half = z / (6 + z**2) * (6 * share.value * (1 - share.value) + z**2 / 4) ** 0.5
    assert share.high - share.low == pytest.approx(min(2 * half, 1 - share.low), rel=1e-6)
    wide, narrow = (f.spectral_error.high - f.spectral_error.low for f in (grouped, alone))
    assert wide > 1.5 * narrow


def test_judge_sees_swapped_labels(judge: Judge, crops: CropSampler):
    labels = [0, 1, 2] * 10
    images = drawn(crops, labels)
    swapped = [(label + 1) % 3 for label in labels]
    assert judge(images, labels).figures.class_accuracy.value == 1
    assert judge(images, swapped).figures.class_accuracy.value == 0
    assert judge(images, swapped).confusion.tolist() == [[0, 0, 10], [10, 0, 0], [0, 10, 0]]


def test_judge_sees_copies(judge: Judge, crops: CropSampler):
    """Copies of the very crops it searches lie at no distance; fresh crops do not."""
    searched = []
    real_sample = crops.sample

    class Spy(CropSource):
        def sample(self, count, generator, class_ids=None, *, rows=None):
            batch = real_sample(count, generator, class_ids)
            searched.append(batch.images)
            return batch

    spying = Judge(Spy(16, 3, (), "cpu"), crops, training_per_class=10, reference_per_class=10)
    searched.clear()
    labels = [0, 1, 2] * 4
    fresh = spying(drawn(crops, labels), labels).figures.nearest_crop.value
    copies = torch.stack([searched[label][i] for i, label in enumerate(labels)])
    copied = spying(copies, labels).figures.nearest_crop.value
    assert copied < 0.2 < fresh


def test_judge_measures_a_known_spectral_excess(judge: Judge, crops: CropSampler):
    """Half the contrast about the mean is 6 dB less in every coefficient but the means."""
    labels = [0] * 50 + [1] * 50 + [2] * 50
    images = drawn(crops, labels)
    mean = images.mean((2, 3), keepdim=True)
    full, half = (judge(mean + c * (images - mean), labels) for c in (1.0, 0.5))
    difference = half.coefficient_ratio - full.coefficient_ratio
    assert difference[0, 1:3, 1:3] == pytest.approx(-6.02, abs=0.15)
    assert half.power_ratio[:, 2:6] - full.power_ratio[:, 2:6] == pytest.approx(-6.02, abs=0.3)


def test_judge_repeats_with_its_seed(crops: CropSampler):
    labels = [0, 1, 2] * 3
    images = drawn(crops, labels)
    first, second, other = (
        Judge(crops, crops, seed=seed, training_per_class=10, reference_per_class=10)(
            images, labels
        ).to_dict()
        for seed in (0, 0, 1)
    )
    assert json.dumps(first) == json.dumps(second) != json.dumps(other)


def test_judge_refuses(judge: Judge, crops: CropSampler):
    images = drawn(crops, [0, 1, 2])
    for ask, message in (
        (lambda: judge(images, [0, 1, 1]), r"all of the classes \(0, 1, 2\), got \[0, 1, 1\]"),
        (lambda: judge(images * math.nan, [0, 1, 2]), "images must be finite"),
        (lambda: Judge(crops, crops, class_ids=(1, 1)), r"labels from 0 to 2, .* got \(1, 1\)"),
        (lambda: Judge(crops, crops, class_ids=()), r"at least one, got \(\)"),
        (lambda: Judge(crops, bundled_crops(16)), "num_classes of training, 3, got 17"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_judge_of_one_class_finds_nothing_to_mistake(crops: CropSampler):
    judge = Judge(crops, crops, class_ids=(2,), training_per_class=5, reference_per_class=5)
    found = judge(drawn(crops, [2] * 4), [2] * 4)
    assert found.figures.class_accuracy.value == 1
    assert found.confusion.tolist() == [[0, 0, 4]]


# Report and command line


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny", "tiny"),
        ("runs/add/model.safetensors", "add"),
        ("hf://owner/repo/model.safetensors", "repo"),
        ("weights/other.safetensors", "other"),
        ("model.safetensors", "model"),
    ],
)
def test_name_of_tells_runs_apart(model: str, name: str):
    assert name_of(model) == name


CONFIG = DeCoConfig(
    image_size=16, patch_size=4, num_classes=17, class_names=PHOTOGRAPHS, hidden_size=16,
    num_heads=2, depth=1, decoder_depth=1, decoder_width=8,
)  # fmt: skip


def write_model(path: Path, **changed: object) -> Path:
    torch.manual_seed(0)
    checkpoints.save(build(replace(CONFIG, **changed)), path)
    return path


def test_source_of_cuts_as_the_record_says():
    record = {"crop": "random", "crop_scale": [1.5, 2.0], "flip": False, "held_out_share": 0.0}
    fresh = source_of(CONFIG, record, "", "", torch.device("cpu")).fresh
    assert isinstance(fresh, CropSampler)
    assert (fresh.sides[0], fresh.sides[-1], fresh.flip) == (24, 32, False)


def test_source_of_refuses_pictures_that_changed_in_number(tmp_path: Path):
    """A file that is gone may put one that was trained on in its class's held-out place."""
    for index in range(8):
        (tmp_path / "pictures" / f"class{index % 2}").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "pictures" / f"class{index % 2}" / f"{index}.png"
        to_picture(noise(1, index)).save(path)
    options = SourceConfig(data=str(tmp_path / "pictures"), held_out=0.3)
    source = open_source(options, 16, torch.device("cpu"))
    config = replace(CONFIG, num_classes=2, class_names=source.crops.class_names)
    again = source_of(config, source.record, options.data, "", torch.device("cpu"))
    assert again.record == source.record
    (tmp_path / "pictures" / "class1" / "7.png").unlink()
    with pytest.raises(ValueError, match=r"as many as the model was trained on.* got \d and \d"):
        source_of(config, source.record, options.data, "", torch.device("cpu"))


@pytest.mark.slow
def test_main_prints_a_table_and_writes_json_and_figure(tmp_path: Path, capsys):
    model = write_model(tmp_path / "small.safetensors")
    main([str(model), "--per-class", "2", "--num-steps", "2", "--out", str(tmp_path / "e" / "x")])
    shown = capsys.readouterr()
    assert "34 samples of 16 px, 2 a class (2 adams2 steps, guidance 3)" in shown.out
    lines = shown.out.splitlines()[2:9]
    assert len({len(line) for line in lines}) == 1
    assert [line.count("[") for line in lines] == [0, 0, 3, 3, 3, 3, 3]
    assert "68/68" in shown.err
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"x.json", "x.png"}
    stored = json.loads((tmp_path / "e" / "x.json").read_text())
    assert list(stored) == ["settings", "small", "real crops", "random weights"]
    assert stored["real crops"]["class_accuracy"]["value"] > 0.9
    assert stored["settings"]["config"]["class_names"] == list(PHOTOGRAPHS)


def tells(name: str, value: object) -> str:
    return f"{name} must be .*, got {value}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small"], tells("name_or_path", "'small'")),
        (["tiny", "--image-size", "32"], "image_size must be 64, as .* says, got 32"),
        (["tiny", "--per-class", "1"], tells("per_class", 1)),
        (["tiny", "--solver", "magic"], tells("solver", "'magic'")),
        (["{0}/other.safetensors"], "--data or --dataset must be given for a model of other"),
    ],
)
def test_main_says_in_one_sentence_what_is_wrong(words, message, tmp_path: Path, capsys):
    write_model(tmp_path / "other.safetensors", num_classes=3, class_names=())
    with pytest.raises(SystemExit, match="2"):
        main([word.format(tmp_path) for word in words])
    assert re.fullmatch(rf".*: error: .*{message}.*\n", capsys.readouterr().err)


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"training_per_class": 20, "reference_per_class": 20, "nearest_per_class": 20}
    quick = partial(Judge, **few, resamples=2)
    monkeypatch.setattr("deco_lab.evaluation.__main__.Judge", quick)


@pytest.mark.slow
def test_main_shows_what_it_found_where_the_disk_is_full_and_goes_on(
    tmp_path: Path, capsys, full_disk, quick_judge
):
    options = [str(write_model(tmp_path / "small.safetensors")), "--per-class", "2"]
    options += ["--num-steps", "1", "--out", str(tmp_path / "x")]
    with full_disk(1000), pytest.raises(SystemExit) as stop:
        main(options)
    assert f"error: {tmp_path}/x.json cannot be written (File too large)" in str(stop.value)
    assert "spectral error (dB)" in capsys.readouterr().out
    main(options)
    assert {path.name for path in tmp_path.glob("x*")} == {"x.json", "x.png"}


def test_main_prints_where_the_terminal_lacks_letters(tmp_path: Path, monkeypatch, quick_judge):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", write_through=True))
    model = write_model(tmp_path / "фото.safetensors")
    main([str(model), "--per-class", "2", "--num-steps", "1", "--out", str(tmp_path / "фото")])
    assert b"Fr\\xe9chet distance" in shown.getvalue()
    assert {path.name for path in tmp_path.glob("*.png")} == {"фото.png"}


@pytest.mark.parametrize(
    ("held", "out", "message"),
    [
        ("x.json", "x", "earlier evaluation's, got {0}/x, and {0}/x.json is another file; give"),
        ("x.png", "x", "earlier evaluation's, got {0}/x, and {0}/x.png is another file; give"),
        ("x", "x/y", "in a folder that can be written to, got {0}/x (Not a directory); give"),
        ("x", "/", "out must end in what to call the files, got /; add a name"),
        ("x", "/proc/none/x", "can be written to, got /proc/none (No such file or directory); gi"),
    ],
)
def test_main_refuses_an_out_that_it_cannot_use_before_it_loads_the_model(
    held: str, out: str, message: str, tmp_path: Path, capsys
):
    (tmp_path / held).write_text('{"settings": {}}', encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        main(["none", "--out", str(tmp_path / out)])
    assert message.format(tmp_path) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [held]
