"""The DiT rests between evaluations: what is reused, when it is asked, and what stays exact."""

import pytest
import torch
import torch.nn.functional as F
from test_workbench_watching import DECO, DIT, random_model

from deco_lab.sampling import ReusedCondition, sample, sample_steps


@pytest.fixture(scope="module")
def deco():
    return random_model(DECO)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    return x, torch.rand(2, generator=generator), torch.tensor([1, 2])


@pytest.fixture
def asked(deco, monkeypatch):
    """The times at which the DiT was asked, and of how many images."""
    seen, features = [], deco.features

    def noted(x, t, class_ids):
        seen.append((round(t[0].item(), 3), len(t)))
        return features(x, t, class_ids)

    monkeypatch.setattr(deco, "features", noted)
    return seen


@torch.no_grad()
def test_condition_keeps_the_tokens_and_takes_the_present_time(deco):
    reused = ReusedCondition(deco, 2)
    x, t, class_ids = inputs()
    reused(x, t, class_ids)
    later, t_later, _ = inputs(1)
    tokens = deco.features(x, t, class_ids)
    time = deco.backbone.time_embedding(t_later)[:, None]
    expected = F.silu(time + tokens)
    torch.testing.assert_close(reused.condition(later, t_later, class_ids), expected)
    # The third evaluation has a pass of its own again.
    torch.testing.assert_close(reused(later, t_later, class_ids), deco(later, t_later, class_ids))


@pytest.mark.parametrize(
    ("solver", "times"),
    [
        ("euler", [0, 0.3, 0.6, 0.9]),
        ("adams2", [0, 0.3, 0.6, 0.9]),
        ("heun", [0, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9]),  # two evaluations a step, at both ends
    ],
)
def test_the_dit_is_asked_at_every_kth_evaluation(deco, asked, solver, times):
    sample(deco, [1], num_steps=10, guidance_scale=1, solver=solver, condition_reuse=3)
    assert asked == [(t, 1) for t in times]


def test_the_dit_is_asked_where_guidance_begins_and_ends(deco, asked):
    sample(deco, [1], num_steps=10, guidance_interval=(0.35, 0.65), condition_reuse=10)
    assert asked == [(0, 1), (0.4, 2), (0.7, 1)]


def test_sample_with_reuse_of_one_is_sample(deco):
    reused = ReusedCondition(deco, 1)
    torch.testing.assert_close(sample(reused, [0], num_steps=6), sample(deco, [0], num_steps=6))
    plain = sample(deco, [0, 2], num_steps=6)
    assert torch.equal(sample(deco, [0, 2], num_steps=6, condition_reuse=1), plain)
    assert not torch.equal(sample(deco, [0, 2], num_steps=6, condition_reuse=2), plain)


def test_images_with_reuse_do_not_depend_on_their_batch(deco):
    both = sample(deco, [0, 2], num_steps=6, condition_reuse=3, seed=4)
    second = sample(deco, [2], num_steps=6, condition_reuse=3, seed=5)
    torch.testing.assert_close(both[1:], second)


def test_sample_steps_refuses_reuse_without_a_decoder():
    with pytest.raises(ValueError, match="condition_reuse must be 1 for a model without a pixel"):
        sample_steps(random_model(DIT), [0], condition_reuse=2)
