import numpy as np
import pytest

from deco_lab.spectra import Estimate, bootstrap


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    labels = np.zeros(40, int)
    covered = 0
    for seed in range(300):
        values = generator.exponential(size=40)
        estimate = bootstrap(lambda i, v=values: v[i].mean(), labels, seed=seed)
        covered += estimate.low <= 1 <= estimate.high
    # The percentile interval of 40 exponential values covers a little less than 95%.
    assert 0.88 <= covered / 300 <= 0.97


def test_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    estimate = bootstrap(lambda i: values[i].mean(), np.zeros(400, int), resamples=4000)
    assert estimate.value == values.mean()
    width = 2 * 1.96 * values.std() / 20
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.06)
    assert estimate.count == 400


def test_bootstrap_keeps_the_number_of_images_of_each_class():
    labels = np.array([0] * 5 + [1] * 20)
    counts = []
    bootstrap(lambda i: counts.append(np.bincount(labels[i]).tolist()) or 0.0, labels)
    assert counts == [[5, 20]] * 201


def test_bootstrap_centres_a_biased_figure_on_itself():
    """The largest of a resample is never above the largest of all: its bias must not show."""
    values = np.arange(50.0)
    estimate = bootstrap(lambda i: values[i].max(), np.zeros(50, int))
    assert estimate.low < estimate.value == 49 < estimate.high


def test_bootstrap_repeats_with_its_seed():
    values = np.random.default_rng(2).normal(size=30)
    first, second, other = (
        bootstrap(lambda i: values[i].mean(), np.zeros(30, int), seed=seed) for seed in (3, 3, 4)
    )
    assert first == second != other


def test_bootstrap_needs_images():
    with pytest.raises(ValueError, match=r"at least one label .* got labels of shape \(0,\)"):
        bootstrap(lambda i: 0.0, np.zeros(0, int))


def test_estimate_formats_its_interval():
    assert f"{Estimate(0.5, 0.25, 0.75, 9):.2f}" == "0.50 [0.25, 0.75]"
