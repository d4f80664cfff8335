"""Readability by block: the tokens are those that the model has there."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.fast.regions import ready_for_sampling
from deco_lab.models import build
from deco_lab.plots import layer_curves
from deco_lab.spectra import Crops, block_tokens, layer_readout, linear_readout
from deco_lab.spectra.layers import _AsFarAs

SIZES: Any = {
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 3,
    "hidden_size": 16,
    "num_heads": 2,
}
CONFIGS = {
    "deco": DeCoConfig(**SIZES, depth=3, decoder_depth=1, decoder_width=8),
    "dit": DiTConfig(**SIZES, depth=3),
}


def crops(times=(0.5,)):
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).tanh()
    return Crops(images, [0, 1, 2, 3] * 2, times, batch_size=3)


def random_model(name):
    generator = torch.Generator().manual_seed(1)
    model = build(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_those_after_the_block(name):
    model, seen = random_model(name), []
    for block in model.backbone.blocks:
        block.register_forward_hook(lambda block, given, tokens: seen.append(tokens))
    (batch,) = list(crops().batches(model, 0.5))[:1]
    given = batch.x, batch.t, batch.class_ids
    with torch.no_grad():
        model(*given)
        expected = list(seen)
        for block in (1, 2, 3):
            assert torch.equal(_AsFarAs(model, block).features(*given), expected[block - 1])
    assert len(model.backbone.blocks) == 3


@pytest.mark.parametrize("name", CONFIGS)
def test_block_tokens_are_what_blocks_are_given_and_return(name):
    model, seen = random_model(name), []
    (batch,) = list(crops().batches(model, 0.5))[:1]
    given = batch.x, batch.t, batch.class_ids
    hooks = [
        block.register_forward_hook(lambda block, given, tokens: seen.append((given[0], tokens)))
        for block in model.backbone.blocks
    ]
    with torch.no_grad():
        velocity = model(*given)
        for hook in hooks:
            hook.remove()
        found = block_tokens(model, *given)
        drawn = model.from_features(batch.x, found[-1], batch.t, batch.class_ids)
    expected = [seen[0][0], *(tokens for _, tokens in seen)]
    assert len(found) == 4
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert torch.equal(drawn, velocity)
    assert torch.equal(found[-1], model.features(*given))
    assert not any(block._forward_hooks for block in model.backbone.blocks)


def test_block_tokens_of_a_fast_model_are_the_plain_ones(kernels):
    model = random_model("deco")
    (batch,) = list(crops().batches(model, 0.5))[:1]
    given = batch.x, batch.t, batch.class_ids
    with torch.no_grad():
        plain = block_tokens(model, *given)
        assert ready_for_sampling(model)
        assert all(map(torch.equal, block_tokens(model, *given), plain))
        torch.testing.assert_close(plain[-1], model.features(*given), rtol=1e-4, atol=1e-4)


def test_last_block_of_a_single_dit_is_its_readout():
    model = random_model("dit")
    found = layer_readout(model, crops(), folds=3)
    assert [read.recipe["block"] for read in found] == [1, 2, 3]
    plain = linear_readout(model, crops(), sources=("tokens",), folds=3)
    for end, expected in zip(found[-1].r2.ends, plain.r2.ends, strict=True):
        np.testing.assert_array_equal(end, expected)
    assert not np.array_equal(found[0].r2.value, plain.r2.value)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(
        ValueError, match="must have a backbone of blocks, which a function has not"
    ):
        layer_readout(lambda x, t, class_ids: x, crops())
    with pytest.raises(ValueError, match="pass a DeCo or DiT"):
        block_tokens(SimpleNamespace(), *[torch.zeros(1)] * 3)
    model = random_model("deco")
    with pytest.raises(ValueError, match=r"x must have shape \(B, C, H, W\)"):
        block_tokens(model, torch.zeros(3, 16, 16), 0.5, [0])
    with pytest.raises(ValueError, match="t must have one value for each image"):
        block_tokens(model, torch.zeros(3, 3, 16, 16), torch.zeros(2), [0, 1, 2])
    with pytest.raises(ValueError, match="class_ids must be from 0 to 3"):
        block_tokens(model, torch.zeros(1, 3, 16, 16), 0.5, [4])


def test_figure_draws_every_band_at_its_block():
    found = layer_readout(random_model("deco"), crops((0.3, 0.5)), folds=3)
    figure = layer_curves(found, "predicted")
    for i, axes in enumerate(figure.axes):
        drawn = [line.get_ydata() for line in axes.lines if np.size(line.get_xdata()) == 3]
        expected = [
            [read.r2.value[i, 0, found[0].targets.index("predicted"), k] for read in found]
            for k in range(4)
        ]
        np.testing.assert_array_equal(drawn, expected)
    with pytest.raises(ValueError, match=r"target must be one of .*, got 'cat'"):
        layer_curves(found, "cat")
