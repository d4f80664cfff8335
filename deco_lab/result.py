"""What every analysis returns: arrays with their axes and intervals, and how they were made.

A result is a frozen dataclass of arrays, estimates, numbers and strings; `save` writes them to one
.npz file together with the recipe, and `load` gives the same object back:

    found = band_response(model, crops)
    found.gain[0].low
    found.save("response.npz")
    load_result("response.npz").recipe["weights"]

No pickled code is written or read.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from deco_lab.files import replacing

_HEAD = "analysis.json"
_ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Estimate:
    """A figure, or an array of them, with its 95% interval, pointwise, and of how many images."""

    value: Any
    low: Any
    """Lower ends, in the shape of the values; NaN where nothing tells the spread."""
    high: Any
    """Upper ends."""
    count: int = field(default=0, kw_only=True)
    """Images; trainings, where the interval is over those."""

    @property
    def ends(self) -> tuple[Any, Any, Any]:
        """Value, low and high, to be unpacked."""
        return self.value, self.low, self.high

    def __getitem__(self, index: Any) -> "Estimate":
        return Estimate(self.value[index], self.low[index], self.high[index], count=self.count)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator["Estimate"]:
        return (self[i] for i in range(len(self)))

    def __format__(self, spec: str) -> str:
        said = [format(float(end), spec) for end in self.ends]
        # No sign before a zero.
        value, low, high = (s if float(s.rstrip("%")) else s.lstrip("-") for s in said)
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Base of all results: subclasses add arrays (numpy), estimates, numbers and strings."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, JSON-ready: the weights' hash, seeds, tap, baselines, normalisation."""

    _kinds: ClassVar[dict[str, type["Result"]]] = {}

    def __init_subclass__(cls) -> None:
        Result._kinds[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an .npz file, to the side first, then renamed.

        Parameters
        ----------
        path : str or path
            The file, replaced if it exists; its folder is made if it does not.
        """
        arrays, rest, estimates = {}, {}, {}
        for name, value in ((f.name, getattr(self, f.name)) for f in fields(self)):
            if isinstance(value, Estimate):
                estimates[name] = value.count
                for end, array in zip(_ENDS, value.ends, strict=True):
                    arrays[f"{name}.{end}"] = array
            elif isinstance(value, np.ndarray):
                arrays[name] = value
            else:
                rest[name] = value
        kind = type(self).__name__
        head = json.dumps({"kind": kind, "values": rest, "estimates": estimates})
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **{_HEAD: np.array(head)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return what `save` wrote.

        Raises
        ------
        ValueError
            Where the file holds no result, or one of another kind.
        """
        found = load_result(path)
        if not isinstance(found, cls):
            raise ValueError(
                f"{path} must hold a {cls.__name__}, got a {type(found).__name__}; "
                f"use {type(found).__name__}.load"
            )
        return found


def load_result(path: str | os.PathLike[str]) -> Result:
    """Return the result of whatever kind that `save` wrote.

    Raises
    ------
    ValueError
        Where the file holds none.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            head = json.loads(str(stored[_HEAD]))
            values: dict[str, Any] = {
                name: stored[name] for name in stored.files if name != _HEAD and "." not in name
            }
            for name, count in head["estimates"].items():
                ends = {end: stored[f"{name}.{end}"] for end in _ENDS}
                values[name] = Estimate(**ends, count=count)
        for name, value in head["values"].items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return Result._kinds[head["kind"]](**values)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"{path} holds no result of this version ({type(error).__name__}: {error}); "
            "compute it again and save it"
        ) from error


def weights_hash(model: Any) -> str:
    """Return the first 16 digits of the SHA-256 of a model's named weights; "" without any.

    Tells two checkpoints apart, whatever their file; the device does not matter, the dtype does.
    """
    if not hasattr(model, "state_dict"):
        return ""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:16]


def tensor_hash(tensor: Tensor) -> str:
    """Return the first 16 digits of the SHA-256 of a tensor's type, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(_bytes_of(tensor))
    return digest.hexdigest()[:16]


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes()
