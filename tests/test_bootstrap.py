import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from deco_lab.spectra import bootstrap, bootstrap_intervals
from deco_lab.spectra.bootstrap import bootstrap_log_intervals, group_numbers, over_seeds


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    labels = np.zeros(40, int)
    covered = 0
    for seed in range(300):
        values = generator.exponential(size=40)
        estimate = bootstrap(lambda i, v=values: v[i].mean(), labels, resamples=100, seed=seed)
        covered += estimate.low <= 1 <= estimate.high
    # An interval symmetric about the mean of 40 exponential values covers a little less than 95%.
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


def mean(means: np.ndarray) -> np.ndarray:
    return means


def ratio(means: np.ndarray) -> np.ndarray:
    return means[..., 0] / means[..., 1]


def covered(found, truth: float) -> float:
    """Return the share of intervals that hold the truth."""
    return float(((found.low <= truth) & (truth <= found.high)).mean())


def coverage(inside: list[bool]) -> float:
    return sum(inside) / len(inside)


@pytest.mark.parametrize(("count", "least"), [(12, 0.9), (120, 0.92)])
def test_bootstrap_intervals_of_a_ratio_cover_the_truth_about_as_often_as_they_say(count, least):
    generator = np.random.default_rng(count)
    whole = generator.gamma(4.0, size=(count, 2000))
    values = np.stack([whole * (0.3 + 0.2 * generator.standard_normal(whole.shape)), whole], -1)
    assert least < covered(bootstrap_intervals(ratio, values), 0.3) < 0.975


def test_bootstrap_intervals_make_up_for_the_means_removed():
    # The variance within pairs, where each pair has a mean of its own.
    pairs = np.random.default_rng(0).standard_normal((60, 2, 2000))
    squares = (2 * (pairs - pairs.mean(1, keepdims=True)) ** 2).reshape(120, 2000)
    assert 0.9 < covered(bootstrap_intervals(mean, squares, removed=60), 1) < 0.975
    assert covered(bootstrap_intervals(mean, squares), 1) < 0.88


def test_bootstrap_intervals_of_a_mean_have_the_width_of_the_standard_error():
    values = np.random.default_rng(0).standard_normal((400, 3, 2))
    value, low, high = bootstrap_intervals(mean, values, resamples=4000).ends
    np.testing.assert_allclose(value, values.mean(0))
    expected = 2 * 1.96 * values.std(0, ddof=1) / 20
    np.testing.assert_allclose(high - low, expected, rtol=0.1)


def test_bootstrap_intervals_of_equal_images_are_points():
    value, low, high = bootstrap_intervals(ratio, np.tile([[3.0, 4.0]], (5, 1))).ends
    np.testing.assert_allclose([value, low, high], 0.75)


def test_bootstrap_intervals_depend_on_the_seed_alone():
    values = np.random.default_rng(0).standard_normal((9, 4))
    first, again, other = (bootstrap_intervals(mean, values, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


def test_bootstrap_intervals_of_one_image_are_unknown():
    value, low, high = bootstrap_intervals(mean, np.ones((1, 3))).ends
    assert value.tolist() == [1, 1, 1]
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("count", "resamples"), [(0, 400), (5, 1)])
def test_bootstrap_intervals_refuse_too_little(count, resamples):
    with pytest.raises(ValueError, match="at least one image and two resamples"):
        bootstrap_intervals(mean, np.ones((count, 2)), resamples=resamples)


@pytest.mark.parametrize("count", [3, 8, 28])
def test_intervals_of_few_images_cover_a_normal_mean(count):
    values = np.random.default_rng(count).standard_normal((count, 2000))
    assert 0.92 < covered(bootstrap_intervals(mean, values), 0) < 0.98


@pytest.mark.parametrize(("classes", "each"), [(1, 3), (1, 28), (4, 2), (3, 5)])
def test_bootstrap_covers_a_normal_mean_of_few_images_a_class(classes, each):
    generator = np.random.default_rng(classes)
    labels = np.repeat(np.arange(classes), each)
    inside = []
    for trial in range(400):
        values = labels + generator.standard_normal(len(labels))
        found = bootstrap(lambda i, v=values: v[i].mean(), labels, resamples=100, seed=trial)
        inside.append(found.low <= (classes - 1) / 2 <= found.high)
    assert 0.91 < coverage(inside) < 0.985  # 400 trials tell it to two errors of 0.011


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_bootstrap_of_one_image_a_class_tells_no_spread(labels):
    found = bootstrap(lambda i: float(i.mean()), np.array(labels))
    assert np.isnan([found.low, found.high]).all()


def sets_of_groups(
    generator: np.random.Generator, sizes: list[int], sets: int
) -> dict[str, tuple[np.ndarray, float]]:
    """Return values (images, sets, V) of groups that differ far more than their members."""
    of_group = np.repeat(np.arange(len(sizes)), sizes)

    def between(draw):
        return draw((len(sizes), sets))[of_group]

    def within(draw):
        return draw((len(of_group), sets))

    whole = between(lambda n: generator.gamma(2, size=n)) * within(
        lambda n: generator.gamma(4, size=n)
    )
    share = 0.3 + 0.2 * between(generator.standard_normal) + 0.1 * within(generator.standard_normal)
    power = between(generator.standard_exponential) * within(
        lambda n: generator.gamma(4, 0.25, size=n)
    )
    plain = between(generator.standard_normal) + 0.5 * within(generator.standard_normal)
    return {
        "mean": (plain[..., None], 0.0),
        "ratio": (np.stack([share * whole, whole], -1), 0.3),
        "log power": (power[..., None], 1.0),
    }


def coverage_of_groups(
    sizes: list[int], sets: int = 2000, seed: int = 0, *, told: bool = True
) -> dict[str, float]:
    """Return how often the 95% intervals of each figure cover the truth."""
    groups = np.repeat(np.arange(len(sizes)), sizes) if told else None
    found = {}
    for name, (values, truth) in sets_of_groups(np.random.default_rng(seed), sizes, sets).items():
        interval = bootstrap_log_intervals if name == "log power" else bootstrap_intervals
        figure = ratio if name == "ratio" else lambda means: means[..., 0]
        found[name] = covered(interval(figure, values, groups=groups), truth)
    return found


SIZES = [[crops] * groups for groups in (5, 14, 50) for crops in (1, 8, 32)]


@pytest.mark.parametrize(
    "sizes",
    [*SIZES, [1, 2, 4, 8, 16], [1, 2, 4, 8, 16] * 3],
    ids=lambda s: f"{len(s)} groups, {sum(s)} crops",
)
def test_bootstrap_intervals_cover_the_truth_of_groups(sizes):
    for figure, share in coverage_of_groups(sizes).items():
        assert 0.91 <= share <= 0.99, figure


def test_bootstrap_intervals_that_know_no_groups_are_too_narrow():
    assert coverage_of_groups([8] * 14, told=False)["mean"] < 0.6


def test_bootstrap_of_groups_covers_the_mean_of_groups():
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(14), 8)
    inside: dict[str, list[bool]] = {"groups": [], "images": []}
    for _ in range(200):
        values = generator.standard_normal(14)[groups] + 0.5 * generator.standard_normal(112)
        for name, given in (("groups", groups), ("images", None)):
            found = bootstrap(
                lambda i, v=values: v[i].mean(), np.zeros(112, int), groups=given, resamples=100
            )
            inside[name].append(found.low <= 0 <= found.high)
    assert 0.91 < coverage(inside["groups"]) < 0.985
    assert coverage(inside["images"]) < 0.6


def test_bootstrap_draws_groups_whole_and_class_by_class():
    labels, groups = np.array([0, 0, 0, 1, 1, 1]), list("aabccd")
    drawn = []
    bootstrap(lambda i: drawn.append(i) or 0.0, labels, groups=groups)
    for rows in drawn:
        counts = np.bincount(rows, minlength=6)
        assert counts[[0, 3]].tolist() == counts[[1, 4]].tolist()
        assert counts[0] + counts[2] == counts[3] + counts[5] == 2


def test_intervals_of_copies_in_groups_are_those_of_the_images():
    values = np.random.default_rng(0).gamma(2.0, size=(6, 5))
    copies, groups = values.repeat(8, 0), np.arange(6).repeat(8)
    for interval in (bootstrap_intervals, bootstrap_log_intervals):
        of_copies = interval(mean, copies, groups=groups)
        np.testing.assert_allclose(of_copies.ends, interval(mean, values).ends)
        assert of_copies.count == 48


@pytest.mark.parametrize("labels", [["moon", "text", "moon"], np.array([4, 2, 4]), [4, None, 4]])
def test_group_numbers_tell_labels_apart(labels):
    assert group_numbers(labels, 3).tolist() == [0, 1, 0]
    assert group_numbers(torch.tensor([9, 9, 1]), 3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("groups", [["moon"], [], [[1], [2], [3]], np.zeros((3, 1))])
def test_group_numbers_refuse_labels_that_do_not_fit(groups):
    with pytest.raises(ValueError, match=r"groups must be one label for each of 3 images"):
        group_numbers(groups, 3)


def test_bootstrap_log_intervals_of_skewed_powers_cover_better_than_linear_ones():
    values = np.random.default_rng(0).lognormal(0, 1, (10, 2000))
    linear, logarithm = bootstrap_intervals(mean, values), bootstrap_log_intervals(mean, values)
    np.testing.assert_array_equal(linear.value, logarithm.value)
    assert (logarithm.low > 0).all()
    assert covered(logarithm, np.exp(0.5)) > max(0.87, covered(linear, np.exp(0.5)) + 0.02)


def test_bootstrap_intervals_end_where_the_figure_does():
    values = np.array([[0.0], [0.0], [0.0], [0.9]])
    _, low, high = bootstrap_intervals(mean, values, within=(0, 1)).ends
    assert low[0] == 0
    assert high[0] <= 1


def test_over_seeds_gives_students_interval():
    values = np.random.default_rng(0).normal(3, 1, (5, 2))
    found = over_seeds(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(found.low, expected.low)
    np.testing.assert_allclose(found.high, expected.high)
    assert np.isnan(over_seeds(values[:1]).low).all()
