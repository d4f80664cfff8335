"""A library for each source of this folder: built once by the machine's compiler, then found.

Libraries are kept in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache), under names made of
the source and of what the compiler says of itself and of the processor it builds for: another
compiler, processor or version of the source has a file of its own.
"""

import ctypes
import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor
from torch.autograd import forward_ad

from deco_lab.files import replacing

SOURCES = Path(__file__).parent
FLAGS = (
    "-x", "c++", "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-Wno-psabi",
)  # fmt: skip


class KernelError(RuntimeError):
    """The kernels cannot be had on this machine; the message says why, in one line."""


def library(source: str) -> ctypes.CDLL:
    """Return the kernels of "dct" or "model", built if they are not yet on disk.

    The compiler takes a tenth of a second for the first and some seconds for the second. It is
    asked once, whether it can or not.

    Raises
    ------
    KernelError
        Where the compiler, $CXX or c++, is missing, or does not know the source or OpenMP, or where
        the cache folder cannot be used.
    """
    with _ONE_AT_A_TIME:
        found = _found(source)
    if isinstance(found, str):
        raise KernelError(found)
    return found


_ONE_AT_A_TIME = Lock()


@lru_cache
def _found(source: str) -> ctypes.CDLL | str:
    """Return the library, or why it cannot be had."""
    path = SOURCES / f"{source}.cpp"
    try:
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        about = _run([*compiler, *FLAGS, "-dM", "-E", os.devnull])
        name = hashlib.sha256(path.read_bytes() + about).hexdigest()[:24]
    except (KernelError, OSError, ValueError) as error:
        return _cannot_be("built", error, "install a C++ compiler with OpenMP, or name one in CXX")
    elsewhere = "name another folder in XDG_CACHE_HOME"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:  # nobody's home
        return _cannot_be("kept", error, elsewhere)
    built = cache / "deco_lab" / f"{source}-{name}.so"
    try:
        if not built.exists():
            with replacing(built) as beside:
                beside.touch()  # or the linker fails for want of the folder
                _run([*compiler, *FLAGS, "-shared", "-fPIC", "-o", str(beside), str(path)])
        return ctypes.CDLL(str(built))
    except KernelError as error:
        return _cannot_be("built", error, "install a C++ compiler with OpenMP, or name one in CXX")
    except OSError as error:
        return _cannot_be(f"kept in {built.parent}", error, elsewhere)


def _cannot_be(done: str, error: Exception, remedy: str) -> str:
    return f"native kernels cannot be {done}: {error}; {remedy}"


def _run(command: Sequence[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise KernelError(f"{command[0]}: {said[0]}")
    return done.stdout


def only_numbers(*tensors: Tensor) -> bool:
    """Return whether tensors are no more than the numbers in their memory.

    They are more under autograd and function transforms, and while PyTorch traces or counts.
    """
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or torch._C._len_torch_dispatch_stack()  # type: ignore[attr-defined]
        or torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
        or forward_ad._current_level >= 0
    ) and all(
        type(x) is Tensor and not x.is_neg() and not (x.requires_grad and torch.is_grad_enabled())
        for x in tensors
    )


def call(source: str, kernel: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Run a kernel on contiguous tensors, in its own order, with PyTorch's number of threads."""
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.is_contiguous()):
            raise ValueError(f"tensors must be contiguous on the CPU, got one of {tensor.shape}")
    numbers = (*sizes, torch.get_num_threads())
    getattr(library(source), kernel)(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        (ctypes.c_int64 * len(numbers))(*numbers),
    )
