"""A library for each C++ source of this folder: built once by the machine's compiler, then found.

Libraries are kept in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache), under names made of
the source and of what the compiler says of itself and of the processor it builds for: another
compiler, processor or version of the source has a file of its own. A file is loaded only if it is
what was built, by the checksum beside it, and nobody else can have written it; otherwise it is
built again, since running a damaged one ends the process.
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

FLAGS = (
    "-x", "c++", "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-Wno-psabi",
)  # fmt: skip
KERNELS = {
    "dct": ("blocks",),
    "model": ("layer_float32", "blocks_float32", "decoder_float32"),
}
"""What each source must hold; of kernels in bfloat16 not every processor has any."""
PATIENCE = 300.0
"""Seconds that the compiler may take."""


class KernelError(RuntimeError):
    """The kernels cannot be had on this machine; the message says why, in one line."""


def library(source: str) -> ctypes.CDLL:
    """Return the kernels of "dct" or "model", built if they are not yet on disk.

    The compiler takes a tenth of a second for the first and some seconds for the second. It is
    asked once, whether it can or not.

    Raises
    ------
    KernelError
        Where the compiler, $CXX or c++, is missing, takes over five minutes, or does not know the
        source or OpenMP, or where the cache folder cannot be used or is another user's.
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
    path, place = Path(__file__).with_name(f"{source}.cpp"), "the cache folder"
    try:
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        about = _run([*compiler, *FLAGS, "-dM", "-E", os.devnull])
        name = hashlib.sha256(path.read_bytes() + about).hexdigest()[:24]
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "deco_lab"
        place = str(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not _is_private(folder):
            raise PermissionError("it is another user's")
        built = folder / f"{source}-{name}.so"
        checksum = built.with_suffix(".sha256")
        if not _is_as_built(built, checksum):
            with replacing(built) as beside:
                beside.touch()  # or the linker fails for want of the folder
                _run([*compiler, *FLAGS, "-shared", "-fPIC", "-o", str(beside), str(path)])
                beside.chmod(0o700)
                if missing := _missing(beside, source):
                    raise KernelError(f"{compiler[0]}: it built no {missing}")
                digest = _digest(beside)
            with replacing(checksum) as beside:
                beside.write_text(digest, encoding="utf-8")
        return ctypes.CDLL(str(built))
    except (KernelError, ValueError) as error:
        remedy = "install a C++ compiler with OpenMP, or name one in CXX"
        return f"native kernels cannot be built: {error}; {remedy}"
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home
        remedy = "name another folder in XDG_CACHE_HOME"
        return f"native kernels cannot be kept in {place}: {error}; {remedy}"


def _is_private(path: Path) -> bool:
    """Return whether a file or folder is this user's, and no other can write to it."""
    about = path.stat()
    return os.name != "posix" or (about.st_uid == os.geteuid() and not about.st_mode & 0o022)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_as_built(built: Path, checksum: Path) -> bool:
    """Return whether a library is this user's and what its checksum says."""
    try:
        return _is_private(built) and checksum.read_bytes() == _digest(built).encode()
    except FileNotFoundError:
        return False


def _missing(built: Path, source: str) -> str:
    """Return what a compiler that reports no error has not built of a source, or nothing."""
    if not built.stat().st_size:
        return "library"
    loaded = ctypes.CDLL(str(built))
    return next((kernel for kernel in KERNELS[source] if not hasattr(loaded, kernel)), "")


def _run(command: Sequence[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise KernelError(f"{command[0]}: no answer within {PATIENCE:g} s") from None
    except OSError as error:
        raise KernelError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace")
        raise KernelError(f"{command[0]}: {first_line(said or 'it says nothing')}")
    return done.stdout


def first_line(error: Exception | str) -> str:
    """Return the first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
