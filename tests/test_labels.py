"""Labels that are no class ids: text features go through sampling and every analysis unopened."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deco_lab import sample, sample_steps
from deco_lab.labels import Labels, labels_of
from deco_lab.spectra import (
    Crops,
    Intervened,
    OtherRun,
    Run,
    band_effects,
    band_response,
    condition_budget,
    decompose,
    detail_spectra,
    guidance_spectrum,
    linear_readout,
    settling_times,
    tap_spectrum,
    token_clusters,
)

L, W, P, SIDE = 5, 6, 4, 16  # words, width of their features, patch, image


class Texts(nn.Module):
    """A DeCo in miniature that is told text features, (B, L, W)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.config = SimpleNamespace(patch_size=P, image_size=SIDE)
        self.told = nn.Parameter(torch.randn(W, 3, generator=generator))
        self.mix = nn.Parameter(torch.randn(3, 3, generator=generator))

    def condition(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        assert text.shape[1:] == (L, W)
        assert len(text) == len(x)
        tokens = nn.functional.avg_pool2d(x, P).flatten(2).mT.tanh()
        return tokens @ self.mix.to(x) + (text.mean(1) @ self.told).to(x)[:, None]

    features = condition

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        side = x.shape[-1] // P
        grid = condition.mT.unflatten(2, (side, side))
        return nn.functional.interpolate(grid, scale_factor=P) * 0.5 - 0.3 * x.sin()

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.decode(x, self.condition(x, t, text))


MODEL = Texts()
COUNT = 12
NOISE = torch.randn(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
PROMPTS = torch.randn(3, L, W, generator=torch.Generator().manual_seed(2)).repeat(COUNT // 3, 1, 1)
LABELS = Labels(PROMPTS, torch.zeros_like(PROMPTS))
IMAGES = NOISE.tanh()


def crops(times: Any = (0.3, 0.6)) -> Crops:
    return Crops(IMAGES, LABELS, times, batch_size=5)


ANALYSES: dict[str, Any] = {
    "response": band_response,
    "effects": band_effects,
    "effects without a prompt": lambda model, states: band_effects(
        model, states, condition_reference="null"
    ),
    "readout": lambda model, states: linear_readout(model, states, folds=3),
    "budget": condition_budget,
    "clusters": lambda model, states: token_clusters(model, states, clusters=2),
    "detail": detail_spectra,
    "guidance": guidance_spectrum,
    "taps": tap_spectrum,
}


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_take_text_features(name):
    found = ANALYSES[name](MODEL, crops())
    hashes = found.recipe["class_ids"]
    assert len(hashes) == COUNT
    assert hashes[:3] == hashes[3:6]
    assert len(set(hashes)) == 3


def test_guidance_adds_what_the_prompt_says():
    power = guidance_spectrum(MODEL, crops((0.3,))).power.value[0]
    # The text moves whole tokens alike, so nothing but the lowest band.
    said = (PROMPTS.mean(1) @ MODEL.told).detach().double() * 0.5
    mean = float(said.square().mean())
    assert power[0] > 100 * power[1:].max()
    fraction = guidance_spectrum(MODEL, crops((0.3,))).fraction[0]
    assert power[0] * fraction == pytest.approx(mean, rel=1e-3)


def test_sampling_a_run_and_another_runs_condition():
    settings: Any = {"noise": NOISE, "num_steps": 3}
    steps = list(sample_steps(MODEL, LABELS, **settings, guidance_scale=1.0))
    assert band_effects(MODEL, Run(steps, LABELS)).count == COUNT
    assert settling_times(steps).count == COUNT
    guided = sample(MODEL, LABELS, **settings, guidance_scale=2.0)
    assert not torch.equal(guided, steps[-1].x)
    # A run's own condition in the place of its condition changes nothing.
    other = Intervened(MODEL, condition=OtherRun(steps, LABELS))
    assert torch.equal(sample(other, LABELS, **settings, guidance_scale=1.0), steps[-1].x)


def test_decompose_without_a_prompt_is_what_the_prompt_adds():
    parts = decompose(MODEL, NOISE, 0.5, LABELS, condition_reference="null")
    t = torch.full((COUNT,), 0.5)
    without = MODEL.decode(NOISE, MODEL.condition(NOISE, t, torch.zeros_like(PROMPTS)))
    torch.testing.assert_close(parts.dit, parts.velocity - without.detach(), atol=1e-6, rtol=0)


def test_labels_are_counted_cut_and_told_apart():
    assert LABELS[2:5].values.shape == (3, L, W)
    assert LABELS.kinds.tolist() == LABELS.kinds[:3].tolist() * 4
    assert len(LABELS.kinds.unique()) == 3
    assert Labels(torch.tensor([7, 3, 7])).kinds.tolist() == [1, 0, 1]
    assert Labels(torch.tensor([7, 3, 7])).listed() == [7, 3, 7]
    with pytest.raises(ValueError, match="labels must be one for each of 2 images, got 12"):
        labels_of(LABELS, 2)
    with pytest.raises(ValueError, match="labels must be one for each of 3 images"):
        Crops(IMAGES[:3], LABELS, (0.5,))


def test_without_a_null_nothing_is_guided():
    with pytest.raises(ValueError, match="null"):
        guidance_spectrum(MODEL, Crops(IMAGES, Labels(PROMPTS), (0.5,)))
    effects = band_effects(MODEL, Crops(IMAGES, Labels(PROMPTS), (0.5,)))
    assert np.isfinite(effects.predicted.value).any()
