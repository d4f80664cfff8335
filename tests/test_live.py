"""Frames of a run: what they show is what the sampler and the analyses compute, step by step."""

import base64
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image

from deco_lab import live
from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.live import RunCounter, Settings, run, watch
from deco_lab.models import build
from deco_lab.sampling import sample, sample_steps
from deco_lab.spectra import band_shares, decompose, zigzag_order

DIT = DiTConfig(image_size=16, patch_size=2, num_classes=3, hidden_size=16, num_heads=2, depth=1)
DECO = DeCoConfig(
    image_size=16,
    patch_size=2,
    num_classes=3,
    hidden_size=16,
    num_heads=2,
    depth=1,
    decoder_depth=1,
    decoder_width=8,
)
SETTINGS = Settings(class_id=1, num_images=3, num_steps=4, guidance_low=0.2, seed=5)


def random_model(config):
    """A model whose every layer does something, also those that start at zero."""
    model = build(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.fixture(scope="module")
def deco():
    return random_model(DECO)


@pytest.fixture(scope="module")
def dit():
    return random_model(DIT)


def arguments(settings):
    return {
        "class_ids": [settings.class_id] * settings.num_images,
        "num_steps": settings.num_steps,
        "guidance_scale": settings.guidance_scale,
        "guidance_interval": (settings.guidance_low, settings.guidance_high),
        "solver": settings.solver,
        "seed": settings.seed,
    }


def assert_close(values, expected, **tolerance):
    np.testing.assert_allclose(np.array(values, float), expected, **tolerance)


def pixels_of(uri):
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def as_pixels(images):
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def test_watch_last_picture_is_what_sample_draws(deco):
    *_, frame = watch(deco, SETTINGS)
    sheet = pixels_of(frame.noisy)
    assert sheet.shape == (32, 32, 3)  # three images in rows of two, the fourth place empty
    drawn = as_pixels(sample(deco, **arguments(SETTINGS)))
    for i, image in enumerate(drawn):
        row, column = divmod(i, frame.columns)
        place = sheet[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        np.testing.assert_array_equal(place, image)
    assert not sheet[16:, 16:].any()
    assert frame.predicted == frame.noisy


def test_watch_first_frame_is_the_noise(deco):
    frame = next(watch(deco, replace(SETTINGS, num_images=1)))
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    np.testing.assert_array_equal(pixels_of(frame.noisy), as_pixels(noise)[0])
    assert (frame.index, frame.t, frame.t_start, frame.predicted, frame.shares) == (
        0, 0.0, None, None, None,
    )  # fmt: skip


def test_watch_spectra_match_scipy(deco):
    steps = list(sample_steps(deco, **arguments(SETTINGS)))
    for frame, step, before in zip(
        list(watch(deco, SETTINGS))[1:], steps[1:], steps[:-1], strict=True
    ):
        t = torch.full((3,), before.t)
        tokens = deco.condition(before.x, t, torch.tensor([1, 1, 1])).detach()
        for spectrum, images in (
            (frame.predicted_spectrum, step.predicted_image),
            (frame.velocity_spectrum, step.velocity),
            (frame.condition_spectrum, tokens.transpose(1, 2).reshape(3, 16, 8, 8)),
        ):
            assert images is not None
            B, C, H, W = images.shape
            blocks = images.numpy().astype(float).reshape(B, C, H // 8, 8, W // 8, 8)
            dct = np.asarray(scipy.fft.dctn(blocks, axes=(3, 5), norm="ortho"))
            energy = (dct**2).mean((0, 1, 2, 4)).flatten()[list(zigzag_order())]
            assert spectrum is not None
            assert_close(spectrum.energy, energy, rtol=1e-3)
            curve = np.log1p(energy) / np.log1p(energy).max()
            assert_close(spectrum.curve, curve, rtol=1e-3)


# heun_reuse does not evaluate the field where a step starts: nothing remembered fits.
@pytest.mark.parametrize("solver", ["euler", "heun", "heun_reuse", "adams2"])
def test_watch_shares_are_those_of_decompose_where_the_step_started(deco, solver):
    settings = replace(SETTINGS, solver=solver)
    steps = list(sample_steps(deco, **arguments(settings)))
    for frame, before in zip(list(watch(deco, settings))[1:], steps[:-1], strict=True):
        assert frame.t_start == before.t
        parts = decompose(deco, before.x, before.t, [1, 1, 1])
        for share in ("dit", "decoder", "baseline"):
            expected = band_shares(getattr(parts, share), parts.velocity)
            assert_close(getattr(frame.shares, share), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_watch_computes_no_condition_twice(deco, monkeypatch, guidance_scale):
    calls = []
    compute = deco.condition
    monkeypatch.setattr(deco, "condition", lambda *inputs: calls.append(1) or compute(*inputs))
    list(watch(deco, replace(SETTINGS, guidance_scale=guidance_scale)))
    assert len(calls) == SETTINGS.num_steps


def test_watch_decomposes_few_images_of_many(deco, monkeypatch):
    monkeypatch.setattr(live, "MAX_DECOMPOSED", 2)
    many = list(watch(deco, SETTINGS))[-1].shares
    few = list(watch(deco, replace(SETTINGS, num_images=2)))[-1].shares
    assert many is not None
    assert few is not None
    assert_close(many.dit, np.array(few.dit, float), rtol=2e-3, atol=1e-4)


def test_watch_baseline_has_all_but_the_decoders_panels(dit):
    *_, frame = watch(dit, SETTINGS)
    assert frame.condition_spectrum is None
    assert frame.shares is None
    assert frame.velocity_spectrum is not None
    assert np.array(frame.velocity_spectrum.curve, float).min() > 0


def test_watch_frames_are_json_without_nan():
    silent = build(DECO)  # velocity 0: shares are undefined
    *frames, last = watch(silent, SETTINGS)
    for frame in [*frames, last]:
        json.dumps(asdict(frame), allow_nan=False)
    assert last.shares is not None
    assert last.shares.dit == [None] * 4


def test_watch_averages_large_pictures_down(deco, monkeypatch):
    monkeypatch.setattr(live, "MAX_PICTURE_SIDE", 16)
    settings = replace(SETTINGS, num_images=4)
    *_, frame = watch(deco, settings)
    halved = torch.nn.functional.avg_pool2d(sample(deco, **arguments(settings)), 2)
    assert frame.shrink == 2
    np.testing.assert_array_equal(pixels_of(frame.noisy)[:8, :8], as_pixels(halved)[0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_steps", 0, "num_steps must be a whole number from 1 to 1000, got 0"),
        ("num_steps", 1001, "from 1 to 1000, got 1001"),
        ("num_steps", 2.5, "from 1 to 1000, got 2.5"),
        ("num_steps", True, "from 1 to 1000, got True"),
        ("num_images", 17, "num_images must be a whole number from 1 to 16, got 17"),
        ("num_images", None, "from 1 to 16, got None"),
        ("class_id", 3, "class_ids must be at most 2"),
        ("class_id", "cat", "whole number"),
        ("guidance_scale", "much", "guidance_scale must be a finite number"),
        ("guidance_low", 1.0, "0 <= low < high <= 1"),
        ("guidance_high", float("nan"), "guidance_interval must be a finite number"),
        ("solver", "rk4", "solver must be one of euler, "),
        ("solver", ["euler"], "solver must be one of euler, "),
        ("seed", -1, "seed must be a whole number"),
    ],
)
def test_watch_refuses_at_the_call(deco, name, value, message):
    with pytest.raises(ValueError, match=message):
        watch(deco, replace(SETTINGS, **{name: value}))


def test_run_ends_with_done(deco):
    updates = list(run(deco, SETTINGS))
    assert [u.status for u in updates] == ["running"] * 5 + ["done"]
    assert [u.frame and u.frame.index for u in updates] == [None, 0, 1, 2, 3, 4]
    # Steps start at 0, 0.25, 0.5, 0.75; the last three are guided and cost two passes.
    assert updates[-1].text.startswith("Done: 4 steps, 7 network passes, ")


def test_run_stops_before_the_next_step(deco):
    updates = []

    def is_wanted():
        return not (updates and updates[-1].frame and updates[-1].frame.index == 2)

    for update in run(deco, SETTINGS, is_wanted=is_wanted):
        updates.append(update)
    assert updates[-1].text == "Stopped at step 2 of 4."
    assert (updates[-1].status, updates[-1].frame) == ("stopped", updates[-2].frame)


def test_run_ends_at_its_time_limit(deco):
    *_, last = run(deco, SETTINGS, time_limit=0)
    assert last.text == "Stopped before the first step, at the time limit of 0 s."


def test_run_counter_newest_call_makes_older_ones_stale():
    runs = RunCounter()
    first, other = runs.call("a"), runs.call("b")
    assert runs.begin("a", first)
    second = runs.call("a")
    assert not runs.is_newest("a", first)
    assert runs.is_newest("a", second)
    assert runs.is_newest("b", other)
    assert not runs.begin("a", first)


def test_run_counter_lets_a_number_begin_once():
    runs = RunCounter()
    number = runs.call("a")
    assert [runs.begin("a", number), runs.begin("a", number)] == [True, False]


def test_run_counter_stop_ends_the_run_and_not_the_next():
    runs = RunCounter()
    number = runs.call("a")
    runs.stop("a")
    assert not runs.is_newest("a", number)
    assert not runs.begin("a", number)
    assert runs.begin("a", runs.call("a"))


def test_watch_leaves_out_the_condition_of_grids_below_a_block():
    model = random_model(replace(DECO, patch_size=4))  # 4 x 4 tokens
    *_, frame = watch(model, SETTINGS)
    assert frame.condition_spectrum is None
    assert frame.velocity_spectrum is not None
    assert frame.shares is not None
