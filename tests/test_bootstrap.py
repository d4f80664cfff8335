import numpy as np
import pytest

from deco_lab.spectra import Estimate, bootstrap, bootstrap_intervals
from deco_lab.spectra.bootstrap import bootstrap_log_intervals


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


def mean(means: np.ndarray) -> np.ndarray:
    return means


def ratio(means: np.ndarray) -> np.ndarray:
    return means[..., 0] / means[..., 1]


def coverage(covered: list[bool]) -> float:
    return sum(covered) / len(covered)


@pytest.mark.parametrize(("count", "least"), [(12, 0.9), (120, 0.92)])
def test_bootstrap_intervals_of_a_ratio_cover_the_truth_about_as_often_as_they_say(count, least):
    generator = np.random.default_rng(count)
    covered = []
    for trial in range(600):
        whole = generator.gamma(4.0, size=count)
        values = np.stack([whole * (0.3 + 0.2 * generator.standard_normal(count)), whole], 1)
        _, low, high = bootstrap_intervals(ratio, values, resamples=200, seed=trial)
        covered.append(bool(low <= 0.3 <= high))
    assert least < coverage(covered) < 0.975  # 600 trials tell it to two errors of 0.009


def test_bootstrap_intervals_make_up_for_the_means_removed():
    generator = np.random.default_rng(0)
    covered, uncorrected = [], []
    for trial in range(600):  # the variance within pairs, where each pair has a mean of its own
        pairs = generator.standard_normal((60, 2))
        deviations = (pairs - pairs.mean(1, keepdims=True)) * 2**0.5
        squares = deviations.reshape(120, 1) ** 2
        for removed, found in ((60, covered), (1, uncorrected)):
            _, low, high = bootstrap_intervals(
                mean, squares, removed=removed, resamples=200, seed=trial
            )
            found.append(bool(low[0] <= 1 <= high[0]))
    assert 0.9 < coverage(covered) < 0.975
    assert coverage(uncorrected) < 0.88


def test_bootstrap_intervals_of_a_mean_have_the_width_of_the_standard_error():
    values = np.random.default_rng(0).standard_normal((400, 3, 2))
    value, low, high = bootstrap_intervals(mean, values, resamples=4000)
    np.testing.assert_allclose(value, values.mean(0))
    expected = 2 * 1.96 * values.std(0, ddof=1) / 20
    np.testing.assert_allclose(high - low, expected, rtol=0.1)


def test_bootstrap_intervals_of_equal_images_are_points():
    value, low, high = bootstrap_intervals(ratio, np.tile([[3.0, 4.0]], (5, 1)))
    np.testing.assert_allclose([value, low, high], 0.75)


def test_bootstrap_intervals_depend_on_the_seed_alone():
    values = np.random.default_rng(0).standard_normal((9, 4))
    first, again, other = (bootstrap_intervals(mean, values, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


def test_bootstrap_intervals_of_one_image_are_unknown():
    value, low, high = bootstrap_intervals(mean, np.ones((1, 3)))
    assert value.tolist() == [1, 1, 1]
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("count", "resamples"), [(0, 400), (5, 1)])
def test_bootstrap_intervals_refuse_too_little(count, resamples):
    with pytest.raises(ValueError, match="at least one image and two resamples"):
        bootstrap_intervals(mean, np.ones((count, 2)), resamples=resamples)


@pytest.mark.parametrize("count", [3, 8, 28])
def test_intervals_of_few_images_cover_a_normal_mean(count):
    generator = np.random.default_rng(count)
    covered: dict[str, list[bool]] = {"intervals": [], "bootstrap": []}
    for trial in range(400):
        values = generator.standard_normal(count)
        _, low, high = bootstrap_intervals(mean, values[:, None], resamples=200, seed=trial)
        covered["intervals"].append(bool(low[0] <= 0 <= high[0]))
        found = bootstrap(
            lambda i, v=values: v[i].mean(), np.zeros(count, int), removed=1, seed=trial
        )
        covered["bootstrap"].append(found.low <= 0 <= found.high)
    for kept in covered.values():
        assert 0.9 < coverage(kept) < 0.985  # 400 trials tell it to two errors of 0.011


@pytest.mark.parametrize(("labels", "removed"), [([0], 0), ([0, 1, 2], 0), ([0], 1)])
def test_bootstrap_of_one_image_a_class_tells_no_spread(labels, removed):
    found = bootstrap(lambda i: float(i.mean()), np.array(labels), removed=removed)
    assert np.isnan([found.low, found.high]).all()


def test_bootstrap_log_intervals_of_skewed_powers_cover_better_than_linear_ones():
    generator = np.random.default_rng(0)
    covered: dict[str, list[bool]] = {"linear": [], "logarithm": []}
    for trial in range(500):
        values = generator.lognormal(0, 1, (10, 1))
        linear = bootstrap_intervals(mean, values, seed=trial)
        logarithm = bootstrap_log_intervals(mean, values)
        assert linear.value == logarithm.value
        for name, found in (("linear", linear), ("logarithm", logarithm)):
            covered[name].append(bool(found.low[0] <= np.exp(0.5) <= found.high[0]))
        assert logarithm.low[0] > 0
    assert coverage(covered["logarithm"]) > coverage(covered["linear"]) + 0.02
    assert coverage(covered["logarithm"]) > 0.85


def test_bootstrap_intervals_end_where_the_figure_does():
    values = np.array([[0.0], [0.0], [0.0], [0.9]])
    _, low, high = bootstrap_intervals(mean, values, within=(0, 1))
    assert low[0] == 0
    assert high[0] <= 1
