"""A watched run: what it shows is what the sampler and the analyses compute, step by step."""

import base64
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch

from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.models import build
from deco_lab.sampling import Start, sample, sample_steps
from deco_lab.spectra import (
    MEAN_AND_OCTAVES,
    PartGains,
    band_shares,
    dct_energy,
    radial_power,
    split_bands,
    zigzag_order,
)
from deco_lab.workbench.frames import bands_of
from deco_lab.workbench.history import History
from deco_lab.workbench.record import CURVES
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.watching import Watch, run

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
SETTINGS = Settings(
    class_ids=(1, 2), num_images=3, num_steps=4, guidance_interval=(0.2, 1.0), seed=5
)
LABELS = [1, 2, 1]


def random_model(config, seed=0) -> Any:
    """A model whose every layer does something, also those that start at zero."""
    model = build(config)
    generator = torch.Generator().manual_seed(seed)
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


def assert_close(values, expected, **tolerance):
    np.testing.assert_allclose(np.array(values, float), expected, **tolerance)


def pixels_of(pictures):
    data = np.frombuffer(base64.b64decode(pictures.pixels), np.uint8)
    return data.reshape(pictures.count, pictures.height, pictures.width, 3)


def as_pixels(images):
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def test_watch_pictures_are_those_of_the_samplers_steps(deco):
    steps: Any = list(sample_steps(deco, **SETTINGS.sampling_arguments()))
    watch = Watch(deco, SETTINGS)
    first, *frames = list(watch)
    assert (first.index, first.t, first.t_start) == (0, 0.0, None)
    assert first.predicted is first.velocity is None
    assert set(first.curves) == {"noisy_energy", "noisy_power"}
    for frame, step in zip([first, *frames], steps, strict=True):
        np.testing.assert_array_equal(pixels_of(frame.noisy), as_pixels(step.x))
        assert_close(frame.curves["noisy_power"], radial_power(step.x).power, rtol=1e-3)
    for frame, step in zip(frames, steps[1:], strict=True):
        np.testing.assert_array_equal(pixels_of(frame.predicted), as_pixels(step.predicted_image))
        np.testing.assert_array_equal(pixels_of(frame.velocity), as_pixels(step.velocity / 3))
        power = radial_power(step.velocity).power
        assert_close(frame.curves["velocity_power"], power, rtol=1e-3)
    frequency = watch.record({}).axes["frequency"]
    np.testing.assert_array_equal(frequency, radial_power(steps[0].x).frequency)


def test_watch_energies_match_scipy(deco):
    steps = list(sample_steps(deco, **SETTINGS.sampling_arguments()))
    frames = list(Watch(deco, SETTINGS))
    for frame, step, before in zip(frames[1:], steps[1:], steps[:-1], strict=True):
        t = torch.full((3,), before.t)
        tokens = deco.condition(before.x, t, torch.tensor(LABELS)).detach()
        for name, images in (
            ("noisy", step.x),
            ("predicted", step.predicted_image),
            ("velocity", step.velocity),
            ("condition", tokens.transpose(1, 2).reshape(3, 16, 8, 8)),
        ):
            assert images is not None
            B, C, H, W = images.shape
            blocks = images.numpy().astype(float).reshape(B, C, H // 8, 8, W // 8, 8)
            dct = np.asarray(scipy.fft.dctn(blocks, axes=(3, 5), norm="ortho"))
            energy = (dct**2).mean((0, 1, 2, 4)).flatten()[list(zigzag_order())]
            assert_close(frame.curves[f"{name}_energy"], energy, rtol=1e-3)


def test_watch_bands_are_mean_squares_of_the_split_prediction(deco):
    steps = list(sample_steps(deco, **SETTINGS.sampling_arguments()))
    frames = list(Watch(deco, SETTINGS))
    assert "predicted_bands" not in frames[0].curves
    for frame, step in zip(frames[1:], steps[1:], strict=True):
        assert step.predicted_image is not None
        energies = split_bands(step.predicted_image).square().mean((1, 2, 3, 4))
        assert_close(frame.curves["predicted_bands"], energies, rtol=2e-3)


def test_watch_guidance_is_what_the_rule_changed(deco):
    settings = replace(SETTINGS, guidance_scale=4.0)
    steps = list(sample_steps(deco, **settings.sampling_arguments()))
    frames = list(Watch(deco, settings))
    assert "guidance_power" not in frames[1].curves  # starts at t = 0, below its interval
    labels, null = torch.tensor(LABELS), torch.tensor([3, 3, 3])
    for frame, before in zip(frames[2:], steps[1:-1], strict=True):
        t = torch.full((3,), before.t)
        cond, uncond = (deco(before.x, t, ids).detach() for ids in (labels, null))
        added = 3 * (cond - uncond)  # uncond + 4 (cond - uncond) - cond
        ratio = split_bands(added).square().sum((1, 2, 3, 4)) / split_bands(cond).square().sum(
            (1, 2, 3, 4)
        )
        assert_close(frame.curves["guidance_bands"], ratio, rtol=2e-3)
        assert_close(frame.curves["guidance_power"], radial_power(added).power, rtol=2e-3)


# heun_reuse does not evaluate the field where a step starts: nothing remembered fits.
@pytest.mark.parametrize("solver", ["euler", "heun", "heun_reuse", "adams2"])
def test_watch_shares_are_those_of_the_first_prediction_where_the_step_started(deco, solver):
    settings = replace(SETTINGS, solver=solver)
    steps = list(sample_steps(deco, **settings.sampling_arguments()))
    watch = Watch(deco, settings)
    frames = list(watch)[1:]
    others = watch.others
    assert others is not None
    for frame, before in zip(frames, steps[:-1], strict=True):
        t = before.t  # a quarter: where the others' conditions are asked for
        x, at = before.x[:1], torch.tensor([t])
        with torch.no_grad():
            s = deco.condition(x, at, torch.tensor([1]))
            parts, both = torch.zeros(4, *x.shape), x
            for p0, s0 in zip(others.pixels(t), others.condition(deco, t), strict=True):
                drawn = [
                    pixels + (1 - t) * deco.decode(pixels, condition)
                    for pixels in (x, p0[None])
                    for condition in (s, s0[None])
                ]
                both, of_p, of_s, none = drawn
                main = [none, of_s - none, of_p - none, both - of_s - of_p + none]
                parts = parts + torch.stack(main) / len(others.images)
        assert frame.t_start == t
        shares = torch.stack([band_shares(part, both, MEAN_AND_OCTAVES) for part in parts])
        shown = np.array(frame.curves["predicted_shares"], float)
        assert np.isfinite(shown[:, -1]).all()
        has = np.isfinite(shown)
        np.testing.assert_allclose(shown[has], shares.numpy()[has], rtol=5e-3, atol=1e-3)
        assert f"draws {shares[1, -1]:z.0%} of what the predicted image has above" in frame.says


@pytest.mark.parametrize(
    ("changes", "conditions", "decodes"),
    [
        ({}, 4 * 3 + 4 * 2, 4 * (3 + 7)),
        ({"num_steps": 40}, 40 * 3 + 16 * 2, 40 * (3 + 7)),
        ({"guidance_scale": 3.0}, 7 * 3 + 4 * 2, 7 * 3 + 4 * 7),  # three steps are guided
        ({"decompose": False}, 4 * 3, 4 * 3),
    ],
    ids=str,
)
def test_watch_computes_nothing_twice(deco, monkeypatch, changes, conditions, decodes):
    """Of two others at most 16 conditions; of the first image and them seven decodes a step."""
    images = {"condition": 0, "decode": 0}
    for name in images:
        original = getattr(deco, name)

        def counted(*inputs, name=name, original=original):
            images[name] += len(inputs[0])
            return original(*inputs)

        monkeypatch.setattr(deco, name, counted)
    list(Watch(deco, replace(SETTINGS, **({"guidance_scale": 1.0} | changes))))
    assert images == {"condition": conditions, "decode": decodes}


def test_watch_gains_draw_what_part_gains_draw(deco):
    gains = {"dit_gains": (1, 0.5, 0, 2), "decoder_gains": (0, 1, 1, 1)}
    watch = Watch(deco, replace(SETTINGS, **gains))
    list(watch)
    model = PartGains(deco, dit=gains["dit_gains"], decoder=gains["decoder_gains"])
    expected = sample(model, **SETTINGS.sampling_arguments())
    torch.testing.assert_close(watch.record({}).images, expected)
    assert not torch.allclose(expected, sample(deco, **SETTINGS.sampling_arguments()), atol=0.01)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dit_gains": (1, 1, 1, 0)}, "dit_gains and decoder_gains must be 1, since tiny has"),
        ({"condition_reuse": 2}, "condition_reuse must be 1 for a model without"),
        ({"class_ids": (3,)}, "class_ids must be at most 2, since the model knows 3"),
    ],
)
def test_watch_refuses_what_the_model_cannot_do(dit, changes, said):
    with pytest.raises(ValueError, match=said):
        Watch(dit, replace(SETTINGS, **changes))


def test_watch_shows_the_curves_that_a_model_has(dit):
    shown = {name for name, (axes, _) in CURVES.items() if axes} - {"predicted_likeness"}
    coarse = random_model(replace(DECO, patch_size=4))  # 4 x 4 tokens are no block
    for model, lacks in ((dit, {"condition_energy", "predicted_shares"}),
                         (coarse, {"condition_energy"})):  # fmt: skip
        *_, frame = Watch(model, SETTINGS)
        assert shown - set(frame.curves) == lacks


def test_watch_frames_are_json_without_nan():
    class Silent(torch.nn.Module):
        """Predicts the image 0: shares are undefined."""

        config = DECO

        def __init__(self):
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def condition(self, x, t, class_ids):
            self.left = 1 - float(t[0])
            return torch.zeros(len(x), 64, 16)

        def decode(self, x, condition):
            return -x / self.left

        def forward(self, x, t, class_ids):
            return self.decode(x, self.condition(x, t, class_ids))

    *frames, last = Watch(Silent(), SETTINGS)
    for frame in [*frames, last]:
        json.dumps(asdict(frame), allow_nan=False)
    assert last.curves["predicted_shares"] == [[None] * 5] * 4
    assert last.says == "t = 0.75: the predicted image has nothing above 1/4 cycles a pixel."


def test_record_holds_every_frame_in_full_precision(deco):
    watch = Watch(deco, SETTINGS)
    frames = list(watch)
    record = watch.record({"name": "tiny"})
    assert record.num_steps == 4
    assert record.model == {"name": "tiny"}
    assert torch.equal(record.images, sample(deco, **SETTINGS.sampling_arguments()))
    np.testing.assert_array_equal(record.curves["t"].values, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(record.curves["t_start"].values, [np.nan, 0, 0.25, 0.5, 0.75])
    np.testing.assert_array_equal(record.curves["nfe"].values, [f.nfe for f in frames])
    for name, curve in record.curves.items():
        assert curve.values.shape == tuple(len(record.axes[axis]) for axis in curve.axes)
        for frame, row in zip(frames, curve.values, strict=True):
            if CURVES[name][0]:
                shown = frame.curves.get(name, np.full(row.shape, np.nan))
                assert_close(shown, row, rtol=6e-4)
    assert np.isnan(record.curves["predicted_shares"].values[0]).all()
    assert record.curves["velocity_energy"].values.dtype == np.float64


@pytest.mark.parametrize("taken", [1, 3, 5])
def test_record_is_paused_where_something_is_left_to_draw(deco, taken):
    watch = Watch(deco, SETTINGS)
    for _ in range(taken):
        next(watch)
    steps = list(sample_steps(deco, **SETTINGS.sampling_arguments()))
    expected = steps[min(taken, 4) - 1]  # of a finished run, where its last step started
    paused = watch.record({}).paused
    assert paused is not None
    assert torch.equal(paused.x, expected.x)
    assert paused.t == expected.t < 1


@pytest.mark.parametrize(("taken", "pause"), [(5, 0), (3, 0), (5, 3600)])
def test_record_keeps_every_state_and_prediction(deco, taken, pause):
    watch, left = Watch(deco, SETTINGS), iter(range(taken))
    list(run(watch, is_wanted=lambda: next(left, None) is not None, pause=pause))
    record = watch.record({})
    steps: Any = list(sample_steps(deco, **SETTINGS.sampling_arguments()))[:taken]
    for step in range(1, taken):
        found, (x, t) = record.began(step)
        assert (found, t) == (step, steps[step - 1].t)
        assert torch.equal(x, steps[step - 1].x)
    assert list(record.film) == list(range(1, taken))
    for step, frame in record.film.items():
        np.testing.assert_array_equal(frame, as_pixels(steps[step].predicted_image))
    x = steps[0].x.nbytes
    states = taken if taken < 5 else 4  # of the last state nothing is left to draw
    curves = sum(curve.values.nbytes for curve in record.curves.values())
    assert record.size == (states + 1) * x + (taken - 1) * x // 4 + curves
    # Nothing that is kept holds more than it shows.
    kept = [*record.film.values(), *(state.x for state in record.states.values())]
    assert all(values.untyped_storage().nbytes() == values.nbytes for values in kept)


def test_record_of_a_large_run_keeps_some_states_and_the_last_prediction(deco, monkeypatch):
    x = 3 * 3 * 16 * 16 * 4
    monkeypatch.setattr(History.__init__, "__defaults__", (10 * x,))
    settings = replace(SETTINGS, num_steps=30)
    watch = Watch(deco, settings)
    list(watch)
    record = watch.record({})
    assert list(record.states) == [0, 8, 16, 24]
    assert list(record.film)[-1] == 30
    assert record.size <= 13 * x + sum(curve.values.nbytes for curve in record.curves.values())
    steps: Any = list(sample_steps(deco, **settings.sampling_arguments()))
    for step in (1, 2, 17, 18, 29, 30):
        found, (state, t) = record.began(step)
        assert abs(found - step) <= 4
        assert torch.equal(state, steps[found - 1].x)
        assert t == steps[found - 1].t
    assert record.without_steps().size < record.size
    assert record.paused_at == 29
    assert record.without_steps().began(1)[0] == 30


def test_run_gives_each_frame_once_and_ends_with_done(deco):
    updates = list(run(Watch(deco, replace(SETTINGS, num_steps=30))))
    assert [u.status for u in updates] == ["running"] * 30 + ["done"]
    assert [[f.index for f in u.frames] for u in updates] == [[i] for i in range(31)]
    # Steps that start above 0.2, the last 23 of 30, are guided and cost two passes.
    assert updates[-1].text.startswith("Done: 30 steps, 53 network passes, ")


def test_watch_reuses_the_condition_as_sample_does_and_explains_it(deco):
    settings = replace(SETTINGS, condition_reuse=3, guidance_scale=1.0, num_images=2)
    frames = list(Watch(deco, settings))
    steps = list(sample_steps(deco, **settings.sampling_arguments()))
    np.testing.assert_array_equal(pixels_of(frames[-1].noisy), as_pixels(steps[-1].x))
    labels = torch.tensor(settings.labels)
    at = [torch.full((2,), step.t) for step in steps]
    tokens = deco.features(steps[0].x, at[0], labels).detach()
    condition = deco.condition_of(tokens, at[2]).detach()  # what the third step had
    energy = dct_energy(condition.transpose(1, 2).reshape(2, 16, 8, 8))
    expected = energy.flatten()[list(zigzag_order())]
    assert_close(frames[3].curves["condition_energy"], expected, rtol=1e-3)
    own = deco.condition(steps[2].x, at[2], labels).detach()
    assert (own - condition).norm() > 1e-3 * own.norm()


def test_run_joins_the_steps_within_a_pause_and_loses_none(deco):
    settings = replace(SETTINGS, num_steps=30)
    updates = list(run(Watch(deco, settings), pause=3600))
    assert [[f.index for f in u.frames] for u in updates] == [[0], [1], list(range(2, 31))]
    for joined, alone in zip(
        [f for u in updates for f in u.frames], Watch(deco, settings), strict=True
    ):
        assert joined.noisy == alone.noisy
        assert joined.curves.keys() == alone.curves.keys()
        for name, curve in joined.curves.items():
            assert_close(curve, np.array(alone.curves[name], float), rtol=2e-3)


def test_run_that_is_stopped_gives_the_steps_that_were_taken(deco):
    for pause, indices in ((0, [[0], [1], [2], [3], []]), (9, [[0], [1], [2, 3]])):
        left = iter(range(4))
        watch = Watch(deco, replace(SETTINGS, num_steps=50))
        updates = list(
            run(watch, is_wanted=lambda left=left: next(left, None) is not None, pause=pause)
        )
        assert [[f.index for f in u.frames] for u in updates] == indices
        assert (updates[-1].status, updates[-1].text) == ("stopped", "Stopped at step 3 of 50.")
        assert watch.record({}).num_steps == 3


def test_run_ends_at_its_time_limit(deco):
    watch = Watch(deco, SETTINGS)
    (last,) = run(watch, time_limit=-1)
    assert last.text == "Stopped before the first step, at the time limit of -1 s."
    assert not watch.has_begun


def test_watch_draws_the_first_image_from_its_condition_and_by_band(deco):
    steps = list(sample_steps(deco, **SETTINGS.sampling_arguments()))
    watch = Watch(deco, SETTINGS)
    first, *frames = list(watch)
    assert first.drawn is first.bands is None
    others = watch.others
    assert others is not None
    for frame, before in zip(frames, steps, strict=False):
        t, x = torch.tensor([before.t]), before.x[:1]
        with torch.no_grad():
            own = deco.condition(x, t, torch.tensor(LABELS[:1]))
            whole = x + (1 - t) * deco.decode(x, own)
            pixels = others.pixels(before.t)
            drawn = pixels + (1 - t) * deco.decode(pixels, own.expand(len(pixels), -1, -1))
        of_condition = drawn.mean(0, keepdim=True)
        expected = torch.cat([whole, of_condition, 2 * (whole - of_condition)])
        shown = pixels_of(frame.drawn).astype(int)
        assert np.abs(shown - as_pixels(expected)).max() <= 1
        bands = split_bands(whole)[:, 0] / torch.tensor([1, 0.5, 0.4, 0.3])[:, None, None, None]
        assert np.abs(pixels_of(frame.bands).astype(int) - as_pixels(bands)).max() <= 1


def test_watch_shows_bands_of_large_images_by_their_middle():
    image = torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0)) / 5
    shown = bands_of(image)[0].permute(0, 3, 1, 2).float() / 127.5 - 1
    low, *others = split_bands(image)[:, 0]
    middle = [band[:, 32:96, 16:80] / r for band, r in zip(others, (0.5, 0.4, 0.3), strict=True)]
    for found, band in zip(
        shown, [torch.nn.functional.adaptive_avg_pool2d(low, 64), *middle], strict=True
    ):
        assert (found - band.clamp(-1, 1)).abs().max() < 0.005


def test_watch_without_parts_shows_bands_of_the_predicted_image(dit):
    frame = list(Watch(dit, SETTINGS))[-1]
    step: Any = list(sample_steps(dit, **SETTINGS.sampling_arguments()))[-1]
    assert frame.drawn is None
    bands = split_bands(step.predicted_image[:1])[:, 0]
    assert np.abs(pixels_of(frame.bands)[0].astype(int) - as_pixels(bands[:1])[0]).max() <= 1


def test_watch_starts_from_a_picture_and_counts_the_steps_that_are_left(deco):
    settings = replace(SETTINGS, num_steps=10, start_from="own picture", start_t=0.65)
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    start = Start(picture, 0.65)
    watch = Watch(deco, settings, start)
    assert watch.num_steps == 4
    updates = list(run(watch))
    assert updates[-1].status == "done"
    assert updates[-1].text.startswith("Done: 4 steps, ")
    frames = [frame for update in updates for frame in update.frames]
    assert [round(frame.t, 6) for frame in frames] == [0.65, 0.7, 0.8, 0.9, 1.0]
    expected = sample(deco, **settings.sampling_arguments(), start=start)
    record = watch.record({})
    assert torch.equal(record.images, expected)
    assert record.num_steps == 4
