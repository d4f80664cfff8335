"""Every example's sentence, against the runs that its button starts."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import deco_lab
from deco_lab.models import Model
from deco_lab.spectra import settling_times, split_bands
from deco_lab.workbench import Settings, opening_run
from deco_lab.workbench.examples import EXAMPLES
from deco_lab.workbench.watching import Watch


@pytest.fixture(scope="module")
def tiny() -> Model:
    return deco_lab.load("tiny", device="cpu", fast=True)


def runs(name: str) -> tuple[Settings, ...]:
    (example,) = (example for example in EXAMPLES if example.name == name)
    return example.runs


def drawn(model: Any, settings: Settings) -> torch.Tensor:
    return deco_lab.sample(model, **settings.sampling_arguments())


def energies(images: torch.Tensor) -> np.ndarray:
    return split_bands(images).square().mean((1, 2, 3, 4)).numpy()


def test_low_bands_settle_first(tiny: Model):
    (settings,) = runs("Watch it settle")
    assert settings.guided_from is None
    steps = deco_lab.sample_steps(tiny, **settings.sampling_arguments())
    settled = settling_times(steps).settled[0, :, 1]  # 90%
    assert (np.diff(settled) > 0).all()
    assert settled[-1] > 0.7


def test_condition_draws_most_at_half_time_and_pixels_at_the_end(tiny: Model):
    (settings,) = runs("Who draws what")
    assert settings.guided_from is None
    shares = {
        round(frame.t_start, 3): np.array(frame.curves["predicted_shares"], float)
        for frame in Watch(tiny, settings)
        if frame.t_start
    }
    assert (shares[0.5][1, 1:] > 0.5).all()  # but for the mean colour, which the class has
    assert shares[0.9][2, -1] > 0.5


def test_too_much_guidance_adds_energy_to_what_is_fine(tiny: Model):
    weak, strong = runs("Guidance too strong")
    assert (weak.guidance_scale, strong.guidance_scale) == (2, 12)
    ratio = energies(drawn(tiny, strong)) / energies(drawn(tiny, weak))
    assert ratio[0] == pytest.approx(1, abs=0.05)
    assert (ratio[2:] > 3).all()


def test_rest_of_the_dit_changes_what_is_fine_more(tiny: Model):
    every, fourth = runs("Let the DiT rest")
    assert (every.condition_reuse, fourth.condition_reuse) == (1, 4)
    images = drawn(tiny, every)
    changed = energies(drawn(tiny, fourth) - images) / energies(images)
    assert (changed[1:] > 3 * changed[0]).all()


def test_baseline_is_a_single_dit_from_the_same_noise():
    baseline, deco = runs("Baseline against DeCo")
    assert baseline == replace(deco, model="tiny-dit")
    assert not hasattr(deco_lab.load("tiny-dit", device="cpu"), "decode")


@pytest.mark.parametrize(
    ("num_classes", "class_ids"), [(17, (2, 3, 10, 12)), (5, (0, 1, 2, 3)), (2, (0, 1))]
)
def test_page_opens_with_four_images_of_different_classes(num_classes, class_ids):
    facts: Any = SimpleNamespace(name="some", num_classes=num_classes)
    settings = Settings(model="some", class_ids=class_ids, guidance_scale=2.0)
    assert opening_run(facts) == settings
    assert settings.num_images == 4
