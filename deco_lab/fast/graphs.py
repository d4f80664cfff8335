"""A model's blocks and pixel decoder as CUDA graphs: all their launches in one.

At small batches a GPU waits for Python, which launches a thousand operations a velocity. A graph
holds the operations of one call, with their addresses, and replays them by a single launch: inputs
are copied to where the recorded call read its own, the result is copied from where it was written.
It reads weights where they lie, so it sees a change of their values; for replaced ones all are
recorded again. Calls that `deco_lab.fast.state` names, and large ones, are left to the function.

A graph keeps the memory of all that it computes, up to about a GiB for the largest call.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deco_lab.fast.build import first_line
from deco_lab.fast.state import StandIn, state_of
from deco_lab.models.decoder import decode_units
from deco_lab.models.dit import run_blocks
from deco_lab.models.zoo import Model, decoder_of

MAX_NUMBERS = 2**22
"""Of tokens, B * N * D: 14 rows of DeCo-XL/16 at 256 pixels, which keep a GPU as busy as Python."""

MAX_GRAPHS = 4
"""Of a part, the ones used last: a guided run has two, with and without the null class."""


class _Graph(NamedTuple):
    inputs: list[Tensor]
    replay: Callable[[], None]
    output: Tensor
    weights: list[Tensor]
    """What the operations read besides, which must not be freed."""


_ONE_AT_A_TIME = Lock()  # a process may record one graph at a time, and a graph has one memory


def record(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """Return what replays the operations of a call on a CUDA device, and where its result lies."""
    with torch.cuda.device(device):
        caller, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(caller)
        with torch.cuda.stream(aside):  # which a recording that fails would not leave
            run()  # what happens only at a first call is not to be recorded
            graph = torch.cuda.CUDAGraph()
            # Other threads go on allocating memory.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                output = run()
        caller.wait_stream(aside)
    return graph.replay, output


def empty_cache() -> None:
    """Give memory that PyTorch holds free back to the GPU, while no graph is recorded in it."""
    with _ONE_AT_A_TIME:
        torch.cuda.empty_cache()


def _circumstances(device: torch.device) -> tuple[object, ...]:
    """Return what else a recording holds for good: the order on a stream, and the algorithms."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    precision = torch.backends.cuda.matmul.fp32_precision  # whichever switch has set it
    return stream, precision, torch.are_deterministic_algorithms_enabled()


class Graphed(StandIn):
    """Stands in for a function of a module, tensors and sizes, by recordings of it.

    Where a first recording fails, it raises what was raised; a later one is given up with a
    warning, and calls like it are left to the function.
    """

    device_type = "cuda"

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__(function)
        self._graphs: OrderedDict[object, _Graph | None] = OrderedDict()
        self._weights: object = None

    def __call__(self, module: nn.Module, *arguments: Any) -> Tensor:
        """Return the function's result, in memory of its own."""
        tensors = [each for each in arguments if isinstance(each, Tensor)]
        small = max(tensor.numel() for tensor in tensors) <= MAX_NUMBERS
        state = state_of(module, self.device_type, *tensors) if small else None
        if state is None:
            return self.function(module, *arguments)
        key = [
            (each.shape, each.dtype, each.device) if isinstance(each, Tensor) else each
            for each in arguments
        ]
        weights = [(address, strides) for address, _, strides in state]
        with _ONE_AT_A_TIME, torch.inference_mode(False), torch.no_grad():
            if weights != self._weights:
                self._graphs.clear()
                self._weights = weights
            graph = self._graph((*key, *_circumstances(tensors[0].device)), module, arguments)
            if graph is not None:
                for own, given in zip(graph.inputs, tensors, strict=True):
                    own.copy_(given)
                graph.replay()
                return graph.output.clone()
        return self.function(module, *arguments)

    def _graph(self, key: object, module: nn.Module, arguments: Sequence[Any]) -> _Graph | None:
        if key not in self._graphs:
            while len(self._graphs) >= MAX_GRAPHS:
                self._graphs.popitem(last=False)
            try:
                own = [each.clone() if isinstance(each, Tensor) else each for each in arguments]
                inputs = [each for each in own if isinstance(each, Tensor)]
                replay, output = record(lambda: self.function(module, *own), inputs[0].device)
                self._graphs[key] = _Graph(inputs, replay, output, list(module.parameters()))
            except RuntimeError as error:
                if not self._graphs:
                    raise
                self._graphs[key] = None
                warnings.warn(f"a CUDA graph is not used: {first_line(error)}", stacklevel=4)
        self._graphs.move_to_end(key)
        return self._graphs[key]


def switch_graphs(model: Model, on: bool) -> None:
    """Let CUDA graphs run a model's blocks and decoder, or undo that."""
    model.backbone.run_blocks = Graphed(run_blocks) if on else run_blocks
    if decoder := decoder_of(model):
        decoder.decode_units = Graphed(decode_units) if on else decode_units
