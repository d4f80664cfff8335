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
from contextlib import contextmanager
from importlib.resources import as_file, files
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deco_lab.fast.build import first_line

# What PyTorch's reader raises for damaged archives, found by damaging and cutting some.
DAMAGED = (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError)


# Where Lightning keeps what a model and its data were made with, and what a size is called there.
_HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
_SIZE_NAMES = ("image_size", "img_size", "resolution")


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
    text = fspath(name_or_path)
    bundled = files("deco_lab") / "weights" / f"{text}.safetensors"
    if text.startswith("hf://"):
        yield _download(text, check_size)
    elif re.fullmatch(r"[\w-]+", text) and bundled.is_file():
        with as_file(bundled) as path:
            yield path
    else:
        path = Path(text)
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; name a .safetensors or .ckpt file in it")
        if not path.exists() and re.fullmatch(r"[\w-]+", text):
            raise CheckpointError(
                f"name_or_path must be a bundled model ({', '.join(_bundled_names()) or 'none'} "
                f"here), a .safetensors or .ckpt file or hf://owner/repo/file, got {text!r}"
            )
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist; check the path, or load a bundled model"
            )
        yield path


def _bundled_names() -> list[str]:
    """List the models in deco_lab/weights, in alphabetical order."""
    folder = files("deco_lab") / "weights"
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    return sorted(n.removesuffix(".safetensors") for n in names if n.endswith(".safetensors"))


def _download(address: str, check_size: Callable[[int], None]) -> Path:
    # Imported here: not needed for a file on this machine.
    from huggingface_hub import constants, hf_hub_download

    owner, repo, file = [*address.removeprefix("hf://").split("/", 2), "", ""][:3]
    if not (owner and repo and file):
        raise CheckpointError(f"{address} must read hf://owner/repo/file")
    with _hub_errors_as_sentences(address, owner, repo, file):
        found = hf_hub_download(repo_id=f"{owner}/{repo}", filename=file, dry_run=True)
        size = found.file_size or 0
    check_size(size)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if found.will_download and size > free:
        raise CheckpointError(
            f"{address} has {size / 2**30:,.1f} GiB, and {cache} has {free / 2**30:,.1f} GiB free; "
            "make room, or name a folder on another disk in the variable HF_HOME"
        )
    with _hub_errors_as_sentences(address, owner, repo, file):
        return Path(hf_hub_download(repo_id=f"{owner}/{repo}", filename=file))


@contextmanager
def _hub_errors_as_sentences(address: str, owner: str, repo: str, file: str) -> Iterator[None]:
    from huggingface_hub import errors

    # The error class of whichever HTTP library the hub is built on is a base of its own.
    http_errors = cast("tuple[type[Exception], ...]", errors.HfHubHTTPError.__bases__)
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise CheckpointError(
            f"{address} is not in the cache and Hugging Face cannot be reached; "
            "connect to the network once, or pass the path of a file"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{address}: there is no repository {owner}/{repo} that this account may read; "
            "check its name, or log in with `hf auth login`"
        ) from None
    except errors.EntryNotFoundError:
        raise CheckpointError(
            f"{address}: {owner}/{repo} holds no file {file}; look up its name at "
            f"https://huggingface.co/{owner}/{repo}"
        ) from None
    # ValueError and ImportError are what the HTTP library raises for proxies that it cannot use.
    except (*http_errors, ValueError, ImportError, OSError) as error:
        raise CheckpointError(
            f"{address} could not be downloaded ({first_line(error)}); try again later, "
            "or pass the path of a file"
        ) from error


class File(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    """Of a safetensors file."""
    image_size: int | None = None
    """In pixels, where the hyper-parameters of a Lightning file name one."""


def read_file(path: Path, *, tensors: bool = True) -> File:
    """Read a file of either format, told apart by its first bytes; or only what is beside tensors.

    Raises
    ------
    CheckpointError
        For a file that is neither, is damaged, or holds code.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"{path} is empty; download or save it again")
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    if head.startswith(b"version https:/"):
        raise CheckpointError(f"{path} is a Git LFS pointer; run `git lfs pull` to get the file")
    # A safetensors file starts with eight bytes of length, any bytes, and then its JSON header.
    if head[8:9] != b"{" and head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is a bare pickle, which can run code, and is refused; "
            "save its weights as safetensors where you trust it"
        )
    if head[8:9] != b"{":
        raise CheckpointError(
            f"{path} is neither a safetensors file nor a PyTorch checkpoint, or is cut short; "
            "check that it is the right file, and download it again"
        )
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
    return File(tensors, {}, _one_image_size([checkpoint.get(name) for name in _HYPER_PARAMETERS]))


def _one_image_size(values: list[object]) -> int | None:
    """Return the image size that nested plain values name, if they name one and no other."""
    found, seen, left = set(), set(), values
    while left:
        value = left.pop()
        if id(value) in seen:  # a file can hold a list that holds itself
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            for size in (value[name] for name in _SIZE_NAMES if name in value):
                sides = size if isinstance(size, list | tuple) else [size]
                found.update(side for side in sides if type(side) is int and side > 0)
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
    return found.pop() if len(found) == 1 else None
