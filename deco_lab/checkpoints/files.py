"""Files that may hold a model: finding them, and reading their tensors without running code.

Bundled models lie in `deco_lab/weights`, published ones at Hugging Face. A safetensors file and a
PyTorch archive are told apart by their first bytes; archives are read by PyTorch's `weights_only`
reader, which refuses everything but tensors and plain values.
"""

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from importlib.resources import as_file, files
from os import PathLike, fspath
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deco_lab.fast.build import first_line

# What PyTorch's reader raises for damaged archives, found by damaging and cutting some.
DAMAGED = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError)


# Where Lightning keeps what a model and its data were made with, and what a size is called there.
_HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
_SIZE_NAMES = ("image_size", "img_size", "resolution")

PATIENCE = 3.5
"""Seconds that Hugging Face has to say what it knows of a file: its library would ask six times,
for half a minute or more where there is no network."""


class CheckpointError(ValueError):
    """A file that does not hold a model; the message names the file and the remedy."""


@contextmanager
def local_file(
    name_or_path: str | PathLike[str], check_size: Callable[[int], None] = lambda size: None
) -> Iterator[Path]:
    """Give the file on this machine that a bundled name, a path or an hf:// address stands for.

    `check_size` takes the bytes of a file at Hugging Face, before any of it is downloaded, and
    raises where they are too many.
    """
    text, weights = fspath(name_or_path), files("deco_lab") / "weights"
    is_name, path = re.fullmatch(r"[\w-]+", text), Path(text)
    if text.startswith("hf://"):
        yield _download(text, check_size)
    elif is_name and (weights / f"{text}.safetensors").is_file():
        with as_file(weights / f"{text}.safetensors") as bundled:
            yield bundled
    elif path.is_dir():
        raise CheckpointError(f"{path} is a folder; name a .safetensors or .ckpt file in it")
    elif path.exists():
        yield path
    elif is_name:
        names = sorted(Path(item.name) for item in weights.iterdir())
        bundled = ", ".join(name.stem for name in names if name.suffix == ".safetensors")
        raise CheckpointError(
            f"name_or_path must be a bundled model ({bundled} here), a .safetensors or .ckpt file "
            f"or hf://owner/repo/file, got {text!r}"
        )
    else:
        raise FileNotFoundError(f"{path} does not exist; check the path, or load a bundled model")


def _download(address: str, check_size: Callable[[int], None]) -> Path:
    # Imported here: not needed for a file on this machine.
    from huggingface_hub import constants, errors, hf_hub_download

    owner, repo, file = [*address.removeprefix("hf://").split("/", 2), "", ""][:3]
    if not (owner and repo and file):
        raise CheckpointError(f"{address} must read hf://owner/repo/file")
    unreachable = (
        "is not in the cache and Hugging Face cannot be reached; connect to the network once, or "
        "pass the path of a file"
    )
    reasons: dict[type[Exception], str] = {
        errors.LocalEntryNotFoundError: unreachable,
        errors.OfflineModeIsEnabled: unreachable,
        errors.RepositoryNotFoundError: f"is in no repository {owner}/{repo} that this account may "
        "read; check its name, or log in with `hf auth login`",
        errors.EntryNotFoundError: f"is not there: {owner}/{repo} holds no file {file}; look up "
        f"its name at https://huggingface.co/{owner}/{repo}",
    }
    # The error class of whichever HTTP library the hub is built on is a base of its own; what that
    # library raises for proxies that it cannot use are ValueError and ImportError.
    http_errors = cast("tuple[type[Exception], ...]", errors.HfHubHTTPError.__bases__)

    def fetch(**how: bool) -> Any:
        try:
            return hf_hub_download(repo_id=f"{owner}/{repo}", filename=file, **how)  # type: ignore[call-overload]
        except (*reasons, *http_errors, ValueError, ImportError, OSError) as error:
            other = (
                f"could not be downloaded ({first_line(error)}); try again later, or pass the path "
                "of a file"
            )
            known = (said for kind, said in reasons.items() if isinstance(error, kind))
            raise CheckpointError(f"{address} {next(known, other)}") from error

    how = {}
    try:
        found = _within(PATIENCE, partial(fetch, dry_run=True))
    except TimeoutError:
        how = {"local_files_only": True}
        found = fetch(dry_run=True, **how)
    cache = Path(constants.HF_HUB_CACHE).absolute()
    size = found.file_size or 0
    check_size(size)
    free = shutil.disk_usage(next(f for f in (cache, *cache.parents) if f.exists())).free
    if size > free and found.will_download:
        raise CheckpointError(
            f"{address} has {size / 2**30:,.1f} GiB, and {cache} has {free / 2**30:,.1f} GiB free; "
            "make room, or name a folder on another disk in the variable HF_HOME"
        )
    return Path(fetch(**how))


_T = TypeVar("_T")


def _within(seconds: float, function: Callable[[], _T]) -> _T:
    """Return what a function returns; raise TimeoutError where it takes longer, and let it be."""
    answer: Future[_T] = Future()

    def work() -> None:
        try:
            answer.set_result(function())
        except BaseException as error:  # which the caller raises
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result(seconds)


class File(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    """Of a safetensors file."""
    image_size: int | None = None
    """In pixels, where a Lightning file's hyper-parameters name one."""


def read_file(path: Path, *, tensors: bool = True) -> File:
    """Read a file of either format, told apart by its first bytes; or only what is beside tensors.

    Raises
    ------
    CheckpointError
        For a file that is neither, is damaged, or holds code.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    # A safetensors file starts with eight bytes of length, any bytes, and then its JSON header.
    if head[8:9] != b"{":
        others = {
            b"version https:/": "is a Git LFS pointer; run `git lfs pull` to get the file",
            b"\x80": "is a bare pickle, which can run code, and is refused; save its weights as "
            "safetensors where you trust it",
            b"": "is neither a safetensors file nor a PyTorch checkpoint, or is cut short; check "
            "that it is the right file, and download it again",
        }
        reason = next(said for start, said in others.items() if head.startswith(start))
        raise CheckpointError(f"{path} {reason}")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()
            return File({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is cut short or damaged ({first_line(error)}); download or save it again"
        ) from error


def json_object(path: Path, key: str, text: str) -> dict[str, object]:
    """Return the object that a file's metadata says under a key."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}: {key} is not valid JSON ({error}); save it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {key} must be a JSON object, got {value!r}; save it again")
    return value


def _read_archive(path: Path) -> File:
    misnamed = path.suffix == ".safetensors"  # PyTorch believes the name
    try:
        with path.open("rb") as file:
            checkpoint = torch.load(
                file if misnamed else path, "cpu", weights_only=True, mmap=not misnamed
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        code = f"pickled code ({found[1]})" if found else "a damaged pickle"
        raise CheckpointError(
            f"{path} holds {code} and is refused; "
            "download it again, or save its weights as safetensors where you trust it"
        ) from error
    except DAMAGED as error:
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or is cut short or damaged "
            f"({first_line(error)}); check that it is the right file, and download it again"
        ) from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(
            f"{path} holds no state_dict of tensors; use a Lightning checkpoint or safetensors"
        )
    tensors = {str(name): tensor for name, tensor in state.items()}
    return File(tensors, {}, _image_size([checkpoint.get(name) for name in _HYPER_PARAMETERS]))


def _image_size(values: list[object]) -> int | None:
    """Return the image size that nested plain values name, if they name one and no other."""
    found: set[int] = set()
    seen: set[int] = set()  # a file can hold a list that holds itself
    for value in values:  # which grows
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            for size in (value[name] for name in _SIZE_NAMES if name in value):
                sides = size if isinstance(size, list | tuple) else [size]
                found.update(side for side in sides if type(side) is int and side > 0)
            values += value.values()
        elif isinstance(value, list | tuple):
            values += value
    return found.pop() if len(found) == 1 else None
