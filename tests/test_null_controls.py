"""What each analysis must say where there is nothing to find: the controls of `controls`.

    white noise        no frequency stands out, and no place
    shuffled phases    the spectrum of photographs, and nothing else of them
    untrained          the architecture of the bundled model that has learned nothing

Expectations are derived, not recorded; where theory gives no number, the bundled model on
photographs must lie outside of what the control shows.
"""

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import deco_lab
from deco_lab import sample_steps
from deco_lab.data import bundled_crops
from deco_lab.flow import interpolate, predicted_image, seeded_noise
from deco_lab.gaussian import noisy_power, posterior_power, velocity_gain, wiener_filter
from deco_lab.result import Estimate, Result
from deco_lab.spectra.bands import OCTAVES, band_shares
from deco_lab.spectra.budget import condition_budget
from deco_lab.spectra.clusters import token_clusters
from deco_lab.spectra.controls import phase_shuffled, untrained, white_noise
from deco_lab.spectra.decompose import decompose
from deco_lab.spectra.detail import detail_spectra
from deco_lab.spectra.effects import band_effects
from deco_lab.spectra.factorial import PARTS
from deco_lab.spectra.frequencies import radial_frequency, ring_of_frequencies
from deco_lab.spectra.guidance import guidance_spectrum
from deco_lab.spectra.intervention_effects import crossed_effects, intervention_effect
from deco_lab.spectra.interventions import BandLimit
from deco_lab.spectra.jpeg import frequency_weights
from deco_lab.spectra.loss_bands import loss_bands, weight_table
from deco_lab.spectra.products import band_products
from deco_lab.spectra.radial import radial_power
from deco_lab.spectra.readout import TARGETS, linear_readout
from deco_lab.spectra.response import band_response
from deco_lab.spectra.seams import find_seams
from deco_lab.spectra.settling import settling_times
from deco_lab.spectra.solver_error import solver_error
from deco_lab.spectra.states import Crops
from deco_lab.spectra.taps import tap_spectrum

Array = NDArray[np.float64]

M, P, T = 12, 8, 0.5
LABELS = torch.arange(M) % 6
KINDS = ("photographs", "shuffled phases", "white noise")
CONDITION, PIXELS = PARTS.index("condition_main"), PARTS.index("pixels_main")

CONTROLLED = {
    "BandEffects": "band_effects", "BandResponse": "band_response",
    "ConditionBudget": "condition_budget", "DetailSpectra": "detail_spectra",
    "GuidanceSpectrum": "guidance_spectrum", "InterventionEffect": "intervention_effect",
    "LinearReadout": "linear_readout", "LossBands": "loss_bands", "Seams": "find_seams",
    "Settling": "settling_times", "SolverError": "solver_error", "TapSpectrum": "tap_spectrum",
    "TokenClusters": "token_clusters", "WeightTable": "weight_table",
}  # fmt: skip
"""The analysis of each kind of result. Excess error has a control of its own: fields."""


def test_every_analysis_has_its_null_controls():
    ours = {name for name, kind in Result._kinds.items() if kind.__module__[:8] == "deco_lab"}
    assert set(CONTROLLED) | {"ExcessError", "InBands", "OverTime"} == ours - {"Sweep"}
    tests = re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE)
    for analysis in CONTROLLED.values():
        assert any(name.startswith(f"test_{analysis}_") for name in tests), analysis


@functools.cache
def pictures(kind: str) -> Tensor:
    photographs, _ = bundled_crops(64).sample(M, torch.Generator().manual_seed(3), LABELS)
    if kind == "photographs":
        return photographs
    return phase_shuffled(photographs) if kind == "shuffled phases" else white_noise(photographs)


@functools.cache
def white(spread: float = 0.5, side: int = 64, seed: int = 0) -> Tensor:
    """Return white noise of mean 0 and the same spread in every image."""
    unit = torch.randn(M, 3, side, side, generator=torch.Generator().manual_seed(100 + seed))
    unit = unit - unit.mean((2, 3), keepdim=True)
    return white_noise(spread * unit / unit.std((2, 3), keepdim=True), seed)


@functools.cache
def model_of(weights: str) -> Any:
    tiny = deco_lab.load("tiny", device="cpu")
    return tiny if weights == "trained" else untrained(tiny)


class Filter:
    """The exact velocity for Gaussian images of a power by ring, flat above the last."""

    config = SimpleNamespace(num_classes=14, patch_size=P)

    def __init__(self, power: Tensor, gain: Callable[..., Any] = velocity_gain) -> None:
        self.power = power.double()
        self.gain = gain

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        S = self.power[ring_of_frequencies(H, W).clamp(max=len(self.power) - 1)]
        gain = torch.from_numpy(self.gain(S, float(t[0])))
        return torch.fft.irfft2(torch.fft.rfft2(x.double()) * gain, s=(H, W)).to(x.dtype)


def cut(x: Tensor) -> Tensor:
    """Return patches as conditions, (B, N, 3 P P)."""
    return x.unfold(2, P, P).unfold(3, P, P).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def joined(tokens: Tensor, x: Tensor) -> Tensor:
    """Return what `cut` cut, in the shape of x."""
    grid = tokens.unflatten(1, (x.shape[2] // P, -1)).unflatten(3, (3, P, P))
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def spread_of(count: int) -> float:
    """Return four standard deviations of the mean of `count` squares of normal numbers."""
    return 4 * (2 / count) ** 0.5


# At t = 0 there is nothing of the image in x_t.

AT_ZERO = {
    "band_effects": (band_effects, {}, ()),
    "band_response": (band_response, {}, ()),
    "condition_budget": (condition_budget, {"exchanges": 1, "directions": 0}, ()),
    "detail_spectra": (detail_spectra, {}, ("predicted", "velocity")),
    "guidance_spectrum": (guidance_spectrum, {}, ()),
    "tap_spectrum": (tap_spectrum, {}, ()),
    "token_clusters": (token_clusters, {}, ("explained", "regions")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_ZERO)
def test_images_cannot_matter_at_time_zero(name: str):
    analysis, options, compared = AT_ZERO[name]
    first, *others = (
        vars(analysis(model_of("trained"), Crops(pictures(kind)[:3], LABELS[:3], [0.0]), **options))
        for kind in KINDS
    )
    for field, value in first.items():
        if field in compared or (not compared and isinstance(value, (np.ndarray, Estimate))):
            for other in (each[field] for each in others):
                ends = getattr(value, "ends", [value]), getattr(other, "ends", [other])
                np.testing.assert_array_equal(*ends, err_msg=field)


# Detail


@functools.cache
def details(weights: str, kind: str) -> Any:
    images = white() if kind == "even white noise" else pictures(kind)
    return detail_spectra(model_of(weights), Crops(images, LABELS, [T]))


def beyond_gaussian(kind: str) -> Array:
    """Return the trained model's error over the least of any model that knows the spectrum."""
    found = details("trained", kind)
    return (found.error.value / found.gaussian_error)[0, 1:]


def test_detail_spectra_of_white_noise_are_flat_and_tiny_cannot_beat_wiener():
    found = details("trained", "even white noise")
    np.testing.assert_allclose(found.power.value[2:], 0.25, rtol=spread_of(36 * 6))
    assert found.power.value[2:].mean() == pytest.approx(0.25, rel=0.02)
    np.testing.assert_allclose(found.gaussian_error[0, 2:], posterior_power(0.25, T), rtol=0.1)
    assert np.isnan(found.meeting).all()  # 0.25 t^2 S < (1 - t)^2 from the first ring on
    # Nobody knows more of white noise than Wiener. Of photographs the trained model does.
    assert beyond_gaussian("even white noise").min() > 1 - spread_of(36 * 4)
    assert beyond_gaussian("even white noise")[1:].mean() > 1
    assert beyond_gaussian("photographs").max() < 1
    assert beyond_gaussian("photographs").mean() < 0.7


def test_detail_spectra_of_shuffled_phases_are_those_of_gaussian_data():
    images = pictures("shuffled phases")
    power = radial_power(images).power
    np.testing.assert_allclose(power, radial_power(pictures("photographs")).power, rtol=1e-5)
    found = detail_spectra(Filter(power), Crops(images, LABELS, [0.3, 0.6, 0.9]))
    S, t = found.power.value, found.times[:, None]
    curves = {
        "predicted": wiener_filter(S, t) ** 2 * noisy_power(S, t),
        "error": posterior_power(S, t),
        "velocity": velocity_gain(S, t) ** 2 * noisy_power(S, t),
    }
    for name, whole in curves.items():
        curve = whole[:, 1:]
        power = getattr(found, name)[:, 1:]
        assert ((power.low <= curve) & (curve <= power.high)).mean() > 0.95
        ratio = (power.value / curve).mean(1)
        np.testing.assert_allclose(ratio, 1, atol=0.03)
    # What knows class and colours too errs less than a filter of the mean spectrum, and the trained
    # model less than either, of photographs.
    assert (found.gaussian_error <= curves["error"] + 1e-12).all()
    assert (beyond_gaussian("photographs") < beyond_gaussian("shuffled phases")).all()
    assert beyond_gaussian("shuffled phases").mean() > 0.9


def test_detail_spectra_of_untrained_weights_err_as_if_unrelated():
    for kind in KINDS:
        found = details("untrained", kind)
        # error = (1 - t) (velocity - image + noise), three fields that have nothing in common
        unrelated = (1 - T) ** 2 * (found.power.value + 1 + found.velocity.value)
        np.testing.assert_allclose(found.error.value[0, 4:] / unrelated[0, 4:], 1, atol=0.3)
        assert (found.error.low > found.gaussian_error).all()


# Response by path


@functools.cache
def response(weights: str, kind: str) -> Any:
    return band_response(model_of(weights), Crops(pictures(kind)[:6], LABELS[:6], [T]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_band_response_of_untrained_weights_is_direct_and_flat(kind: str):
    direct, through, _ = response("untrained", kind).gain.value[0]
    np.testing.assert_allclose(direct[1:], direct[-1], atol=0.01)
    assert direct.min() > 0.7  # x is in the predicted image, all but unanswered
    np.testing.assert_allclose(through, 0, atol=0.01)
    assert response("trained", kind).gain.value[0, 0].max() < 0.03


def test_band_response_of_tiny_is_more_of_a_filter_of_textures():
    photographs, textures = (response("trained", kind) for kind in KINDS[:2])
    # What it draws of a photograph is known by heart, and moves less with what it sees.
    for name in ("gain", "linear"):
        known, filtered = (getattr(each, name).value[0, 1, 1:4] for each in (photographs, textures))
        assert (filtered > 1.4 * known).all()


# Band effects and the choice of references


class WhiteParts:
    """The condition is the image with its pixels in another order: of white noise, another."""

    config = SimpleNamespace(num_classes=14, patch_size=P)
    amplitudes = (1.0, 2.0)

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        order = torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))
        return cut(x.flatten(2)[..., order].view_as(x))

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.amplitudes[0] * joined(condition, x) + self.amplitudes[1] * x


def test_band_effects_of_white_parts_are_their_variances_in_every_band():
    found = band_effects(WhiteParts(), Crops(white(), LABELS, [0.0, T, 1.0]))
    # 1 : 2^2, above the means, which these images have not.
    np.testing.assert_allclose(found.velocity.value[:, CONDITION, 1:], 0.2, atol=0.03)
    np.testing.assert_allclose(found.velocity.value[:, PIXELS, 1:], 0.8, atol=0.03)
    assert (found.velocity.low[:, CONDITION, 1:] < 0.21).all()
    assert (found.velocity.high[:, CONDITION, 1:] > 0.19).all()


@functools.cache
def effects(weights: str, kind: str) -> Any:
    return band_effects(model_of(weights), Crops(pictures(kind), LABELS, [T]))


def test_band_effects_of_untrained_weights_know_nothing_of_the_images():
    photographs = effects("untrained", "photographs").predicted.value
    for kind in KINDS:
        found = effects("untrained", kind)
        np.testing.assert_allclose(found.predicted.value.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(found.predicted.value[:, CONDITION], 0, atol=0.02)
        # So its shares are the same whatever the images are.
        np.testing.assert_allclose(found.predicted.value[..., 2:], photographs[..., 2:], atol=0.1)


def of_the_image(weights: str) -> tuple[Array, Array]:
    """Return which share of the true images' bands the DiT draws; their mean is left out."""
    images = pictures("photographs")
    x = interpolate(images, seeded_noise(M, images.shape[1:], 0), T)
    split = decompose(model_of(weights), x, T, LABELS, order="dit_first")
    drawn = predicted_image(torch.zeros_like(x), split.dit, T)
    whole = images - images.mean((2, 3), keepdim=True)
    return band_shares(drawn, whole).numpy(), band_shares(x, whole).numpy()


def test_decompose_draws_the_image_with_learned_weights_alone():
    (fresh, there), (trained, _) = of_the_image("untrained"), of_the_image("trained")
    assert np.abs(fresh).max() < 0.1
    assert trained[0] > 0.3  # t of the image, 0.5, is in x_t itself
    assert trained[:2].min() > 3 * np.abs(fresh).max()
    np.testing.assert_allclose(there, T, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_band_effects_of_tiny_say_who_draws_not_whether_it_is_there(kind: str):
    """Of white noise the condition draws most as well: a share is no sign of knowledge."""
    found = effects("trained", kind)
    shares, least = found.predicted.value[0], found.predicted.low[0]
    assert shares[CONDITION, 1:].min() > 0.5
    assert (least[CONDITION, 1:] > shares[PIXELS, 1:]).all()


# Linear readout


@functools.cache
def readout(weights: str, kind: str) -> Any:
    return linear_readout(model_of(weights), Crops(pictures(kind), LABELS, [T], groups=LABELS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_linear_readout_of_untrained_weights_finds_the_noise_that_training_takes_out(kind: str):
    place = (0, 0, TARGETS.index("noise"), -1)
    assert readout("untrained", kind).r2.value[place] > 0.3
    assert abs(readout("trained", kind).r2.value[place]) < 0.02


# Guidance


class Classes:
    """A velocity for the null class, and what a class adds to it."""

    config = SimpleNamespace(num_classes=14, patch_size=P)

    def __init__(self, uncond: Callable[..., Tensor], added: Callable[..., Tensor]) -> None:
        self.uncond, self.added = uncond, added

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        is_class = (class_ids < self.config.num_classes)[:, None, None, None]
        return self.uncond(x, t, class_ids) + is_class * self.added(x, t, class_ids)


def test_guidance_spectrum_of_unrelated_white_noise_is_at_chance():
    generator = torch.Generator().manual_seed(7)
    unrelated = Classes(
        lambda x, t, c: x, lambda x, t, c: 3 * torch.randn(x.shape, generator=generator)
    )
    images = white(1.0, 16)
    found = [
        guidance_spectrum(unrelated, Crops(images, LABELS, [0.0], seed=100 * s)) for s in range(200)
    ]
    by_chance = np.mean([each.cosine.value[0] ** 2 for each in found], 0) / found[0].chance
    np.testing.assert_allclose(by_chance, 1, atol=spread_of(200))
    covered = np.mean([(e.cosine.low < 0) & (e.cosine.high > 0) for e in found])
    assert covered > 0.88
    # x has white noise's power 1, and what is added 3^2.
    power = np.mean([each.power.value[0] for each in found], 0)
    uncond = np.mean([each.uncond_power[0] for each in found], 0)
    np.testing.assert_allclose(uncond, 1, atol=spread_of(200 * 3 * M))
    np.testing.assert_allclose(power, 9, atol=9 * spread_of(200 * 3 * M))


@pytest.mark.parametrize("weights", ["trained", "untrained"])
def test_guidance_spectrum_of_the_null_class_adds_nothing(weights: str):
    model = model_of(weights)
    nobody = torch.full((4,), model.config.num_classes)
    found = guidance_spectrum(model, Crops(pictures(KINDS[1])[:4], nobody, [T]))
    # Rows of a batch differ by rounding.
    assert (found.power.value < 1e-10 * found.uncond_power).all()


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_spectrum_of_untrained_weights_adds_next_to_nothing(kind: str):
    untrained, trained = (
        guidance_spectrum(model_of(weights), Crops(pictures(kind)[:6], LABELS[:6], [T]))
        for weights in ("untrained", "trained")
    )
    # Labels start as small as 0.02, and all classes are alike.
    relative = [each.power.value[0] / each.uncond_power[0] for each in (untrained, trained)]
    assert (relative[0] < 0.01 * relative[1]).all()


def test_guidance_spectrum_of_filters_knows_no_phases():
    fading = torch.linspace(1, 0, 33)
    model = Classes(lambda x, t, c: -x, Filter(fading, lambda S, t: S.numpy()))
    photographs, shuffled = (
        guidance_spectrum(model, Crops(pictures(kind), LABELS, [0.3, 0.8])) for kind in KINDS[:2]
    )
    for name in ("power", "uncond_power", "cosine"):
        given, null = (getattr(each, name) for each in (photographs, shuffled))
        given, null = (getattr(each, "value", each) for each in (given, null))
        np.testing.assert_allclose(null[:, 1:], given[:, 1:], rtol=0.1)
    assert (shuffled.cosine.value[:, :3] < -0.95).all()


# Settling and the solver's error


def noisy_run(images: Tensor, times: list[float]) -> tuple[list[float], Tensor]:
    noise = seeded_noise(len(images), images.shape[1:], 0)
    return times, torch.stack([interpolate(images, noise, t) for t in times])


def test_settling_times_of_noisy_images_are_those_of_their_spectrum():
    times = np.linspace(0, 1, 41).tolist()
    fraction = np.histogram(radial_frequency(64, 64), [0, *OCTAVES, 1])[0] / 64**2
    for images in (white(), pictures("shuffled phases"), pictures("photographs")):
        found = settling_times(
            noisy_run(images - images.mean((2, 3), keepdim=True), times),
            edges=OCTAVES,
            levels=[0.5**0.5, 0.9**0.5],
        )
        energy = band_products(images, images).numpy()
        energy[:, 0] -= images.double().mean((2, 3)).square().mean(1).numpy()
        # correlation^2 = t^2 E / (t^2 E + (1 - t)^2), E the image's power in the band
        E = (energy / fraction)[..., None]
        ratio = found.levels / np.sqrt((1 - found.levels**2) * E)
        expected = ratio / (1 + ratio)
        seen = expected < 0.97  # a step before the last prediction
        np.testing.assert_allclose(found.settled[seen], expected[seen], atol=0.06)
        off = (found.settled - expected)[:, 2:][seen[:, 2:]]
        assert abs(off.mean()) < 0.005
        if images is white():
            assert np.ptp(found.median.value[:, 0]) < 0.01


def test_settling_times_of_unrelated_noises_never_come():
    noises = torch.stack([white(seed=seed) for seed in range(6)])
    found = settling_times((np.linspace(0, 0.9, 6).tolist(), noises))
    assert np.isnan(found.settled).all()
    assert np.isnan(found.median.value).all()


def drawn(model: Any, **options: Any) -> Any:
    return sample_steps(model, list(range(6)), guidance_scale=1.0, **options)


def test_settling_times_of_untrained_weights_have_no_order():
    trained, fresh = (
        settling_times(drawn(model_of(weights), num_steps=10)).median.value[2:, 1]
        for weights in ("trained", "untrained")
    )
    assert np.ptp(fresh) < 0.05
    assert (np.diff(trained) > 0.05).all()


def test_solver_error_of_white_noise_is_the_same_in_every_band():
    sigma, settings = 0.5, [("euler", 4), ("euler", 8)]
    model = Filter(torch.full((9,), sigma**2))

    def draw(class_ids: Any, **options: Any) -> Any:
        yield from sample_steps(
            model,
            class_ids,
            guidance_scale=1.0,
            noise=seeded_noise(len(class_ids), (3, 16, 16), options.pop("seed")),
            **options,
        )

    found = solver_error(draw, [0] * 6, settings, reference=("euler", 64))

    def gain(steps: int) -> float:
        return math.prod(
            1 + float(velocity_gain(sigma**2, i / steps)) / steps for i in range(steps)
        )

    for row, (_, steps) in zip(found.error.value, settings, strict=True):
        np.testing.assert_allclose(row, abs(gain(steps) / gain(64) - 1), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_solver_error_of_straight_paths_is_none(kind: str):
    images = pictures(kind)[:4]
    straight = images - seeded_noise(4, images.shape[1:], 0)

    def draw(class_ids: Any, **options: Any) -> Any:
        noise = seeded_noise(4, images.shape[1:], options.pop("seed"))
        model = lambda x, t, ids: straight.to(x)  # noqa: E731
        yield from sample_steps(model, class_ids, guidance_scale=1.0, noise=noise, **options)

    found = solver_error(draw, [0] * 4, [("euler", 1), ("euler", 7)], reference=("heun", 10))
    assert found.error.value.max() < 1e-5


def test_solver_error_of_untrained_weights_has_no_order_of_bands():
    def draw(class_ids: Any, **options: Any) -> Any:
        yield from sample_steps(model_of("untrained"), class_ids, guidance_scale=1.0, **options)

    settings = [("euler", 4), ("heun", 8)]
    found = solver_error(draw, [0, 1, 2, 3], settings, reference=("heun", 8))
    assert (found.error.value[1] == 0).all()  # the reference itself
    assert np.ptp(found.error.value[0, 1:]) < 0.25 * found.error.value[0, 1:].mean()


# Interventions


def test_intervention_effect_of_other_white_noise_is_at_chance():
    pairs = [(white(1.0, 16, 50 * s), white(0.5, 16, 50 * s + 25)) for s in range(200)]
    found = [intervention_effect(*pair) for pair in pairs]
    counts = np.histogram(radial_frequency(16, 16), [0, 1e-9, *OCTAVES, 1])[0]
    by_chance = np.mean([np.square(each.correlation.value) for each in found], 0) * 3 * M * counts
    np.testing.assert_allclose(by_chance[2:], 1, atol=spread_of(200))
    np.testing.assert_allclose(np.mean([each.energy.value for each in found], 0)[2:], 4, rtol=0.01)
    assert np.isnan([each.correlation.value[:2] for each in found]).all()  # the mean, taken off


def test_intervention_effect_of_shuffled_phases_is_all_strength_and_no_likeness():
    photographs, shuffled = pictures("photographs"), pictures("shuffled phases")
    found = intervention_effect(shuffled.double(), photographs.double())
    np.testing.assert_allclose(found.energy.value, 1, rtol=1e-4)  # float32's phases
    assert (abs(found.correlation.value[3:]) < 0.2).all()
    assert (found.correlation.low[2:] <= 0.1).all()


@pytest.mark.parametrize("weights", ["trained", "untrained"])
def test_crossed_effects_of_no_change_are_none_with_any_weights(weights: str):
    def draw(model: Any) -> Tensor:
        *_, last = sample_steps(model, [3] * 4, guidance_scale=1.0, num_steps=3)
        return last.x

    found = crossed_effects(
        draw,
        model_of(weights),
        conditions={"fresh": None, "all bands": BandLimit()},
        pixels={"full": None, "all bands": BandLimit()},
    )
    np.testing.assert_allclose(found.energy.value, 1, rtol=1e-4)
    np.testing.assert_allclose(found.correlation.value, 1, rtol=1e-4)


# The loss


def test_loss_bands_of_a_white_error_are_the_shares_of_the_weights():
    error = white(1.0)
    found = loss_bands(error, torch.zeros_like(error))
    w = frequency_weights(85, 1.0).numpy()
    colours = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    weighted = np.einsum("k,kuv->uv", np.square(colours).sum(1), w)
    even = spread_of(3 * M * 64)
    np.testing.assert_allclose(found.shares()[0] * 64, 1, atol=even)
    np.testing.assert_allclose(found.shares()[1] / (weighted / weighted.sum()), 1, atol=2 * even)
    np.testing.assert_allclose(found.shares("gradient")[0] * 64, 1, atol=even)
    A = np.einsum("ki,kuv,kj->uvij", colours, w, colours)
    squares = np.square(A).sum((2, 3))
    np.testing.assert_allclose(
        found.shares("gradient")[1] / (squares / squares.sum()), 1, atol=2.5 * even
    )


def shifts(images: Tensor) -> Tensor:
    """Return images at all 64 places of a grid of blocks, (64 B, C, H, W)."""
    return torch.cat([images.roll((i, j), (2, 3)) for i in range(8) for j in range(8)])


def test_loss_bands_know_no_phases():
    photographs = pictures("photographs")[:3].double()
    of_photographs, of_textures = (
        loss_bands(shifts(e), torch.zeros_like(shifts(e)))
        for e in (photographs, phase_shuffled(photographs))
    )
    for of in ("loss", "gradient"):
        np.testing.assert_allclose(of_textures.shares(of), of_photographs.shares(of), rtol=1e-6)


def test_loss_bands_of_untrained_weights_are_above_those_of_no_velocity_but_the_coarsest():
    images = pictures("photographs")
    noise = seeded_noise(M, images.shape[1:], 0)
    x, target = interpolate(images, noise, T), images - noise

    def of(velocity: Tensor) -> Array:
        found = loss_bands(velocity, target)
        return np.stack([found.loss[0, :, found.band_of == k].sum(0).mean() for k in range(4)])

    with torch.no_grad():
        t = torch.full((M,), T)
        trained, fresh = (of(model_of(w)(x, t, LABELS)) for w in ("trained", "untrained"))
    nothing = of(torch.zeros_like(target))
    assert (trained < 0.5 * nothing).all()
    assert (fresh[1:] > nothing[1:]).all()


def test_weight_table_of_gamma_0_is_even():
    found = weight_table(qualities=(1, 50, 85, 100), gammas=(0.0,))
    np.testing.assert_allclose(found.weights, 1)
    np.testing.assert_allclose(found.share_above, 49 / 64)
    np.testing.assert_allclose(found.effective, 64)


# Seams


class NoGrid:
    """A network of convolutions, which knows no place."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.kernels = [torch.randn(c, 3, 3, 3, generator=generator) for c in (3, 3)]

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        for kernel in self.kernels:
            padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
            x = torch.nn.functional.conv2d(padded, kernel).tanh()
        return x


def drawn_without_a_grid(seed: int) -> Tensor:
    noise = seeded_noise(8, (3, 32, 32), 8 * seed)
    *_, last = sample_steps(NoGrid(seed), [0] * 8, guidance_scale=1.0, num_steps=2, noise=noise)
    return last.x


@pytest.mark.slow
@pytest.mark.parametrize(
    "images",
    [
        lambda seed: seeded_noise(8, (3, 32, 32), 8 * seed),
        lambda seed: phase_shuffled(pictures("photographs")[:8, :, :48, :48], 8 * seed),
        drawn_without_a_grid,
    ],
    ids=["white noise", "shuffled phases", "no grid"],
)
def test_find_seams_are_as_rare_as_promised_without_a_grid(images: Callable[[int], Tensor]):
    flagged = [bool(find_seams(images(seed), P).found()) for seed in range(200)]
    # At most 1 set of 8 in 20: more than 20 of 200 are found once in a thousand tests.
    assert sum(flagged) <= 20


# Taps


class PatchTokens:
    """Tokens are a random linear map of patches; the velocity is x."""

    config = SimpleNamespace(num_classes=14, patch_size=P)
    projection = torch.randn(3 * P * P, 24, generator=torch.Generator().manual_seed(0)) / P

    def features(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return cut(x) @ self.projection

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return x


def test_tap_spectrum_of_white_tokens_is_flat():
    found = tap_spectrum(PatchTokens(), Crops(white(1.0), LABELS, [0.0, T, 1.0]))
    variance = float(PatchTokens.projection.square().sum(0).mean())
    power = np.array([1, 0.5, 1, 5 / 6]) * variance
    # 24 channels that overlap, of 12 images.
    np.testing.assert_allclose(
        found.radial.value[:, 1:], power[:, None] + 0 * found.radial.value[:, 1:], rtol=0.2
    )
    np.testing.assert_allclose(found.energy.value.mean((1, 2)), power, rtol=0.03)
    velocity = tap_spectrum(PatchTokens(), Crops(white(1.0), LABELS, [0.0]), tap="velocity")
    np.testing.assert_allclose(velocity.energy.value, 1, atol=spread_of(3 * M * 64))
    assert velocity.curve.value.min() > 0.9


def test_tap_spectrum_of_untrained_weights_is_flat_beside_the_trained():
    def fall(weights: str, kind: str) -> float:
        found = tap_spectrum(model_of(weights), Crops(pictures(kind), LABELS, [T]))
        return float(found.radial.value[0, -1] / found.radial.value[0, 1])

    for kind in KINDS:
        assert 0.5 < fall("untrained", kind) < 1.25
    trained = [fall("trained", kind) for kind in KINDS]
    assert trained[0] < 0.25  # tokens of photographs are smooth maps,
    assert trained[0] < trained[1] < 0.75  # those of textures less so


def test_tap_spectrum_knows_no_phases():
    photographs = pictures("photographs")[:3].double()
    of_photographs, of_textures = (
        tap_spectrum(PatchTokens(), Crops(shifts(images), [0] * 192, [1.0]), tap="velocity")
        for images in (photographs, phase_shuffled(photographs))
    )
    np.testing.assert_allclose(of_textures.energy.value, of_photographs.energy.value, rtol=1e-6)
    np.testing.assert_allclose(of_textures.curve.value, of_photographs.curve.value, rtol=1e-6)


def test_token_clusters_find_fewer_regions_in_shuffled_phases():
    def regions(weights: str, kind: str) -> Any:
        found = token_clusters(model_of(weights), Crops(pictures(kind), LABELS, [T]))
        return found.regions.low[0], found.regions.value[0], found.regions.high[0]

    photographs, textures = (regions("trained", kind) for kind in KINDS[:2])
    nothing = regions("untrained", "shuffled phases")
    assert textures[2] < photographs[1]
    assert nothing[1] < 0.1
    assert nothing[2] < textures[0]


# Inside a patch


class Patches(PatchTokens):
    """The condition is the patch, and the decoder writes it."""

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return cut(x)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return joined(condition, x)


@pytest.mark.parametrize("kind", ["white", "phases"])
def test_condition_budget_of_patches_is_their_spectrum(kind: str):
    images = white(1.0) if kind == "white" else pictures("shuffled phases")
    found = condition_budget(Patches(), Crops(images, LABELS, [1.0]), exchanges=8, directions=0)
    dct = tap_spectrum(
        Patches(), Crops(images - images_mean(images), LABELS, [1.0]), tap="velocity"
    )
    written = found.written[0].mean((0, 1))
    np.testing.assert_allclose(written / dct.energy.value[0], 1, atol=2 * spread_of(M * 64 * 8 * 3))
    if kind == "white":
        [share] = found.share_above(1 / (2 * P))
        assert share.value == pytest.approx(63 / 64, abs=0.002)


def images_mean(images: Tensor) -> Tensor:
    """Return the mean patch of all images at every place of an image: the mean condition."""
    patches = cut(images)
    return joined(patches.mean((0, 1)).expand_as(patches), images)


def test_condition_budget_of_untrained_weights_is_even():
    fresh, trained = (
        condition_budget(
            model_of(weights), Crops(pictures("photographs")[:6], LABELS[:6], [T]), directions=0
        ).share_above(1 / (2 * P))[0]
        for weights in ("untrained", "trained")
    )
    # All 64 coefficients are alike, and one is the mean.
    assert fresh.value == pytest.approx(63 / 64, abs=0.01)
    assert trained.high < 0.5
