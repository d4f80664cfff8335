import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from deco_lab.config import DeCoConfig
from deco_lab.flow import time_grid
from deco_lab.labels import Labels, class_labels
from deco_lab.models import build
from deco_lab.sampling import SOLVERS, BandGuidance, sample, sample_steps

GOLDEN = Path(__file__).parent / "golden" / "samplers.safetensors"
with safe_open(GOLDEN, framework="pt") as _file:
    CASES = json.loads(_file.metadata()["cases"])


def settings_of(case):
    solver = case["sampler"] if case.get("exact", True) else f"{case['sampler']}_reuse"
    if solver == "adams":
        solver = "euler" if case["order"] == 1 else f"adams{case['order']}"
    return {
        "num_steps": case["num_steps"],
        "guidance_scale": case["guidance"],
        "guidance_interval": (case["lo"], case["hi"]),
        "time_shift": case["timeshift"],
        "solver": solver,
    }


class Constant:
    """A model whose velocity is the label, everywhere; it keeps what it was called with."""

    def __init__(self, num_classes=10, image_size=4):
        self.config = SimpleNamespace(num_classes=num_classes, image_size=image_size)
        self.calls = []

    def __call__(self, x, t, class_ids):
        self.calls.append((x, t, class_ids))
        return class_ids.to(x.dtype)[:, None, None, None].expand_as(x)


class Trainable(nn.Module):
    """A module with a parameter and no config."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x, t, class_ids):
        return self.slope * x


NOISE = torch.ones(1, 3, 4, 4)


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])


@each_case
def test_sample_steps_equal_the_recorded_trajectory(golden_deco, case):
    recorded = load_file(GOLDEN)
    labels, noise = recorded["labels"], recorded["noise"]
    steps = list(sample_steps(golden_deco, labels, noise=noise, **settings_of(case)))
    for step, expected in zip(steps, recorded[case["name"]], strict=True):
        assert (step.x - expected).norm() <= 1e-4 * expected.norm()
    assert torch.equal(sample(golden_deco, labels, noise=noise, **settings_of(case)), steps[-1].x)


@each_case
def test_sample_steps_count_the_passes_of_every_step(case):
    n, settings = case["num_steps"], settings_of(case)
    evaluations = {"heun": [2] * (n - 1) + [1], "heun_reuse": [2] + [1] * (n - 2) + [0]}
    counts = evaluations.get(settings["solver"], [1] * n)
    starts = time_grid(n, time_shift=case["timeshift"])[:-1].tolist()
    passes = [
        count * (2 if case["guidance"] != 1 and case["lo"] < start <= case["hi"] else 1)
        for count, start in zip(counts, starts, strict=True)
    ]
    model = Constant()
    steps = list(sample_steps(model, [1, 8], **settings))
    assert [after.nfe - before.nfe for before, after in pairwise(steps)] == passes
    assert steps[-1].nfe == sum(len(x) for x, _, _ in model.calls) / 2
    assert max(t.max() for _, t, _ in model.calls) < 1  # never at the image
    for x, t, class_ids in model.calls:  # a pair is one batch
        if len(x) == 4:
            assert torch.equal(x[:2], x[2:])
            assert class_ids.tolist() == [1, 8, 10, 10]
        assert (x.dtype, t.dtype, class_ids.dtype) == (torch.float32, torch.float32, torch.int64)


@pytest.mark.parametrize("solver", SOLVERS)
def test_step_tells_the_velocity_that_led_to_it_and_its_image(golden_deco, solver):
    steps = list(sample_steps(golden_deco, [3], num_steps=4, solver=solver, time_shift=2.0))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert [step.t for step in steps] == time_grid(4, time_shift=2.0).tolist()
    assert steps[0].velocity is None
    assert steps[0].predicted_image is None
    assert steps[0].nfe == 0
    for before, after in pairwise(steps):
        assert after.velocity is not None
        torch.testing.assert_close(after.x, before.x + (after.t - before.t) * after.velocity)
        torch.testing.assert_close(
            after.predicted_image, before.x + (1 - before.t) * after.velocity
        )
    torch.testing.assert_close(steps[-1].predicted_image, steps[-1].x)


def test_sample_steps_start_from_the_seed_of_each_image():
    seeds = (7, 8, 2**31, 2**32 - 1)
    starts = [next(sample_steps(Constant(), [0], seed=seed)).x for seed in seeds]
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 4
    assert torch.equal(next(sample_steps(Constant(), [0, 1], seed=7)).x, torch.cat(starts[:2]))
    expected = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(8))
    assert torch.equal(starts[1][0], expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_sample_image_never_depends_on_its_batch(golden_deco, solver):
    together = sample(golden_deco, [1, 4, 7], num_steps=4, seed=5, solver=solver)
    alone = sample(golden_deco, [4], num_steps=4, seed=6, solver=solver)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_is_linear_between_null_and_class(scale):
    model = Constant(num_classes=10)
    *_, last = sample_steps(model, [4, 7], num_steps=2, guidance_scale=scale)
    expected = 10 + scale * (torch.tensor([4.0, 7.0]) - 10)
    assert last.velocity is not None
    torch.testing.assert_close(last.velocity[:, 0, 0, 0], expected)


@pytest.mark.parametrize("num_steps", [10, 100])
def test_guidance_interval_is_open_below_and_closed_above(num_steps):
    # 0.3 and 0.7 are grid times; as float64 the grid's 0.3 is above 0.3 with ten steps.
    steps = sample_steps(
        Constant(), [0], num_steps=num_steps, guidance_interval=(0.3, 0.7), guidance_scale=2
    )
    guided = [before.t for before, after in pairwise(steps) if after.nfe - before.nfe == 2]
    assert guided[0] == pytest.approx(0.3 + 1 / num_steps)
    assert guided[-1] == pytest.approx(0.7)
    assert len(guided) == round(0.4 * num_steps)


def test_guidance_decides_at_the_start_of_a_step_for_heuns_corrector_too():
    model = Constant()
    list(sample_steps(model, [1], num_steps=4, solver="heun", guidance_interval=(0.1, 0.25)))
    # Pairs of predictor and corrector at 0, 0.25 (guided, corrector at 0.5 too), 0.5; then Euler.
    assert [len(call[0]) for call in model.calls] == [1, 1, 2, 2, 1, 1, 1]
    assert [call[1][0].item() for call in model.calls] == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_sample_of_a_trainable_model_holds_no_graph_and_can_enter_one():
    model = Trainable().train()
    image = sample(model, [0], noise=NOISE, num_steps=2, guidance_scale=1)
    assert not image.requires_grad
    model(image, torch.ones(1), torch.zeros(1)).sum().backward()  # not so for inference tensors
    assert model.slope.grad is not None
    assert model.training


def test_sample_steps_compute_when_asked_and_leave_gradients_on():
    model = Constant()
    steps = sample_steps(model, [0], guidance_scale=1)
    for step in steps:
        assert len(model.calls) == step.index
        assert torch.is_grad_enabled()  # in the caller's own code, between steps
        if step.index == 2:
            break
    steps.close()
    assert torch.is_grad_enabled()
    with torch.no_grad():
        steps = sample_steps(model, [0], guidance_scale=1)
        next(steps)
        next(steps)
    steps.close()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 2.5}, "num_steps must be a whole number of at least 1, got 2.5"),
        ({"guidance_scale": -0.5}, "guidance_scale must be .* of at least 0, got -0.5; 1 is off"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number .* got nan"),
        ({"guidance_scale": "strong"}, "guidance_scale must be a finite number .* got 'strong'"),
        ({"guidance_interval": (0.5, 0.5)}, r"0 <= low < high <= 1, got \(0.5, 0.5\)"),
        ({"guidance_interval": (0.1, 1.5)}, r"0 <= low < high <= 1, got \(0.1, 1.5\)"),
        ({"guidance_interval": 0.1}, "guidance_interval must be two times .* got 0.1"),
        ({"time_shift": 0}, "time_shift must be .* greater than 0, got 0; 1 is no shift"),
        ({"time_shift": float("inf")}, "time_shift must be a finite number .* got inf"),
        ({"class_ids": []}, "class_ids must be one label for each image"),
        ({"class_ids": 3}, "class_ids must be one label for each image, got 3"),
        ({"class_ids": [10]}, "class_ids must be at most 9, .* knows 10 classes, got 10"),
        ({"class_ids": [-1]}, "each of class_ids must be a whole number of at least 0, got -1"),
        ({"seed": 2**32}, r"seed must be below 2\*\*32"),
        ({"seed": -1, "noise": NOISE}, "seed must be a whole number of at least 0, got -1"),
        ({"solver": ["euler"]}, r"solver must be one of euler, .*got \['euler'\]"),
        ({"solver": "rk45"}, "solver must be one of euler, heun, .*adams4, got 'rk45'"),
        ({"noise": NOISE.repeat(2, 1, 1, 1)}, r"with B=1, .* got \(2, 3, 4, 4\)"),
        ({"noise": NOISE.long()}, "noise must be a floating-point tensor"),
        ({"noise": NOISE / 0}, "noise must be finite"),
    ],
)
def test_sample_steps_refuse_bad_arguments_at_the_call(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_steps(Constant(), **{"class_ids": [0], **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("class_ids", "noise"),
    [
        ((0, 7), torch.zeros(2, 3, 4, 4)),
        (torch.tensor([0, 7]), torch.zeros(2, 3, 4, 6)),
        (range(0, 14, 7), torch.zeros(2, 3, 4, 4, dtype=torch.float64)),
        (class_labels([0, 7], 10), torch.zeros(2, 3, 4, 4)),
    ],
)
def test_sample_takes_labels_and_noise_of_any_kind_and_clamps_nothing(class_ids, noise):
    image = sample(Constant(), class_ids, num_steps=1, noise=noise)
    assert image[:, 0, 0, 0].tolist() == [0, 7]
    assert (image.shape, image.dtype) == (noise.shape, torch.float32)
    assert not noise.any()


def test_sample_takes_labels_that_are_no_classes():
    """Features of a text, say: the model gets them as they are, and their null for guidance."""
    words = Labels(torch.full((1, 3, 2), 5.0), torch.full((1, 3, 2), 1.0))

    def model(x, t, labels):
        assert labels.shape == (len(x), 3, 2)
        return labels[:, :1, :1, None].expand_as(x)

    image = sample(model, words, noise=0 * NOISE, num_steps=2, guidance_scale=2)
    torch.testing.assert_close(image, (5 + (1 + 2 * (5 - 1))) / 2 * NOISE)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (Trainable(), {"guidance_scale": 1}, "noise is needed"),
        (Trainable(), {"noise": NOISE}, "guidance needs the null class.*guidance_scale=1"),
        (
            Trainable(),
            {"noise": NOISE, "guidance_scale": 1, "guidance": BandGuidance([2.0] * 4)},
            "guidance needs the null class",
        ),
        (
            lambda x, t, class_ids: x[:, :1],
            {"noise": NOISE, "guidance_scale": 1},
            r"model must return a velocity in the shape of x, \(1, 3, 4, 4\)",
        ),
        (
            Constant(),
            {"guidance": lambda pair: pair.cond[:, :1]},
            "guidance must return a velocity in the shape of x",
        ),
        (
            build(DeCoConfig(patch_size=8, hidden_size=8, num_heads=1, depth=1)),
            {"noise": torch.zeros(1, 3, 18, 16)},
            r"divisible by patch_size=8, got \(1, 3, 18, 16\)",
        ),
    ],
)
def test_sample_refuses_what_does_not_go_with_the_model(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        sample(model, [0], **arguments)
