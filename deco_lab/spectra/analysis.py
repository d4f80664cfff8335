"""What every analysis returns: arrays with their axes, and the recipe they were made by.

An analysis is a frozen dataclass of arrays; `save` writes them to one .npz file together with the
recipe, and `load` gives the same object back:

    analysis = transfer_function(model, images, ...)
    analysis.save("transfer.npz")
    load_analysis("transfer.npz").recipe["weights"]

No pickled code is written or read.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from deco_lab.files import replacing

_HEAD = "analysis.json"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Base of all results: subclasses add arrays (numpy), numbers and strings."""

    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it was made, JSON-ready: the weights' hash, seeds, tap, references, normalisation."""

    _kinds: ClassVar[dict[str, type["Analysis"]]] = {}

    def __init_subclass__(cls) -> None:
        Analysis._kinds[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an .npz file, to the side first, then renamed.

        Parameters
        ----------
        path : str or path
            The file, replaced if it exists; its folder is made if it does not.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
        rest = {name: v for name, v in values.items() if name not in arrays}
        head = json.dumps({"kind": type(self).__name__, "values": rest})
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **{_HEAD: np.array(head)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return what `save` wrote.

        Raises
        ------
        ValueError
            Where the file holds no analysis, or one of another kind.
        """
        found = load_analysis(path)
        if not isinstance(found, cls):
            raise ValueError(
                f"{path} must hold a {cls.__name__}, got a {type(found).__name__}; "
                f"use {type(found).__name__}.load"
            )
        return found


def load_analysis(path: str | os.PathLike[str]) -> Analysis:
    """Return the analysis of whatever kind that `save` wrote.

    Raises
    ------
    ValueError
        Where the file holds none.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            head = json.loads(str(stored[_HEAD]))
            arrays = {name: stored[name] for name in stored.files if name != _HEAD}
        kind = Analysis._kinds[head["kind"]]
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in head["values"].items()
        }
        return kind(**arrays, **values)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"{path} holds no analysis of this version ({type(error).__name__}: {error}); "
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
