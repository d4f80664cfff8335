"""What stands around a model is one itself: what it does not change is the model's own."""

import copy
from typing import Any

import pytest
import torch
from test_workbench_watching import DECO, random_model

from deco_lab.sampling import ReusedCondition, sample
from deco_lab.spectra import (
    BandLimit,
    Intervened,
    PartGains,
    SpatialMean,
    decompose,
)
from deco_lab.spectra.decompose import CONDITION_REFERENCES, PIXEL_REFERENCES
from deco_lab.workbench.hearing import Remembering
from deco_lab.workbench.parts import Known
from deco_lab.wrapper import Wrapper

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
T, LABELS = torch.tensor([0.3, 0.3]), torch.tensor([0, 2])
QUIET = {"dit": (0.5, 0, 0, 0), "decoder": (1, 0, 1, 1)}
MODEL: Any = random_model(DECO).requires_grad_(False)
AROUND = {
    "Intervened": Intervened,
    "ReusedCondition": lambda model: ReusedCondition(model, 1),
    "PartGains": PartGains,
    "Remembering": Remembering,
    "Known": lambda model: Known(model, model.condition(X, T, LABELS)),
}
each = pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)


@each
def test_wrappers_have_whatever_the_model_has(around):
    wrapped = copy.deepcopy(around(MODEL))
    assert isinstance(wrapped, Wrapper)
    assert wrapped.model is not MODEL
    public = [name for name in dir(MODEL) if not name.startswith("_")]
    public += [*vars(MODEL)["_modules"], "config"]
    assert [name for name in public if not hasattr(wrapped, name)] == []
    assert not hasattr(wrapped, "something_else")
    torch.testing.assert_close(wrapped.time_condition(T), MODEL.time_condition(T))
    tokens = MODEL.features(X, T, LABELS)
    torch.testing.assert_close(wrapped.features(X, T, LABELS), tokens)
    torch.testing.assert_close(wrapped.condition_of(tokens, T), MODEL.condition_of(tokens, T))


@pytest.mark.parametrize("around", [Intervened, PartGains, lambda m: ReusedCondition(m, 2)])
@pytest.mark.parametrize("condition_reference", CONDITION_REFERENCES)
@pytest.mark.parametrize("pixel_reference", PIXEL_REFERENCES)
def test_decompose_of_wrappers_that_change_nothing_is_the_models(
    around, condition_reference, pixel_reference
):
    references = {"condition_reference": condition_reference, "pixel_reference": pixel_reference}
    found = decompose(around(MODEL), X, T, LABELS, **references)
    expected = decompose(MODEL, X, T, LABELS, **references)
    for part in ("baseline", "dit", "decoder", "interaction"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part))


@pytest.mark.parametrize(
    "around",
    [
        lambda model: Intervened(model, condition=SpatialMean(), pixels=BandLimit(high=0.2)),
        lambda model: PartGains(model, **QUIET),
        lambda model: PartGains(Intervened(model, condition=SpatialMean()), **QUIET),
        Remembering,
    ],
)
def test_sample_reuses_the_condition_beneath_what_is_around_the_model(around, monkeypatch):
    asked = []
    features = MODEL.features
    monkeypatch.setattr(MODEL, "features", lambda *args: asked.append(args) or features(*args))
    drawn = sample(around(MODEL), [0, 2], num_steps=6, condition_reuse=2)
    assert len(asked) <= 4  # of six steps
    expected = sample(around(ReusedCondition(MODEL, 2)), [0, 2], num_steps=6)
    assert torch.equal(drawn, expected)
    wrapped = around(MODEL)
    inner = wrapped.model
    assert not torch.equal(drawn, sample(wrapped, [0, 2], num_steps=6))
    sample(wrapped, [1], num_steps=3, condition_reuse=2)
    assert wrapped.model is inner


def test_reused_condition_refuses_what_it_would_pass_by():
    with pytest.raises(ValueError, match=r"put the PartGains around it: PartGains\(ReusedCond"):
        ReusedCondition(PartGains(MODEL), 2)
    with pytest.raises(ValueError, match="model must be the model itself, got a ReusedCondition"):
        sample(ReusedCondition(MODEL, 2), [0], condition_reuse=2)
