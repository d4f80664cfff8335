import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab.sampling import sample_steps
from deco_lab.spectra import split_bands
from deco_lab.spectra.guidance import GuidanceSpectrum, guidance_spectrum, run_guidance_spectrum
from deco_lab.spectra.settling import Settling, SolverError, settling_times, solver_error

EDGES = (1 / 8, 1 / 4)
TIMES = [0.0, 0.2, 0.4, 0.6, 0.8]


def white(count, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)


class Bands:
    """cond adds gains[b] times the null class's velocity and some noise to each band."""

    def __init__(self, gains, noises, size=32):
        self.config = SimpleNamespace(num_classes=4, image_size=size)
        self.gains, self.noises = gains, noises
        self.calls = []

    def __call__(self, x, t, class_ids):
        self.calls.append(len(x))
        added = torch.zeros_like(x)
        for i, image in enumerate(x):  # noise that follows from the image, not from the batch
            seed = int(image.double().abs().sum() * 1e6) % 2**31
            parts = (
                split_bands(image[None], EDGES),
                split_bands(white(1, seed, x.shape[-1]).to(x), EDGES),
            )
            for gain, noise, own, other in zip(self.gains, self.noises, *parts, strict=True):
                added[i] += gain * own[0] + noise * other[0]
        return x + added * (class_ids < 4)[:, None, None, None]


# What guidance adds.


def test_guidance_spectrum_of_known_bands():
    # White images and noise: x_t has the power t^2 + (1-t)^2 in every band.
    model = Bands([0.5, -0.5, 0.0], [0.0, 0.5, 1.0])
    found = guidance_spectrum(
        model, white(12), [0] * 12, times=[0.2, 0.5], edges=EDGES, batch_size=5, seed=40
    )
    power = np.array([0.68, 0.5])[:, None]
    np.testing.assert_allclose(found.uncond_power, np.broadcast_to(power, (2, 3)), rtol=0.06)
    gain, noise = np.array([0.5, -0.5, 0.0]), np.array([0.0, 0.5, 1.0])
    expected = gain**2 * power + noise**2
    np.testing.assert_allclose(found.power, expected, rtol=0.06)
    np.testing.assert_allclose(found.cosine, gain * np.sqrt(power / expected), atol=0.03)
    assert found.cosine[:, 0] == pytest.approx(1)
    assert (found.power_low <= found.power).all()
    assert (found.power <= found.power_high).all()
    assert (found.cosine_low[:, 1:] < found.cosine_high[:, 1:]).all()
    assert found.coherence == pytest.approx(found.cosine**2)
    assert (found.fraction * found.uncond_power).sum(-1) == pytest.approx(power[:, 0], rel=0.03)
    assert found.count == 12
    assert max(model.calls) == 10


def test_guidance_spectrum_power_and_cosine_equal_those_of_the_bands():
    images = white(3, size=16)
    model = Bands([0.5, -0.5, 0.2], [0.1, 0.5, 1.0])
    found = guidance_spectrum(model, images, [1, 2, 3], times=[1.0], edges=EDGES)
    cond = model(images, None, torch.tensor([1, 2, 3]))
    added, uncond = split_bands(cond - images, EDGES), split_bands(images, EDGES)
    energy, other = (part.square().mean((1, 2, 3, 4)) for part in (added, uncond))
    inner = (added * uncond).mean((1, 2, 3, 4)) / (energy * other).sqrt()
    np.testing.assert_allclose(found.cosine[0], inner, rtol=1e-6)
    np.testing.assert_allclose(found.power[0] * found.fraction, energy, rtol=1e-6)


def test_guidance_spectrum_of_white_noise_is_at_chance():
    found = guidance_spectrum(
        Bands([0.0] * 3, [1.0] * 3), white(16), [0] * 16, times=[0.3, 0.6], edges=EDGES
    )
    np.testing.assert_allclose(found.power, 1, rtol=0.06)
    assert (found.coherence < 9 * found.chance).all()  # three standard deviations
    inside = (found.cosine_low <= 0) & (found.cosine_high >= 0)
    assert inside.mean() >= 0.5


def test_guidance_spectrum_does_not_depend_on_batch_size_or_kind_of_float():
    model = Bands([0.5, -0.5, 0.2], [0.1, 0.5, 1.0])
    images = white(3)
    call = partial(guidance_spectrum, model, class_ids=[0, 1, 2], times=[0.5], edges=EDGES)
    one, three = (call(images=images, batch_size=size) for size in (1, 3))
    np.testing.assert_allclose(one.power, three.power)
    np.testing.assert_allclose(one.cosine, three.cosine)
    constant = Bands([0.5, -0.5, 0.2], [0.0, 0.0, 0.0])
    half, double = (
        guidance_spectrum(constant, images.to(dtype), [0, 1, 2], times=[0.5], edges=EDGES)
        for dtype in (torch.float16, torch.float64)
    )
    np.testing.assert_allclose(half.power, double.power, rtol=1e-3)


def test_run_guidance_spectrum_reads_the_states_of_a_run(golden_deco):
    steps = list(sample_steps(golden_deco, [1, 2], num_steps=3, guidance_scale=2.0))
    found = run_guidance_spectrum(golden_deco, iter(steps), [1, 2], batch_size=1)
    np.testing.assert_allclose(found.times, [0, 1 / 3, 2 / 3])
    x, t = steps[1].x, torch.full((2,), steps[1].t)
    added = golden_deco(x, t, torch.tensor([1, 2])) - golden_deco(x, t, torch.tensor([10, 10]))
    energy = split_bands(added).square().mean((1, 2, 3, 4))
    np.testing.assert_allclose(found.power[1] * found.fraction, energy, rtol=1e-4)


def test_guidance_spectrum_of_one_image_has_no_interval_and_saves(tmp_path):
    model = Bands([1.0, 1.0, 0.0], [0.0] * 3)
    found = guidance_spectrum(model, white(1), [0], times=[0.5], edges=EDGES)
    assert np.isnan(found.power_low).all()
    assert np.isnan(found.cosine[0, 2])  # nothing is added there
    assert found.cosine[0, :2] == pytest.approx(1)
    found.save(tmp_path / "guidance.npz")
    again = GuidanceSpectrum.load(tmp_path / "guidance.npz")
    assert np.array_equal(again.power, found.power)
    assert again.recipe["states"] == "re-noised images"


def test_guidance_spectrum_refuses_bad_input(golden_deco):
    images = torch.zeros(2, 3, 16, 16)
    call = partial(guidance_spectrum, golden_deco, times=[0.5])
    for given, message in [
        ((images[0], [1]), r"images must have shape \(B, C, H, W\)"),
        ((images[:0], []), "images must have shape"),
        ((images / 0, [1, 1]), "images must be finite"),
        ((images, [1]), "class_ids must be one whole number for each image"),
        ((images, [1, 11]), "class_ids must be from 0 to 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(*given)
    with pytest.raises(ValueError, match="times must be at least one t"):
        guidance_spectrum(golden_deco, images, [1, 1], times=[])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        call(images, [1, 1], batch_size=0)
    with pytest.raises(ValueError, match="edges must rise"):
        call(images, [1, 1], edges=(0.3, 0.2))
    with pytest.raises(ValueError, match="model must have a null class"):
        guidance_spectrum(lambda x, t, c: x, images, [1, 1], times=[0.5])
    with pytest.raises(ValueError, match="steps must hold a state with t below 1, got none"):
        run_guidance_spectrum(golden_deco, [], [1])
    step: Any = SimpleNamespace(t=0.5, x=images * math.nan)
    with pytest.raises(ValueError, match="the x of a step must be finite"):
        run_guidance_spectrum(golden_deco, [step], [1, 1])


# When bands settle.


def run_of(coherences, count=4, seed=0, times=TIMES):
    """Return times and images whose band k has the coherences[t][k] with the last, exactly."""
    final = split_bands(white(count, seed), EDGES)
    other = split_bands(white(count, seed + 100), EDGES)
    # Other noise, less what it has in common with the final image in each band and image.
    inner = (final * other).sum((2, 3, 4), keepdim=True)
    other = other - inner / final.square().sum((2, 3, 4), keepdim=True) * final
    ratio = final.square().sum((2, 3, 4)).sqrt() / other.square().sum((2, 3, 4)).sqrt()
    other = other * ratio[..., None, None, None]
    images = []
    for row in coherences:
        c = torch.tensor(row).double()[:, None, None, None, None]
        images.append((c.sqrt() * final + (1 - c).sqrt() * other).sum(0) * 0.7)
    return times, torch.stack([*images, final.sum(0)])


def test_settling_times_of_bands_that_settle_at_known_times():
    # Coherences of t, of 2t up to 1, and a step between 0.4 and 0.6.
    rows = [[t, min(2 * t, 1.0), float(t > 0.5)] for t in TIMES[:-1]]
    found = settling_times(run_of(rows), edges=EDGES)
    np.testing.assert_allclose(found.coherence[:, :-1], np.broadcast_to(rows, (4, 4, 3)), atol=1e-9)
    np.testing.assert_allclose(found.coherence[:, -1], 1)
    # At 0.6 the coherence is 0.6; only the final image itself is above 0.9.
    expected = [[0.5, math.nan], [0.25, 0.5], [0.5, 0.58]]
    np.testing.assert_allclose(found.settled, np.broadcast_to(expected, (4, 3, 2)), atol=1e-9)
    np.testing.assert_allclose(found.median, expected, atol=1e-9)
    np.testing.assert_allclose(found.median_low[1], expected[1], atol=1e-9)
    np.testing.assert_allclose(found.median_high[1], expected[1], atol=1e-9)
    np.testing.assert_allclose(found.median_high[0, 1], 1)


def test_settling_times_are_from_when_a_band_never_falls_back():
    rows = [[0.6, 0.95, 0.0], [0.3, 0.95, 0.8], [0.8, 0.95, 0.2], [0.8, 0.95, 0.4]]
    settled = settling_times(run_of(rows), edges=EDGES, levels=[0.5]).settled[0, :, 0]
    np.testing.assert_allclose(settled, [0.2 + 0.2 * 0.2 / 0.5, 0.0, math.nan])


def test_settling_times_take_medians_over_images_and_runs():
    levels = [0.1, 0.3, 0.5]
    runs = [
        run_of([[0.0] * 3, [2 * level] * 3, [1.0] * 3, [1.0] * 3], count=1, seed=i)
        for i, level in enumerate(levels)
    ]
    found = settling_times(*runs, edges=EDGES, levels=[0.9])
    each = [0.2 + 0.2 * (0.9 - c) / (1 - c) for c in (0.2, 0.6)] + [0.2 * 0.9]
    np.testing.assert_allclose(found.settled[:, 0, 0], each, atol=1e-9)
    np.testing.assert_allclose(found.median[:, 0], sorted(each)[1], atol=1e-9)
    assert found.count == 3
    assert (found.median_low < found.median_high).all()


def test_settling_times_of_most_images_that_never_settle_are_nan():
    runs = [run_of([[c] * 3] * 4, count=1, seed=s) for s, c in enumerate([0.2, 0.2, 0.95])]
    found = settling_times(*runs, edges=EDGES, levels=[0.9])
    assert np.isnan(found.median).all()
    np.testing.assert_allclose(found.settled[2], 0)
    assert np.isnan(settling_times(runs[0], edges=EDGES).median_low).all()  # of a single image


def test_settling_times_of_noises_never_settle():
    # Null controls: white noise at every step, and the final image with its phases shuffled.
    images = torch.stack([white(2, seed) for seed in range(5)])
    found = settling_times((TIMES, images), edges=EDGES)
    assert np.isnan(found.settled).all()
    assert found.coherence[:, :-1].max() < 0.1
    final = split_bands(white(2), ())[0]
    phases = torch.fft.rfft2(white(2, 9)).angle()
    shuffled = torch.fft.irfft2(torch.polar(torch.fft.rfft2(final).abs(), phases))
    found = settling_times((TIMES, torch.stack([shuffled] * 4 + [final])), edges=EDGES)
    assert np.isnan(found.settled).all()


def test_settling_times_read_steps_and_iterators_alike(golden_deco, tmp_path):
    steps = list(sample_steps(golden_deco, [1, 2], num_steps=5, guidance_scale=2.0))
    found = settling_times(iter(steps), model=golden_deco)
    np.testing.assert_allclose(found.times, [0, 0.2, 0.4, 0.6, 0.8])  # where each step started
    images = [step.predicted_image for step in steps if step.predicted_image is not None]
    again = settling_times((found.times.tolist(), iter(images)))
    assert np.array_equal(found.coherence, again.coherence)
    split = settling_times(
        *(
            sample_steps(golden_deco, [i + 1], seed=i, num_steps=5, guidance_scale=2.0)
            for i in (0, 1)
        )
    )
    np.testing.assert_allclose(split.coherence, found.coherence, atol=1e-5)
    found.save(tmp_path / "settling.npz")
    assert Settling.load(tmp_path / "settling.npz").recipe["weights"] != ""


def test_settling_times_refuse_bad_input():
    times, images = run_of([[0.5] * 3] * 4, count=1)
    for runs, message in [
        ((), "runs must be at least one, got none"),
        (((times[:1], images[:1]),), "two or more rising times"),
        (((times[::-1], images),), "two or more rising times"),
        (((times, images * math.nan),), "predicted images must be finite, .* at t=0.0"),
        (((times, images[:, 0]),), r"a predicted image must have shape \(B, C, H, W\)"),
        (((times, [*images[:4], images[4, :, :, :8]]),), "must keep their shape"),
        (((times, images), ([0, 0.1, 0.2, 0.3, 0.4], images)), "runs must have the same times"),
        (((times, images[:3]),), "zip"),
    ]:
        with pytest.raises(ValueError, match=message):
            settling_times(*runs)
    with pytest.raises(ValueError, match="levels must lie between 0 and 1"):
        settling_times((times, images), levels=[1.0])


# What solvers do wrong.

RATES = (-1.0, 0.5, 2.0)


class Linear:
    """dx/dt = rate_k x in band k: each band grows by exp(rate_k) from t = 0 to 1."""

    def __init__(self):
        self.config = SimpleNamespace(num_classes=2, image_size=32)

    def __call__(self, x, t, class_ids):
        bands = split_bands(x, EDGES)
        return torch.stack([r * band for r, band in zip(RATES, bands, strict=True)]).sum(0)


def draw(class_ids, *, solver, num_steps, seed) -> Any:
    """Sample the linear model, or its exact solution."""
    steps = sample_steps(
        Linear(), class_ids, solver="euler" if solver == "exact" else solver,
        num_steps=num_steps, seed=seed, guidance_scale=1,
    )  # fmt: skip
    if solver != "exact":
        return steps
    bands = split_bands(next(steps).x.double(), EDGES)
    x = sum(math.exp(rate) * band for rate, band in zip(RATES, bands, strict=True))
    return [SimpleNamespace(x=x, nfe=0)]


def test_solver_error_of_a_linear_model_is_known():
    settings = [("euler", 5), ("euler", 20), ("heun", 5)]
    found = solver_error(
        draw, [0, 1, 0], settings, reference=("exact", 1), edges=EDGES, batch_size=2
    )
    rates = np.array(RATES)
    euler = [np.abs((1 + rates / n) ** n * np.exp(-rates) - 1) for n in (5, 20)]
    np.testing.assert_allclose(found.error[:2], euler, rtol=1e-4)
    step = 1 + rates / 5 + (rates / 5) ** 2 / 2  # and a last one of Euler's
    heun = np.abs(step**4 * (1 + rates / 5) * np.exp(-rates) - 1)
    np.testing.assert_allclose(found.error[2], heun, rtol=1e-4)
    assert found.nfe.tolist() == [5, 20, 9]
    np.testing.assert_allclose(found.error_low, found.error, rtol=1e-4)  # alike for every image
    assert found.count == 3
    assert found.solvers == ("euler", "euler", "heun")


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("adams2", 2)])
def test_solver_error_falls_by_the_order_in_every_band(solver, order):
    settings = [(solver, 20), (solver, 40)]
    error = solver_error(draw, [0], settings, reference=("exact", 1), edges=EDGES).error
    np.testing.assert_allclose(np.log2(error[0] / error[1]), order, atol=0.15)


def test_solver_error_of_the_reference_itself_is_0_and_saves(golden_deco, tmp_path):
    found = solver_error(
        partial(sample_steps, golden_deco, guidance_scale=1.0),
        [1, 2, 3],
        [("euler", 6), ("heun", 6)],
        reference=("heun", 6),
        batch_size=2,
        seed=7,
    )
    assert found.error[1].tolist() == [0] * 4
    assert (found.error[0] > 0).all()
    found.save(tmp_path / "solvers.npz")
    again = SolverError.load(tmp_path / "solvers.npz")
    assert again.solvers == ("euler", "heun")
    assert again.recipe["seed"] == 7


def test_solver_error_does_not_depend_on_batch_size():
    errors = [
        solver_error(draw, [0] * 3, [("euler", 3)], reference=("heun", 9), batch_size=size).error
        for size in (1, 3)
    ]
    np.testing.assert_allclose(*errors, rtol=1e-5)


def test_solver_error_refuses_bad_input():
    with pytest.raises(ValueError, match="needs a label and a setting, got 0 class_ids"):
        solver_error(draw, [], [("euler", 3)])
    with pytest.raises(ValueError, match="got 1 class_ids and 0 settings"):
        solver_error(draw, [0], [])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        solver_error(draw, [0], [("euler", 3)], batch_size=0)
    with pytest.raises(ValueError, match="draw must give steps to finite images, got none"):
        solver_error(lambda ids, **_: [], [0], [("euler", 3)])
