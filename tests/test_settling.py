import math

import numpy as np
import pytest
import torch

from deco_lab.sampling import sample_steps
from deco_lab.spectra import split_bands
from deco_lab.spectra.settling import Settling, settling_times

EDGES = (1 / 8, 1 / 4)
TIMES = [0.0, 0.2, 0.4, 0.6, 0.8]


def white(count, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)


def run_of(correlations, count=4, seed=0, times=TIMES):
    """Return times and images whose band k has the correlations[t][k] with the last, exactly."""
    final = split_bands(white(count, seed), EDGES)
    other = split_bands(white(count, seed + 100), EDGES)
    # Other noise, less what it has in common with the final image in each band and image.
    inner = (final * other).sum((2, 3, 4), keepdim=True)
    other = other - inner / final.square().sum((2, 3, 4), keepdim=True) * final
    ratio = final.square().sum((2, 3, 4)).sqrt() / other.square().sum((2, 3, 4)).sqrt()
    other = other * ratio[..., None, None, None]
    images = []
    for row in correlations:
        c = torch.tensor(row).double()[:, None, None, None, None]
        images.append((c * final + (1 - c.square()).sqrt() * other).sum(0) * 0.7)
    return times, torch.stack([*images, final.sum(0)])


def test_settling_times_of_bands_that_settle_at_known_times():
    # Correlations of t, of 2t up to 1, and a step between 0.4 and 0.6.
    rows = [[t, min(2 * t, 1.0), float(t > 0.5)] for t in TIMES[:-1]]
    found = settling_times(run_of(rows), edges=EDGES)
    np.testing.assert_allclose(
        found.correlation[:, :-1], np.broadcast_to(rows, (4, 4, 3)), atol=1e-9
    )
    np.testing.assert_allclose(found.correlation[:, -1], 1)
    # At 0.6 the correlation is 0.6; only the final image itself is above 0.9.
    expected = [[0.5, math.nan], [0.25, 0.5], [0.5, 0.58]]
    np.testing.assert_allclose(found.settled, np.broadcast_to(expected, (4, 3, 2)), atol=1e-9)
    np.testing.assert_allclose(found.median.value, expected, atol=1e-9)
    np.testing.assert_allclose(found.median.low[1], expected[1], atol=1e-9)
    np.testing.assert_allclose(found.median.high[1], expected[1], atol=1e-9)
    np.testing.assert_allclose(found.median.high[0, 1], 1)


def test_settling_times_are_from_when_a_band_never_falls_back():
    rows = [[0.6, 0.95, 0.0], [0.3, 0.95, 0.8], [0.8, 0.95, 0.2], [0.8, 0.95, 0.4]]
    settled = settling_times(run_of(rows), edges=EDGES, levels=[0.5]).settled[0, :, 0]
    np.testing.assert_allclose(settled, [0.2 + 0.2 * 0.2 / 0.5, 0.0, math.nan])


def test_settling_times_of_the_final_image_reversed_are_not_settled():
    rows = [[-1.0, -0.6, 0.6]] * 2 + [[1.0] * 3] * 2
    found = settling_times(run_of(rows), edges=EDGES, levels=[0.5])
    np.testing.assert_allclose(found.correlation[:, 0], np.broadcast_to(rows[0], (4, 3)), atol=1e-9)
    expected = [0.2 + 0.2 * 1.5 / 2, 0.2 + 0.2 * 1.1 / 1.6, 0.0]
    np.testing.assert_allclose(found.settled[..., 0], np.broadcast_to(expected, (4, 3)), atol=1e-9)


def test_settling_times_of_the_mean_are_a_band_of_their_own():
    """The right colour from the start, over low frequencies that settle between 0.4 and 0.6."""
    times, images = run_of([[-1.0, 0.0, 0.0]] * 3 + [[1.0] * 3])
    found = settling_times((times, 5 + images - images.mean((-2, -1), keepdim=True)), levels=[0.9])
    expected = [0.0, *[0.4 + 0.2 * 1.9 / 2] * 2]
    np.testing.assert_allclose(found.median.value[:3, 0], expected, atol=1e-9)


def test_settling_times_take_medians_over_images_and_runs():
    levels = [0.1, 0.3, 0.5]
    runs = [
        run_of([[0.0] * 3, [2 * level] * 3, [1.0] * 3, [1.0] * 3], count=1, seed=i)
        for i, level in enumerate(levels)
    ]
    found = settling_times(*runs, edges=EDGES, levels=[0.9])
    each = [0.2 + 0.2 * (0.9 - c) / (1 - c) for c in (0.2, 0.6)] + [0.2 * 0.9]
    np.testing.assert_allclose(found.settled[:, 0, 0], each, atol=1e-9)
    np.testing.assert_allclose(found.median.value[:, 0], sorted(each)[1], atol=1e-9)
    assert found.count == 3
    assert (found.median.low < found.median.high).all()


def test_settling_times_of_most_images_that_never_settle_are_nan():
    runs = [run_of([[c] * 3] * 4, count=1, seed=s) for s, c in enumerate([0.2, 0.2, 0.95])]
    found = settling_times(*runs, edges=EDGES, levels=[0.9])
    assert np.isnan(found.median.value).all()
    np.testing.assert_allclose(found.settled[2], 0)
    assert np.isnan(settling_times(runs[0], edges=EDGES).median.low).all()  # of a single image


def test_settling_times_of_noises_never_settle():
    # Null controls: white noise at every step, and the final image with its phases shuffled.
    images = torch.stack([white(2, seed) for seed in range(5)])
    found = settling_times((TIMES, images), edges=EDGES)
    assert np.isnan(found.settled).all()
    assert abs(found.correlation[:, :-1]).max() < 0.2
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
    assert np.array_equal(found.correlation, again.correlation)
    split = settling_times(
        *(
            sample_steps(golden_deco, [i + 1], seed=i, num_steps=5, guidance_scale=2.0)
            for i in (0, 1)
        )
    )
    np.testing.assert_allclose(split.correlation, found.correlation, atol=1e-5)
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
