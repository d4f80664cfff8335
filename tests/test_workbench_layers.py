"""Looking inside by block: the numbers are those of hooks, NumPy and the model's own prediction."""

import base64
import json
import math
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from test_workbench_watching import DECO, DIT, random_model

import deco_lab
from deco_lab.workbench.layers import look_inside, token_colours, token_grain

SIDE, T, LABEL = 8, 0.3, 1
MODELS: dict[str, Any] = {
    "deco": replace(DECO, depth=3),
    "dit": replace(DIT, depth=3),
    "dit of images": replace(DIT, depth=3, predicts="image"),
}


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return random_model(MODELS[request.param])


@pytest.fixture(scope="module")
def view(model, x):
    return look_inside(model, x, T, LABEL, name="mine")


def hooked(model, x):
    """The tokens that the first block is given and each returns, and the velocity, by hooks."""
    tokens, hooks = [], []
    for block in model.backbone.blocks:
        hooks.append(
            block.register_forward_hook(
                lambda block, given, out: tokens.extend([given[0], out] if not tokens else [out])
            )
        )
    with torch.no_grad():
        velocity = model(x[None], torch.tensor([T]), torch.tensor([LABEL]))
    for hook in hooks:
        hook.remove()
    return [each[0].double().numpy() for each in tokens], velocity[0]


def cut_short(model, x, block):
    """The predicted image of the same model with fewer blocks."""
    blocks = model.trunk.blocks
    model.trunk.blocks = blocks[:block]
    try:
        with torch.no_grad():
            velocity = model(x[None], torch.tensor([T]), torch.tensor([LABEL]))[0]
    finally:
        model.trunk.blocks = blocks
    return (x + (1 - T) * velocity).double().numpy()


def levels(pictures):
    data = np.frombuffer(base64.b64decode(pictures.pixels), np.uint8).astype(float)
    return 2 * data.reshape(pictures.height, pictures.width, 3).transpose(2, 0, 1) / 255 - 1


def octaves(image):
    """Energy of an image, (3, S, S), by octave, from NumPy's full transform."""
    S = image.shape[-1]
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(S), np.fft.fftfreq(S), indexing="ij"))
    power = (np.abs(np.fft.fft2(image)) ** 2).sum(0)
    band = np.digitize(f, [1 / 16, 1 / 8, 1 / 4])
    return np.array([power[band == k].sum() for k in range(4)])


def numbers(values):
    return np.array(values, dtype=float)


def test_change_is_what_each_block_adds_to_the_stream(model, view, x):
    tokens, _ = hooked(model, x)
    expected = [np.linalg.norm(new - old) / np.linalg.norm(old) for old, new in pairwise(tokens)]
    np.testing.assert_allclose([block.change for block in view.blocks], expected, rtol=1e-3)
    most = int(np.argmax(expected))
    assert view.says.endswith(
        f"Block {most + 1} adds most: {expected[most]:.2f} times the tokens that it is given."
    )


def test_last_block_decodes_the_models_own_prediction(model, view, x):
    _, velocity = hooked(model, x)
    predicted = x + (1 - T) * velocity
    shown = levels(view.blocks[-1].decoded)
    np.testing.assert_allclose(shown, predicted.clamp(-1, 1), atol=1 / 255 + 1e-5)
    np.testing.assert_allclose(view.blocks[-1].energy, 1)
    np.testing.assert_allclose(view.blocks[-1].differs, 0, atol=1e-9)


def test_blocks_before_decode_what_a_model_without_the_rest_predicts(model, view, x):
    final = cut_short(model, x, 3)
    for i, block in enumerate(view.blocks):
        image = cut_short(model, x, i + 1)
        np.testing.assert_allclose(
            levels(block.decoded), image.clip(-1, 1), atol=1 / 255 + 1e-5, err_msg=str(i)
        )
        np.testing.assert_allclose(block.energy, octaves(image) / octaves(final), rtol=2e-3)
        expected = octaves(image - final) / octaves(final)
        np.testing.assert_allclose(block.differs, expected, rtol=2e-3, atol=1e-9)


def test_maps_are_numpys_components_in_one_basis(model, view, x):
    tokens, _ = hooked(model, x)
    alike = [each - each.mean(0) for each in tokens[1:]]
    alike = np.array([each / np.sqrt((each**2).mean()) for each in alike])
    _, _, basis = np.linalg.svd(np.concatenate(alike), full_matrices=False)
    components = alike @ basis[:3].T
    largest = np.abs(basis[:3]).argmax(1)
    components *= np.sign(basis[range(3), largest])
    scale = np.percentile(np.abs(components), 99, axis=(0, 1))
    expected = (components / scale).clip(-1, 1).reshape(3, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    for i, block in enumerate(view.blocks):
        assert (block.map.height, block.map.width) == (SIDE, SIDE)
        np.testing.assert_allclose(levels(block.map), expected[i], atol=1 / 255 + 1e-5)
        held = (components[i] ** 2).sum() / (alike[i] ** 2).sum()
        assert block.explained == pytest.approx(held, rel=1e-3)


def test_grain_is_numpys_power_over_the_patches(model, view, x):
    tokens, _ = hooked(model, x)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE), indexing="ij"))
    band = np.digitize(f, [1e-9, 1 / 4, 1 / 2])
    for block, each in zip(view.blocks, tokens[1:], strict=True):
        power = (np.abs(np.fft.fft2(each.reshape(SIDE, SIDE, -1), axes=(0, 1))) ** 2).sum(-1)
        energy = np.array([power[band == k].sum() for k in (1, 2, 3)])
        np.testing.assert_allclose(block.grain, energy / energy.sum(), rtol=1e-3)
    white = [(band == k).sum() / 63 for k in (1, 2, 3)]
    np.testing.assert_allclose(view.white_grain, white, rtol=1e-3)
    assert view.grain_bands == ["below 1/4", "1/4 to 1/2", "above 1/2"]


def test_grain_finds_planted_waves():
    place = torch.arange(8.0)
    coarse = torch.cos(math.tau * place / 8)[:, None].expand(8, 8)
    middle = torch.cos(math.tau * 3 * place / 8)[None].expand(8, 8)
    finest = ((-1.0) ** place)[:, None] * ((-1.0) ** place)[None]
    tokens = torch.stack(
        [5 + each.reshape(64, 1) * torch.ones(4) for each in (coarse, middle, finest)]
    )
    np.testing.assert_allclose(token_grain(tokens, 8), np.eye(3), atol=1e-9)
    assert np.isnan(token_grain(torch.ones(1, 64, 4), 8)).all()


def test_tokens_that_are_all_alike_are_grey():
    tokens = torch.stack([torch.ones(64, 4), torch.randn(64, 4)])
    colours = token_colours(tokens, 8)
    assert not colours.maps[0].any()
    assert np.isnan(colours.explained[0])
    assert 0 < colours.explained[1] <= 1


def test_says_the_first_blocks_that_are_near(view, model, x):
    differs = numbers([block.differs for block in view.blocks])
    first = [max([i + 2 for i in range(3) if differs[i, k] > 0.1], default=1) for k in (0, 3)]
    rest = "too" if first[0] == first[1] else f"from block {first[1]} on"
    assert view.says.startswith(
        f"t = 0.30: decoded from block {first[0]} of 3 on, the picture is within 10% of the "
        f"prediction, by energy, below 1/16 cycles a pixel; above 1/4 {rest}. Block "
    )


def test_look_inside_costs_one_pass_of_the_dit_and_leaves_the_model_as_it_was(model, view, x):
    passes = []
    hooks = [
        block.register_forward_hook(lambda block, given, out: passes.append(len(out)))
        for block in model.backbone.blocks
    ]
    blocks = list(model.backbone.blocks)
    again = look_inside(model, x, T, LABEL, name="mine")
    for hook in hooks:
        hook.remove()
    assert passes == [1, 1, 1]
    assert (view.dit_passes, view.heads) == (1, 3)
    assert list(model.backbone.blocks) == blocks
    text = json.dumps(asdict(view) | {"milliseconds": 0}, allow_nan=False)
    assert text == json.dumps(asdict(again) | {"milliseconds": 0}, allow_nan=False)
    assert view.settings["class_name"] == "class 1"
    assert look_inside(model, x, T, 3).settings["class_name"] == "no class"


def test_a_fast_model_is_looked_into_as_the_plain_one(kernels):
    from deco_lab.fast.regions import ready_for_sampling

    for name in ("tiny", "tiny-dit"):
        model = deco_lab.load(name, device="cpu")
        S = model.config.image_size
        x = torch.randn(3, S, S, generator=torch.Generator().manual_seed(2))
        plain = look_inside(model, x, 0.5, 2)
        assert ready_for_sampling(model)
        fast = look_inside(model, x, 0.5, 2)
        assert len(fast.blocks) == model.config.depth
        for ours, theirs in zip(fast.blocks, plain.blocks, strict=True):
            assert ours.change == pytest.approx(theirs.change, rel=1e-3)
            assert ours.energy == pytest.approx(theirs.energy, rel=2e-3)
        with torch.no_grad():
            velocity = model(x[None], torch.tensor([0.5]), torch.tensor([2]))[0]
        shown = levels(fast.blocks[-1].decoded)
        np.testing.assert_allclose(shown, (x + velocity / 2).clamp(-1, 1), atol=1 / 255 + 1e-4)


def test_look_inside_refuses_in_a_sentence(x):
    class Field(torch.nn.Module):
        def forward(self, x, t, class_ids):
            return -x

    model = random_model(MODELS["deco"])
    with pytest.raises(
        ValueError, match="mine has no blocks to look into; choose a DeCo or a single"
    ):
        look_inside(Field(), x, T, LABEL, name="mine")
    for t in (-0.1, 1.1, math.nan, "0.5"):
        with pytest.raises(ValueError, match="t must be a number"):
            look_inside(model, x, t, LABEL)  # type: ignore[arg-type]
    for label in (4, -1, 1.0):
        with pytest.raises(ValueError, match="class_id must be a whole number from 0 to 3"):
            look_inside(model, x, T, label)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this model must answer with finite numbers"):
        look_inside(model, x * torch.nan, T, LABEL)
