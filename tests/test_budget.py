from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from torch import Tensor

import deco_lab
from deco_lab.config import DeCoConfig
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.models import DeCo
from deco_lab.spectra.budget import ConditionBudget, condition_budget
from deco_lab.spectra.dct import dct_matrix
from deco_lab.spectra.states import Crops

P, D = 4, 6
IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASS_IDS = torch.tensor([0, 1, 2])


class Linear:
    """Tokens of known values, drawn by a linear map A, (3 P^2, D), and added to the pixels."""

    config = SimpleNamespace(patch_size=P)

    def __init__(self, tokens: Tensor, matrix: Tensor) -> None:
        self.tokens = tokens
        self.matrix = matrix

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.tokens[class_ids].to(x)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        drawn = (condition @ self.matrix.to(x).T).transpose(1, 2)
        return x + F.pixel_shuffle(drawn.unflatten(2, (x.shape[2] // P, x.shape[3] // P)), P)


class Leaking(Linear):
    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return super().decode(x, condition.mean(1, keepdim=True).expand_as(condition))


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONFIG = DeCoConfig(
    image_size=16,
    patch_size=P,
    num_classes=3,
    hidden_size=16,
    num_heads=2,
    depth=2,
    decoder_depth=2,
    decoder_width=8,
)


def random_deco() -> DeCo:
    model = DeCo(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


def test_condition_budget_of_a_linear_decoder_is_its_closed_form():
    """Each number of the condition draws a DCT pattern of its own, of known variance."""
    D4 = dct_matrix(P, torch.float64, torch.device("cpu"))
    drawn = [(0, 0), (1, 2), (3, 3)]
    matrix = torch.stack([torch.outer(D4[u], D4[v]).expand(3, P, P).flatten() for u, v in drawn], 1)
    sizes = torch.tensor([3.0, 0.5, 0.1]).double()
    tokens = randn(3, 16, 3, seed=1) * sizes + 5
    found = condition_budget(
        Linear(tokens, matrix), Crops(IMAGES.double(), CLASS_IDS, (0.5,)), exchanges=300
    )
    covariance = np.cov(tokens.flatten(0, 1).T.numpy(), bias=True)
    expected = np.zeros((P, P))
    # A pair is two other tokens, hence n / (n - 1) times the variance.
    for place, variance in zip(drawn, np.diag(covariance) * 48 / 47, strict=True):
        expected[place] = variance
    for channel in range(3):
        np.testing.assert_allclose(
            found.written[0, :, channel].mean(0), expected, rtol=0.03, atol=1e-9
        )
    fine = expected[3, 3] / expected.sum()
    assert found.share_above(0.5)[0].value == pytest.approx(fine, rel=0.05)
    eigenvalues, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(found.variance[0], eigenvalues[::-1], rtol=1e-9)
    leading = matrix.numpy() @ vectors[:, -1] * eigenvalues[-1] ** 0.5
    sign = np.sign((found.maps[0, 0].ravel() @ leading).item())
    np.testing.assert_allclose(found.maps[0, 0].ravel(), sign * leading, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.frequency, [0, 1 / 8, 2 / 8, 3 / 8])


class Saturating(Linear):
    """Fine detail has its steepest slope at every token that is met, and writes no more than 1."""

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return super().decode(x, torch.sin(100 * condition) / 100)


def test_condition_budget_of_a_curved_decoder_is_what_it_writes():
    """Tokens at whole turns of a sine: its slope is 1 there, and what it writes is nothing."""
    turns = torch.randint(-50, 50, (3, 16, D), generator=torch.Generator().manual_seed(1)).double()
    model = Saturating(turns * torch.pi / 50, randn(3 * P * P, D, seed=3))
    found = condition_budget(model, Crops(IMAGES.double(), CLASS_IDS, (0.5,)), directions=0)
    assert found.written.max() < 1e-20


def test_condition_budget_of_one_exchange_is_the_difference_of_two_decodings():
    model, images = random_deco().double(), IMAGES[:2, :, :P, :P].double()
    found = condition_budget(model, Crops(images, CLASS_IDS[:2], (0.5,)), exchanges=1, directions=0)
    time, noise = torch.tensor([0.5]), seeded_noise(1, (3, P, P), 0).double()
    with torch.no_grad():
        x = interpolate(images, torch.cat([noise, seeded_noise(1, (3, P, P), 1).double()]), 0.5)
        own, other = (model.condition(x[i : i + 1], time, CLASS_IDS[i : i + 1]) for i in range(2))
        changed = (model.decode(x[:1], own) - model.decode(x[:1], other))[0].numpy()
    expected = np.square(np.asarray(scipy.fft.dctn(changed, axes=(1, 2), norm="ortho"))) / 2
    np.testing.assert_allclose(found.written[0, 0], expected, rtol=1e-9)


def test_condition_budget_of_tiny_writes_low():
    from deco_lab.data import bundled_crops

    model = deco_lab.load("tiny", device="cpu")
    ids = torch.arange(14)
    crops = bundled_crops(64).sample(14, torch.Generator().manual_seed(5), ids).images
    found = condition_budget(model, Crops(crops, ids, (0.5,)), exchanges=1, directions=0)
    assert 0.1 < found.share_above(1 / 16)[0].value < 0.25
    assert 0.005 < found.share_above(1 / 4)[0].value < 0.025


def test_condition_budget_does_not_depend_on_the_batch():
    results = [
        condition_budget(random_deco(), Crops(IMAGES, CLASS_IDS, (0.4,), batch_size=n))
        for n in (3, 1)
    ]
    for name in ("written", "variance"):
        first, second = (getattr(r, name) for r in results)
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6 * abs(first).max())


def test_condition_budget_takes_narrow_types_and_is_saved(tmp_path: Path):
    wide, narrow = (
        condition_budget(random_deco(), Crops(images, CLASS_IDS, (0.4,)), directions=0)
        for images in (IMAGES.half().float(), IMAGES.half())
    )
    np.testing.assert_array_equal(wide.written, narrow.written)
    wide.save(tmp_path / "budget.npz")
    again = ConditionBudget.load(tmp_path / "budget.npz")
    np.testing.assert_array_equal(again.written, wide.written)
    assert again.maps.shape == (1, 0, 3, P, P)
    assert len(again.recipe["weights"]) == 16


def test_condition_budget_of_a_fresh_decoder_writes_nothing():
    model = DeCo(CONFIG)
    found = condition_budget(model, Crops(IMAGES, CLASS_IDS, (0.5,)))
    assert not found.written.any()
    assert np.isnan(found.share_above(0.1)[0].value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": torch.nn.Linear(1, 1)}, "the methods condition and decode, which a Linear has"),
        ({"exchanges": 0}, r"exchanges must be at least 1, .* got 0, 3 and 48"),
        ({"images": IMAGES[:1, :, :P, :P]}, "tokens at least 2, got 4, 3 and 1"),
        ({"images": IMAGES[:, :1]}, "images must be RGB"),
        ({"directions": 17}, "directions must be from 0 to D=16, got 17"),
        (
            {"model": Leaking(randn(3, 16, D, seed=1), randn(48, D, seed=3)), "directions": 0},
            "each patch from its own token only",
        ),
    ],
)
def test_condition_budget_says_what_is_wrong(change: dict[str, Any], match: str):
    images = change.pop("images", IMAGES)
    crops = Crops(images, CLASS_IDS[: len(images)], [0.5])
    with pytest.raises(ValueError, match=match):
        condition_budget(change.pop("model", None) or random_deco(), crops, **change)
