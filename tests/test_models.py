import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from deco_lab.config import PRESETS, DeCoConfig, DiTConfig
from deco_lab.models import DeCo, DiT, build
from deco_lab.models.decoder import UNITS_AT_ONCE, decode_piece, position_features
from deco_lab.models.dit import zero_block_modulation
from deco_lab.models.layers import (
    RMSNorm,
    SwiGLU,
    TimeEmbedding,
    from_patches,
    rotary_table,
    rotate,
    to_patches,
)
from deco_lab.models.zoo import kind_of, published_name

CPU = torch.device("cpu")


def assert_same(actual: Tensor, recorded: Tensor) -> None:
    """Assert a relative error of at most 1e-5, of the whole and of the largest value."""
    assert actual.shape == recorded.shape
    assert (actual - recorded).norm() <= 1e-5 * recorded.norm()
    assert (actual - recorded).abs().max() <= 1e-5 * recorded.abs().max()


@pytest.fixture(scope="module")
def recorded(golden) -> dict[str, dict[str, Tensor]]:
    files = {"deco": "deco_c2i", "dit": "baseline_dit"}
    return {kind: load_file(golden / f"{file}.safetensors") for kind, file in files.items()}


@pytest.fixture(params=["deco", "dit"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def model(request, kind) -> Any:
    return request.getfixturevalue(f"golden_{kind}")


def inputs_of(recorded: dict[str, Tensor], case: str) -> tuple[Tensor, Tensor, Tensor]:
    return recorded[f"{case}.x"], recorded[f"{case}.t"], recorded[f"{case}.y"]


@pytest.mark.parametrize("case", ["io0", "io1"], ids=["square", "wide"])
def test_models_match_recorded_velocity(model, kind, recorded, case):
    velocity = model(*inputs_of(recorded[kind], case))
    assert_same(velocity, recorded[kind][f"{case}.velocity"])


def test_deco_matches_recorded_condition(golden_deco, recorded):
    x, t, class_ids = inputs_of(recorded["deco"], "io0")
    condition = recorded["deco"]["io0.condition"]
    assert_same(golden_deco.condition(x, t, class_ids), condition)
    assert_same(golden_deco.decode(x, condition), recorded["deco"]["io0.velocity"])
    time = golden_deco.backbone.time_embedding(t)[:, None]
    tokens = golden_deco.features(x, t, class_ids)
    assert_same(F.silu(time + tokens), condition)
    assert_same(golden_deco.condition_of(tokens, t), condition)
    torch.testing.assert_close(golden_deco.time_condition(t), F.silu(time))


def test_dit_matches_recorded_features(golden_dit, recorded):
    inputs = inputs_of(recorded["dit"], "io0")
    assert_same(golden_dit.features(*inputs), recorded["dit"]["io0.features"])


def test_velocity_in_bfloat16_keeps_exact_tables(model, recorded):
    narrow = copy.deepcopy(model).bfloat16()
    x, t, class_ids = inputs_of(recorded["deco"], "io0")
    velocity, expected = narrow(x, t, class_ids), model(x, t, class_ids)
    assert velocity.dtype == x.dtype
    assert (velocity - expected).norm() < 0.03 * expected.norm()


def test_velocity_of_an_image_is_independent_of_its_batch(model, recorded):
    x, t, class_ids = inputs_of(recorded["deco"], "io1")
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], class_ids[i : i + 1]) for i in range(3)])
    assert_same(alone, model(x, t, class_ids))


def test_hook_on_a_block_gives_its_tokens_with_the_velocity(model, recorded):
    inputs, seen = inputs_of(recorded["deco"], "io1"), []
    handle = model.backbone.blocks[1].register_forward_hook(lambda *call: seen.append(call[-1]))
    velocity = model(*inputs)
    handle.remove()
    assert velocity.equal(model(*inputs))
    shorter = copy.deepcopy(model)  # its last block is the one in question
    shorter.backbone.blocks = shorter.backbone.blocks[:2]
    (tokens,) = seen
    assert tokens.equal(shorter.features(*inputs))


def test_a_dit_that_predicts_the_image_turns_it_into_the_velocity():
    shape: dict[str, Any] = {"image_size": 16, "patch_size": 8, "num_classes": 3, "depth": 1}
    shape |= {"hidden_size": 32, "num_heads": 2}
    image_model, plain = (build(DiTConfig(**shape, predicts=p)) for p in ("image", "velocity"))
    generator = torch.Generator().manual_seed(0)
    for parameter in image_model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    plain.load_state_dict(image_model.state_dict())
    x = torch.randn(3, 3, 16, 24, generator=generator)
    t, labels = torch.tensor([0.0, 0.6, 0.98]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        image, velocity = plain(x, t, labels), image_model(x, t, labels)
    left = torch.tensor([1.0, 0.4, 0.05])[:, None, None, None]  # 0.02 is raised to 0.05
    torch.testing.assert_close(velocity * left + x, image, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert image_model(x.bfloat16(), t, labels).dtype == torch.bfloat16


@torch.no_grad()
def test_a_decoder_that_does_not_see_pixels_answers_for_any_alike():
    model = ablation(1, "adaln", decoder_sees_pixels=False)
    x, s = decoder_inputs()
    assert torch.equal(model.decode(x, s), model.decode(-2 * x, s))
    assert not torch.equal(model.decode(x, s), model.decode(x, s + 1))
    seeing = ablation(1, "adaln")
    assert not torch.equal(seeing.decode(x, s), seeing.decode(-2 * x, s))


# The ablations of the pixel decoder


def ablation(q: int, conditioning: str, *, random: bool = True, **shape: Any) -> DeCo:
    """Return a small DeCo with decoder units of q x q pixels, by default with no zero parameter."""
    sizes: dict[str, Any] = {"image_size": 16, "patch_size": 8, "num_classes": 3, "depth": 1}
    sizes |= {"hidden_size": 32, "num_heads": 2, "decoder_depth": 2, "decoder_width": 12}
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DeCo(
            DeCoConfig(**(sizes | shape), decoder_patch=q, decoder_conditioning=conditioning)
        )
    for parameter in model.parameters() if random else ():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.double()


ABLATIONS = pytest.mark.parametrize(
    ("q", "conditioning"), [(1, "adaln"), (2, "adaln"), (8, "adaln"), (1, "add"), (4, "add")]
)


def decoder_inputs(rows: int = 2, columns: int = 3) -> tuple[Tensor, Tensor]:
    """Return two images of patches of 8 pixels, and a condition for ablation()."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8 * rows, 8 * columns, generator=generator, dtype=torch.float64)
    return x, torch.randn(2, rows * columns, 32, generator=generator, dtype=torch.float64)


@ABLATIONS
@torch.no_grad()
def test_decode_of_a_unit_follows_the_formula(q, conditioning):
    model = ablation(q, conditioning)
    weight, side = model.decoder.state_dict(), 8 // q
    x, s = decoder_inputs()

    def linear(name: str, value: Tensor) -> Tensor:
        return weight[f"{name}.weight"] @ value + weight[f"{name}.bias"]

    def norm(value: Tensor) -> Tensor:
        return (value - value.mean()) / (value.var(correction=0) + 1e-6).sqrt()

    velocity = model.decode(x, s)
    for token, row, column in [(0, 0, 0), (4, side - 1, 0), (5, side // 2, side - 1)]:
        top, left = 8 * (token // 3) + q * row, 8 * (token % 3) + q * column
        unit = (1, slice(None), slice(top, top + q), slice(left, left + q))
        place = row * side + column
        features = position_features(side, CPU)[place].double()
        h = linear("pixel_embedding", torch.cat([x[unit].flatten(), features]))
        h = linear("input_projection", h)
        y = linear("condition_projection", s[1, token])[12 * place : 12 * (place + 1)]
        h = h + y if conditioning == "add" else h
        for block in ("blocks.0", "blocks.1"):
            normal = norm(h) * weight[f"{block}.norm.weight"] + weight[f"{block}.norm.bias"]
            gate = torch.ones(())
            if conditioning == "adaln":
                shift, scale, gate = linear(f"{block}.modulation", F.silu(y)).chunk(3)
                normal = normal * (1 + scale) + shift
            h = h + gate * linear(f"{block}.mlp.2", F.silu(linear(f"{block}.mlp.0", normal)))
        expected = linear("head", norm(h)).view(3, q, q)
        torch.testing.assert_close(velocity[unit], expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_decode_holds_few_units_at_once(monkeypatch):
    model, (x, s), sizes = ablation(1, "adaln"), decoder_inputs(), []
    whole = model.decode(x, s)

    def piece(decoder: Any, units: Tensor, *others: Any) -> Tensor:
        sizes.append(units.shape[0] * units.shape[1])
        return decode_piece(decoder, units, *others)

    model.decoder.decode_piece = piece  # type: ignore[assignment]
    monkeypatch.setattr("deco_lab.models.decoder.UNITS_AT_ONCE_ON_A_CPU", 100)
    torch.testing.assert_close(model.decode(x, s), whole)
    assert sum(sizes) == x.numel() / 3
    assert max(sizes) < 100 + 64  # a token more at most
    assert UNITS_AT_ONCE * 3 * 3 * 32 < 2**31  # C, A and gate of DeCo-XL's blocks on a GPU


@ABLATIONS
@torch.no_grad()
def test_decode_moves_one_unit_with_one_pixel_and_one_patch_with_one_token(q, conditioning):
    model = ablation(q, conditioning)
    x, condition = decoder_inputs()
    pixels, tokens = x.clone(), condition.clone()
    pixels[1, 0, 13, 6] += 1
    tokens[0, 4] += 1  # of 2 x 3 patches, row 1, column 1
    for given, image, top, left, side in (
        ((pixels, condition), 1, 13 // q * q, 6 // q * q, q),
        ((x, tokens), 0, 8, 8, 8),
    ):
        difference = model.decode(*given) - model.decode(x, condition)
        expected = torch.zeros(2, 16, 24, dtype=torch.bool)
        expected[image, top : top + side, left : left + side] = True
        assert (difference.abs().amax(1) > 0).equal(expected)


@ABLATIONS
@torch.no_grad()
def test_fresh_ablations_start_as_the_published_decoder_does(q, conditioning):
    model = ablation(q, conditioning, random=False)
    x, condition = decoder_inputs()
    assert model.decode(x, condition).abs().max() == 0
    h, steering = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2)).double()
    for block in model.decoder.blocks:
        adaln = conditioning == "adaln"
        modulation = [F.linear(steering, *block.folded_modulation())] if adaln else []  # type: ignore[operator]
        assert block(h, *modulation).equal(h)
        weight = block.get_submodule("mlp.0").weight
        assert isinstance(weight, Tensor)
        assert 0 < weight.abs().max() <= math.sqrt(6 / 24)


@ABLATIONS
def test_gradients_reach_every_parameter_at_the_third_step(q, conditioning):
    model = ablation(q, conditioning, random=False)
    generator = torch.Generator().manual_seed(3)
    x, target = torch.randn(2, 4, 3, 16, 16, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    # The zero head holds the gradients back once, a block's zero gate or last layer once more.
    for _ in range(3):
        optimizer.zero_grad()
        velocity = model(x, torch.linspace(0.1, 0.9, 4), torch.arange(4))
        (velocity - target).square().mean().backward()
        optimizer.step()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("preset", "millions"), [("DeCo-L/16", 426), ("DeCo-XL/16", 682), ("DiT-L/16", 459)]
)
def test_build_has_the_published_number_of_parameters(preset, millions):
    assert count(preset) == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("pair", [("tiny", "tiny-dit"), ("fields", "fields-dit")])
def test_bundled_pairs_have_about_as_many_parameters(pair):
    assert count(pair[0]) == pytest.approx(count(pair[1]), rel=0.05)


def count(preset: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(PRESETS[preset]).parameters())


@pytest.fixture(scope="module")
def fresh() -> DeCo:
    torch.manual_seed(0)
    config = DeCoConfig(patch_size=16, hidden_size=128, num_heads=2, depth=2)
    return DeCo(config).requires_grad_(False)


@pytest.mark.parametrize(
    "name",
    ["trunk.patch_embedding", "decoder.pixel_embedding", "decoder.input_projection",
     "decoder.condition_projection", "decoder.blocks.1.mlp.0", "decoder.blocks.1.mlp.2",
     "trunk.blocks.1.modulation"],
)  # fmt: skip
def test_fresh_deco_starts_linear_layers_uniform(fresh, name):
    """Xavier's, but for the DiT blocks' modulation, which keeps PyTorch's default."""
    layer = fresh.get_submodule(name)
    own = "trunk.blocks" in name
    bound = 1 / math.sqrt(128) if own else math.sqrt(6 / (layer.in_features + layer.out_features))
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.06)
    assert own or layer.bias.abs().max() == 0


@pytest.mark.parametrize(
    "name", ["trunk.label_embedding", "trunk.time_embedding.mlp.0", "trunk.time_embedding.mlp.2"]
)
def test_fresh_deco_starts_embeddings_normal(fresh, name):
    weight = fresh.get_submodule(name).weight
    assert weight.std() == pytest.approx(0.02, rel=0.03)
    assert weight.abs().max() > 0.06  # a uniform of this deviation ends at 0.035


def test_fresh_models_start_at_zero_velocity(fresh):
    dit: Any = build(DiTConfig(image_size=16, patch_size=16, hidden_size=32, num_heads=2, depth=1))
    zero = [dit.head, dit.final_modulation, fresh.decoder.head]
    for layer in (*zero, *(block.modulation for block in fresh.decoder.blocks)):
        assert layer.weight.abs().max() == layer.bias.abs().max() == 0
    x = torch.randn(1, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    for model in (fresh, dit):
        assert model(x, torch.tensor([0.3]), torch.tensor([7])).abs().max() == 0


def test_zero_block_modulation_makes_blocks_the_identity(fresh):
    model = copy.deepcopy(fresh)
    zero_block_modulation(model.backbone)
    x = torch.randn(1, 3, 32, 16, generator=torch.Generator().manual_seed(0))
    patches = F.unfold(x, 16, stride=16).transpose(1, 2)  # channel-major, patches row by row
    tokens = model.features(x, torch.tensor([0.3]), torch.tensor([7]))
    torch.testing.assert_close(tokens, model.backbone.patch_embedding(patches))


@pytest.mark.parametrize("preset", ["tiny", "tiny-dit"])
def test_kind_of_follows_from_our_names_and_the_published_ones(preset):
    config = PRESETS[preset]
    with torch.device("meta"):
        model = build(config)
    names = list(model.state_dict())
    assert type(model) is {"tiny": DeCo, "tiny-dit": DiT}[preset]
    assert kind_of(names) == kind_of(str(published_name(n, config.kind)) for n in names)
    assert kind_of(names) == config.kind == {"tiny": "DeCo", "tiny-dit": "DiT"}[preset]


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((3, 30, 32), r"x must be floating-point images of shape \(B, 3, H, W\), got \(3, 30, 32"),
        ((1, 1, 32, 32), "x must be floating-point images"),
        ((1, 3, 30, 32), "image height must be divisible by patch_size=8, got 30; .* pad to 32"),
        ((1, 3, 32, 44), "image width must be divisible by patch_size=8, got 44; .* pad to 48"),
        ((1, 3, 0, 32), "image height must be divisible by patch_size=8, got 0; .* pad to 8"),
        ((2, 3, 32, 32), r"t must have one value for each image, shape \(2,\), got \(1,\)"),
    ],
)
def test_models_say_what_is_wrong_with_x_and_t(model, shape, match):
    for method in (model, model.features):
        with pytest.raises(ValueError, match=match):
            method(torch.zeros(shape), torch.zeros(1), torch.zeros(1).long())


@pytest.mark.parametrize(
    ("x", "class_ids", "match"),
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(3).long(), r"class_ids must have .* got \(3,\); use"),
        (torch.zeros(1, 3, 8, 8).long(), torch.zeros(1).long(), r"of torch\.int64"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1), "class_ids must be integers, got torch.float32"),
    ],
)
def test_models_say_what_is_wrong_with_class_ids(model, x, class_ids, match):
    with pytest.raises(ValueError, match=match):
        model(x, torch.zeros(1), class_ids)


def test_decode_says_what_is_wrong(golden_deco):
    for x, match in (
        (torch.zeros(1, 3, 18, 16), "image height must be divisible by patch_size=8, got 18"),
        (torch.zeros(1, 3, 32, 32), r"shape \(B, N, D\)=\(1, 16, 64\), got \(1, 24, 64\)"),
    ):
        with pytest.raises(ValueError, match=match):
            golden_deco.decode(x, torch.zeros(1, 24, 64))


def test_position_features_follow_their_formula():
    features = position_features(5, CPU)
    f = [8 * k / 7 for k in range(8)]
    for row, column, i, j in [(0, 0, 0, 0), (1, 3, 2, 5), (4, 2, 7, 1), (3, 4, 6, 6)]:
        x, y = column / 4, row / 4
        expected = math.cos(math.pi * x * f[i]) * math.cos(math.pi * y * f[j]) / (1 + f[i] * f[j])
        assert features[row * 5 + column, 8 * i + j].item() == pytest.approx(expected, abs=1e-6)


def test_rotary_table_rotates_as_complex_numbers_do():
    rows, columns, width = 3, 5, 16
    x = torch.randn(2, rows * columns, width, generator=torch.Generator().manual_seed(0))
    place = torch.arange(rows * columns)
    along_x = 16 * (place % columns) / (columns - 1)
    along_y = 16 * (place // columns) / (rows - 1)
    k = torch.arange(width // 4)
    frequency = 10000.0 ** (-4 * k / width)
    angle = torch.stack([along_x[:, None] * frequency, along_y[:, None] * frequency], dim=-1)
    turn = torch.polar(torch.ones(()), angle.flatten(1))
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn
    expected = torch.view_as_real(turned).flatten(-2)
    torch.testing.assert_close(rotate(x, rotary_table(rows, columns, width, CPU)), expected)


def test_time_embedding_follows_its_formula():
    embedding = TimeEmbedding(8)
    seen = []
    embedding.mlp[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedding(torch.tensor([0.25, 1.0]))
    for k in (0, 1, 64, 127):
        angle = 10 ** (-k / 128)
        assert seen[0][1, k].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert seen[0][0, 128 + k].item() == pytest.approx(math.sin(0.25 * angle), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_that_of_pytorch_in_float32(dtype):
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    norm = RMSNorm(256).to(dtype)
    expected = F.rms_norm(x.float(), (256,), eps=1e-6).to(dtype)
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-6 * (dtype == torch.float32))
    nn.init.constant_(norm.weight, 2)
    torch.testing.assert_close(norm(x), 2 * expected)


def test_swiglu_follows_its_formula():
    layer = SwiGLU(4, 10)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    w1, w2, w3 = layer.gate.weight, layer.output.weight, layer.value.weight
    torch.testing.assert_close(layer(x), (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T)


def test_to_patches_matches_unfold_and_from_patches_turns_it_back():
    x = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    patches = to_patches(x, 4)
    assert torch.equal(patches, F.unfold(x, 4, stride=4).transpose(1, 2))
    assert torch.equal(from_patches(patches, 4, rows=3), x)
