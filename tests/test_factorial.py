from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from deco_lab.spectra import band_shares, decompose
from deco_lab.spectra.factorial import PARTS, part_products, part_shares
from deco_lab.spectra.states import Batch, check_decoder

EDGES = (0.1, 0.25)


class Product:
    """A game of known values: g(s, p) = s p + 3 s + p, one token for each pixel."""

    config = SimpleNamespace(patch_size=2, num_classes=10)

    def __init__(self, tokens: Tensor, product: float = 1.0) -> None:
        self.tokens = tokens
        self.product = product
        self.passes = 0

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        self.passes += 1
        return self.tokens.reshape(len(x), -1, 1) + class_ids[:, None, None]

    def time_condition(self, t: Tensor) -> Tensor:
        return torch.zeros(len(t), 1, 1, dtype=self.tokens.dtype)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        s = condition.reshape(x.shape)
        return self.product * s * x + 3 * s + x


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def game() -> tuple[Product, Tensor, Tensor]:
    s, p = draw(2, 3, 1, 8, 8)
    return Product(s), s, p


TIMES = torch.tensor([0.25, 0.25, 0.25])
LABELS = torch.tensor([0, 0, 0])


def products(model: Product, x: Tensor, *references: tuple[str, str]) -> np.ndarray:
    batch = Batch(first=0, time=0.25, t=TIMES, class_ids=LABELS, x=x)
    return part_products(model, batch, edges=EDGES, references=references, seed=0).numpy()


def test_part_products_are_those_of_the_known_values_of_a_game(game):
    model, s, p = game
    found = products(model, p, ("time", "zero"))
    values = {"baseline": 0 * p, "dit": 3 * s, "pixels": p, "interaction": s * p}
    assert tuple(values) == PARTS
    whole = s * p + 3 * s + p
    shares = part_shares(found.sum(0))[0, 0]
    for part, share in zip(values.values(), shares, strict=True):
        np.testing.assert_allclose(share, band_shares(part, whole, EDGES), atol=1e-12)


def test_part_products_of_the_predicted_image_let_the_pixel_path_hold_the_state(game):
    model, s, p = game
    shares = part_shares(products(model, p, ("time", "zero")).sum(0))[0, 1]
    whole = p + 0.75 * (s * p + 3 * s + p)
    values = (0 * p, 0.75 * 3 * s, 1.75 * p, 0.75 * s * p)
    for part, share in zip(values, shares, strict=True):
        np.testing.assert_allclose(share, band_shares(part, whole, EDGES), atol=1e-12)


@pytest.mark.parametrize("condition_reference", ["mean", "time", "null"])
@pytest.mark.parametrize("pixel_reference", ["zero", "patch_mean", "noise"])
def test_part_shares_sum_to_one(game, condition_reference, pixel_reference):
    model, _, p = game
    shares = part_shares(products(model, p, (condition_reference, pixel_reference)))
    assert shares.shape == (3, 1, 2, 4, 3)
    np.testing.assert_allclose(shares.sum(-2), 1, rtol=1e-12)


def test_part_shares_give_shapley_with_half_of_the_interaction(game):
    model, _, p = game
    shares = part_shares(products(model, p, ("mean", "zero")).sum(0))[0, 0]
    shapley = decompose(model, p, TIMES, LABELS)
    expected = band_shares(shapley.dit, shapley.velocity, EDGES)
    np.testing.assert_allclose(shares[1] + shares[3] / 2, expected)


def test_part_products_of_an_additive_decoder_have_no_interaction(game):
    _, s, p = game
    found = products(Product(s, product=0), p, ("mean", "zero"))
    assert np.abs(part_shares(found)[:, :, :, 3]).max() < 1e-12


def test_part_products_pass_the_dit_once_for_each_set_of_labels(game):
    model, _, p = game
    references = [(c, x) for c in ("mean", "time", "null") for x in ("zero", "noise")]
    found = products(model, p, *references)
    assert model.passes == 2
    for index, pair in enumerate(references):
        np.testing.assert_array_equal(found[:, index], products(model, p, pair)[:, 0])


def test_part_shares_are_nan_where_the_whole_is_nothing():
    sums = np.ones((5, 2))
    sums[:, 1] = 1e-14
    shares = part_shares(sums)
    assert (shares[:, 0] == 1).all()
    assert np.isnan(shares[:, 1]).all()


def test_check_decoder_refuses_a_model_without_one():
    with pytest.raises(ValueError, match="model must have the methods condition and decode"):
        check_decoder(lambda x, t, class_ids: x)
