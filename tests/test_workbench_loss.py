"""The Loss weights tab's answers: JPEG's own tables, sums that must come out, and a known model."""

import dataclasses
import io
import json
from base64 import b64decode

import pytest
import torch
from PIL import Image
from test_workbench_watching import DECO

import deco_lab
from deco_lab.config import PHOTOGRAPHS
from deco_lab.data import CropSampler, load_photograph
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.losses import flow_matching_loss, frequency_loss
from deco_lab.spectra import loss_bands
from deco_lab.workbench import loss


class Wave(torch.nn.Module):
    """Answers an image's own velocity and a wave of one DCT coefficient, in grey: a known error."""

    def __init__(self, clean, u, v):
        super().__init__()
        self.config = DECO
        self.nothing = torch.nn.Parameter(torch.zeros(()))
        place = torch.arange(16) + 0.5
        down, along = (torch.cos(torch.pi * place * index / 8) for index in (u, v))
        self.clean, self.error = clean, 0.1 * down[:, None] * along

    def forward(self, x, t, class_ids):
        t = t[:, None, None, None]
        return (self.clean - x) / (1 - t) + self.error


@pytest.fixture(scope="module")
def tiny():
    return deco_lab.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def tiny_view(tiny):
    return loss.loss_share(tiny, 75, 2.0, seed=3)


@pytest.mark.parametrize("quality", [50, 85, 97, 100])
def test_weights_steps_are_those_that_pillow_writes(quality):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg", quality=quality)
    written = Image.open(file, formats=["jpeg"]).quantization  # type: ignore[attr-defined]  # in rows since Pillow 8.3
    view = loss.weights(quality)
    for channel, table in zip(view.channels, (0, 1, 1), strict=True):
        steps = [step for row in channel.quantisation_steps for step in row]
        assert steps == list(written[table])


def test_weights_favour_fine_steps_and_have_mean_one():
    for channel in loss.weights(85, 2.0).channels:
        steps = torch.tensor(channel.quantisation_steps, dtype=torch.float64)
        expected = steps**-2 / (steps**-2).mean()
        given = torch.tensor(channel.weights, dtype=torch.float64)
        torch.testing.assert_close(given, expected, rtol=1e-3, atol=0)
        assert torch.equal(torch.tensor(channel.favoured), expected >= 1)
    for even in (loss.weights(100), loss.weights(30, 0.0)):
        assert all(channel.favoured == [[True] * 8] * 8 for channel in even.channels)


def test_views_are_json_without_nan(tiny_view):
    for view in (loss.weights(1, 4.0), loss.split(wave(1, 2)), tiny_view):
        json.dumps(dataclasses.asdict(view), allow_nan=False)


def wave(u, v):
    """Return a grey wave, (3, 16, 16), of one coefficient of each block."""
    place = torch.arange(16) + 0.5
    waves = [torch.cos(torch.pi * place * index / 8) for index in (u, v)]
    return (0.5 * waves[0][:, None] * waves[1]).expand(3, -1, -1)


@pytest.mark.parametrize(("index", "share"), [((0, 1), 1.0), ((7, 7), 0.0)])
def test_split_puts_a_wave_where_its_weight_says(index, share):
    image = wave(*index)
    view = loss.split(image)
    assert view.favoured_share["Y"] == pytest.approx(share, abs=1e-9)
    assert view.favoured_share_of_detail["all"] == pytest.approx(share, abs=1e-9)
    assert view.favoured_share["Cb"] is None  # a grey picture has no colour
    shown, empty = (view.favoured, view.neglected) if share else (view.neglected, view.favoured)
    scale = 1.0 if share else view.scale
    for pictures, expected in ((shown, image / scale), (empty, torch.zeros(3, 16, 16))):
        shades = torch.frombuffer(bytearray(b64decode(pictures.pixels)), dtype=torch.uint8)
        drawn = shades.unflatten(0, (16, 16, 3)).permute(2, 0, 1).float() / 127.5 - 1
        assert (drawn - expected.clamp(-1, 1)).abs().max() < 0.008  # a shade of 255


def test_split_counts_blocks_means_apart():
    view = loss.split(wave(7, 7) + 0.25)
    # In units of a block's pixels: the mean's square, and the wave's, whose cosines have mean 1/2.
    assert view.favoured_share["Y"] == pytest.approx(0.0625 / (0.0625 + 0.25 / 4), abs=1e-3)
    assert view.favoured_share_of_detail["Y"] == pytest.approx(0, abs=1e-9)


def test_loss_share_of_a_known_error_is_in_its_band():
    clean = seeded_noise(1, (3, 16, 16), 5).clamp(-1, 1)
    model = Wave(clean, 0, 3)  # 3/16 cycles per pixel: "1/8 to 1/4", the third band
    view = loss.loss_share(model, image=clean[0], class_id=1)
    weight = loss.weights().channels[0].weights[0][3]
    for time in range(len(loss.TIMES)):
        for term, expected in (("FM", 0.01 / 2), ("FreqFM", 0.01 / 2 * weight / 3)):
            # Grey has no colour, so Y alone counts, one of three channels.
            assert view.loss[term][time] == pytest.approx(expected, rel=2e-3)
            shares = [share["value"] for share in view.shares[term][time]]
            assert shares == pytest.approx([0, 0, 1, 0], abs=1e-6)
    assert view.interval_over == f"{loss.NOISES} noises"


def test_loss_share_is_the_training_losses_on_the_crops(tiny, tiny_view):
    labels = torch.arange(17).repeat(2)
    sampler = CropSampler([load_photograph(name) for name in PHOTOGRAPHS], 64, num_scales=8)
    crops = sampler.sample(34, torch.Generator().manual_seed(3), labels)
    noise = seeded_noise(34, (3, 64, 64), 3)
    time = loss.TIMES.index(0.7)
    with torch.no_grad():
        x = interpolate(crops.images, noise, 0.7)
        velocity = tiny(x, torch.full((34,), 0.7), labels)
    target = crops.images - noise
    in_groups = loss_bands(velocity, target, quality=75, gamma=2.0, groups=labels).band_shares()
    assert tiny_view.shares["FM"][time][0]["low"] == pytest.approx(in_groups["FM"][0].low, rel=1e-3)
    plain, weighted = (tiny_view.loss[term][time] for term in ("FM", "FreqFM"))
    assert plain == pytest.approx(float(flow_matching_loss(velocity, target)), rel=1e-3)
    assert weighted == pytest.approx(float(frequency_loss(velocity, target, 75, 2.0)), rel=1e-3)


def test_loss_share_has_intervals_and_sums_to_one(tiny_view):
    assert tiny_view.interval_over == "17 photographs"
    assert tiny_view.times == list(loss.TIMES)
    for term in ("FM", "FreqFM"):
        for shares in tiny_view.shares[term]:
            assert len(shares) == len(tiny_view.bands)
            assert sum(share["value"] for share in shares) == pytest.approx(1, abs=2e-3)
            assert all(share["low"] < share["value"] < share["high"] for share in shares)
    # Weights of gamma 2 all but drop the highest band, where the plain loss has much.
    highest = [tiny_view.shares[term][-1][-1] for term in ("FM", "FreqFM")]
    assert highest[0]["low"] > highest[1]["high"]


def test_loss_share_takes_a_model_without_decoder():
    baseline = deco_lab.load("tiny-dit", device="cpu")
    view = loss.loss_share(baseline, image=torch.zeros(3, 64, 64), class_id=3)
    assert all(value is not None and value > 0 for value in view.loss["FM"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 0}, "quality must be a whole number from 1 to 100, got 0"),
        ({"quality": 85.5}, "quality must be a whole number"),
        ({"quality": "85"}, "quality must be a whole number"),
        ({"gamma": -0.1}, "gamma must be a number from 0 to 4, got -0.1"),
        ({"gamma": float("nan")}, "gamma must be a number"),
        ({"image": torch.zeros(3, 16, 16)}, "class_id must be a whole number"),
        ({"image": torch.zeros(3, 16, 16), "class_id": 4}, "class_id must be a whole number"),
        ({"image": torch.full((3, 16, 16), torch.nan), "class_id": 0}, "must answer with finite"),
        ({"name": "mine"}, "mine does not draw the bundled photographs.*picture"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_loss_share_refuses_in_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        loss.loss_share(Wave(torch.zeros(1, 3, 16, 16), 0, 0), **arguments)
