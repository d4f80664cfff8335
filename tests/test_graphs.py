"""What stands between a model and its CUDA graphs, with a recorder that a CPU can run.

`tests/test_gpu.py` holds the graphs themselves to the plain model.
"""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import pytest
import torch
from test_native import CONFIGS, inputs, random_model
from torch import Tensor

from deco_lab.fast.graphs import MAX_GRAPHS, Graphed, switch_graphs
from deco_lab.fast.native import switch_native
from deco_lab.fast.regions import _ways, switch_compiled
from deco_lab.models.decoder import decode_units
from deco_lab.models.dit import run_blocks


@pytest.fixture
def recorded(monkeypatch) -> list[Tensor]:
    """Where each graph has its result: a graph here repeats the Python of the call."""
    outputs = []

    def record(run: Callable[[], Tensor], device: torch.device):
        output = run().clone()
        assert not output.requires_grad
        outputs.append(output)

        def replay() -> None:
            output.copy_(run())

        replay.graph = Lock()  # type: ignore[attr-defined]  # as a graph, it cannot be copied
        return replay, output

    monkeypatch.setattr("deco_lab.fast.graphs.record", record)
    monkeypatch.setattr(Graphed, "device_type", "cpu")
    return outputs


def graphed(model: Any) -> Any:
    other = copy.deepcopy(model)
    switch_graphs(other, True)
    return other


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_graphs_equal_the_plain_model(recorded, name):
    model = random_model(name)
    fast = graphed(model)
    results = []
    for rows, size in ((2, (16, 16)), (1, (16, 16)), (2, (16, 24)), (2, (16, 16))):
        given = inputs(rows, *size)
        results.append((fast(*given), model(*given)))
    for got, expected in results:  # a later call leaves earlier results as they are
        assert torch.equal(got, expected)
    parts = 1 if name == "dit" else 2
    assert len(recorded) == 3 * parts


@torch.no_grad()
def test_graphs_see_changed_and_replaced_weights(recorded):
    model = random_model("published")
    fast = graphed(model)
    given = inputs(2)
    fast(*given)
    for each in (model, fast):
        each.backbone.blocks[0].attention.qkv.weight.mul_(2)
        each.decoder.blocks[0].modulation.bias.add_(1)
    assert torch.equal(fast(*given), model(*given))
    assert len(recorded) == 2
    old = weakref.ref(fast.decoder.head.weight)
    for each in (model, fast):
        each.decoder.head.weight = torch.nn.Parameter(each.decoder.head.weight * 3, False)
    assert old() is not None  # a graph may still read it
    assert torch.equal(fast(*given), model(*given))
    assert len(recorded) == 3
    gc.collect()
    assert old() is None
    for each in (model, fast):  # the same memory, read otherwise
        output = each.backbone.blocks[0].attention.output
        output.weight = torch.nn.Parameter(output.weight.T, False)
    assert torch.equal(fast(*given), model(*given))
    assert len(recorded) == 4
    fast.to(torch.float64)
    assert fast(*given).isfinite().all()
    assert len(recorded) == 4


@torch.no_grad()
def test_graphs_of_the_sizes_used_last_are_kept(recorded):
    fast = graphed(random_model("dit"))
    for rows in range(1, MAX_GRAPHS + 1):
        fast(*inputs(rows))
    fast(*inputs(1))
    assert len(recorded) == MAX_GRAPHS
    fast(*inputs(MAX_GRAPHS + 1))  # in the place of two rows
    fast(*inputs(1))
    assert len(recorded) == MAX_GRAPHS + 1
    fast(*inputs(2))
    assert len(recorded) == MAX_GRAPHS + 2
    assert len(fast.backbone.run_blocks._graphs) == MAX_GRAPHS


@torch.no_grad()
def test_graphs_are_recorded_for_each_dtype_and_precision(recorded):
    model = random_model("published")
    fast = graphed(model)
    x, *others = inputs(2)
    for given in (x, x.bfloat16(), x):
        assert torch.equal(fast(given, *others), model(given, *others))
    assert len(recorded) == 3  # the blocks' tokens are float32, whatever x is
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        fast(x, *others)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert len(recorded) == 5


@torch.no_grad()
def test_graphs_that_cannot_be_recorded_are_given_up(recorded, monkeypatch):
    model = random_model("dit")
    fast = graphed(model)

    def fail(*arguments):
        raise torch.OutOfMemoryError("no memory\nmore")

    with monkeypatch.context() as patch:
        patch.setattr("deco_lab.fast.graphs.record", fail)
        with pytest.raises(torch.OutOfMemoryError):  # the first: nothing is known to work
            fast(*inputs(2))
    fast(*inputs(2))
    with monkeypatch.context() as patch:
        patch.setattr("deco_lab.fast.graphs.record", fail)
        with pytest.warns(UserWarning, match="a CUDA graph is not used: no memory$"):
            assert torch.equal(fast(*inputs(3)), model(*inputs(3)))
    assert torch.equal(fast(*inputs(3)), model(*inputs(3)))
    assert len(recorded) == 1


def test_graphs_leave_gradients_and_large_calls_to_the_function(recorded, monkeypatch):
    model = random_model("published")
    fast = graphed(model)
    given = inputs(2)
    x = given[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fast(x, *given[1:]).sum(), x)
    (expected,) = torch.autograd.grad(model(x, *given[1:]).sum(), x)
    torch.testing.assert_close(gradient, expected)
    monkeypatch.setattr("deco_lab.fast.graphs.MAX_NUMBERS", 10)
    with torch.no_grad():
        assert torch.equal(fast(*given), model(*given))
    assert recorded == []


def test_graphs_recorded_in_inference_mode_serve_outside_it(recorded):
    model = random_model("published")
    fast = graphed(model)
    fast.requires_grad_(True)
    given = inputs(2)
    with torch.inference_mode():
        first = fast(*given)
    with torch.no_grad():
        assert torch.equal(fast(*given), first)
        assert torch.equal(model(*given), first)
    assert len(recorded) == 2


@torch.no_grad()
def test_graphs_serve_many_threads(recorded):
    model = random_model("published")
    fast = graphed(model)
    given = [inputs(2)] + [(seed * inputs(2)[0], *inputs(2)[1:]) for seed in (0.5, 2.0, -1.0)]
    expected = [model(*each) for each in given]

    def draw(i: int) -> bool:
        with torch.no_grad():
            return all(torch.equal(fast(*given[i]), expected[i]) for _ in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(draw, range(4)))
    assert len(recorded) == 2


@torch.no_grad()
def test_copies_of_a_graphed_model_draw_with_their_own_weights(recorded):
    fast, given = graphed(random_model("published")), inputs(2)
    before = fast(*given)
    other = copy.deepcopy(fast)
    assert not pickle.loads(pickle.dumps(fast.backbone.run_blocks))._graphs
    for parameter in other.parameters():
        parameter.mul_(1.5)
    switch_graphs(plain := copy.deepcopy(other), False)
    assert torch.equal(other(*given), plain(*given))
    assert torch.equal(fast(*given), before)


@torch.no_grad()
def test_switches_forget_graphs(recorded):
    model = graphed(random_model("published"))
    model(*inputs(2))
    assert model.backbone.run_blocks._graphs
    switch_compiled(model, False)  # they would hold what was compiled
    assert isinstance(model.backbone.run_blocks, Graphed)
    assert not model.backbone.run_blocks._graphs
    assert not model.decoder.decode_units._graphs
    switch_graphs(model, False)
    assert model.backbone.run_blocks is run_blocks
    assert model.decoder.decode_units is decode_units


def test_fast_ways_are_kernels_on_a_cpu_and_compiled_graphs_on_cuda():
    assert list(_ways("cpu").values()) == [switch_native]
    assert list(_ways("cuda").values()) == [switch_compiled, switch_graphs]
    assert list(_ways("mps").values()) == [switch_compiled]
