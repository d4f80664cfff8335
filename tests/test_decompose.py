from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.models import DeCo, DiT
from deco_lab.sampling import sample_steps
from deco_lab.spectra import decompose

CONDITION_REFERENCES = ("mean", "time", "null")
PIXEL_REFERENCES = ("zero", "patch_mean", "noise")
ORDERS = ("shapley", "dit_first", "pixel_first")


@pytest.fixture(scope="module")
def model() -> DeCo:
    config = DeCoConfig(
        image_size=16, patch_size=4, num_classes=3, hidden_size=16, num_heads=2, depth=2,
        decoder_depth=2, decoder_width=8,
    )  # fmt: skip
    model = DeCo(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # a fresh decoder is zero, and so would be its parts
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 16, 24, generator=generator)
    return x, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 2, 3])


class Product:
    """A game of known values: g(s, p) = s p + 3 s + p, one token for each pixel."""

    config = SimpleNamespace(patch_size=2, num_classes=10)

    def __init__(self, tokens: Tensor, product: float = 1.0) -> None:
        self.tokens = tokens
        self.product = product

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.tokens.reshape(len(x), -1, 1)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        s = condition.reshape(x.shape)
        return self.product * s * x + 3 * s + x


@pytest.fixture
def game() -> tuple[Product, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    s, p = torch.randn(2, 2, 1, 4, 4, generator=generator, dtype=torch.float64)
    return Product(s), s, p


@pytest.mark.parametrize("condition_reference", CONDITION_REFERENCES)
@pytest.mark.parametrize("pixel_reference", PIXEL_REFERENCES)
@pytest.mark.parametrize("order", ORDERS)
def test_decompose_parts_sum_to_velocity(
    model, inputs, condition_reference, pixel_reference, order
):
    parts = decompose(
        model,
        *inputs,
        condition_reference=condition_reference,
        pixel_reference=pixel_reference,
        order=order,
    )
    velocity = model(*inputs)
    torch.testing.assert_close(parts.velocity, velocity)
    total = parts.baseline + parts.dit + parts.decoder
    assert (total - velocity).norm() < 1e-5 * velocity.norm()
    named = (parts.condition_reference, parts.pixel_reference, parts.order)
    assert named == (condition_reference, pixel_reference, order)
    assert not parts.dit.requires_grad


def test_decompose_parts_of_a_random_model_are_not_trivial(model, inputs):
    parts = decompose(model, *inputs)
    for part in (parts.baseline, parts.dit, parts.decoder, parts.interaction):
        assert part.norm() > 0.01 * parts.velocity.norm()


@pytest.mark.parametrize(
    ("order", "dit_share", "decoder_share"),
    [("shapley", 0.5, 0.5), ("dit_first", 0, 1), ("pixel_first", 1, 0)],
)
def test_decompose_gives_the_known_values_of_a_game(game, order, dit_share, decoder_share):
    toy, s, p = game
    m = s.mean((1, 2, 3), keepdim=True)
    interaction = (s - m) * p
    parts = decompose(toy, p, 0.5, [0, 1], order=order)
    torch.testing.assert_close(parts.baseline, (3 * m).expand_as(p))
    torch.testing.assert_close(parts.dit, 3 * (s - m) + dit_share * interaction)
    torch.testing.assert_close(parts.decoder, p + m * p + decoder_share * interaction)
    torch.testing.assert_close(parts.interaction, interaction)
    torch.testing.assert_close(parts.velocity, s * p + 3 * s + p)


def test_decompose_shapley_is_the_mean_of_both_orders(model, inputs):
    shapley, first, last = (decompose(model, *inputs, order=order) for order in ORDERS)
    torch.testing.assert_close(shapley.dit, (first.dit + last.dit) / 2)
    torch.testing.assert_close(shapley.decoder, (first.decoder + last.decoder) / 2)


@pytest.mark.parametrize("order", ORDERS)
def test_decompose_dit_is_zero_where_the_condition_is_its_reference(model, inputs, order):
    x, t, _ = inputs
    null = torch.full((3,), model.config.num_classes)
    parts = decompose(model, x, t, null, condition_reference="null", order=order)
    assert parts.dit.abs().max() == 0
    assert parts.interaction.abs().max() == 0
    assert parts.decoder.norm() > 0


def test_decompose_dit_is_zero_where_all_tokens_are_equal(game):
    _, _, p = game
    parts = decompose(Product(torch.full_like(p, 0.75)), p, 0.5, [0, 1])
    assert parts.dit.abs().max() == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pixel_reference", ["zero", "patch_mean", "noise"])
def test_decompose_decoder_is_zero_where_the_pixels_are_their_reference(
    model, inputs, order, pixel_reference
):
    _, t, class_ids = inputs
    if pixel_reference == "zero":
        x = torch.zeros(3, 3, 16, 16)
    elif pixel_reference == "patch_mean":
        x = torch.arange(16.0).reshape(4, 4).kron(torch.ones(4, 4)).expand(3, 3, 16, 16) / 8
    else:
        seeds = [torch.Generator().manual_seed(0x9E3779B9 + 7 + i) for i in range(3)]
        x = torch.stack([torch.randn(3, 16, 16, generator=seed) for seed in seeds])
    parts = decompose(model, x, t, class_ids, pixel_reference=pixel_reference, order=order, seed=7)
    assert parts.decoder.abs().max() == 0
    assert parts.interaction.abs().max() == 0
    assert parts.dit.norm() > 0


def test_decompose_interaction_is_zero_for_an_additive_decoder(game):
    _, s, p = game
    parts = decompose(Product(s, product=0), p, 0.5, [0, 1])
    assert parts.interaction.abs().max() < 1e-15
    torch.testing.assert_close(parts.decoder, p)


def test_decompose_patch_mean_is_each_patch_colour(game):
    toy, s, p = game
    parts = decompose(toy, p, 0.5, [0, 1], pixel_reference="patch_mean", order="pixel_first")
    blocks = p.reshape(2, 1, 2, 2, 2, 2).mean((3, 5), keepdim=True).expand(2, 1, 2, 2, 2, 2)
    difference = p - blocks.reshape(2, 1, 4, 4)
    m = s.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(parts.decoder, (1 + m) * difference)


def test_decompose_time_is_the_condition_of_zero_tokens(model, inputs):
    x, t, class_ids = inputs
    time = torch.nn.functional.silu(model.backbone.time_embedding(t))[:, None].expand(3, 24, 16)
    parts = decompose(model, x, t, class_ids, condition_reference="time")
    torch.testing.assert_close(parts.baseline, model.decode(torch.zeros_like(x), time))


def test_decompose_noise_depends_on_the_seed_and_not_on_the_batch(model, inputs):
    x, t, class_ids = inputs
    together = decompose(model, x, t, class_ids, pixel_reference="noise", seed=5)
    alone = decompose(model, x[1:2], t[1:2], class_ids[1:2], pixel_reference="noise", seed=6)
    torch.testing.assert_close(alone.baseline, together.baseline[1:2], rtol=1e-4, atol=1e-5)
    other = decompose(model, x, t, class_ids, pixel_reference="noise", seed=50)
    assert (other.baseline - together.baseline).norm() > 0.1 * together.baseline.norm()


def test_decompose_takes_one_time_and_label_for_all_images(model, inputs):
    x, _, _ = inputs
    one = decompose(model, x, 0.5, [2])
    each = decompose(model, x, torch.full((3,), 0.5), torch.full((3,), 2))
    torch.testing.assert_close(one.dit, each.dit, rtol=0, atol=0)


def test_decompose_refuses_a_model_without_decoder():
    config = DiTConfig(image_size=8, patch_size=4, hidden_size=8, num_heads=1, depth=1)
    with pytest.raises(ValueError, match="a DiT has not; pass a DeCo"):
        decompose(DiT(config), torch.zeros(1, 3, 8, 8), 0.5, [0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("condition_reference", "mean, time, null"),
        ("pixel_reference", "zero, patch_mean, noise"),
        ("order", "shapley, dit_first, pixel_first"),
    ],
)
def test_decompose_lists_the_choices_of_an_unknown_name(model, inputs, name, choices):
    with pytest.raises(ValueError, match=f"{name} must be one of {choices}, got 'median'"):
        decompose(model, *inputs, **{name: "median"})


def test_decompose_refuses_times_and_labels_that_do_not_fit(model, inputs):
    x, t, class_ids = inputs
    with pytest.raises(ValueError, match=r"t must have one value for each image, shape \(3,\)"):
        decompose(model, x, t[:2], class_ids)
    with pytest.raises(ValueError, match=r"class_ids must have one value .* got \(1, 3\)"):
        decompose(model, x, t, class_ids[None])


def test_decompose_noise_is_not_the_noise_that_sampling_starts_from(model):
    start = next(sample_steps(model, [0, 2], seed=4)).x
    parts = decompose(model, start, 0.0, [0, 2], pixel_reference="noise", seed=4)
    assert parts.decoder.abs().max() > 0.01


@pytest.mark.parametrize(
    ("t", "class_ids", "match"),
    [
        (25, [0, 1, 2], r"t must lie in \[0, 1\], got \[25.0, 25.0, 25.0\]"),
        (float("nan"), [0, 1, 2], r"t must lie in \[0, 1\]"),
        (0.5, [0, 99, 2], "class_ids must be from 0 to 3, the null class, got 0 to 99"),
        (0.5, [0, -1, 2], "class_ids must be from 0 to 3, the null class, got -1 to 2"),
        (0.5, [0.0, 1.0, 2.0], "class_ids must be one whole number for each image"),
    ],
)
def test_decompose_refuses_times_and_labels_out_of_range(model, inputs, t, class_ids, match):
    with pytest.raises(ValueError, match=match):
        decompose(model, inputs[0], t, class_ids)


def test_decompose_of_bfloat16_pixels_sums_in_float32(model, inputs):
    x, t, class_ids = inputs
    parts = decompose(model, x.bfloat16(), t, class_ids)
    total = parts.baseline + parts.dit + parts.decoder
    assert (total - parts.velocity).norm() < 1e-6 * parts.velocity.norm()
