"""Pictures of a dataset at Hugging Face, or of local shards: parquet, arrow or webdataset tars.

The rows stay in the library's memory-mapped table and are decoded when they are asked for, so a
dataset may be much larger than memory.
"""

import glob
import os
import re
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deco_lab.data.decoding import UnreadablePictureError, open_picture
from deco_lab.data.pictures import PictureDataset, PictureSplits, hold_out

_SHARDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
"""What the library calls the format of a shard, by its suffix."""
_PLAIN_LABELS = ("label", "cls")
"""Columns taken as labels where none is declared to be one; webdataset's convention is "cls"."""


def read_dataset(
    name: str,
    *,
    split: str = "train",
    image_column: str = "",
    label_column: str = "",
    held_out: float = 0.1,
) -> PictureSplits:
    """Return the pictures of a dataset, in a share to train on and one to measure against.

    Parameters
    ----------
    name : str
        A dataset at Hugging Face ("uoft-cs/cifar10"); or local shards, which need no network: a
        .parquet, .arrow or .tar (webdataset) file, a pattern ("shards/*.tar"), or a folder of them.
    split : str
        Of the dataset; local shards are all "train", of which "train[:10%]" is a part.
    image_column : str, optional
        Column of the pictures; the one of type Image when not given.
    label_column : str, optional
        Column of the labels, whole numbers or strings; when not given the one of type ClassLabel,
        or else "label" or "cls". Labels without names are named by their values. The classes are
        those that have rows, in order.
    held_out : float
        Share of the rows to hold out, in [0, 1), decided by a row's number; every class of two or
        more rows has at least one held out, unless the share is 0.

    Returns
    -------
    PictureSplits
        Nothing is decoded up front, so `unreadable` and `passed_over` are empty: `PictureCrops`
        passes over the pictures that cannot be read, and counts them.

    Raises
    ------
    ValueError
        Where the library `datasets` is not installed, there is no such dataset, split or column,
        the choice of a column is not clear, or a row has no label.
    """
    try:
        import datasets
        from datasets import config, exceptions
    except ModuleNotFoundError as error:
        raise ValueError(
            'datasets are read with the library datasets; pip install "deco-lab[train]"'
        ) from error

    config.HF_UPDATE_DOWNLOAD_COUNTS = False  # or local shards send the hub a request, too
    shards = _local_shards(name)
    try:
        if shards:
            kind = _SHARDS[Path(shards[0]).suffix.lower()]
            files = [glob.escape(shard) for shard in shards]  # they are taken as patterns
            table = datasets.load_dataset(kind, data_files=files, split=split)
        else:
            table = datasets.load_dataset(name, split=split)
    # RuntimeError: of a dataset that would run code of its own, which the library refuses.
    except (OSError, ValueError, RuntimeError, TarError, exceptions.DatasetsError) as error:
        generating = isinstance(error, exceptions.DatasetGenerationError)
        cause = (error.__cause__ if generating else None) or error  # that one says nothing itself
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise ValueError(
            f"{name} ({split}) could not be read ({reason}); check its name and split, and for a "
            "dataset at Hugging Face the network"
        ) from error

    image_column, label_column = _columns(table.features, image_column, label_column)
    labels, class_names = _labels(table, label_column)
    images = table.select_columns([image_column])
    try:
        images = images.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"image_column must hold a picture in each row, got {image_column} "
            f"({_type_name(table.features[image_column])}); name another"
        ) from error
    pictures = PictureDataset(
        lambda index: _decode(images[index][image_column]),
        labels,
        class_names,
        lambda index: f"row {index} of {name} ({split})",
    )
    away = hold_out(labels, [str(row) for row in range(len(labels))], held_out)
    return PictureSplits(pictures.select(~away), pictures.select(away))


def _local_shards(name: str) -> list[str]:
    """Return the local files that a name stands for, or none where it is a name at the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in _SHARDS]
    elif path.is_file():
        files = [path]
    elif path.suffix.lower() in _SHARDS or glob.has_magic(path.name):
        files = path.parent.glob(path.name)
    elif re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        return []
    else:
        raise ValueError(f"{name} does not exist, and is no owner/name at Hugging Face; check it")
    files = sorted(map(str, files))
    kinds = {Path(file).suffix.lower() for file in files}
    if len(kinds) != 1 or not kinds <= set(_SHARDS):
        raise ValueError(
            f"{name} must stand for shards of one kind, {', '.join(_SHARDS)}, "
            f"got {', '.join(sorted(kinds)) or 'no file'}; a folder of pictures by class is no "
            "dataset: give it as data (read_folder)"
        )
    for file in files if kinds == {".tar"} else ():
        _check_whole_tar(file)
    return files


def _check_whole_tar(path: str) -> None:
    """Raise ValueError unless the file ends as tars do; cut between two entries it seems whole."""
    with open(path, "rb") as file:
        first = file.read(512)
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1024))
        end = file.read()
    if first.startswith(b"\x1f\x8b"):  # gzip, which notices by itself that it is cut
        return
    if any(end) or len(end) < 1024 or not any(first):
        raise ValueError(f"{path} is no tar file, cut short or empty; fetch or write it again")


def _columns(features: Any, image: str, label: str) -> tuple[str, str]:
    """Return the columns of the pictures and of the labels, those given or those of the type."""
    import datasets

    listed = ", ".join(f"{column} ({_type_name(kind)})" for column, kind in features.items())
    images = [c for c, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [c for c, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [column for column in _PLAIN_LABELS if column in features]
    for argument, given, found, kind in (
        ("image_column", image, images, "Image"),
        ("label_column", label, labels, "ClassLabel"),
    ):
        if given and given not in features:
            raise ValueError(f"{argument} must be one of the columns {listed}, got {given!r}")
        if not given and len(found) != 1:
            raise ValueError(
                f"{len(found) or 'no'} columns are of type {kind}; "
                f"name the {argument}, one of {listed}"
            )
    return image or images[0], label or labels[0]


def _type_name(kind: Any) -> str:
    return getattr(kind, "dtype", None) or type(kind).__name__


def _labels(table: Any, column: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the labels of all rows, counted from 0, and the names of the classes."""
    kind = table.features[column]
    named = hasattr(kind, "names")
    if not named and not re.match(r"u?int|(large_)?string", _type_name(kind)):
        raise ValueError(
            f"label_column must hold whole numbers or strings, got {column} ({_type_name(kind)})"
        )
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pandas()
    unlabelled = int((values.isna() | (named & (values == -1))).sum())
    if unlabelled or not len(values):
        raise ValueError(
            f"every row must have a label, got {unlabelled} of {len(values)} without one in "
            f"{column}; take another split or column"
        )
    found, labels = np.unique(values, return_inverse=True)
    return labels, tuple(kind.names[value] if named else str(value) for value in found)


def _decode(stored: dict[str, Any] | None) -> Image.Image:
    """Return the picture of a row, which holds its bytes or the path of a file."""
    held = (stored["path"] if stored["bytes"] is None else stored["bytes"]) if stored else None
    if held is None:
        raise UnreadablePictureError("the row holds no picture")
    return open_picture(held)
