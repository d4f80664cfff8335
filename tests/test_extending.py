"""What others add: a kind of model, a study and a rule of guidance, each in one place.

Nothing of the library is touched beside its registries, so these are the files that a change of
that kind has to touch: the module itself, its entry, its test.
"""

import base64
import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from test_app import built
from torch import Tensor, nn

import deco_lab
from deco_lab import checkpoints
from deco_lab.config import DiTConfig
from deco_lab.models import DiT, build, zoo
from deco_lab.page import MeasureTab
from deco_lab.page.controls import Controls
from deco_lab.plots.style import TIME, dress, new_figure, shaded
from deco_lab.result import Estimate, load_result
from deco_lab.sampling import GUIDANCE
from deco_lab.sampling.guidance import GuidanceRule, GuidedPair, NamedRule
from deco_lab.spectra import Crops, Run, band_response, tap_spectrum
from deco_lab.spectra.bootstrap import bootstrap_intervals
from deco_lab.spectra.states import Batch, OverTime, States, made_by, measured
from deco_lab.studies import STUDIES, Study
from deco_lab.workbench import Workbench
from deco_lab.workbench.library import Library
from deco_lab.workbench.settings import Settings

# A kind of model: a single DiT that adds a colour of its own.


@dataclass(frozen=True, kw_only=True)
class TintedConfig(DiTConfig):
    kind: ClassVar[str] = "Tinted"
    strength: float = 2.0


class Tinted(DiT):
    config: TintedConfig

    def __init__(self, config: TintedConfig) -> None:
        super().__init__(config)
        self.tint = nn.Linear(1, 3)

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return (
            super().forward(x, t, class_ids) + self.config.strength * self.tint.bias[:, None, None]
        )


@pytest.fixture
def tinted(monkeypatch: pytest.MonkeyPatch) -> Tinted:
    names = {**zoo.KINDS["DiT"].names, "tint": "tint"}
    entry = replace(
        zoo.KINDS["DiT"], config=TintedConfig, model=Tinted, names=names, marks=("tint",)
    )
    monkeypatch.setitem(zoo.KINDS, "Tinted", entry)
    torch.manual_seed(0)
    config = TintedConfig(
        image_size=16, patch_size=4, num_classes=3, hidden_size=16, num_heads=2, depth=1
    )
    model = build(config)
    assert isinstance(model, Tinted)
    return model


def test_a_kind_of_model_is_built_saved_loaded_sampled_and_analysed(tinted: Tinted, tmp_path):
    checkpoints.save(tinted, tmp_path / "mine.safetensors")
    model = deco_lab.load(tmp_path / "mine.safetensors", device="cpu")
    assert type(model) is Tinted
    assert model.config == tinted.config
    images = deco_lab.sample(model, [0, 2], num_steps=1, guidance_scale=1.0, seed=3)
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    # A fresh head is zero, so that the whole velocity is the colour.
    colour = 2 * tinted.tint.bias.detach()[:, None, None]
    torch.testing.assert_close(images[0], noise + colour)
    crops = Crops(torch.zeros(4, 3, 16, 16), [0] * 4, [0.5])
    assert tap_spectrum(model, crops).patch_size == 4
    np.testing.assert_allclose(band_response(model, crops, edges=(1 / 8,)).gain.value, 1, atol=1e-5)
    library = Library(str(tmp_path / "mine.safetensors"), device="cpu", fast=False)
    assert type(library.get(library.names()[0])) is Tinted


# A study: how bright the predicted image is.


@dataclass(frozen=True, kw_only=True, eq=False)
class Brightness(OverTime):
    mean: Estimate
    """(T,), in [-1, 1]."""


def brightness(model: Any, states: States) -> Brightness:
    def measure(batch: Batch) -> Tensor:
        velocity = model(batch.x, batch.t, batch.class_ids)
        return (batch.x + (1 - batch.time) * velocity).mean((1, 2, 3))

    times, values = measured(model, states, measure)
    mean = bootstrap_intervals(lambda means: means, values, groups=states.groups)
    return Brightness(times=times, mean=mean, count=len(values), recipe=made_by(model, states))


def brightness_figure(found: Brightness) -> Any:
    figure = new_figure(4, 3)
    axes = figure.subplots()
    shaded(axes, found.times, found.mean, color="black")
    dress(axes, x=TIME, y="mean of the predicted image")
    return figure


def test_a_study_has_intervals_recipe_file_and_figure_from_the_pieces(tmp_path):
    images = torch.linspace(-0.5, 0.5, 8)[:, None, None, None].expand(-1, 3, 8, 8)

    def perfect(x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return (images[class_ids] - x) / (1 - t[:, None, None, None])

    states = Crops(images, range(8), (0.2, 0.6), groups=[0, 0, 1, 1, 2, 2, 3, 3])
    found = brightness(perfect, states)
    assert f"{found.mean[1]:.2f}".startswith("0.00 [-0.")
    assert found.recipe["groups"] == 4
    run = [type("Step", (), {"t": 0.5, "x": torch.zeros(8, 3, 8, 8)})]
    assert brightness(perfect, Run(run, range(8))).times.tolist() == [0.5]  # type: ignore[arg-type]
    found.save(tmp_path / "brightness.npz")
    again = load_result(tmp_path / "brightness.npz")
    assert isinstance(again, Brightness)
    np.testing.assert_array_equal(again.mean.ends, found.mean.ends)
    figure = brightness_figure(again)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), found.mean.value)


def test_a_study_is_asked_in_the_app_once_it_is_among_the_studies(monkeypatch: pytest.MonkeyPatch):
    entry = Study(
        "Brightness",
        "How bright is the predicted image?",
        lambda model, crops: (brightness(model, crops),),
        brightness_figure,
    )
    monkeypatch.setitem(STUDIES, "brightness", entry)
    bench = Workbench(Library("fields", device="cpu", fast=False))
    facts, first = bench.library.facts("fields"), Settings(model="fields")
    tab = built(lambda: MeasureTab(bench, Controls(["fields"], first, facts)))
    *_, message = tab.answers("fields", "brightness", [0.5], 14, 0)
    view = json.loads(message)["view"]
    assert view["title"] == "Brightness: fields, 14 images, seed 0"
    assert b"mean of the predicted image" in base64.b64decode(view["svg"])
    *_, message = tab.answers("fields", "brightness", 0.5, 14, 0)
    assert json.loads(message)["text"] == "t must be a list of times, got 0.5."


# A rule of guidance: the unconditional velocity turned round.


@dataclass(frozen=True)
class Away(GuidanceRule):
    def __call__(self, pair: GuidedPair) -> Tensor:
        return pair.cond - pair.guidance_scale * pair.uncond


def test_a_rule_of_guidance_is_drawn_by_its_name_and_offered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(GUIDANCE, "away", NamedRule("Away from the null class", Away))

    class Labels:
        config = DiTConfig(image_size=8, patch_size=4, num_classes=2, hidden_size=8, num_heads=1)

        def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
            return class_ids[:, None, None, None] / 10 + 0 * x

    settings = Settings(guidance="away", class_ids=(1,), num_images=1, num_steps=4)
    named: Any = settings.sampling_arguments() | {"guidance_interval": (0.0, 1.0)}
    named |= {"guidance_scale": 2.0, "solver": "euler", "noise": torch.zeros(1, 3, 8, 8)}
    images = deco_lab.sample(Labels(), **named)
    # Off at t = 0, which is not above the interval's lower end; then 0.1 - 2 * 0.2, three times.
    torch.testing.assert_close(images, torch.full((1, 3, 8, 8), (0.1 + 3 * (0.1 - 0.4)) / 4))
    with pytest.raises(ValueError, match=r"guidance must be one of .*away"):
        Settings(guidance="none of them")
