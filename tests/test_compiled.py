import copy
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from test_native import CONFIGS, DECO, inputs, random_model

from deco_lab.fast.regions import (
    compile_regions,
    fast_dtype,
    ready_for_sampling,
    regions,
    switch_compiled,
)
from deco_lab.models import Model, build
from deco_lab.models.decoder import decode_piece
from deco_lab.models.dit import run_blocks


@pytest.fixture
def model(request) -> Any:
    return random_model(getattr(request, "param", "published")).requires_grad_(True)


X, T, CLASS_IDS = INPUTS = inputs(2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile's tracing
@pytest.mark.parametrize("model", ["published", "add"], indirect=True)
def test_compile_regions_equals_the_plain_model(model):
    plain = copy.deepcopy(model)
    assert compile_regions(model, *INPUTS)
    assert all(region._compiled_call_impl is not None for region in regions(model))
    assert model.state_dict().keys() == plain.state_dict().keys()
    other = (X.flip(0), T / 2, CLASS_IDS.flip(0))
    got, expected = model(*other), plain(*other)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    got.square().mean().backward()
    expected.square().mean().backward()
    for (name, parameter), reference in zip(
        model.named_parameters(), plain.parameters(), strict=True
    ):
        assert parameter.grad is not None, name
        assert reference.grad is not None, name
        difference = (parameter.grad - reference.grad).norm()
        assert difference <= 1e-4 * reference.grad.norm() + 1e-9, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of a hook that comes later
@pytest.mark.parametrize(
    ("model", "when"), [("published", "after"), ("dit", "before")], indirect=["model"]
)
def test_compile_regions_leaves_hooks_on_blocks_as_they_are(model, when):
    """What alignment needs: block 1's tokens, and gradients through them, at every call."""

    def hooked(model: Model) -> list[torch.Tensor]:
        tokens = []
        model.backbone.blocks[0].register_forward_hook(lambda *call: tokens.append(call[-1]))
        return tokens

    plain = copy.deepcopy(model)
    expected = hooked(plain)
    early = hooked(model) if when == "before" else None
    assert compile_regions(model, *INPUTS)
    got = hooked(model) if early is None else early
    for k in range(3):
        x = X.roll(k, -1)
        got.clear()
        expected.clear()
        with torch._dynamo.config.patch(error_on_recompile=True):
            velocity = model(x, T, CLASS_IDS)
        torch.testing.assert_close(velocity, plain(x, T, CLASS_IDS))
        assert len(got) == 1
        torch.testing.assert_close(got[0], expected[0])
    for tokens in (got[0], expected[0]):
        tokens.square().mean().backward()
    gradients = [m.backbone.patch_embedding.weight.grad for m in (model, plain)]
    torch.testing.assert_close(*gradients)


def scaled(self: torch.nn.Module, **options: int) -> None:
    self._compiled_call_impl = lambda *arguments: 1.01 * self.forward(*arguments)


def failing(self: torch.nn.Module, **options: int) -> None:
    def call(*arguments):
        raise RuntimeError("no compiler\nmore")

    self._compiled_call_impl = call


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "zero head"])
@pytest.mark.parametrize(
    ("compile_so", "reason"), [(scaled, "results differ by"), (failing, "no compiler$")]
)
def test_compile_regions_is_undone_where_results_differ_or_compiling_fails(
    model, monkeypatch, trained, compile_so, reason
):
    model = model if trained else build(DECO)
    plain, before = model(*INPUTS), copy.deepcopy(model.state_dict())
    assert plain.any() == trained
    monkeypatch.setattr(torch.nn.Module, "compile", compile_so)
    with pytest.warns(UserWarning, match=f"the plain model is used: {reason}"):
        assert not compile_regions(model, *INPUTS)
    assert torch.equal(model(*INPUTS), plain)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_compile_regions_in_bfloat16_is_held_to_float32(model, monkeypatch, autocast):
    factor = 1.0

    def compile_so(self: torch.nn.Module, **options: int) -> None:
        self._compiled_call_impl = lambda *arguments: factor * self.forward(*arguments)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_so)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    if autocast is None:
        model = model.bfloat16()
    before = copy.deepcopy(model.state_dict())
    with torch.set_grad_enabled(autocast is not None):
        assert compile_regions(model, *INPUTS, autocast=autocast)
        for name, value in model.state_dict().items():
            assert value.dtype == before[name].dtype
            assert torch.equal(value, before[name])
        switch_compiled(model, False)
        factor = 3.0  # some hundredths of the velocity
        with pytest.warns(UserWarning, match="results differ by .* from those in float32"):
            assert not compile_regions(model, *INPUTS, autocast=autocast)


def test_compile_regions_overlooks_that_products_could_be_less_exact(model, monkeypatch):
    """What the compiler warns of on a GPU; where warnings are errors, it would fail by that."""

    def compile_so(self: torch.nn.Module, **options: int) -> None:
        def call(*arguments):
            warnings.warn("TensorFloat32 tensor cores for float32 matrix ...", stacklevel=1)
            return self.forward(*arguments)

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", compile_so)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_regions(model, *INPUTS)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["published", "add", "dit"], indirect=True)
@torch.no_grad()
def test_compile_regions_without_gradients_equals_the_plain_model_in_all_batches(model):
    plain = copy.deepcopy(model)
    assert compile_regions(model, *INPUTS)
    assert model.backbone.blocks[0]._compiled_call_impl is not None
    if hasattr(model, "decoder"):
        assert model.decoder.decode_piece is not decode_piece
    for given in map(inputs, (1, 2, 5)):
        torch.testing.assert_close(model(*given), plain(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@torch._dynamo.config.patch(recompile_limit=4)
@torch.no_grad()
def test_ready_for_sampling_has_as_many_graphs_for_any_batch_and_any_number_of_models(monkeypatch):
    """Of the blocks one for a single image and one for all other batches, of the decoder one."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr("deco_lab.fast.regions._ways", lambda _: {"plain": switch_compiled})
    models = [(DECO, 3), *((replace(CONFIGS["dit"], hidden_size=n), 2) for n in (16, 64))]
    graphs = torch._dynamo.utils.counters["stats"]
    for config, expected in models:
        model, before = build(config).requires_grad_(False), graphs["unique_graphs"]
        assert ready_for_sampling(model)
        for rows in (1, 2, 4, 8):
            model(*inputs(rows))
        assert graphs["unique_graphs"] - before == expected, config


def test_ready_for_sampling_is_undone_where_results_differ(model, monkeypatch):
    def switch_wrongly(model: Model, on: bool) -> None:
        scale = 1.01 if on else 1.0
        model.backbone.run_blocks = lambda *arguments: scale * run_blocks(*arguments)

    plain = model(*INPUTS)
    monkeypatch.setattr("deco_lab.fast.regions.switch_native", switch_wrongly)
    with pytest.warns(UserWarning, match=r"the plain model is used: results differ by"):
        assert not ready_for_sampling(model)
    assert torch.equal(model(*INPUTS), plain)


@pytest.mark.slow
@torch.no_grad()
def test_copies_of_a_compiled_model_draw_with_their_own_weights(model):
    assert compile_regions(model, *INPUTS)
    other, plain = copy.deepcopy(model), build(model.config)
    for parameter in other.parameters():
        parameter.mul_(1.5)
    plain.load_state_dict(other.state_dict())
    torch.testing.assert_close(other(*INPUTS), plain(*INPUTS), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_load_fast_warns_and_draws_without_a_compiler(tmp_path):
    code = """
import warnings
import torch
import deco_lab
plain = deco_lab.load("tiny", device="cpu")
with warnings.catch_warnings(record=True) as said:
    model = deco_lab.load("tiny", device="cpu", dtype=torch.float32, fast=True)
assert any("the plain model is used" in str(each.message) for each in said), said
images = [deco_lab.sample(each, [0], num_steps=2) for each in (plain, model)]
assert torch.equal(*images)
"""
    own = {"CXX": str(tmp_path / "missing"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fast_dtype_is_exact_but_on_a_gpu_that_knows_bfloat16(monkeypatch):
    assert fast_dtype(torch.device("cpu")) == torch.float32
    for answer, expected in (
        (lambda including_emulation=True: True, torch.bfloat16),
        (lambda including_emulation=True: including_emulation, torch.float32),  # as a T4
        (lambda including_emulation=True: False, torch.float32),
    ):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
        assert fast_dtype(torch.device("cuda")) == expected
