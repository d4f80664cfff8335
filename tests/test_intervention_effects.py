import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deco_lab.sampling import sample
from deco_lab.spectra import OCTAVES, split_bands
from deco_lab.spectra.intervention_effects import (
    InterventionEffect,
    crossed_effects,
    intervention_effect,
)
from deco_lab.spectra.interventions import BandLimit, SpatialMean


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_intervention_effect_of_none_is_one():
    found = intervention_effect(draw(5, 3, 32, 32), draw(5, 3, 32, 32))
    for name in ("energy", "correlation"):
        np.testing.assert_allclose(getattr(found, name).ends, 1, rtol=1e-12)


def test_intervention_effect_of_a_reversed_image_is_minus_one():
    found = intervention_effect(-draw(5, 3, 32, 32), draw(5, 3, 32, 32))
    np.testing.assert_allclose(found.energy.value, 1, rtol=1e-12)
    np.testing.assert_allclose(found.correlation.ends, -1, rtol=1e-12)


def test_intervention_effect_of_a_lost_layout_is_not_hidden_by_the_mean():
    baseline = 5 + draw(4, 3, 32, 32)
    found = intervention_effect(baseline.mean((2, 3), keepdim=True).expand_as(baseline), baseline)
    np.testing.assert_allclose(found.correlation.value[0], 1, rtol=1e-6)
    assert (found.energy.value[1:] < 1e-12).all()


def test_intervention_effect_of_white_noise_is_the_correlation_of_chance():
    found = [
        intervention_effect(
            draw(8, 3, 16, 16, seed=2 * k + 1), draw(8, 3, 16, 16, seed=2 * k), edges=OCTAVES
        )
        for k in range(40)
    ]
    grid = torch.fft.fftfreq(16).double()
    frequency = torch.hypot(grid[:, None], grid)
    counts = torch.bucketize(frequency, torch.tensor(OCTAVES), right=True).flatten()
    chance = 1 / (24 * counts.bincount().double().numpy())
    correlation = np.array([one.correlation.value for one in found])
    np.testing.assert_allclose(np.square(correlation).mean(0), chance, rtol=0.6)
    assert (abs(correlation.mean(0)) < 4 * np.sqrt(chance / 40)).all()
    np.testing.assert_allclose(np.mean([one.energy.value for one in found], 0), 1, atol=0.1)


def test_intervention_effect_tells_strength_from_likeness():
    baseline = draw(4, 3, 32, 32)
    bands = split_bands(baseline)
    other = split_bands(draw(4, 3, 32, 32, seed=1))
    final = bands[0] - 2 * bands[1] + 0 * bands[2] + other[3]
    found = intervention_effect(final, baseline, edges=OCTAVES)
    np.testing.assert_allclose(found.energy.value[:2], [1, 4], rtol=1e-5)
    np.testing.assert_allclose(found.correlation.value[:2], [1, -1], rtol=1e-5)
    assert found.energy.value[2] < 1e-12
    assert np.isnan(found.correlation.value[2])
    assert found.energy.value[3] == pytest.approx(1, abs=0.1)
    assert abs(found.correlation.value[3]) < 0.1


def test_intervention_effect_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = []
    for trial in range(300):
        baseline, other = draw(2, 24, 1, 8, 8, seed=trial)
        found = intervention_effect(baseline + 0.7 * other, baseline, edges=())
        truth = {"energy": 1.49, "correlation": 1.49**-0.5}
        for name, value in truth.items():
            estimate = getattr(found, name)[0]
            covered.append(estimate.low <= value <= estimate.high)
    assert 0.92 < np.mean(covered) < 0.975


class Split:
    """The exact flow to one picture: its DiT knows what lies below 1/8, its decoder the rest."""

    def __init__(self, picture: Tensor) -> None:
        self.low, self.high = split_bands(picture, [1 / 8])

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.decode(x, self.condition(x, t, class_ids))

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        self.t = float(t[0])
        return F.unfold(self.low.expand_as(x), 4, stride=4).transpose(1, 2)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        low = F.fold(condition.transpose(1, 2), x.shape[-2:], 4, stride=4)
        return (low + self.high - x) / (1 - self.t)


def test_crossed_effects_find_what_each_input_draws(tmp_path):
    model = Split(draw(1, 3, 32, 32))
    noise = draw(4, 3, 32, 32, seed=5)

    def run(one: object) -> Tensor:
        return sample(one, [0] * 4, noise=noise, num_steps=8, guidance_scale=1)  # type: ignore[arg-type]

    found = crossed_effects(
        run,
        model,
        conditions={"fresh": None, "mean": SpatialMean()},
        pixels={"full": None, "low": BandLimit(high=1 / 8)},
        edges=[1 / 8],
    )
    assert found.energy.value.shape == (2, 2, 2)
    assert (found.conditions, found.pixels) == (("fresh", "mean"), ("full", "low"))
    np.testing.assert_allclose(found.energy.value[0, 0, 0], 1)
    assert found.energy.value[1, 0, 0] < 0.1  # the layout is the condition's
    np.testing.assert_allclose(found.energy.value[1, 0, 1], 1, rtol=0.01)
    assert abs(found.correlation.value[1, 0, 0]) < 0.3
    # A decoder that does not see the high band of the noise leaves it there, and the low as it was.
    np.testing.assert_allclose(found.energy.value[0, 1, 0], 1, rtol=1e-4)
    assert found.energy.value[0, 1, 1] > 2
    found.save(tmp_path / "crossed.npz")
    again = InterventionEffect.load(tmp_path / "crossed.npz")
    assert np.array_equal(again.correlation.value, found.correlation.value, equal_nan=True)
    assert again.recipe["conditions"]["mean"] == "SpatialMean()"


def test_intervention_effect_names_what_is_wrong():
    image = draw(2, 3, 8, 8)
    with pytest.raises(ValueError, match="baseline_final must have the shape of final"):
        intervention_effect(image, image[:1])
    with pytest.raises(ValueError, match="final must be finite"):
        intervention_effect(image / 0, image)
    with pytest.raises(ValueError, match="baseline_final must be finite"):
        intervention_effect(image, image / 0)
    with pytest.raises(ValueError, match="final must have shape"):
        intervention_effect(image[0], image[0])
    with pytest.raises(ValueError, match="conditions and pixels must name one each"):
        crossed_effects(lambda model: image, Split(image), conditions={}, pixels={"full": None})
