"""The models that can draw: those that come with the package, a folder's, a published one.

Loaded models stay: the bundled ones are small, and of all others only the newest is kept. A model
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
from deco_lab.setting import RuleError, check_whole, said
from deco_lab.spectra import weights_hash
from deco_lab.workbench.settings import MAX_PIXELS

BUNDLED = {
    "tiny": "a toy: crops of seventeen photographs",
    "tiny-fm": "a toy: crops of seventeen photographs, without the frequency loss",
    "tiny-dit": "a toy: crops of seventeen photographs, without a pixel decoder",
    "fields": "a toy: random fields whose best denoiser is known",
    "fields-dit": "a toy: random fields whose best denoiser is known, without a pixel decoder",
}
"""The models of the package, and what they were trained on."""

PUBLISHED = {
    address: f"ImageNet at {size} x {size}, {address[-8:-5]} epochs"
    for address, size in PUBLISHED_SIZES.items()
}
"""Addresses of the authors' own checkpoints: downloaded once, where someone asks for one."""

SUFFIXES = {".safetensors", ".ckpt"}
_ADDRESS = re.compile(r"hf://\w[\w.-]*/\w[\w.-]*(/\w[\w.-]*)+")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known of a model, JSON-ready."""

    name: str
    """As `Library.entry` takes it."""
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


Entry = tuple[Model, ModelFacts]


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
        other file can, except `first`.
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
        self._models: dict[str, Entry] = {}  # replaced, never changed: others may read it
        self._sizes = dict(PUBLISHED_SIZES)  # and those that persons have told, by name
        if image_size is not None:
            self._sizes[self._first] = image_size
        model = load(first, device=self._device, fast=fast, image_size=image_size)
        self._add(self._first, model)

    def names(self) -> list[str]:
        """Return the names of what can draw at once: what is loaded, and the bundled ones."""
        return list(dict.fromkeys([*self._models, *BUNDLED]))

    def found(self) -> dict[str, Path]:
        """Return the folder's checkpoints by name, in alphabetical order; no link leads out."""
        if self._folder is None or not self._folder.is_dir():
            return {}
        inside = self._folder.resolve()
        return {
            printable(path.relative_to(self._folder).as_posix()): path
            for path in sorted(self._folder.rglob("*"))
            if path.suffix in SUFFIXES
            and path.is_file()
            and path.resolve().suffix in SUFFIXES
            and path.resolve().is_relative_to(inside)
        }

    def get(self, name: str) -> Model:
        """Return a model by name, as `entry`."""
        return self.entry(name)[0]

    def facts(self, name: str) -> ModelFacts:
        """Return what is known of a model, as `entry`."""
        return self.entry(name)[1]

    def entry(self, name: str, *, may_fetch: bool = False) -> Entry:
        """Return a model and what is known of it, read from this machine if need be.

        Who needs both asks once: by a second question another model may have taken this one's
        place. Unless it may be, nothing is fetched.

        Raises
        ------
        ValueError
            For a name that is not known, or a model that cannot be loaded; what was loaded stays.
        """
        if entry := self._loaded(name):
            return entry
        path = self._path(name)
        if path is None and name not in BUNDLED and not may_fetch:
            raise ValueError(
                f"{name[:200]} must be loaded before it draws; do so in the Models tab"
            )
        with self._loading:
            if entry := self._loaded(name):  # by another meanwhile
                return entry
            return self._add(name, self._load(name, path, self._sizes.get(name)))

    def load(self, name: str, image_size: int | None = None) -> Entry:
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
        return [facts for _, facts in self._models.values()]

    def _loaded(self, name: str) -> Entry | None:
        if not isinstance(name, str):  # a script may send anything
            raise RuleError("model", f"must be the name of a model, got {said(name)}")
        return self._models.get(name)

    def _path(self, name: str) -> Path | None:
        """Return the folder's file of a name; None for bundled names and hf:// addresses."""
        if name in BUNDLED or _ADDRESS.fullmatch(name):
            return None
        if path := self.found().get(name):
            return path
        raise RuleError(
            "model",
            f"must be one of {', '.join(self.names())}, a .safetensors or .ckpt "
            f"file in the folder of models, or hf://owner/repo/file, got {said(name)}",
        )

    def _load(self, name: str, path: Path | None, image_size: int | None) -> Model:
        if path is not None:
            if path.suffix == ".safetensors" and printable(str(path)) != str(path):
                raise ValueError(
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
        except (ValueError, OSError) as error:
            # The name stands for the path, which is nobody else's business.
            text = str(error).replace(str(path), name) if path else str(error)
            raise ValueError(text) from error

    def _check_room(self, name: str, size: int) -> None:
        """Raise ValueError where a file of some bytes would not fit beside what is loaded."""
        # Beside the model itself; on a CPU its kernels have a copy of the weights.
        room = 2.2 if self._fast and self._device.type == "cpu" else 1.2
        needed, free = int(room * size), _free_memory(self._device)
        if free is not None and needed > free:
            raise ValueError(
                f"{name} needs about {needed / 2**30:.1f} GiB of memory, and {self._device} has "
                f"{free / 2**30:.1f} GiB free; close other programs, or take a smaller model"
            )

    def _add(self, name: str, model: Any) -> Entry:
        names = tuple(map(printable, model.config.class_names))
        model.config = dataclasses.replace(model.config, class_names=names)
        stay = {self._first, *BUNDLED}
        kept = {k: v for k, v in self._models.items() if k in stay or name in stay}
        self._models = kept | {name: (model, _facts(name, model))}
        _free()
        return self._models[name]


@contextmanager
def out_of_memory_as_sentence(
    sentence: str = "the run must fit into memory, and did not; take fewer images, or a smaller "
    "model",
) -> Iterator[None]:
    """Raise ValueError(sentence) where memory ends on the way, and give back what can be."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _ENDED.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)  # their tensors would live as long as it
        _free()
        raise ValueError(sentence) from error


# What PyTorch says in a plain RuntimeError where memory ends, on the CPU and in libraries.
_ENDED = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED")


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
    data = printable(str(data.get("name", ""))[:200]) if isinstance(data, dict) else ""
    trained_on = BUNDLED.get(name) or PUBLISHED.get(name) or data
    steps = training.get("step", training.get("steps"))
    decoder = "none"
    if hasattr(config, "decoder_depth"):
        decoder = f"{config.decoder_depth} blocks of width {config.decoder_width}"
    return ModelFacts(
        name=name,
        kind=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        **{field: getattr(config, field) for field in _OF_CONFIG},
        decoder=decoder,
        trained_on=trained_on or "its file does not say on what",
        steps=steps if isinstance(steps, int) else None,
        device=str(parameter.device),
        dtype=str(parameter.dtype).removeprefix("torch."),
        weights=weights_hash(model),
    )


_OF_CONFIG = (
    "image_size", "image_size_assumed", "patch_size", "num_classes", "class_names", "depth",
    "hidden_size", "num_heads",
)  # fmt: skip
