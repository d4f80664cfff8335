"""What a model is trained on and measured against: photographs, a folder by class, or a dataset.

Beside the crops stands a record of them that a checkpoint keeps: two runs with the same record saw
the same pictures, cut alike.
"""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deco_lab.config import FIELDS, PHOTOGRAPHS
from deco_lab.data.crops import SCALE_RANGE, CropSampler, CropSource, PictureCrops
from deco_lab.data.dataset import read_dataset
from deco_lab.data.fields import FieldSampler
from deco_lab.data.photographs import load_photograph
from deco_lab.data.pictures import read_folder
from deco_lab.files import printable


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which pictures to train on, and how to cut them."""

    data: str = ""
    """Folder with one sub-folder of pictures for each class, or "fields" for images drawn without
    end, whose best denoiser is known (a folder of that name is ./fields)."""
    dataset: str = ""
    """Dataset at Hugging Face (owner/name), or local shards: .parquet, .arrow or .tar files, a
    pattern or a folder of them."""
    split: str = "train"
    """Split of the dataset."""
    image_column: str = ""
    """Column of the dataset's pictures; the only one of that type when empty."""
    label_column: str = ""
    """Column of the dataset's labels; the only one of that type when empty."""
    held_out: float = 0.1
    """Share of the pictures kept from training, to measure against; the bundled photographs are all
    trained on."""
    crop: str = "random"
    """Where the square window lies in a picture: "random" or "center"."""
    crop_scale: tuple[float, float] | None = None
    """Shorter side of a resized picture, smallest and largest, in image sizes: 1.1 2.6 for the
    bundled photographs and 1 1 for others when not given."""
    flip: bool = True
    """Whether half of the crops are flipped left to right."""


@dataclass(frozen=True)
class Source:
    """Crops, and what is known of the pictures they are cut from."""

    crops: CropSource
    """What a trainer draws from."""
    record: dict[str, object]
    """Name, counts, classes, a dataset's split and columns, and the way of cutting, JSON-ready."""
    fresh: CropSource | None
    """What to measure against, cut alike from the held-out pictures; None where none are held out.
    Of the bundled photographs and the fields what is trained on: other seeds draw others."""
    left_out: tuple[str, ...] = ()
    """What to tell a person of files that are not used, as `PictureSplits.left_out`."""


def open_source(config: SourceConfig, image_size: int, device: torch.device) -> Source:
    """Return the crops that `config` asks for, of `image_size` pixels, on `device`.

    Raises
    ------
    ValueError
        Where the pictures cannot be had, or options contradict each other.
    """
    if config.data and config.dataset:
        raise ValueError(
            f"data and dataset exclude each other, got {config.data} and {config.dataset}; give one"
        )
    if config.data == "fields":
        fields = FieldSampler(image_size, device=device)
        return Source(fields, {"name": "fields", "classes": list(FIELDS)}, fields)
    bundled = not (config.data or config.dataset)
    if config.crop not in (("random",) if bundled else ("random", "center")):
        raise ValueError(
            f"crop must be random, or center with data or dataset, got {config.crop!r}"
        )
    scale = config.crop_scale or (SCALE_RANGE if bundled else (1.0, 1.0))
    how: dict[str, Any] = {"scale_range": scale, "flip": config.flip, "device": device}
    rows, left_out = {}, ()
    if bundled:
        photographs = [load_photograph(name) for name in PHOTOGRAPHS]
        crops = fresh = CropSampler(photographs, image_size, class_names=PHOTOGRAPHS, **how)
        name, counts, held_out = "photographs of scikit-image", [1] * len(PHOTOGRAPHS), 0
    else:
        if config.data:
            name = os.path.basename(os.path.normpath(config.data))
            found = read_folder(config.data, held_out=config.held_out)
        else:
            name = config.dataset
            columns = ("split", "image_column", "label_column")
            rows = {each: getattr(config, each) for each in columns}
            found = read_dataset(name, held_out=config.held_out, **rows)
        held_out, left_out = len(found.held_out), found.left_out()
        crops = PictureCrops(found.training, image_size, crop=config.crop, **how)
        fresh = (
            PictureCrops(found.held_out, image_size, crop=config.crop, **how) if held_out else None
        )
        counts = np.bincount(found.training.labels, minlength=crops.num_classes).tolist()
    record = {
        "name": printable(name),
        "classes": list(crops.class_names),
        "pictures": sum(counts),
        "pictures_by_class": counts,
        "held_out": held_out,
        "crop": config.crop,
        "crop_scale": list(scale),
        "flip": config.flip,
        "held_out_share": 0.0 if bundled else config.held_out,
        **rows,
    }
    return Source(crops, record, fresh, left_out)
