"""The Decompose tab's numbers: sums, closed forms and another library's transform."""

import base64
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image
from test_workbench_watching import DECO, DIT, random_model

import deco_lab
from deco_lab.data import load_photograph
from deco_lab.flow import seeded_noise
from deco_lab.spectra import band_shares, decompose, zigzag_order
from deco_lab.spectra.bands import MEAN_AND_OCTAVES
from deco_lab.spectra.factorial import CONDITION_REFERENCES, PIXEL_REFERENCES
from deco_lab.workbench.others import others_of
from deco_lab.workbench.parts import CHOICES, DRAWS, PARTS, explain
from deco_lab.workbench.source import prepare


@pytest.fixture(scope="module")
def deco():
    return random_model(DECO)


@pytest.fixture(scope="module")
def image():
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def view(deco, image):
    return explain(deco, image, 1, t=0.3, seed=7)


def numbers(values):
    """A view's numbers as an array; NaN for None."""
    return np.array(values, dtype=float)


def levels(pictures, low=-1.0, high=1.0):
    """Packed images' bytes as values again, (3, H, W)."""
    data = np.frombuffer(base64.b64decode(pictures.pixels), np.uint8).astype(float)
    shape = (pictures.height, pictures.width, 3)
    return low + (high - low) * data.reshape(shape).transpose(2, 0, 1) / 255


class Linear:
    """decode(x, s) = a x + b s as an image of one pixel a token: every part is known."""

    class config:  # noqa: N801
        image_size, patch_size, num_classes, class_names, decoder_patch = 16, 1, 3, (), 1

    a, b = -1.5, 0.5

    def parameters(self):
        return iter([torch.zeros(1)])

    def condition(self, x, t, class_ids):
        pattern = torch.linspace(-1, 2, 256).view(1, 256, 1) * torch.tensor([1.0, 2.0, 3.0])
        return pattern + 0.5 * x.flatten(2).transpose(1, 2)

    def decode(self, x, condition):
        return self.a * x + self.b * condition.transpose(1, 2).reshape(-1, 3, 16, 16)


def test_explain_noises_the_image_and_predicts_it_from_the_models_velocity(deco, view, image):
    x = 0.3 * image[None] + 0.7 * seeded_noise(1, (3, 16, 16), 7)
    with torch.no_grad():
        velocity = deco(x, torch.tensor([0.3]), torch.tensor([1]))
    predicted = (x + 0.7 * velocity)[0]
    np.testing.assert_allclose(levels(view.noisy), x[0].clamp(-1, 1), atol=1 / 255 + 1e-6)
    np.testing.assert_allclose(levels(view.clean), image, atol=1 / 255 + 1e-6)
    np.testing.assert_allclose(levels(view.predicted), predicted.clamp(-1, 1), atol=1 / 255 + 1e-5)
    other = torch.zeros_like(image)  # only shown where the state is given
    shown = explain(deco, other, 1, t=0.3, seed=7, noisy=x[0])
    assert (shown.noisy, shown.rms["whole"]) == (view.noisy, view.rms["whole"])
    for whole, field in (("predicted", predicted), ("velocity", velocity)):
        rms = float(field.square().mean().sqrt())
        shown = explain(deco, image, 1, t=0.3, seed=7, whole=whole)
        assert shown.rms["whole"] == pytest.approx(rms, rel=1e-3)


def test_explain_parts_sum_to_the_whole_in_pictures_and_shares(view):
    shown = {
        key: levels(pictures, -view.scale, view.scale) for key, pictures in view.fields.items()
    }
    total = np.sum([shown[key] for key in PARTS], axis=0)
    clipped = np.any([np.abs(field) >= view.scale * 0.999 for field in shown.values()], axis=0)
    assert clipped.mean() < 0.05
    step = 2 * view.scale / 255
    np.testing.assert_allclose(total[~clipped], shown["whole"][~clipped], atol=2.5 * step)
    shares = numbers([view.shares[key] for key in PARTS]).sum(0)
    assert np.isfinite(shares).any()
    np.testing.assert_allclose(shares[np.isfinite(shares)], 1, atol=2e-3)


def test_explain_of_a_linear_decoder_has_the_parts_of_its_references(image):
    """D = (1 + (1 - t) a) x + (1 - t) b s, so means over other pictures are those of their x."""
    view = explain(Linear(), image, 0, t=0.5, seed=3)
    others = others_of(Linear.config, 0, count=DRAWS, seed=3)
    assert view.settings["others"] == others.said
    x = 0.5 * image + 0.5 * seeded_noise(1, (3, 16, 16), 3)[0]
    p0 = others.pixels(0.5).mean(0)
    s = Linear().condition(x[None], 0, 0).transpose(1, 2).reshape(3, 16, 16)
    expected = {
        "whole": 0.25 * x + 0.25 * s,
        "baseline": 0.25 * p0 + 0.25 * (s + 0.5 * (p0 - x)),
        "condition": 0.25 * 0.5 * (x - p0),
        "pixels": 0.25 * (x - p0),
    }
    for key, field in expected.items():
        assert view.rms[key] == pytest.approx(float(field.square().mean().sqrt()), rel=1e-3)
        if view.cancellation[-1] is not None and view.cancellation[-1] < 2:
            share = band_shares(field[None], expected["whole"][None], MEAN_AND_OCTAVES)[-1]
            assert key == "whole" or view.shares[key][-1] == pytest.approx(float(share), abs=2e-3)
    assert view.rms["interaction"] == pytest.approx(0, abs=1e-5)


def test_explain_gain_of_a_linear_decoder_is_its_slope(image):
    view = explain(Linear(), image, 0, t=0.5, seed=3)
    assert (view.gain.gain, view.gain.slope) == (0.25, 0.25)  # 1 + (1 - t) a
    x = (0.5 * image + 0.5 * seeded_noise(1, (3, 16, 16), 3)[0])[None]
    s = Linear().condition(x, 0, 0).transpose(1, 2).reshape(3, 16, 16).double().numpy()
    x = x[0].double().numpy()
    fy, fx = np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16), indexing="ij")
    band = np.digitize(np.hypot(fy, fx), [1e-9, 1 / 16, 1 / 8, 1 / 4])

    def energy(field):
        power = (np.abs(np.fft.fft2(field)) ** 2).sum(0)
        return np.array([power[band == k].sum() for k in range(5)])

    predicted = energy(0.25 * x + 0.25 * s)
    with np.errstate(invalid="ignore"):  # no frequency of 16 pixels is between 0 and 1/16
        by_pixels = np.sqrt(energy(0.25 * x) / predicted)
        by_condition = np.sqrt(energy(0.25 * (s - s.mean((1, 2), keepdims=True))) / predicted)
    some = predicted > 0
    for found, expected in ((view.gain.pixels, by_pixels), (view.gain.condition, by_condition)):
        np.testing.assert_allclose(numbers(found)[some], expected[some], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("effects", ["main", "shapley"])
def test_explain_says_the_shares_that_it_shows(deco, image, effects):
    for t in (0.3, 0.75):
        view = explain(Linear(), image, 0, t=t, seed=3, effects=effects)
        finest = [view.shares[part][-1] for part in ("condition", "pixels", "interaction")]
        assert None not in finest
        condition, pixels, both = (f"{share:z.0%}" for share in finest)
        said = {
            "main": f"the condition draws {condition} of what the predicted image has above 1/4 "
            f"cycles a pixel; the pixels bring {pixels}, both only together {both}.",
            "shapley": "of what the predicted image has above 1/4 cycles a pixel the condition's "
            f"Shapley value is {condition}, the pixels' {pixels}.",
        }[effects]
        assert view.says.startswith(f"t = {t:.2f}: {said}")


def test_explain_gives_no_shares_where_parts_cancel_and_says_so(image):
    class Cancelling(Linear):
        """D = x + (1 - t)(a x + b s) of pixels and tokens that are each other's opposites."""

        a, b = 18.0, -38.0

        def condition(self, x, t, class_ids):
            return 0.5 * x.flatten(2).transpose(1, 2)

    class Silent(Linear):
        def decode(self, x, condition):
            return -2.0 * x

    silent = explain(Silent(), image, 0, t=0.5, seed=3)
    assert silent.says == "t = 0.50: the predicted image has nothing above 1/4 cycles a pixel."
    view = explain(Cancelling(), image, 0, t=0.5, seed=3)
    assert [value is None or value > 2 for value in view.cancellation] == [True] * 5
    assert view.cancellation[1] is None  # of 16 pixels none lies between the mean and 1/16
    assert all(share is None for shares in view.shares.values() for share in shares)
    assert view.says == (
        "No shares of the predicted image (mean, 1/16 to 1/8, 1/8 to 1/4, above 1/4 at t = 0.5): "
        "there the parts cancel, their energies being more than 2 times its own."
    )


def test_explain_shapley_values_hold_half_of_the_interaction(view, deco, image):
    shapley = explain(deco, image, 1, t=0.3, seed=7, effects="shapley")
    main = {part: numbers(view.shares[part]) for part in PARTS}
    for part, half in (("baseline", 0), ("condition", 0.5), ("pixels", 0.5), ("interaction", 0)):
        expected = main[part] + half * main["interaction"]
        np.testing.assert_allclose(numbers(shapley.shares[part]), expected, atol=2e-3)


def test_explain_with_constants_is_decompose(deco, image):
    arguments: Any = {"condition_reference": "time", "pixel_reference": "noise"}
    view = explain(deco, image, 1, t=0.3, seed=7, whole="velocity", effects="shapley", **arguments)
    x = 0.3 * image[None] + 0.7 * seeded_noise(1, (3, 16, 16), 7)
    parts = decompose(deco, x, 0.3, [1], seed=7, **arguments)
    for key, name in (("whole", "velocity"), ("baseline", "baseline"), ("condition", "dit"),
                      ("pixels", "decoder"), ("interaction", "interaction")):  # fmt: skip
        expected = float(getattr(parts, name).square().mean().sqrt())
        assert view.rms[key] == pytest.approx(expected, rel=1e-3)
    assert view.settings["others"] == ""


def test_explain_spectra_are_scipys(deco, view, image):
    x = 0.3 * image[None] + 0.7 * seeded_noise(1, (3, 16, 16), 7)
    with torch.no_grad():
        predicted = x + 0.7 * deco(x, torch.tensor([0.3]), torch.tensor([1]))
    blocks = predicted[0].double().numpy().reshape(3, 2, 8, 2, 8).transpose(0, 1, 3, 2, 4)
    transformed = np.asarray(scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho"))
    energy = (transformed**2).mean((0, 1, 2))
    energy = energy.flatten()[list(zigzag_order(8))]
    np.testing.assert_allclose(numbers(view.spectra["whole"]), energy, rtol=1e-3)


def test_explain_map_finds_the_regions_of_the_condition(image):
    class TwoRegions(Linear):
        def condition(self, x, t, class_ids):
            s = torch.randn(1, 16, 16, 3, generator=torch.Generator().manual_seed(2)) * 0.01
            s[:, :, 4:] += 5
            return s.reshape(1, 256, 3)

    split = image.clone()
    split[..., :4], split[..., 4:] = 0.5, -0.5  # label 0 is what lies above the darker pixels
    clusters = explain(TwoRegions(), split, 0, t=0.5, num_clusters=2).clusters
    labels = np.reshape(clusters.labels, (clusters.rows, clusters.columns))
    np.testing.assert_array_equal(labels, np.tile([1] * 4 + [0] * 12, (16, 1)))
    assert clusters.explained is not None
    assert clusters.explained > 0.99
    assert clusters.regions is not None
    assert clusters.regions > 0.8


def test_explain_counts_its_passes(deco, image, monkeypatch):
    counts = {"condition": 0, "decode": 0}
    for name in counts:
        original = getattr(deco, name)

        def counted(*args, name=name, original=original):
            counts[name] += len(args[0])
            return original(*args)

        monkeypatch.setattr(deco, name, counted)
    for reference in ("others", "mean", "null"):
        counts.update(condition=0, decode=0)
        view = explain(deco, image, 1, condition_reference=reference)
        assert (view.dit_passes, view.decoder_passes) == (counts["condition"], counts["decode"])
    units = explain(random_model(replace(DECO, decoder_patch=2)), image, 1)  # of several pixels
    assert (units.gain.gain, units.gain.slope, units.gain.pictures) == (None, None, None)
    assert units.decoder_passes == 1 + 3 * DRAWS + 2


def test_explain_takes_every_choice_with_a_help_and_hears_it(deco, image):
    references = CHOICES["condition_reference"], CHOICES["pixel_reference"]
    assert [tuple(choices) for choices in references] == [CONDITION_REFERENCES, PIXEL_REFERENCES]
    for argument, choices in CHOICES.items():
        chosen: list[Any] = [{argument: choice} for choice in choices]
        seen = {explain(deco, image, 1, **choice).rms["condition"] for choice in chosen}
        assert len(seen) == len(choices)


def test_explain_is_json_ready_and_the_same_twice(deco, image, view):
    again = asdict(explain(deco, image, 1, t=0.3, seed=7))
    text = json.dumps(again | {"milliseconds": 0}, allow_nan=False)
    assert text == json.dumps(asdict(view) | {"milliseconds": 0}, allow_nan=False)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"t": 1.0}, "t must be below 1"),
        ({"t": -0.1}, "t must be a number from 0 to 1"),
        ({"t": float("nan")}, "t must be a number"),
        ({"t": "0.5"}, "t must be a number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**32}, "seed must be a whole number"),
        ({"class_id": 4}, "class_id must be a whole number from 0 to 3"),
        ({"class_id": 1.0}, "class_id must be a whole number"),
        ({"whole": "image"}, "whole must be one of predicted, velocity"),
        ({"condition_reference": "zero"}, "condition_reference must be one of others, mean"),
        ({"pixel_reference": ["zero"]}, "pixel_reference must be one of others, zero"),
        ({"effects": "both"}, "effects must be one of main, shapley"),
        ({"num_clusters": 1}, "num_clusters must be a whole number from 2 to 16"),
        ({"noisy": torch.full((3, 16, 16), torch.nan)}, "must answer with finite numbers"),
        ({"model": DIT, "name": "mine"}, "mine has no pixel decoder.* choose a DeCo"),
    ],
)
def test_explain_refuses_what_breaks_a_rule(deco, image, wrong, match):
    model = random_model(DIT) if "model" in wrong else deco
    arguments = {"image": image, "class_id": 1} | wrong | {"model": model}
    with pytest.raises(ValueError, match=match):
        explain(**arguments)


def test_explain_of_the_bundled_model_takes_other_crops_of_the_photograph():
    model = deco_lab.load("tiny", device="cpu")
    photograph = prepare(Image.fromarray(load_photograph("chelsea")), 64)
    view = explain(model, photograph, 2, t=0.5)
    assert view.settings["class_name"] == "chelsea"
    assert view.settings["others"] == "4 other crops of the class chelsea"
    finest = numbers([view.shares[part][-1] for part in PARTS])  # of whatever weights are bundled
    assert finest.sum() == pytest.approx(1, abs=2e-3)
    assert (np.abs(finest - 0.5) < 1.5).all()
