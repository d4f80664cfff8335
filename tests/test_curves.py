"""Curves over t: closed forms, the same images as the numbers that they stand for, and refusals."""

from dataclasses import replace
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
import torch
import tyro

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.flow import seeded_noise
from deco_lab.models import build
from deco_lab.sampling import (
    GUIDANCE,
    BandGuidance,
    Curve,
    Plan,
    ZeroStarGuidance,
    sample,
    sample_steps,
)
from deco_lab.sampling.curve import begins
from deco_lab.setting import RuleError
from deco_lab.spectra import PartGains
from deco_lab.workbench import Settings, from_query, to_query, to_snippet
from deco_lab.workbench.keeping import settings_from_png, to_npz, to_png
from deco_lab.workbench.settings import settings_from
from deco_lab.workbench.sweeping import sweep
from deco_lab.workbench.watching import Watch

RULES = {name: named.of(Plan(band_scales=(1.5, 3, 2, 4))) for name, named in GUIDANCE.items()}
SOLVERS = ["euler", "heun", "heun_reuse", "adams2"]


@pytest.fixture(scope="module")
def deco():
    model = build(
        DeCoConfig(
            image_size=16, patch_size=2, num_classes=3, hidden_size=16, num_heads=2, depth=1,
            decoder_depth=1, decoder_width=8,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


# What a curve is.


def test_curve_is_numpys_interp():
    values = (0.5, -1, 2, 2, 0)
    times = np.linspace(-0.2, 1.2, 57)
    expected = np.interp(times, np.linspace(0, 1, 5), values)
    np.testing.assert_allclose([Curve(values)(t) for t in times], expected, atol=1e-12)


def test_curve_has_its_own_values_at_its_times_whatever_the_rounding():
    curve = Curve([k % 2 for k in range(11)])
    for k in range(11):
        for t in (k / 10, k * 0.1, float(np.float32(k / 10)), float(torch.linspace(0, 1, 11)[k])):
            assert curve(t) == k % 2
    assert Curve((0.1,) * 7)(0.43) == 0.1  # to the last bit


def test_begins_is_where_no_curve_is_0_any_more():
    late, early = Curve([0, 0, 0, 1, 1]), Curve([1, 0, 0])
    assert begins([], 0.1, 1.0) == 0.1
    assert begins([late], 0.1, 1.0) == 0.5
    assert begins([late], 0.6, 1.0) == 0.6
    assert begins([late], 0.1, 0.5) is None
    assert begins([early], 0.1, 1.0) == 0.1
    assert begins([late, early], 0.1, 1.0) is None
    assert begins([late, Curve([0, 1, 0])], 0.0, 1.0) == 0.5
    assert begins([Curve([0, 0])], 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1,), r"values must be at least 2 numbers, at evenly spaced times .* got \(1,\)"),
        (3, "values must be at least 2 numbers, .* got 3"),
        ((1, float("nan")), "each of values must be a finite number, got nan"),
        ("ab", "each of values must be a finite number, got 'a'"),
    ],
)
def test_curve_refuses_what_is_no_curve_in_a_sentence(values, message):
    with pytest.raises(ValueError, match=message):
        Curve(values)


# Guidance.


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_neutral_curve_changes_no_bit(deco, rule, solver):
    arguments: Any = {"num_steps": 4, "solver": solver, "guidance": rule, "guidance_scale": 2.7}
    plain = sample(deco, [1, 2], **arguments)
    for curve in (Curve((1, 1)), (1.0,) * 11, np.ones(3).tolist()):
        assert torch.equal(sample(deco, [1, 2], guidance_curve=curve, **arguments), plain)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_curve_is_a_guidance_interval(deco, rule, solver):
    arguments: Any = {"num_steps": 10, "solver": solver, "guidance": rule}
    step = (0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0)  # at t = 0.4, ..., 0.7
    by_curve = list(sample_steps(deco, [1], guidance_curve=step, **arguments))
    by_interval = list(sample_steps(deco, [1], guidance_interval=(0.35, 0.7), **arguments))
    for one, other in zip(by_curve, by_interval, strict=True):
        assert torch.equal(one.x, other.x)
        assert one.nfe == other.nfe
    # With both, a step is guided that both guide.
    both = {"guidance_curve": step, "guidance_interval": (0.45, 1.0)}
    expected = sample(deco, [1], guidance_interval=(0.45, 0.7), **arguments)
    assert torch.equal(sample(deco, [1], **both, **arguments), expected)


@pytest.mark.parametrize("factor", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_constant_curve_is_another_scale(deco, rule, factor):
    def scaled(w):
        return 1 + factor * (w - 1)

    arguments: Any = {"num_steps": 4, "solver": "heun"}
    found = list(
        sample_steps(
            deco, [1], guidance=rule, guidance_scale=2.5, guidance_curve=[factor] * 2, **arguments
        )
    )
    if isinstance(rule, BandGuidance):
        rule = BandGuidance([scaled(w) for w in rule.scales])
    expected = list(sample_steps(deco, [1], guidance=rule, guidance_scale=scaled(2.5), **arguments))
    assert torch.equal(found[-1].x, expected[-1].x)
    assert found[-1].nfe == expected[-1].nfe


def test_a_curve_is_that_of_the_step_in_every_pass_of_it(deco):
    seen = []

    def look(pair):
        seen.append((pair.t, pair.started, pair.guidance_scale, pair.factor))
        return pair.cond

    arguments: Any = {"num_steps": 4, "guidance_scale": 5, "solver": "heun", "guidance": look}
    sample(deco, [0], guidance_curve=(0, 1), **arguments)
    assert seen == [
        (0.25, 0.25, 2, 0.25), (0.5, 0.25, 2, 0.25), (0.5, 0.5, 3, 0.5), (0.75, 0.5, 3, 0.5),
        (0.75, 0.75, 4, 0.75),
    ]  # fmt: skip


def test_the_pass_for_the_null_class_is_skipped_where_the_curve_is_0(deco):
    rest = (1, 0, 0, 0, 1)
    for rule in (None, BandGuidance([3.0] * 4, curves=[rest] * 4)):
        curve = rest if rule is None else None
        steps = list(
            sample_steps(deco, [1], num_steps=8, guidance=rule, guidance_curve=curve,
                         guidance_interval=(0, 1))
        )  # fmt: skip
        # From t = 0, 0.125, ...: the interval leaves out 0, the curve 0.25 to 0.75.
        assert [b.nfe - a.nfe for a, b in pairwise(steps)] == [1, 2, 1, 1, 1, 1, 1, 2]


def test_a_curve_of_0_needs_no_null_class_and_takes_zero_star_with_it():
    noise = torch.ones(1, 3, 4, 4)
    field = lambda x, t, labels: -x  # noqa: E731
    arguments: Any = {"noise": noise, "num_steps": 3, "guidance_curve": (0, 0)}
    expected = sample(field, [0], noise=noise, num_steps=3, guidance_scale=1)
    assert torch.equal(sample(field, [0], **arguments), expected)
    found = sample(field, [0], guidance=ZeroStarGuidance(1), **arguments)
    assert torch.equal(found, expected)


def test_band_guidance_has_a_curve_for_each_band(deco):
    scales, curves = (1.5, 3.0, 2.0, 4.0), ((1, 0), None, (0, 1), Curve((2, 2)))
    rule = BandGuidance(scales, curves=curves)
    assert rule.scales_at(0.25) == (1 + 0.75 * 0.5, 3, 1.25, 7)
    assert rule.scales_at(0.25, 2.0) == (1 + 1.5 * 0.5, 5, 1.5, 13)
    x = seeded_noise(1, (3, 16, 16), 0)
    for step in range(4):
        t = torch.full((1,), step / 4)
        cond, uncond = (deco(x, t, torch.tensor([label])) for label in (1, 3))
        now = BandGuidance(rule.scales_at(step / 4, 0.5 if step == 2 else 1))
        pair: Any = {"cond": cond, "uncond": uncond, "x": x, "t": step / 4, "guidance_scale": 9}
        x = x + (now(deco_lab.sampling.GuidedPair(**pair)) if step else cond) / 4
    found = sample(deco, [1], num_steps=4, guidance=rule, guidance_curve=(1, 1, 0.5, 1, 1))
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    # Of equal curves it is the curve for all.
    curve = (0, 1, 0.3)
    each = sample(deco, [1], guidance=BandGuidance(scales, curves=[curve] * 4), num_steps=5)
    shared = sample(deco, [1], guidance=BandGuidance(scales), guidance_curve=curve, num_steps=5)
    assert torch.equal(each, shared)


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ((1, -0.5), "each of guidance_curve must be a finite number of at least 0, got -0.5; 1 "),
        ((1,), "guidance_curve must be a Curve or its values: values must be at least 2 numbers"),
        (0.5, "guidance_curve must be a Curve or its values: .* got 0.5; None is none"),
    ],
)
def test_sample_refuses_what_is_no_curve_at_the_call(deco, curve, message):
    with pytest.raises(ValueError, match=message):
        sample_steps(deco, [1], guidance_curve=curve)


def test_band_guidance_refuses_curves_that_are_not_one_a_band():
    with pytest.raises(ValueError, match="curves must be one for each of the 4 scales, got 1"):
        BandGuidance([2.0] * 4, curves=[(0, 1)])
    with pytest.raises(ValueError, match="each of curves must be a finite number of at least 0"):
        BandGuidance([2.0, 3.0], (0.1,), [(0, -1), None])


# Gains.


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_gains_of_a_constant_curve_are_its_numbers_to_the_last_bit(deco, solver):
    numbers = {"dit": (1, 0.5, 0, 2), "decoder": (0, 1, -1, 1)}
    curves: Any = {part: [Curve((g, g)) for g in gains] for part, gains in numbers.items()}
    drawn = [
        sample(PartGains(deco, **gains), [1, 2], num_steps=3, solver=solver)
        for gains in (numbers, curves)
    ]
    assert torch.equal(*drawn)
    assert torch.equal(
        sample(PartGains(deco, dit=[Curve((1, 1))] * 4), [1], num_steps=3),
        sample(deco, [1], num_steps=3),
    )


def test_gains_are_those_of_each_images_own_time(deco):
    x, labels = seeded_noise(3, (3, 16, 16), 0), torch.tensor([0, 1, 2])
    t = torch.tensor([0.0, 0.25, 1.0])
    curve = Curve((2, 0))
    found = PartGains(deco, dit=(1, curve, 1, 0.5), decoder=(curve, 1, 1, 1))(x, t, labels)
    for i, gain in enumerate((2, 1.5, 0)):
        model = PartGains(deco, dit=(1, gain, 1, 0.5), decoder=(gain, 1, 1, 1))
        expected = model(x[i : i + 1], t[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], expected, rtol=1e-5, atol=1e-5)
    # A gain may be any function of t.
    t = torch.full((3,), 0.25)
    assert torch.equal(
        PartGains(deco, dit=(lambda t: 4 * t, 1, 1, 1))(x, t, labels), deco(x, t, labels)
    )


def test_gains_that_are_1_at_a_time_cost_one_pass_there(deco, monkeypatch):
    calls, decode = [], deco.decode
    monkeypatch.setattr(deco, "decode", lambda *inputs: calls.append(1) or decode(*inputs))
    model = PartGains(deco, decoder=[Curve((1, 1, 0))] * 4)
    counts = []
    for _ in sample_steps(model, [1], num_steps=4, guidance_scale=1):
        counts.append(len(calls))
    assert np.diff(counts).tolist()[:3] == [1, 1, 1]
    assert counts[-1] - counts[-2] > 1


# Settings.

NEUTRAL = Settings(num_images=2, num_steps=5)
DRAWN = [
    replace(NEUTRAL, guidance_curve=(0, 0.5, 2)),
    replace(NEUTRAL, guidance="by band", band_curves=(1, 0, 1, 1, 0, 1, 0, 2), guidance_scale=1.5),
    replace(NEUTRAL, dit_curves=(1, 0) + (1, 1) * 2 + (0, 3), dit_gains=(1, 1, 0.5, 2)),
    replace(NEUTRAL, decoder_curves=(1, 1, 0.3) * 4, guidance_curve=(1, 0, 1), solver="heun"),
]


@pytest.mark.parametrize("values", [[], [1, 1], (1.0,) * 11])
def test_settings_of_a_neutral_curve_are_those_without(values):
    assert Settings(guidance_curve=values) == Settings()
    assert Settings(dit_curves=(*values,) * 4).has_gains is False
    assert Settings(guidance_curve=values).sampling_arguments()["guidance_curve"] is None


def test_settings_give_gains_as_numbers_and_curves():
    gains = DRAWN[2].gains()
    assert gains["dit"] == (Curve((1, 0)), 1, 0.5, Curve((0, 6)))
    assert gains["decoder"] == (1, 1, 1, 1)
    assert DRAWN[2].has_gains
    assert not DRAWN[0].has_gains


@pytest.mark.parametrize("settings", DRAWN, ids=lambda settings: ", ".join(settings.changed()))
def test_curves_come_back_from_link_picture_and_script(settings):
    assert from_query(dict(parse_qsl(to_query(settings), keep_blank_values=True))) == settings
    watch = Watch(deco_lab.load("tiny"), settings)
    list(watch)
    record = watch.record({"name": "tiny"})
    assert settings_from_png(to_png(record)).settings == settings
    assert to_npz(record)
    found: dict[str, Any] = {}
    exec(to_snippet(settings), found)
    assert torch.equal(found["images"], record.images)
    plain = deco_lab.sample(deco_lab.load("tiny"), **NEUTRAL.sampling_arguments())
    assert (record.images - plain).abs().max() > 0.01


def test_older_links_without_curves_draw_what_they_did():
    query = {
        name: value
        for name, value in parse_qsl(to_query(NEUTRAL), keep_blank_values=True)
        if "curve" not in name
    }
    assert from_query(query) == NEUTRAL
    assert settings_from({"seed": 3}).guidance_curve == ()
    assert "Curve" not in to_snippet(NEUTRAL)


def test_command_line_takes_a_curve():
    words = ["--guidance-curve", "0", "1", "--guidance", "by band"]
    plan = tyro.cli(Plan, args=[*words, "--band-curves", *"10101010"])
    assert plan.guidance_curve == (0, 1)
    assert plan.rule() == BandGuidance([3.0] * 4, curves=[(1, 0)] * 4)


def test_sweep_varies_a_curve(deco):
    base = replace(NEUTRAL, num_images=1)
    found = sweep(base, ("guidance_curve", [[], [0, 1]]), load=lambda _: deco)
    for column, curve in enumerate((None, (0, 1))):
        arguments: Any = base.sampling_arguments() | {"guidance_curve": curve}
        assert torch.equal(found.cell(0, column), sample(deco, **arguments))


def test_guided_from_is_where_curve_and_interval_first_act():
    assert Settings(guidance_curve=(0, 0, 1)).guided_from == 0.5
    assert Settings(guidance_curve=(0, 1)).guided_from == 0.1
    assert Settings(guidance_curve=(0, 0)).guided_from is None
    assert Settings(guidance_curve=(1, 0, 0), guidance_interval=(0.6, 1)).guided_from is None
    bands = (0, 0, 0) * 2 + (0, 0, 1) * 2
    assert Settings(guidance="by band", band_curves=bands).guided_from == 0.5
    assert Settings(band_curves=bands).guided_from == 0.1  # plain guidance does not look at them
    scales = {"guidance": "by band", "band_scales": (3, 3, 1, 1)}
    assert Settings(band_curves=bands, **scales).guided_from is None
    assert Settings(band_curves=bands, guidance_curve=(1, 1, 0), guidance="by band").guided_from


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guidance_curve": 1}, "guidance_curve must be a list of numbers, got 1"),
        ({"guidance_curve": [1]}, "guidance_curve must be 2 to 41 numbers at evenly .* got 1; an"),
        ({"guidance_curve": [1] * 42}, "must be 2 to 41 numbers .* got 42"),
        ({"guidance_curve": [1, -1]}, "each of guidance_curve must be a number from 0 to 10, got"),
        ({"guidance_curve": [1, 11]}, "must be a number from 0 to 10, got 11"),
        ({"guidance_curve": [1, "2"]}, "must be a number from 0 to 10, got '2'"),
        ({"band_curves": [0, 1]}, "band_curves must be 4 curves, one a band, each of .* got 2; an"),
        ({"dit_curves": [0, 1] * 3 + [0]}, "dit_curves must be 4 curves, .* got 7"),
        ({"decoder_curves": [11] * 8}, "each of decoder_curves must be a number from -10 to 10"),
    ],
)
def test_settings_refuse_curves_in_a_sentence(values, message):
    with pytest.raises(RuleError, match=message) as refused:
        Settings(**values)
    assert len(str(refused.value)) < 170


def test_a_model_without_parts_takes_no_curves_of_gains():
    model = deco_lab.load("tiny-dit")
    with pytest.raises(RuleError, match="dit_curves must be 1, since tiny has no pixel decoder"):
        Watch(model, Settings(dit_curves=(0, 1) * 4))
