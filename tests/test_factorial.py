from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from deco_lab.labels import Labels
from deco_lab.spectra import band_shares, decompose
from deco_lab.spectra.factorial import (
    OTHERS,
    PARTS,
    answers,
    cancellation,
    draws_products,
    four_parts,
    moment_products,
    part_shares,
    partners,
    unshared,
)
from deco_lab.spectra.products import band_sums
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


def products(model: Product, x: Tensor, references: tuple[str, str], draws: int = 2) -> np.ndarray:
    """Return what `moment_products` says of images at t = 1/4."""
    t, labels = torch.full((len(x),), 0.25), torch.zeros(len(x), dtype=torch.int64)
    return moment_products(
        model,
        [Batch(0, 0.25, t, Labels(labels, labels + 1), x)],
        references=references,
        draws=draws,
        seed=0,
        edges=EDGES,
    ).numpy()


def test_moment_products_are_those_of_the_known_values_of_a_game(game):
    model, s, p = game
    found = products(model, p, ("time", "zero"))
    values = {"baseline": 0 * p, "condition_main": 3 * s, "pixels_main": p, "interaction": s * p}
    assert tuple(values) == PARTS
    whole = s * p + 3 * s + p
    shares = part_shares(found.sum(0))[0]
    for part, share in zip(values.values(), shares, strict=True):
        np.testing.assert_allclose(share, band_shares(part, whole, EDGES), atol=1e-12)


def test_moment_products_of_the_predicted_image_let_the_pixel_path_hold_the_state(game):
    model, s, p = game
    shares = part_shares(products(model, p, ("time", "zero")).sum(0))[1]
    whole = p + 0.75 * (s * p + 3 * s + p)
    values = (0 * p, 0.75 * 3 * s, 1.75 * p, 0.75 * s * p)
    for part, share in zip(values, shares, strict=True):
        np.testing.assert_allclose(share, band_shares(part, whole, EDGES), atol=1e-12)


@pytest.mark.parametrize("condition_reference", ["mean", "time", "null"])
@pytest.mark.parametrize("pixel_reference", ["zero", "patch_mean", "noise"])
def test_part_shares_sum_to_one(game, condition_reference, pixel_reference):
    model, _, p = game
    shares = part_shares(products(model, p, (condition_reference, pixel_reference)))
    assert shares.shape == (3, 2, 4, 3)
    np.testing.assert_allclose(shares.sum(-2), 1, rtol=1e-12)


def test_part_shares_give_shapley_with_half_of_the_interaction(game):
    model, _, p = game
    shares = part_shares(products(model, p, ("mean", "zero")).sum(0))[0]
    shapley = decompose(model, p, TIMES, LABELS)
    expected = band_shares(shapley.dit, shapley.velocity, EDGES)
    np.testing.assert_allclose(shares[1] + shares[3] / 2, expected)


def test_moment_products_of_an_additive_decoder_have_no_interaction(game):
    _, s, p = game
    found = products(Product(s, product=0), p, ("mean", "zero"))
    assert np.abs(part_shares(found)[:, :, 3]).max() < 1e-12


def test_moment_products_pass_the_dit_once_for_each_set_of_labels(game):
    model, _, p = game
    for condition, passes in (("mean", 1), ("time", 1), (OTHERS, 1), ("null", 2)):
        model.passes = 0
        products(model, p, (condition, "noise"))
        assert model.passes == passes


def test_moment_products_with_others_are_the_mean_over_them(game):
    model, s, p = game
    found = products(model, p, (OTHERS, OTHERS))  # all others of three
    shares = part_shares(found.sum(0))[0]
    whole = s * p + 3 * s + p

    def of_others(values: Tensor) -> Tensor:
        return (values.sum(0) - values) / 2

    baseline = of_others(whole)
    mixed = (of_others(s) * p + 3 * of_others(s) + p, s * of_others(p) + 3 * s + of_others(p))
    of_p, of_s = (each - baseline for each in mixed)
    values = (baseline, of_s, of_p, whole - baseline - of_s - of_p)
    for part, share in zip(values, shares, strict=True):
        np.testing.assert_allclose(share, band_shares(part, whole, EDGES), atol=1e-12)


def test_moment_products_of_an_additive_decoder_have_no_interaction_with_others(game):
    _, s, p = game
    found = products(Product(s, product=0), p, (OTHERS, OTHERS))
    assert np.abs(part_shares(found)[:, :, 3]).max() < 1e-12


def test_moment_products_of_a_constant_condition_have_none_of_it(game):
    _, s, p = game
    found = products(Product(s[:1].expand_as(s)), p, (OTHERS, OTHERS))
    shares = part_shares(found)
    assert np.abs(shares[:, :, 1]).max() < 1e-12
    assert np.abs(shares[:, :, 3]).max() < 1e-12
    assert np.abs(shares[:, :, 2]).max() > 0.1


def test_cancellation_is_that_of_endless_draws():
    """g = 3 s - 2 p of white s and p that have nothing in common: (9 + 4) / (9 + 4)."""
    s, p = torch.randn(2, 200, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()

    class Apart(Product):
        def decode(self, x: Tensor, condition: Tensor) -> Tensor:
            return 3 * condition.reshape(x.shape) - 2 * x

    found = products(Apart(s), p, (OTHERS, OTHERS))
    # Of two draws alone the mean's own energies would make 2 and more of it.
    assert cancellation(found.sum(0))[0, -1] == pytest.approx(1, abs=0.06)


def test_partners_are_of_the_same_label_where_there_are_enough():
    labels = np.array([0, 1, 2] * 4)
    found = partners(labels, 3, seed=0).numpy()
    assert found.shape == (3, 12)
    assert (labels[found] == labels).all()
    assert (found != np.arange(12)).all()
    assert all(len(set(column)) == 3 for column in found.T)
    any_label = partners(labels, 4, seed=0).numpy()
    assert (any_label != np.arange(12)).all()
    assert (labels[any_label] != labels).any()
    assert np.sort(partners(labels[:3], 4, seed=0), 0).tolist() == [[1, 0, 0], [2, 2, 1]]
    for few in ((labels[:2], 4), (labels, 1)):
        with pytest.raises(ValueError, match="images must be at least 3 and draws 2"):
            partners(*few, seed=0)


def test_draws_products_in_bands_are_moment_products_of_each_image(game):
    model, s, p = game
    expected = products(model, p, (OTHERS, OTHERS))
    chosen = partners(np.zeros(3, np.int64), 2, seed=0)
    tokens, t = s.reshape(3, -1, 1), torch.full((2,), 0.25)
    for i in range(3):
        whole = answers(model, p[i : i + 1], tokens[i : i + 1], t[:1])
        x, condition = p[i].expand(2, -1, -1, -1), tokens[i].expand(2, -1, -1)
        draws = four_parts(model, whole, x, condition, t, p[chosen[:, i]], tokens[chosen[:, i]])
        sums = band_sums(draws_products(whole[:, 0], draws), 8, EDGES) / 64
        np.testing.assert_allclose(sums.transpose(0, 1), expected[i], rtol=1e-5, atol=1e-6)


def test_unshared_names_the_bands_and_times_whose_parts_cancel():
    cancels = np.array([[True, True, False, True], [True, True, False, False]])
    bands = ("mean", "low", "middle", "high")
    assert unshared(cancels, (0.1, 0.5), bands, "velocity") == (
        "No shares of the velocity (mean, low at t = 0.1, 0.5; high at t = 0.1): there the parts "
        "cancel, their energies being more than 2 times its own."
    )
    assert unshared(cancels[:, 2:3], (0.1, 0.5), ("middle",), "velocity") == ""


def test_part_shares_are_nan_where_the_whole_is_nothing():
    sums = np.ones((6, 2))
    sums[:, 1] = 1e-14
    shares = part_shares(sums)
    assert (shares[:, 0] == 1).all()
    assert np.isnan(shares[:, 1]).all()


def test_check_decoder_refuses_a_model_without_one():
    with pytest.raises(ValueError, match="model must have the methods condition and decode"):
        check_decoder(lambda x, t, class_ids: x)
