"""The native kernels of `kernels.cpp`: built once by the machine's compiler, then found on disk.

The library is kept in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache), under a name made of
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

import torch
from torch import Tensor

from deco_lab.files import replacing

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = (
    "-x", "c++", "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-Wno-psabi",
)  # fmt: skip
LANES, TOGETHER = 16, 48
"""Tokens side by side, and columns that are finished together, as in the source."""


class KernelError(RuntimeError):
    """The kernels cannot be had on this machine; the message says why, in one line."""


@lru_cache(maxsize=1)
def kernels() -> ctypes.CDLL:
    """Return the library, built if it is not yet on disk, which takes a second or two.

    Raises
    ------
    KernelError
        Where the compiler, $CXX or c++, is missing, or does not know the source or OpenMP, or where
        the cache folder cannot be used.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        about = _run([*compiler, *FLAGS, "-dM", "-E", os.devnull])
        name = hashlib.sha256(SOURCE.read_bytes() + about).hexdigest()[:24]
    except (OSError, ValueError) as error:
        raise KernelError(_no_kernels(str(error))) from error
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "deco_lab"
    library = folder / f"kernels-{name}.so"
    try:
        if not library.exists():
            with replacing(library) as beside:
                _run([*compiler, *FLAGS, "-shared", "-fPIC", "-o", str(beside), str(SOURCE)])
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise KernelError(
            f"native kernels cannot be kept in {folder}: {error}; name another folder in "
            "XDG_CACHE_HOME"
        ) from error


def _run(command: Sequence[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise KernelError(_no_kernels(f"{command[0]}: {said[0]}"))
    return done.stdout


def _no_kernels(why: str) -> str:
    return (
        f"native kernels cannot be built: {why}; install a C++ compiler with OpenMP, or name one "
        "in CXX"
    )


def has_bfloat16() -> bool:
    """Return whether the kernels multiply in bfloat16 on this processor."""
    return hasattr(kernels(), "trunk_bfloat16")


def call(kernel: str, narrow: bool, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Run the kernel "layer", "trunk" or "decoder" on contiguous tensors, in its own order.

    Its products are in bfloat16 where `narrow`, otherwise in float32.
    """
    for tensor in tensors:
        if not (tensor.is_cpu and tensor.is_contiguous() and tensor.data_ptr() % 64 == 0):
            raise ValueError(f"tensors must be contiguous on the CPU, got one of {tensor.shape}")
    function = getattr(kernels(), f"{kernel}_{'bfloat16' if narrow else 'float32'}")
    numbers = (*sizes, torch.get_num_threads())
    function(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        (ctypes.c_int64 * len(numbers))(*numbers),
    )


def in_lanes(rows: Tensor) -> Tensor:
    """Return rows (..., M, C) as float32 lanes, (..., ceil(M / 16), C, 16), filled with zeros."""
    whole = rows.float()
    if missing := -rows.shape[-2] % LANES:
        whole = torch.nn.functional.pad(whole, (0, 0, 0, missing))
    return whole.unflatten(-2, (-1, LANES)).transpose(-1, -2).contiguous()


def from_lanes(lanes: Tensor, count: int) -> Tensor:
    """Return the first `count` rows, (..., count, C), of `in_lanes`."""
    return lanes.transpose(-1, -2).flatten(-3, -2)[..., :count, :]


def packed(weight: Tensor, narrow: bool) -> Tensor:
    """Return the weight of a linear layer, (J, K), as the kernels read it.

    That is (K, J) in float32, or where `narrow` (K / 2, J) in int32, each two of bfloat16.
    """
    columns = weight.detach().T
    if not narrow:
        return columns.float().contiguous()
    pairs = columns.to(torch.bfloat16).unflatten(0, (-1, 2)).transpose(1, 2).contiguous()
    return pairs.view(torch.int32)[..., 0]
