import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from deco_lab.sampling import sample, sample_steps
from deco_lab.sampling.guidance import (
    BandGuidance,
    GuidedPair,
    PlainGuidance,
    ProjectedGuidance,
    RescaledGuidance,
    ZeroStarGuidance,
)
from deco_lab.spectra import split_bands

RULES = [
    BandGuidance((0.5, 1.0, 2.0, 4.0)),
    RescaledGuidance(0.7),
    ProjectedGuidance(eta=0.2, norm_threshold=3.0, momentum=-0.5),
    ZeroStarGuidance(1),
]


def kind(rule):
    return type(rule).__name__


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair_of(shape=(2, 3, 16, 24), *, scale=3.0, t=0.4, dtype=torch.float32):
    cond, uncond, x = (draw(*shape, seed=seed).to(dtype) for seed in (1, 2, 3))
    return GuidedPair(cond, uncond + 0.3 * cond, x, t, scale)


class Fixed:
    """A model whose velocity depends on nothing but the label: one picture for each."""

    def __init__(self, pictures):
        self.pictures = pictures
        self.config = SimpleNamespace(num_classes=len(pictures) - 1, image_size=8)
        self.calls = []

    def __call__(self, x, t, class_ids):
        self.calls.append(len(x))
        return self.pictures[class_ids]


# What each rule makes of a pair.


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (2, 3, 15, 9), (1, 1, 1, 8)])
def test_band_guidance_cuts_the_bands_of_split_bands(shape):
    pair = pair_of(shape, dtype=torch.float64)
    torch.testing.assert_close(BandGuidance([3.0] * 4)(pair), PlainGuidance()(pair))
    torch.testing.assert_close(BandGuidance([3.0], edges=())(pair), PlainGuidance()(pair))
    edges, scales = (1 / 16, 1 / 8, 0.3), (0.0, 1.0, 2.5, 4.0)
    bands = split_bands(pair.cond - pair.uncond, edges)
    expected = pair.uncond + sum(w * band for w, band in zip(scales, bands, strict=True))
    torch.testing.assert_close(BandGuidance(scales, edges)(pair), expected)


def test_rescaled_guidance_gives_the_contrast_back():
    pair = pair_of(dtype=torch.float64)
    plain = PlainGuidance()(pair)
    stds = [v.flatten(1).std(1) for v in (pair.cond, plain)]
    for rescale in (0.3, 1.0):
        found = RescaledGuidance(rescale)(pair)
        expected = rescale * stds[0] + (1 - rescale) * stds[1]
        torch.testing.assert_close(found.flatten(1).std(1), expected)
        for i in range(2):  # the direction, mean included, is that of plain guidance
            cosine = torch.cosine_similarity(found[i].flatten(), plain[i].flatten(), dim=0)
            assert cosine.item() == pytest.approx(1)


def test_projected_guidance_of_eta_0_is_orthogonal_to_the_predicted_image():
    pair = pair_of(dtype=torch.float64)
    image = (pair.x + 0.6 * pair.cond).flatten(1)
    added = (ProjectedGuidance(eta=0.0)(pair) - pair.cond).flatten(1)
    plain = (PlainGuidance()(pair) - pair.cond).flatten(1)
    torch.testing.assert_close((added * image).sum(1), torch.zeros(2).double())
    along = (plain * image).sum(1, keepdim=True) / image.square().sum(1, keepdim=True) * image
    torch.testing.assert_close(added, plain - along)
    half = (ProjectedGuidance(eta=0.5)(pair) - pair.cond).flatten(1)
    torch.testing.assert_close(half, plain - along / 2)


def test_projected_guidance_limits_the_norm_of_the_update():
    pair = pair_of(scale=3.0, t=0.4, dtype=torch.float64)
    added = (ProjectedGuidance(eta=1.0, norm_threshold=0.5)(pair) - pair.cond).flatten(1)
    # (w - 1) / (1 - t) times an update of norm 0.5.
    torch.testing.assert_close(added.norm(dim=1), torch.full((2,), 2 * 0.5 / 0.6).double())
    plain = PlainGuidance()(pair)
    torch.testing.assert_close(ProjectedGuidance(eta=1.0, norm_threshold=1e4)(pair), plain)


def test_projected_guidance_carries_momentum_from_pair_to_pair():
    # Updates in predicted images at t = 0, 0.5: 1 * d, then 0.5 * d - 0.5 * (1 * d) = 0.
    ones = torch.ones(1, 3, 4, 4)
    memory = {}
    rule = ProjectedGuidance(eta=1.0, momentum=-0.5)
    found = [
        rule(GuidedPair(2 * ones, ones, ones, t, 3.0, memory)) for t in (0.0, 0.5, 0.5)
    ]  # cond + 2 * update / (1 - t), updates 1, 0 and 0.5
    torch.testing.assert_close(torch.cat(found)[:, 0, 0, 0], torch.tensor([4.0, 2.0, 4.0]))


def test_zero_star_guidance_by_hand():
    # <cond, uncond> = 2 + 2, |uncond|^2 = 8: s = 1/2; 1/2 uncond + 3 (cond - 1/2 uncond).
    cond = torch.tensor([1.0, 1.0, 5.0]).reshape(1, 3, 1, 1)
    uncond = torch.tensor([2.0, 2.0, 0.0]).reshape(1, 3, 1, 1)
    cond, uncond = (torch.cat([v, 0 * v]) for v in (cond, uncond))
    guided = ZeroStarGuidance()(GuidedPair(cond, uncond, cond, 0.5, 3.0))
    assert guided[:, :, 0, 0].tolist() == [[1.0, 1.0, 15.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("rule", RULES, ids=kind)
def test_rules_give_cond_where_they_are_off(rule):
    pair = pair_of(scale=1.0)
    rule = BandGuidance([1.0] * 4) if isinstance(rule, BandGuidance) else rule
    rule = ProjectedGuidance(eta=0.2) if isinstance(rule, ProjectedGuidance) else rule
    assert rule.is_off(1.0)
    torch.testing.assert_close(rule(pair), pair.cond)


@pytest.mark.parametrize("rule", RULES, ids=kind)
def test_rules_take_velocities_of_zero(rule):
    zeros = torch.zeros(1, 3, 8, 8)
    assert torch.equal(rule(GuidedPair(zeros, zeros, zeros, 0.5, 3.0)), zeros)


# Rules inside `sample`.


@pytest.mark.parametrize("solver", ["euler", "heun", "adams2"])
@pytest.mark.parametrize(
    "rule",
    [
        PlainGuidance(),
        BandGuidance([3.0] * 4),
        RescaledGuidance(0.0),
        ProjectedGuidance(eta=1.0),
        lambda pair: pair.cond + (pair.guidance_scale - 1) * (pair.cond - pair.uncond),
    ],
    ids=["plain", "band", "rescaled", "projected", "function"],
)
def test_sample_with_a_rule_that_is_plain_equals_plain(golden_deco, rule, solver):
    plain = sample(golden_deco, [1, 2], num_steps=5, solver=solver)
    found = sample(golden_deco, [1, 2], num_steps=5, solver=solver, guidance=rule)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
    if rule == PlainGuidance():
        assert torch.equal(found, plain)


@pytest.mark.parametrize("solver", ["euler", "heun", "heun_reuse", "adams3"])
@pytest.mark.parametrize("rule", RULES, ids=kind)
def test_sample_with_a_rule_never_depends_on_the_batch(golden_deco, rule, solver):
    arguments = {"num_steps": 4, "solver": solver}
    together = sample(golden_deco, [1, 4, 7], seed=5, guidance=rule, **arguments)
    alone = sample(golden_deco, [4], seed=6, guidance=rule, **arguments)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-5)
    assert (alone - sample(golden_deco, [4], seed=6, **arguments)).abs().max() > 1e-2


@pytest.mark.parametrize("rule", RULES, ids=kind)
def test_rules_hold_to_the_interval_and_count_their_passes(golden_deco, rule):
    interval = {"num_steps": 4, "guidance_interval": (0.25, 0.5)}
    steps = list(sample_steps(golden_deco, [1], guidance=rule, **interval))
    first = 0 if isinstance(rule, ZeroStarGuidance) else 1  # its first step takes no pass
    assert [b.nfe - a.nfe for a, b in pairwise(steps)] == [first, 1, 2, 1]
    # Steps outside take cond alone: from the same state, they go where no guidance goes.
    at, after = steps[3], steps[4]
    velocity = golden_deco(at.x, torch.tensor([at.t], dtype=torch.float32), torch.tensor([1]))
    assert after.velocity is not None
    torch.testing.assert_close(after.velocity, velocity)


@pytest.mark.parametrize("rule", [*RULES[1:], lambda pair: pair.uncond], ids=kind)
def test_rules_are_off_at_scale_1(golden_deco, rule):
    plain = sample(golden_deco, [1], num_steps=3, guidance_scale=1)
    assert torch.equal(
        sample(golden_deco, [1], num_steps=3, guidance_scale=1, guidance=rule), plain
    )


def test_band_guidance_is_off_by_its_own_scales(golden_deco):
    for own, scale in ((1.0, 1), (3.0, 3)):
        plain = sample(golden_deco, [1], num_steps=3, guidance_scale=scale)
        for given in (1, 5):
            rule = {"guidance": BandGuidance([own] * 4), "guidance_scale": given}
            found = sample(golden_deco, [1], num_steps=3, **rule)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", ["euler", "heun", "heun_reuse", "adams2", "adams4"])
def test_zero_star_guidance_moves_nothing_in_its_first_steps(solver):
    pictures = draw(3, 3, 8, 8)
    model = Fixed(pictures)
    rule = ZeroStarGuidance(2)
    steps = list(
        sample_steps(
            model, [0], num_steps=4, solver=solver, guidance=rule, guidance_interval=(0.9, 1.0)
        )
    )
    assert torch.equal(steps[2].x, steps[0].x)
    assert steps[2].nfe == 0
    assert steps[2].t == 0.5
    # The other half of the way goes by cond alone, for solvers with a history too.
    torch.testing.assert_close(steps[4].x, steps[0].x + 0.5 * pictures[:1])


def test_momentum_belongs_to_the_run():
    rule = ProjectedGuidance(eta=1.0, momentum=-0.5)
    model = Fixed(draw(3, 3, 8, 8))
    arguments = {"num_steps": 3, "guidance": rule, "guidance_interval": (0.0, 1.0)}
    alone = [step.x for step in sample_steps(model, [0], **arguments)]
    runs = zip(*[sample_steps(model, [0], **arguments) for _ in range(2)], strict=True)
    for step, (first, second) in zip(alone, runs, strict=True):  # two runs, step by step
        assert torch.equal(first.x, step)
        assert torch.equal(second.x, step)


def test_function_sees_the_pair(golden_deco):
    seen = []

    def look(pair):
        seen.append(pair)
        return pair.cond

    *_, last = sample_steps(golden_deco, [3], num_steps=4, guidance_scale=2, guidance=look)
    assert [pair.t for pair in seen] == [0.25, 0.5, 0.75]
    assert last.nfe == 7
    assert all(pair.guidance_scale == 2 for pair in seen)
    label = torch.tensor([golden_deco.config.num_classes])
    expected = golden_deco(seen[1].x, torch.tensor([0.5]), label)
    torch.testing.assert_close(seen[1].uncond, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: BandGuidance((1, 2, 3)),
            "edges must rise and be one fewer than the 3 scales, got",
        ),
        (
            lambda: BandGuidance((1, 2), (0.8,)),
            r"each of edges must be a number from 0 to 0.707.*, got 0.8",
        ),
        (lambda: BandGuidance((1, 2, 3), (0.2, 0.1)), "edges must rise"),
        (lambda: BandGuidance((1, -1), (0.2,)), "each of scales must be .* of at least 0"),
        (lambda: BandGuidance((1, math.nan), (0.2,)), "each of scales .* got nan"),
        (lambda: RescaledGuidance(1.5), "rescale must be a number from 0 to 1, got 1.5"),
        (lambda: ProjectedGuidance(eta=math.nan), "eta must be a finite number"),
        (lambda: ProjectedGuidance(norm_threshold=0), "norm_threshold must be above 0"),
        (lambda: ProjectedGuidance(norm_threshold=math.nan), "norm_threshold must be above 0"),
        (lambda: ProjectedGuidance(momentum=-2), "momentum must be a number from -1 to 1, got -2"),
        (lambda: ZeroStarGuidance(-1), "zero_init_steps must be a whole number of at least 0"),
        (lambda: ZeroStarGuidance(True), "zero_init_steps must be a whole number"),
    ],
)
def test_rules_refuse_what_breaks_them(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        ("apg", "guidance must be a rule or a function of a GuidedPair, got 'apg'"),
        (RescaledGuidance, "guidance must be a rule or a function"),
        (ZeroStarGuidance(5), "guidance must leave a step to take, .* skips all 5"),
    ],
)
def test_sample_steps_refuse_what_is_no_rule_at_the_call(guidance, message):
    with pytest.raises(ValueError, match=message):
        sample_steps(Fixed(draw(3, 3, 8, 8)), [0], num_steps=5, guidance=guidance)
