"""Which calls a faster way must leave to the plain code; here of a CPU, for any of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from deco_lab.fast.state import state_of
from deco_lab.models.layers import DiTBlock

X = torch.ones(2, 3)


@pytest.fixture
def blocks() -> nn.ModuleList:
    return nn.ModuleList(DiTBlock(16, 2, 24) for _ in range(2)).requires_grad_(False)


def state(blocks: nn.Module, x: Tensor = X) -> Any:
    with torch.no_grad():
        return state_of(blocks, "cpu", x)


def test_state_of_is_that_of_every_weight(blocks):
    found = state(blocks)
    expected = [(p.data_ptr(), p._version, p.stride()) for p in blocks.parameters()]
    assert sorted(found) == sorted(expected)
    weight = blocks[0].attention.output.weight
    weight.mul_(2)
    assert state(blocks) != found
    found = state(blocks)
    blocks[0].attention.output.weight = nn.Parameter(weight.T, False)
    assert state(blocks) != found


def test_state_of_is_none_for_what_is_more_than_numbers_and_weights(blocks):
    assert state_of(blocks, "cpu", X) is None  # under autograd
    with torch.autocast("cpu", torch.bfloat16):
        assert state(blocks) is None
    for x in (X.to("meta"), X.double()):
        assert state(blocks, x) is None
    with torch.inference_mode():  # whose tensors' changes are not counted
        assert state(nn.ModuleList([nn.Linear(3, 3)])) is None
    assert state(nn.ModuleList()) is None  # as a DataParallel replica, which has no parameters
    assert state(blocks.to(torch.bfloat16)) is not None
    assert state(blocks.double()) is None
    assert state(blocks.to("meta")) is None


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_state_of_is_none_with_hooks(blocks, kind):
    handle = getattr(blocks[1].mlp, kind)(lambda *call: None)
    assert state(blocks) is None
    handle.remove()
    assert state(blocks) is not None
    handle = getattr(all_modules, kind.replace("forward", "module_forward"))(lambda *call: None)
    assert state(blocks) is None
    handle.remove()
    assert state(blocks) is not None


def test_state_of_is_none_for_other_layers(blocks):
    blocks[1].mlp.gate = nn.Identity()
    assert state(blocks) is None
    blocks[1].mlp.gate = nn.Linear(16, 24)
    assert state(blocks) is not None
    blocks[1].mlp.gate.forward = lambda x: x  # type: ignore[method-assign]
    assert state(blocks) is None
