import numpy as np
import pytest

from deco_lab.spectra.intervals import bootstrap_intervals


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
