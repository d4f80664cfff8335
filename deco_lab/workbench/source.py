"""Where a picture comes from that is looked into: a photograph, the last run, or a person."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deco_lab.config import PHOTOGRAPHS, ModelConfig
from deco_lab.data import CropSampler, bundled_crops
from deco_lab.setting import check_choice, check_whole
from deco_lab.workbench.record import Paused, Record
from deco_lab.workbench.sessions import Sessions

SOURCES = ("photograph", "last run", "own picture")


class Chosen(NamedTuple):
    """A picture to look into, and how."""

    image: Tensor
    """(3, S, S) in [-1, 1]."""
    class_id: int
    """What the model is to be told."""
    seed: int
    noisy: Tensor | None = None
    """(3, S, S), of the last run: where it stood at t, in place of image and noise."""
    t: float | None = None
    said: str = ""
    """Which step of the last run that is, in a sentence or two."""


def choose(
    sessions: Sessions,
    session: str,
    config: ModelConfig,
    source: str,
    class_id: int,
    index: int,
    seed: int,
    step: int | None = None,
) -> Chosen:
    """Return what a session looks into with a model.

    Parameters
    ----------
    sessions, session
        Where the last run and the picture of one's own are kept, and under which name.
    config : ModelConfig
        The model's.
    source : str
        One of SOURCES.
    class_id, seed : int
        What the picture shows; of a photograph also which one, and which crop of it.
    index : int
        Which image of the last run, from 1; it has its own class.
    step : int, optional
        Which step of the last run, taken where it began: from 0, the noise, to the last that was
        taken. When not given, where the run was stopped, or where its last step began.

    Raises
    ------
    ValueError
        For an argument that breaks its rule, or where the picture is missing or of another model.
    """
    check_choice("source", source, SOURCES)
    check_whole("seed", seed, 0, 2**31)
    if source == "last run":
        return _of_run(sessions.kept(session), config, index, seed, step)
    if source == "photograph":
        image = photograph(config.image_size, class_id, seed)
    else:
        image = prepare(sessions.picture(session), config.image_size)
    return Chosen(image, class_id, seed)


def _of_run(record: Record, config: ModelConfig, index: int, seed: int, step: int | None) -> Chosen:
    check_whole("image", index, 1, len(record.images))
    if step is not None:
        check_whole("step", step, 0, record.num_steps)
    same = ("image_size", "num_classes", "class_names")
    if any(record.model[name] != getattr(config, name) for name in same):
        raise ValueError(
            "the last run must be of a model with the same classes and image size, so that its "
            f"label means the same, got one of {record.settings.model}; draw with this model first"
        )
    (x, t), said = _state(record, step)
    label = record.settings.labels[index - 1]
    image = record.images[index - 1].clamp(-1, 1)
    return Chosen(image, label, seed, x[index - 1], t, f"Image {index} of the last run, {said}")


def _state(record: Record, step: int | None) -> tuple[Paused, str]:
    """Return the state of a run where a step began, and the same in words."""
    last = record.num_steps
    if step is None:
        is_left = record.paused_at == last  # something to draw
        where = f"it stopped after step {last}" if is_left else f"step {last}, its last, began"
        return record.paused, f"where {where}."
    found, state = record.began(step)
    said = f"where step {found} began."
    if found != max(1, step):
        said += f" It is the nearest to step {step} whose state is still kept."
    return state, said


def photograph(image_size: int, class_id: Any, seed: int) -> Tensor:
    """Return the seed's crop of a bundled photograph, (3, image_size, image_size) in [-1, 1].

    Raises
    ------
    ValueError
        For a class_id that is none of a bundled photograph.
    """
    last = len(PHOTOGRAPHS) - 1
    check_whole("class_id", class_id, 0, last, "; only photographs that are bundled have a crop")
    generator = torch.Generator().manual_seed(seed)
    return _photographs(image_size).sample(1, generator, torch.tensor([class_id])).images[0]


def prepare(picture: Image.Image, image_size: int) -> Tensor:
    """Return a picture's centre square as an image, (3, S, S) in [-1, 1], reduced without aliasing.

    Parameters
    ----------
    picture : PIL.Image.Image
        Such as `deco_lab.data.open_picture` returns, which turns it upright and opaque.
    image_size : int
        S, in pixels.
    """
    # Pillow's bicubic filter widens with the reduction.
    square = ImageOps.fit(
        picture.convert("RGB"), (image_size, image_size), Image.Resampling.BICUBIC
    )
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1


@lru_cache(maxsize=2)
def _photographs(image_size: int) -> CropSampler:
    """Return the sampler, kept: resizing seventeen photographs takes longer than a model."""
    return bundled_crops(image_size)
