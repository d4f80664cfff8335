"""A GPU that is none: a CPU computes, and what a real one would refuse is refused.

    with Device("cuda") as device:            # or "mps", which knows no float64
        model.cuda()(x.cuda(), ...)
    device.waits                              # where the host waited for it, and how often

A tensor of the device holds one of the CPU, on which its operations are run. They refuse tensors
of two devices and a generator of the other. What lets the host wait (`item`, a copy to the device
or from it, a mask as an index) is counted with the line of the package that asked for it. Of
`torch.cuda` there is what a model needs, but no streams and no graphs; autocast and torch.compile
leave everything as it is.

It stands on a part of PyTorch that is not public, a backend written in Python; `MISSING` says so
where there is none. As a plugin of pytest (`-p simulated`) it gives every test such a device.
"""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

_SETUP = "_setup_privateuseone_for_python_backend"
_THERE = torch.device("privateuseone", 0)
MISSING = ""
if hasattr(backend_registration, _SETUP):
    getattr(backend_registration, _SETUP)("simulated")
    _THERE = torch.device("simulated", 0)
else:
    MISSING = f"needs torch.utils.backend_registration.{_SETUP}: use PyTorch 2.13"

_PACKAGE = str(Path(__file__).parents[1] / "deco_lab")
_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default}
_TELLING = {
    _aten._local_scalar_dense.default, _aten._unique2.default, _aten.equal.default,
    _aten.is_nonzero.default, _aten.masked_select.default, _aten.nonzero.default,
    _aten.repeat_interleave.Tensor,
}  # fmt: skip
"""Operations whose result, or its size, the host is told."""
_STRICT = {_aten.cat.default, _aten.stack.default}
"""Operations that refuse even a single number of another device."""


class _Held(Tensor):
    """A tensor of the device, whose numbers are in `on_cpu`."""

    on_cpu: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> "_Held":
        held = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, on_cpu.shape, strides=on_cpu.stride(), storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype, device=_THERE,
        )  # fmt: skip
        held.on_cpu = on_cpu
        return held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"a tensor of a simulated device outlived it, and met {function}")

    def __reduce_ex__(self, protocol):
        return self.on_cpu.detach().__reduce_ex__(protocol)  # for a file, which knows no devices


class _Generator(torch.Generator):
    """A CPU's generator that says where it is."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        generator = super().__new__(cls, device="cpu")
        generator.place = torch.device(device)
        return generator

    device = property(lambda self: self.place)  # type: ignore[assignment]


class Device:
    """A device of one kind, which is there while it is entered."""

    def __init__(self, kind: str = "cuda") -> None:
        self.kind = kind
        self.waits: Counter[str] = Counter()
        """By line of the package and reason."""

    def __enter__(self) -> "Device":
        self._open = ExitStack()
        in_a_thread = threading.Thread.run

        def run(thread: threading.Thread) -> None:
            with _Operations(self), _Functions(self):  # modes are a thread's own
                in_a_thread(thread)

        replaced: dict[str, Any] = {
            f"torch.{self.kind}.is_available": lambda: True,
            "torch.autocast": lambda *_, **__: nullcontext(),
            "torch.compile": lambda function, **_: function,
            "torch.nn.Module.compile": lambda *_, **__: None,
            "torch.Generator": _Generator,
            "threading.Thread.run": run,
        }
        if self.kind == "cuda":
            replaced |= {
                "torch.cuda.device_count": lambda: 1,
                "torch.cuda.is_bf16_supported": lambda **_: True,
                "torch.cuda.is_current_stream_capturing": lambda: False,
                "torch.cuda.synchronize": lambda *_: self.wait("synchronize"),
                "torch.Tensor.cuda": lambda tensor: tensor.to("cuda"),
                "torch.nn.Module.cuda": lambda module: module.to("cuda"),
            }
        for name, value in replaced.items():
            self._open.enter_context(mock.patch(name, value))
        self._open.enter_context(_Operations(self))
        self._open.enter_context(_Functions(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def wait(self, why: str) -> None:
        """Count that the host waits, where it is the package that lets it."""
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        if frame is not None:
            file = Path(frame.f_code.co_filename).relative_to(_PACKAGE)
            self.waits[f"{file}:{frame.f_lineno} {why}"] += 1


class _Operations(TorchDispatchMode):
    """Runs every operation of the device on the CPU, once it has been found right."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        given = [isinstance(tensor, _Held) for tensor in tensors]
        if function is _aten.copy_.default:
            there = given[0]
        else:
            there = any(given) if kwargs.get("device") is None else kwargs["device"] == _THERE
        if not there and not any(given):
            return function(*args, **kwargs)
        self._check(function, tensors, given)
        self._count(function, args, given, there)
        if there and kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        on_cpu = pytree.tree_map_only(_Held, lambda each: each.on_cpu, (args, kwargs))
        result = function(*on_cpu[0], **on_cpu[1])
        if not there:
            return result
        result = pytree.tree_map_only(Tensor, self._held, result)
        return return_and_correct_aliasing(function, args, kwargs, result)

    def _held(self, result: Tensor) -> Tensor:
        if self.device.kind == "mps" and result.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"an mps device has no {result.dtype}")
        return _Held(result.clone() if result._is_zerotensor() else result)

    def _check(self, function: Any, tensors: list[Tensor], given: list[bool]) -> None:
        numbers_go = function not in _STRICT
        strays = [
            tensor
            for tensor, is_held in zip(tensors, given, strict=True)
            if not is_held and not (numbers_go and tensor.ndim == 0)
        ]
        if strays and function not in _COPIES and not (function in _INDEXED and given[0]):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{self.device.kind}:0 and cpu, of {function}"
            )

    def _count(self, function: Any, args: Any, given: list[bool], there: bool) -> None:
        if function in _TELLING:
            self.device.wait(function.overloadpacket.__name__)
        elif function in _COPIES and not all(given) | (not there):
            self.device.wait("up" if there else "down")
        elif function in _COPIES and not there:
            self.device.wait("down")
        elif function in _INDEXED and any(
            index is not None and (index.dtype == torch.bool or not isinstance(index, _Held))
            for index in args[1]
        ):
            self.device.wait("index")


class _Functions(TorchFunctionMode):
    """Gives the device the name of what it stands for."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kind, kwargs = self.device.kind, dict(kwargs or {})
        if args and isinstance(args[0], _Held):
            if function == Tensor.device.__get__:  # type: ignore[attr-defined]
                return torch.device(kind, 0)
            if function == getattr(Tensor, f"is_{kind}").__get__:
                return True
            if function in (Tensor.numpy, Tensor.__array__):
                raise TypeError(f"can't convert {kind}:0 device type tensor to numpy")
            if function is Tensor.tolist:
                return args[0].cpu().tolist()
            if function in (Tensor.__getitem__, Tensor.__setitem__):
                args = (args[0], _without_lists(args[1]), *args[2:])
        if function is torch.device:
            return function(*args, **kwargs)
        args, kwargs = pytree.tree_map(self._renamed, (args, kwargs))
        if function in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            place = kwargs.pop("device")
            result = function(*args, **kwargs)
            return result if place is None else result.to(place)
        result = function(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and (generator.device.type == kind) != isinstance(result, _Held):
            raise RuntimeError(f"Expected another device of generator than {generator.device}")
        return result

    def _renamed(self, leaf: Any) -> Any:
        place = isinstance(leaf, str | torch.device) and str(leaf).partition(":")[0]
        return _THERE if place == self.device.kind else leaf


def _without_lists(index: Any) -> Any:
    """Return an index whose lists are tensors of the device, as PyTorch makes them."""
    if isinstance(index, tuple):
        return tuple(map(_without_lists, index))
    return torch.tensor(index).to(_THERE) if isinstance(index, list) else index


def pytest_configure(config: pytest.Config) -> None:
    """Let modules that are imported see a GPU."""
    patch = mock.patch("torch.cuda.is_available", return_value=True)
    patch.start()
    config.add_cleanup(patch.stop)


@pytest.fixture(autouse=True)
def device() -> Iterator[Device]:
    """The device of a test."""
    with Device() as device:
        yield device
