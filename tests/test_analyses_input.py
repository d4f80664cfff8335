"""What every analysis owes its input: any precision, any batch, one clear sentence if it cannot."""

import copy
import functools
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from deco_lab import sample_steps
from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.models import build
from deco_lab.result import Estimate, Result, load_result
from deco_lab.spectra.budget import condition_budget
from deco_lab.spectra.clusters import token_clusters
from deco_lab.spectra.detail import detail_spectra
from deco_lab.spectra.effects import band_effects
from deco_lab.spectra.excess import excess_error
from deco_lab.spectra.guidance import guidance_spectrum
from deco_lab.spectra.intervention_effects import crossed_effects, intervention_effect
from deco_lab.spectra.interventions import SpatialMean
from deco_lab.spectra.loss_bands import loss_bands
from deco_lab.spectra.readout import linear_readout
from deco_lab.spectra.response import band_response
from deco_lab.spectra.seams import find_seams
from deco_lab.spectra.settling import settling_times
from deco_lab.spectra.solver_error import solver_error
from deco_lab.spectra.states import Crops, Run
from deco_lab.spectra.taps import tap_spectrum

M, P, TIMES = 8, 8, (0.25, 0.75)
LABELS = [0, 1, 2, 3] * 2


def pictures() -> Tensor:
    """Return images that float16 holds exactly; not square."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.randn(M, 3, 32, 40, generator=generator).cumsum(-1).cumsum(-2)
    return (smooth / smooth.abs().amax((1, 2, 3), keepdim=True)).half().float()


IMAGES = pictures()


@functools.cache
def model_of(kind: str) -> Any:
    """Return a small model with random weights: a fresh one draws nothing."""
    shape: Any = {
        "image_size": 32, "patch_size": P, "num_classes": 4, "hidden_size": 16, "num_heads": 2,
    }  # fmt: skip
    model = build(
        DeCoConfig(**shape, depth=1, decoder_depth=1, decoder_width=8)
        if kind == "deco"
        else DiTConfig(**shape, depth=1)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.requires_grad_(False).eval()


class Asked(NamedTuple):
    """What an analysis is asked about."""

    images: Tensor = IMAGES
    labels: Any = LABELS
    model: Any = model_of("deco")
    batch_size: int = 16
    groups: Any = None
    times: Any = TIMES


def grouped(asked: Asked) -> dict[str, Any]:
    return {} if asked.groups is None else {"groups": asked.groups}


def of_crops(analysis: Callable[..., Any], **options: Any) -> Callable[[Asked], Any]:
    def ask(asked: Asked) -> Any:
        states = Crops(
            asked.images, asked.labels, asked.times, batch_size=asked.batch_size, **grouped(asked)
        )
        return analysis(asked.model, states, **options)

    return ask


def of_a_run(analysis: Callable[..., Any], **options: Any) -> Callable[[Asked], Any]:
    """Ask about two states of a run and its end."""

    def ask(asked: Asked) -> Any:
        steps: Any = [SimpleNamespace(t=t, x=asked.images) for t in (*TIMES, 1.0)]
        states = Run(steps, asked.labels, batch_size=asked.batch_size, **grouped(asked))
        return analysis(asked.model, states, **options)

    return ask


def errors(asked: Asked) -> Any:
    def draw(class_ids: Any, **options: Any) -> Any:
        first = options.pop("seed")
        noise = asked.images[first : first + len(class_ids)].float()
        yield from sample_steps(asked.model, class_ids, noise=noise, guidance_scale=1.0, **options)

    return solver_error(
        draw, asked.labels, [("euler", 1)], reference=("euler", 3), batch_size=asked.batch_size,
        **grouped(asked),
    )  # fmt: skip


def crossed(asked: Asked) -> Any:
    def draw(model: Any) -> Tensor:
        x = asked.images if asked.images.dtype == torch.float64 else asked.images.float()
        t = torch.full((len(x),), 0.5, device=x.device)
        return model(x, t, torch.as_tensor(asked.labels, device=x.device))

    return crossed_effects(
        draw, asked.model, conditions={"fresh": None, "mean": SpatialMean()},
        pixels={"full": None}, **grouped(asked),
    )  # fmt: skip


CROPS: dict[str, Callable[[Asked], Any]] = {
    "band_effects": of_crops(band_effects),
    "band_response": of_crops(band_response),
    "condition_budget": of_crops(condition_budget, exchanges=1, directions=0),
    "detail_spectra": of_crops(detail_spectra),
    "excess_error": lambda a: of_crops(excess_error, power=torch.ones(a.images.shape[-2:]))(a),
    "guidance_spectrum": of_crops(guidance_spectrum),
    "linear_readout": of_crops(linear_readout),
    "tap_spectrum of tokens": of_crops(tap_spectrum),
    "tap_spectrum of the condition": of_crops(tap_spectrum, tap="condition"),
    "tap_spectrum of the velocity": of_crops(tap_spectrum, tap="velocity"),
    "token_clusters": of_crops(token_clusters, clusters=3),
}
RUNS: dict[str, Callable[[Asked], Any]] = {
    "band_effects of a run": of_a_run(band_effects),
    "guidance_spectrum of a run": of_a_run(guidance_spectrum),
    "tap_spectrum of a run": of_a_run(tap_spectrum),
    "token_clusters of a run": of_a_run(token_clusters, clusters=3),
}
IMAGES_ALONE: dict[str, Callable[[Asked], Any]] = {
    "find_seams": lambda a: find_seams(a.images, P, batch_size=a.batch_size, **grouped(a)),
    "loss_bands": lambda a: loss_bands(
        a.images, a.images.flip(-1), batch_size=a.batch_size, **grouped(a)
    ),
    "intervention_effect": lambda a: intervention_effect(a.images, a.images.flip(-1), **grouped(a)),
    "settling_times": lambda a: settling_times(
        ([*TIMES, 1.0], [a.images.flip(-1), a.images + a.images.flip(-1), a.images]), **grouped(a)
    ),
}
DRAWN: dict[str, Callable[[Asked], Any]] = {"solver_error": errors}
ANALYSES = CROPS | RUNS | IMAGES_ALONE | DRAWN | {"crossed_effects": crossed}

DECODER = (
    "band_effects", "condition_budget", "tap_spectrum of the condition", "token_clusters",
    "band_effects of a run", "token_clusters of a run", "crossed_effects",
)  # fmt: skip
IN_BATCHES = [*CROPS, *RUNS, "find_seams", "loss_bands", "solver_error"]

MAY_BE_NAN = {
    "BandEffects": {"predicted", "velocity"},  # where parts cancel
    "LinearReadout": {"r2"},  # of a band without a coefficient
    "DetailSpectra": {"meeting"},  # where signal and noise never meet
    "Settling": {"settled", "median"},  # of a band that never settles
}


def arrays_of(found: Any) -> dict[str, Any]:
    """Return a result's arrays by name, those of estimates by field and end."""
    arrays = {}
    for name, value in vars(found).items():
        if isinstance(value, Estimate):
            ends = zip(("value", "low", "high"), value.ends, strict=True)
            arrays |= {f"{name}.{end}": array for end, array in ends}
        elif isinstance(value, np.ndarray):
            arrays[name] = value
    return arrays


def assert_same(found: Any, expected: Any, rtol: float) -> None:
    """Assert equality to a part of each array's largest value."""
    arrays = arrays_of(found)
    for name, array in arrays_of(expected).items():
        size = np.nanmax(np.abs(array), initial=0)
        np.testing.assert_allclose(arrays[name], array, rtol, rtol * size, err_msg=name)


@functools.cache
def plain(name: str) -> Any:
    return ANALYSES[name](Asked())


def test_the_contract_is_that_of_every_analysis_of_images():
    ours = {kind for kind in Result._kinds.values() if kind.__module__[:8] == "deco_lab"}
    of_no_image = {"WeightTable", "OverTime", "InBands", "Sweep"}
    assert {kind.__name__ for kind in ours} - of_no_image == {
        type(plain(name)).__name__ for name in ANALYSES
    }


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_of_float16_are_those_of_float32(name: str):
    found = ANALYSES[name](Asked(IMAGES.half()))
    assert_same(found, plain(name), 1e-3 if name in ("loss_bands", "settling_times") else 1e-6)


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_of_float64_are_those_of_float32_to_rounding(name: str):
    assert_same(ANALYSES[name](Asked(IMAGES.double())), plain(name), 1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("name", IN_BATCHES)
def test_analyses_do_not_depend_on_the_batch(name: str, batch_size: int):
    assert_same(ANALYSES[name](Asked(batch_size=batch_size)), plain(name), 1e-5)


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_take_images_without_a_copy_or_a_change(name: str):
    images = IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as a file holds them
    before = images.clone()
    assert_same(ANALYSES[name](Asked(images)), plain(name), 1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_are_finite_float64_and_come_back_from_a_file(name: str, tmp_path):
    found = plain(name)
    arrays = arrays_of(found)
    for field, array in arrays.items():
        assert array.dtype in (np.float64, np.int64), field
        if field.partition(".")[0] not in MAY_BE_NAN.get(type(found).__name__, ()):
            assert np.isfinite(array).all(), field
    found.save(tmp_path / "analysis.npz")
    loaded = load_result(tmp_path / "analysis.npz")
    assert type(loaded) is type(found)
    again = arrays_of(loaded)
    assert again.keys() == arrays.keys()
    for field, array in arrays.items():
        np.testing.assert_array_equal(again[field], array)
        assert again[field].dtype == array.dtype
    for field in fields(found):
        theirs = getattr(found, field.name)
        if not isinstance(theirs, (np.ndarray, Estimate)):
            assert getattr(loaded, field.name) == theirs


@pytest.mark.parametrize("name", [*CROPS, *RUNS, "solver_error"])
def test_analyses_leave_no_gradients_and_the_global_generator_alone(name: str):
    state = torch.get_rng_state()
    ANALYSES[name](Asked(images=IMAGES.clone().requires_grad_()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*IMAGES_ALONE, "crossed_effects"])
def test_analyses_refuse_what_is_not_finite(name: str, value: float):
    images = IMAGES.clone()
    images[2, 1, 5, 5] = value
    with pytest.raises(ValueError, match="must be finite, got"):
        ANALYSES[name](Asked(images))


@pytest.mark.parametrize("kind", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*CROPS, *RUNS, "solver_error"])
def test_analyses_refuse_a_model_that_answers_nothing(name: str, kind: float):
    broken = copy.deepcopy(model_of("deco"))
    for parameter in broken.parameters():
        parameter.fill_(kind)
    with pytest.raises(ValueError, match="finite"):
        ANALYSES[name](Asked(model=broken))


class Scaled:
    """velocity = label x: it is of the label, whatever noise or probe an image has."""

    config = SimpleNamespace(num_classes=4, patch_size=P)

    def __call__(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return class_ids[:, None, None, None] * x


CONSTANT: Any = {"condition_reference": "mean", "pixel_reference": "zero"}
OF_COPIES: dict[str, Callable[[Asked], Any]] = {
    # With others as references copies stand for each other.
    "band_effects": of_crops(band_effects, **CONSTANT),
    "band_effects of a run": of_a_run(band_effects, **CONSTANT),
    # Copies have noise and probes of their own.
    **{
        name: lambda asked, name=name: CROPS[name](asked._replace(model=Scaled(), times=[0.5]))
        for name in ("band_response", "excess_error")
    },
}
"""How analyses are asked of copies, where not as of other images."""

INTERVALS: dict[str, Callable[[Any], Any]] = {
    "condition_budget": lambda found: [found.share_above(1 / 8)],
    "find_seams": lambda found: [*found.estimates().values()],
    "loss_bands": lambda found: [*found.band_shares().values()],
}
"""Of analyses that find their intervals when asked; others hold them."""


def widths(name: str, found: Any) -> np.ndarray:
    held = [value for value in vars(found).values() if isinstance(value, Estimate)]
    estimates = INTERVALS[name](found) if name in INTERVALS else held
    return np.concatenate([np.ravel(one.high - one.low) for one in estimates])


@pytest.mark.parametrize("name", [name for name in ANALYSES if name != "linear_readout"])
def test_analyses_of_copies_in_groups_have_the_intervals_of_the_images(name: str):
    # So near t = 1 copies differ by next to no noise, but random probes and k-means' starts differ.
    # (`linear_readout` reads the noise itself, which copies do not share.)
    four = Asked(IMAGES[:4], [0, 1, 0, 1], times=[0.9999])
    copies = four._replace(images=four.images.repeat(8, 1, 1, 1), labels=four.labels * 8)
    photographs = ["moon", "text", "coins", "cat"] * 8
    expected, found, narrow = (
        widths(name, (ANALYSES | OF_COPIES)[name](asked))
        for asked in (four, copies._replace(groups=photographs), copies)
    )
    by_chance = name in ("condition_budget", "band_response", "excess_error") or "clusters" in name
    rtol = 0.3 if by_chance else 0.03
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-7)
    wide = found > 1e-6
    assert np.median(narrow[wide] / found[wide]) < 0.4


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses_record_the_number_of_groups(name: str):
    assert plain(name).recipe["groups"] == M
    assert ANALYSES[name](Asked(groups=LABELS)).recipe["groups"] == 4


@pytest.mark.parametrize("name", DECODER)
def test_analyses_of_the_decoder_refuse_a_model_without_one(name: str):
    with pytest.raises(ValueError, match="a DiT has not"):
        ANALYSES[name](Asked(model=model_of("dit")))


@pytest.mark.parametrize(
    "name", [name for name in [*CROPS, *RUNS] if name not in DECODER and "clusters" not in name]
)
def test_analyses_of_any_model_take_one_without_a_decoder(name: str):
    for array in arrays_of(ANALYSES[name](Asked(model=model_of("dit")))).values():
        assert not np.isnan(array).all()


@pytest.mark.parametrize("edges", [(0.25, 0.125), (-0.1, 0.1), (0.1, 0.9), (0.1, 0.1)])
@pytest.mark.parametrize(
    "analysis",
    [
        lambda edges: band_response(model_of("deco"), Crops(IMAGES, LABELS, [0.5]), edges=edges),
        lambda edges: intervention_effect(IMAGES, IMAGES, edges=edges),
        lambda edges: settling_times((TIMES, [IMAGES, IMAGES]), edges=edges),
        lambda edges: loss_bands(IMAGES, IMAGES, edges=edges),
    ],
)
def test_analyses_refuse_edges_that_do_not_rise_within_range(analysis: Any, edges: Any):
    with pytest.raises(ValueError, match="edges must rise and lie between 0 and"):
        analysis(edges)
