"""The native kernels against the plain model, the recorded outputs, and what they must leave."""

import copy
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import deco_lab
from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.fast import native as native_module
from deco_lab.fast.native import switch_native
from deco_lab.models import build
from deco_lab.models.decoder import position_features
from deco_lab.spectra import pixel_jacobian

pytestmark = pytest.mark.usefixtures("kernels")

SHAPE: Any = {"image_size": 16, "patch_size": 4, "num_classes": 3, "num_heads": 2, "depth": 2}
SHAPE |= {"hidden_size": 40}  # an MLP of 106 channels, heads of 20: neither is whole vectors
DECO = DeCoConfig(**SHAPE, decoder_depth=2, decoder_width=12)
CONFIGS = {
    "published": DECO,
    "units": replace(DECO, decoder_patch=2),
    "odd width": replace(DECO, decoder_width=7),
    "add": replace(DECO, decoder_conditioning="add"),
    "dit": DiTConfig(**SHAPE),
}


def random_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = build(CONFIGS[name])
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3 / parameter.shape[-1] ** 0.5)
    return model.to(dtype).requires_grad_(False)


def inputs(rows: int, height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 3, height, width, generator=generator)
    return x, torch.rand(rows, generator=generator), torch.arange(rows) % 4


def native(model: Any) -> Any:
    other = copy.deepcopy(model)
    switch_native(other, True)
    return other


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The kernels that were called, in order."""
    made = []
    plain_run = native_module._run

    def run(kernel, *arguments):
        made.append(kernel)
        plain_run(kernel, *arguments)

    monkeypatch.setattr("deco_lab.fast.native._run", run)
    return made


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_native_equals_the_plain_model(calls, name):
    model = random_model(name)
    fast = native(model)
    for size in ((16, 16), (20, 12), (4, 4), (24, 52)):  # 16, 15, 1 and 78 tokens
        for rows in (1, 2, 5, 17, 33):
            given = inputs(rows, *size)
            torch.testing.assert_close(fast(*given), model(*given), rtol=1e-5, atol=2e-6)
    kernels_of_a_call = 2 if name in ("add", "dit") else 3
    assert len(calls) == 20 * kernels_of_a_call


@pytest.mark.parametrize("case", ["io0", "io1"], ids=["square", "wide"])
@pytest.mark.parametrize("kind", ["deco", "dit"])
@torch.no_grad()
def test_native_matches_recorded_velocity(request, golden, calls, kind, case):
    file = {"deco": "deco_c2i", "dit": "baseline_dit"}[kind]
    recorded = load_file(golden / f"{file}.safetensors")
    model = native(request.getfixturevalue(f"golden_{kind}"))
    velocity = model(*(recorded[f"{case}.{what}"] for what in ("x", "t", "y")))
    assert calls == ["layer", "blocks", "decoder"][: 3 if kind == "deco" else 2]
    expected = recorded[f"{case}.velocity"]
    assert (velocity - expected).norm() <= 1e-5 * expected.norm()
    assert (velocity - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_native_bfloat16_is_no_worse_than_pytorch(name):
    exact, model = random_model(name), random_model(name, torch.bfloat16)
    given = inputs(4, 20, 12)
    expected = exact(*given)
    errors = [
        float((each(*given) - expected).norm() / expected.norm()) for each in (native(model), model)
    ]
    assert errors[0] <= 1.1 * errors[1]


@torch.no_grad()
def test_native_decoder_does_not_depend_on_batch_or_threads():
    model = native(random_model("published"))
    x, t, class_ids = inputs(5)
    condition = model.condition(x, t, class_ids)
    together = model.decode(x, condition)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(model.decode(x, condition), together)
    finally:
        torch.set_num_threads(threads)
    for i in range(5):
        alone = model.decode(x[i : i + 1], condition[i : i + 1])
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("change", ["in place", "replaced", "loaded", "at an old address"])
@torch.no_grad()
def test_native_and_its_copies_see_their_own_weights_change(calls, change):
    plain, given = random_model("published"), inputs(2)
    model = native(plain)
    before = model(*given)
    other = copy.deepcopy(model)
    assert torch.equal(other(*given), before)  # so that it has laid its weights out
    for each in (plain, other):
        block, decoder = each.backbone.blocks[1], each.decoder.blocks[0]
        if change == "in place":
            block.attention.query_norm.weight.mul_(1.5)
            decoder.mlp[2].weight.mul_(-1)
        elif change == "replaced":
            block.mlp.value = nn.Linear(40, 106, bias=False).requires_grad_(False)
            nn.init.constant_(block.mlp.value.weight, 0.01)
            decoder.norm.bias = nn.Parameter(torch.ones(12), requires_grad=False)
        elif change == "loaded":
            each.load_state_dict({k: v.roll(1, 0) for k, v in each.state_dict().items()})
        else:
            each.bfloat16().float()
    after = other(*given)
    torch.testing.assert_close(after, plain(*given), rtol=1e-5, atol=2e-6)
    assert not torch.equal(after, before)
    assert torch.equal(model(*given), before)
    assert len(calls) == 12


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="vectors of x86")
def test_shorter_vectors_give_the_same_velocity(tmp_path):
    """Of a processor without AVX-512."""
    code = """
import torch, deco_lab
plain, fast = (deco_lab.load("tiny", device="cpu", fast=fast) for fast in (False, True))
x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
given = x, torch.tensor([0.2, 0.7]), torch.tensor([0, 14])
with torch.no_grad():
    expected, velocity = plain(*given), fast(*given)
print(float((velocity - expected).norm() / expected.norm()))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CXX": "c++ -mno-avx512f"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 1e-5


@torch.no_grad()
def test_native_copies_draw_with_their_own_weights():
    plain, given = random_model("published"), inputs(2)
    model = native(plain)
    before = model(*given)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.mul_(1.5)
    plain.load_state_dict(other.state_dict())
    torch.testing.assert_close(other(*given), plain(*given), rtol=1e-5, atol=2e-6)
    assert torch.equal(model(*given), before)


@torch.no_grad()
def test_native_leaves_derivatives_hooks_and_other_layers_to_pytorch(calls):
    """Of each kind one; `state_of` and `only_numbers` have tests of their own."""

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    plain, (x, t, class_ids) = random_model("published"), inputs(2)
    model, condition = native(plain), plain.condition(x, t, class_ids)
    assert torch.equal(pixel_jacobian(model, x, condition), pixel_jacobian(plain, x, condition))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x, t, class_ids), plain(x, t, class_ids))
    gradients = []
    for each in (plain, model):
        each.requires_grad_(True)
        with torch.enable_grad():
            each(x, t, class_ids).square().sum().backward()
        gradients.append([p.grad for p in each.parameters()])
        each.backbone.blocks[1].attention.qkv.__class__ = Doubled
        each.decoder.blocks[0].forward = lambda h, modulation: h + 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))
    assert torch.equal(model(x, t, class_ids), plain(x, t, class_ids))
    assert calls == []

    model, seen = native(random_model("published")), []
    model.backbone.blocks[1].register_forward_hook(lambda *call: seen.append(call[-1]))
    model.decode(x, model.condition(x, t, class_ids))
    assert len(seen) == 1
    assert calls == ["decoder"]
    with pytest.raises(RuntimeError):
        model.decoder(x, condition[:, :8], position_features(4, x.device))
    assert model.decode(x[:0], condition[:0]).shape == (0, 3, 16, 16)


@torch.no_grad()
def test_native_serves_threads_of_several_sizes():
    plain = random_model("published")
    model, sizes = native(plain), [(16, 16), (24, 52)]
    expected = [plain(*inputs(2, *size)) for size in sizes]

    def draw(k: int) -> float:
        with torch.no_grad():
            return float((model(*inputs(2, *sizes[k % 2])) - expected[k % 2]).abs().max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(draw, range(200))) < 1e-4


@torch.no_grad()
def test_native_leaves_large_blocks_to_pytorch(calls, monkeypatch):
    monkeypatch.setattr(native_module, "MAX_WEIGHTS", 1000)
    plain, given = random_model("published"), inputs(2)
    torch.testing.assert_close(native(plain)(*given), plain(*given), rtol=1e-5, atol=2e-6)
    assert calls == ["decoder"]


def test_load_fast_draws_the_same_images(calls):
    plain = deco_lab.load("tiny", device="cpu")
    with torch.inference_mode():  # whose tensors PyTorch counts no changes of
        fast = deco_lab.load("tiny", device="cpu", dtype=torch.float32, fast=True)
    del calls[:]
    expected, images = (deco_lab.sample(m, [0, 3], num_steps=20, seed=1) for m in (plain, fast))
    assert len(calls) == 60
    assert (images - expected).norm() <= 1e-5 * expected.norm()
    switch_native(fast, False)
    assert torch.equal(deco_lab.sample(fast, [0, 3], num_steps=20, seed=1), expected)
    assert len(calls) == 60
