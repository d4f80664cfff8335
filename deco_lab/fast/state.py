"""What stands in for a function of a module where a call is no more than numbers and weights.

A faster way (`deco_lab.fast.native`, `deco_lab.fast.graphs`) must leave to the function every call
in which a tensor is more than its numbers or a layer more than its weights: under autograd, a
function transform or autocast, while PyTorch traces, counts or records a CUDA graph, with hooks or
layers of another kind, and for dtypes but float32 and bfloat16.
"""

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from deco_lab.fast.build import only_numbers
from deco_lab.models.decoder import PixelBlock, PixelDecoder
from deco_lab.models.layers import Attention, DiTBlock, RMSNorm, SwiGLU

State = list[tuple[int, int, tuple[int, ...]]]
_KNOWN_TYPES = {
    Attention, DiTBlock, PixelBlock, PixelDecoder, RMSNorm, SwiGLU,
    nn.LayerNorm, nn.Linear, nn.ModuleList, nn.Sequential, nn.SiLU,
}  # fmt: skip
_KNOWN_DTYPES = {torch.float32, torch.bfloat16}


def state_of(module: nn.Module, device_type: str, *inputs: Tensor) -> State | None:
    """Return address, version and strides of every weight, or None: the plain code is to compute.

    One walk over all modules, which takes some 80 microseconds for six blocks.
    """
    if (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled(device_type)
        or all_modules._global_forward_hooks
        or all_modules._global_forward_pre_hooks
        or (device_type == "cuda" and torch.cuda.is_current_stream_capturing())
        or not only_numbers(*inputs)
        or any(x.device.type != device_type or x.dtype not in _KNOWN_DTYPES for x in inputs)
    ):
        return None
    there = attrgetter(f"is_{device_type}")  # a third of the time that its device's type takes
    state, modules = [], [module]
    while modules:
        each = modules.pop()
        if (
            type(each) not in _KNOWN_TYPES
            or "forward" in each.__dict__
            or each._forward_hooks
            or each._forward_pre_hooks
        ):
            return None
        for weight in each._parameters.values():
            if weight is not None:
                if weight.is_inference() or not there(weight) or weight.dtype not in _KNOWN_DTYPES:
                    return None
                state.append((weight.data_ptr(), weight._version, weight.stride()))
        modules += [part for part in each._modules.values() if part is not None]
    return state or None


class StandIn:
    """Called as a function of a module, tensors and sizes: computes what it may, to be subclassed.

    Parameters
    ----------
    function : callable
        It reads its arguments and the module's weights, and returns a tensor.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __reduce__(self) -> tuple[type["StandIn"], tuple[Callable[..., Tensor]]]:
        return type(self), (self.function,)  # a copy of the module has weights of its own
