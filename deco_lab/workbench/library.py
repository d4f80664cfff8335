"""The models that can draw: those that come with the package, a folder's, a published one.

Loaded models stay: the bundled ones are small, and of all others the newest alone is kept. A model
is put in another's place only once it has loaded, so that whatever goes wrong is a sentence, and
what drew before goes on drawing.

A run, or a link that starts one, may name a file of the folder, which is then read; only `load`,
that is a person who asks for it, makes this machine fetch something.
"""

import dataclasses
import math
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import torch

from deco_lab.checkpoints import choose_device, load
from deco_lab.checkpoints.files import local_file
from deco_lab.checkpoints.store import PUBLISHED_SIZES
from deco_lab.fast.graphs import empty_cache
from deco_lab.files import printable
from deco_lab.models import Model
from deco_lab.spectra import weights_hash
from deco_lab.workbench.settings import MAX_PIXELS, check_whole

BUNDLED = {
    "tiny": "a toy: crops of fourteen photographs",
    "tiny-fm": "a toy: crops of fourteen photographs, without the frequency loss",
    "tiny-dit": "a toy: crops of fourteen photographs, without a pixel decoder",
    "fields": "a toy: random fields whose best denoiser is known",
    "fields-dit": "a toy: random fields whose best denoiser is known, without a pixel decoder",
}
"""The models of the package, and what they were trained on."""

PUBLISHED = {
    "hf://zehongma/DeCo/imagenet256_epoch320.ckpt": "ImageNet at 256 x 256, 320 epochs",
    "hf://zehongma/DeCo/imagenet256_epoch600.ckpt": "ImageNet at 256 x 256, 600 epochs",
    "hf://zehongma/DeCo/imagenet256_epoch800.ckpt": "ImageNet at 256 x 256, 800 epochs",
    "hf://zehongma/DeCo/imagenet512_epoch340.ckpt": "ImageNet at 512 x 512, 340 epochs",
}
"""Addresses of the authors' own checkpoints: downloaded once, where someone asks for one."""

SUFFIXES = (".safetensors", ".ckpt")
_ADDRESS = re.compile(r"hf://\w[\w.-]*/\w[\w.-]*(/\w[\w.-]*)+")
_ROOM = 1.2  # times a file's size: what loading takes beside the model
_ROOM_FAST = 2.2  # on a CPU, whose kernels have a copy of the weights


class ModelError(ValueError):
    """A model that cannot be had; the message says why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model, JSON-ready."""

    name: str
    """As `Library.get` takes it."""
    kind: str
    """"DeCo" or "DiT"."""
    parameters: int
    image_size: int
    image_size_assumed: bool = False
    """Whether that is a guess, since neither the file nor a person has said."""
    patch_size: int
    num_classes: int
    class_names: tuple[str, ...]
    """Empty where the file has none."""
    depth: int
    """Blocks of the DiT."""
    hidden_size: int
    num_heads: int
    """Attention heads of the DiT."""
    decoder: str
    """Depth and width of the pixel decoder, or that there is none."""
    trained_on: str
    steps: int | None
    """Training steps; None where the file does not say."""
    device: str
    dtype: str
    weights: str
    """Hash of the weights: tells two checkpoints apart, whatever their file."""


class Library:
    """Models by name, each loaded when it is first asked for.

    Parameters
    ----------
    first : str
        A bundled name, a file's path or an hf:// address: loaded at once.
    device : str, optional
        For all of them; by default the best there is.
    folder : path, optional
        Its .safetensors and .ckpt files, and those in folders of it, can be loaded by name. No
        other file can, but for `first`.
    fast : bool
        Load them as `deco_lab.load(..., fast=True)` does.
    image_size : int, optional
        Of `first`, as for `deco_lab.load`.

    Raises
    ------
    ValueError, OSError
        As `deco_lab.load`, for `first`.
    """

    def __init__(
        self,
        first: str = "tiny",
        device: str | None = None,
        folder: Path | None = None,
        fast: bool = False,
        image_size: int | None = None,
    ) -> None:
        self._fast = fast
        self._device = choose_device(device)
        self._folder = folder
        self._first = printable(first)
        self._first_path = Path(first) if Path(first).is_file() else None
        self._loading = Lock()  # held while a model is read, which may take minutes
        self._lock = Lock()  # held for moments, around the two dictionaries
        self._models: dict[str, tuple[Model, ModelFacts]] = {}
        self._sizes = dict(PUBLISHED_SIZES)  # and those that persons have told, by name
        if image_size is not None:
            self._sizes[self._first] = image_size
        model = load(first, device=self._device, fast=fast, image_size=image_size)
        self._add(self._first, model)

    def names(self) -> list[str]:
        """Return the names of what can draw at once: what is loaded, and the bundled ones."""
        with self._lock:
            return list(dict.fromkeys([*self._models, *BUNDLED]))

    def found(self) -> list[str]:
        """Return the names of the folder's files, in alphabetical order, at most 200."""
        return list(self._files())

    def _files(self) -> dict[str, Path]:
        if self._folder is None or not self._folder.is_dir():
            return {}
        files = (path for path in self._folder.rglob("*") if path.suffix in SUFFIXES)
        inside = sorted(path for path in files if path.is_file() and self._is_inside(path))
        return {printable(path.relative_to(self._folder).as_posix()): path for path in inside[:200]}

    def get(self, name: str) -> Model:
        """Return a model by name, as `entry`."""
        return self.entry(name)[0]

    def facts(self, name: str) -> ModelFacts:
        """Return what is known of a model, as `entry`."""
        return self.entry(name)[1]

    def entry(self, name: str, *, may_fetch: bool = False) -> tuple[Model, ModelFacts]:
        """Return a model and what is known of it, read from this machine if need be.

        Who needs both asks once: by a second question another model may have taken this one's
        place. Unless it may be, nothing is fetched.

        Raises
        ------
        ModelError
            For a name that is not known, or a model that cannot be loaded; what was loaded stays.
        """
        if entry := self._loaded(name):
            return entry
        path = self._path(name)
        if name.startswith("hf://") and not may_fetch:
            raise ModelError(
                f"{name[:200]} must be loaded before it draws; do so in the Models tab"
            )
        with self._loading:
            if entry := self._loaded(name):  # by another meanwhile
                return entry
            return self._add(name, self._load(name, path, self._sizes.get(name)))

    def load(self, name: str, image_size: int | None = None) -> tuple[Model, ModelFacts]:
        """Return a model and what is known of it, fetched if its name is an hf:// address.

        Where an image_size is told, the file is read again with it, and so it is from then on.

        Raises
        ------
        ValueError
            As `entry`, and for an image_size at which no image could be drawn.
        """
        if image_size is None:
            return self.entry(name, may_fetch=True)
        check_whole("image_size", image_size, 1, math.isqrt(MAX_PIXELS))
        path = self._first_path if name == self._first else self._path(name)
        with self._loading:
            model = self._load(name, path, image_size)
            self._sizes[name] = image_size
            return self._add(name, model)

    def all_facts(self) -> list[ModelFacts]:
        """Return what is known of each model that can draw at once, in the order of `names`."""
        for name in BUNDLED:
            self.entry(name)
        with self._lock:
            return [facts for _, facts in self._models.values()]

    def _loaded(self, name: str) -> tuple[Model, ModelFacts] | None:
        if not isinstance(name, str):  # a script may send anything
            raise ModelError(f"model must be the name of a model, got {str(name)[:60]}")
        with self._lock:
            return self._models.get(name)

    def size(self, name: str) -> int | None:
        """Return the bytes of a name's file in the folder; None for other models."""
        path = None if self._loaded(name) else self._path(name)
        return None if path is None else path.stat().st_size

    def _path(self, name: str) -> Path | None:
        """Return the folder's file of a name; None for bundled names and hf:// addresses."""
        if name in BUNDLED or _ADDRESS.fullmatch(name):
            return None
        try:
            path = self._folder / name if self._folder is not None else None
            if path is not None and path.is_file() and self._is_inside(path):
                return path
        except OSError:  # such as a name that is too long
            pass
        if "\\" in name and (path := self._files().get(name)):  # not as the system has it
            return path
        raise ModelError(
            f"model must be one of {', '.join(self.names())}, a .safetensors or .ckpt "
            f"file in the folder of models, or hf://owner/repo/file, got {name[:80]!r}"
        )

    def _is_inside(self, path: Path) -> bool:
        """Return whether a file lies in the folder and is a checkpoint, links followed."""
        assert self._folder is not None
        real = path.resolve()
        return real.suffix in SUFFIXES and real.is_relative_to(self._folder.resolve())

    def _load(self, name: str, path: Path | None, image_size: int | None) -> Model:
        if path is not None:
            if path.suffix == ".safetensors" and printable(str(path)) != str(path):
                raise ModelError(
                    f"{name} must have a path in UTF-8, as the library that reads such files asks; "
                    "rename it"
                )
            self._check_room(name, path.stat().st_size)
        try:
            too_large = (
                f"{name} must fit into the memory of {self._device}, and does not; close other "
                "programs, or take a smaller model"
            )
            fits = partial(self._check_room, name)
            with out_of_memory_as_sentence(too_large), local_file(path or name, fits) as file:
                return load(file, device=self._device, fast=self._fast, image_size=image_size)
        except ModelError:
            raise
        except (ValueError, OSError) as error:
            # The name stands for the path, which is nobody else's business.
            said = str(error).replace(str(path), name) if path else str(error)
            raise ModelError(said) from error

    def _check_room(self, name: str, size: int) -> None:
        """Raise ModelError where a file of some bytes would not fit beside what is loaded."""
        room = _ROOM_FAST if self._fast and self._device.type == "cpu" else _ROOM
        needed, free = int(room * size), _free_memory(self._device)
        if free is not None and needed > free:
            raise ModelError(
                f"{name} needs about {needed / 2**30:.1f} GiB of memory, and {self._device} has "
                f"{free / 2**30:.1f} GiB free; close other programs, or take a smaller model"
            )

    def _add(self, name: str, model: Any) -> tuple[Model, ModelFacts]:
        names = tuple(map(printable, model.config.class_names))
        model.config = dataclasses.replace(model.config, class_names=names)
        entry = (model, _facts(name, model))
        with self._lock:
            stays = {name, self._first, *BUNDLED}
            if name not in {self._first, *BUNDLED}:
                self._models = {k: v for k, v in self._models.items() if k in stays}
            self._models[name] = entry
        _free()
        return entry


@contextmanager
def out_of_memory_as_sentence(
    sentence: str = "the run must fit into memory, and did not; take fewer images, or a smaller "
    "model",
) -> Iterator[None]:
    """Raise ValueError(sentence) where memory ends on the way, and give back what can be."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # their tensors would live as long as it
        _free()
        raise ValueError(sentence) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ended: on the CPU PyTorch raises a RuntimeError like any other."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return re.search(r"out of memory|can't allocate memory|ALLOC_FAILED", str(error)) is not None


def _free() -> None:
    if torch.cuda.is_initialized():
        empty_cache()


def _free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where nobody can tell."""
    if device.type == "cuda":  # what the driver has, and what PyTorch keeps for itself
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available if device.type == "cpu" else None


def _facts(name: str, model: Any) -> ModelFacts:
    config, training = model.config, model.trained
    parameter = next(model.parameters())
    data = training.get("data")
    trained_on = BUNDLED.get(name) or PUBLISHED.get(name)
    if trained_on is None and isinstance(data, dict):
        trained_on = printable(str(data.get("name", ""))[:200])
    steps = training.get("step", training.get("steps"))
    depth, width = (getattr(config, f"decoder_{what}", None) for what in ("depth", "width"))
    return ModelFacts(
        name=name,
        kind=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        image_size=config.image_size,
        image_size_assumed=config.image_size_assumed,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        class_names=tuple(config.class_names),
        depth=config.depth,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        decoder="none" if depth is None else f"{depth} blocks of width {width}",
        trained_on=trained_on or "its file does not say on what",
        steps=steps if isinstance(steps, int) else None,
        device=str(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        weights=weights_hash(model),
    )
