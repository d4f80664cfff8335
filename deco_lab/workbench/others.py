"""Other pictures whose condition and pixels stand for "without", in the parts of one image.

x'_t = t * picture + (1 - t) * noise        s' = condition(x'_t, t, label)

A constant in place of an input is nothing that a decoder was trained on; another picture's input at
the same t is. They are pictures of the same class where the app has such.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from deco_lab.config import FIELDS, PHOTOGRAPHS
from deco_lab.data import CropSampler, FieldSampler, load_photograph
from deco_lab.flow import interpolate
from deco_lab.spectra.factorial import answers, four_parts

_STREAM = 0x0DECC0
"""Added to a seed: the crop of that seed itself is none of the others."""


@dataclass(frozen=True)
class Others:
    """R noisy pictures; on the model's device."""

    images: Tensor
    """(R, 3, S, S), in [-1, 1]."""
    noise: Tensor
    """(R, 3, S, S)."""
    label: int
    """What the model is told of all of them."""
    said: str
    """What they are, in a few words."""

    def pixels(self, t: float) -> Tensor:
        """Return what the model is given at t, (R, 3, S, S)."""
        return interpolate(self.images, self.noise, t)

    def condition(self, model: Any, t: float) -> Tensor:
        """Return the conditions that the DiT makes of them at t, (R, N, D)."""
        x, R = self.pixels(t), len(self.images)
        labels = torch.full((R,), self.label, device=x.device)
        return model.condition(x, x.new_full((R,), t), labels)


def taken_apart(
    model: Any, x: Tensor, condition: Tensor, t: float, pixels: Tensor, conditions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return velocity and predicted image of one image, and their parts in each draw of others.

    Costs 3 R + 1 passes of the decoder for one image.

    Parameters
    ----------
    model : object
        With `decode(x, condition)`.
    x, condition : Tensor
        (1, 3, S, S) and (1, N, D), the image's.
    t : float
        In [0, 1].
    pixels, conditions : Tensor
        (R, 3, S, S) and (R, N, D), what stands for none of each, or one for all.

    Returns
    -------
    whole, draws : Tensor
        (2, 3, S, S) and (4, 2, R, 3, S, S), as of `answers` and `four_parts`.
    """
    R = max(len(pixels), len(conditions))
    at = x.new_full((R,), t)
    whole = answers(model, x, condition, at[:1])
    x, condition, pixels, conditions = (
        value.expand(R, *value.shape[1:]) for value in (x, condition, pixels, conditions)
    )
    return whole[:, 0], four_parts(model, whole, x, condition, at, pixels, conditions)


def others_of(
    config: Any, class_id: int, *, count: int, seed: int = 0, device: Any = "cpu"
) -> Others:
    """Return other pictures for a model's class.

    Parameters
    ----------
    config : object
        The model's, with `image_size`, `num_classes` and `class_names`.
    class_id : int
        From 0 to num_classes, the null class. Of a class of bundled photographs or fields come
        other crops or fields of it; else there are no pictures of it here, and crops of several
        photographs stand in, of which the model is told no class.
    count : int
        R.
    seed : int
        Of the choice and of the noise.
    device : torch.device or str
        The model's.
    """
    names = tuple(config.class_names)
    names = names if names in (PHOTOGRAPHS, FIELDS) else ()
    images, noise, said = _pictures(names, config.image_size, class_id, count, seed)
    label = class_id if class_id < len(names) else config.num_classes
    return Others(images.to(device), noise.to(device), label, said)


@lru_cache(maxsize=32)
def _pictures(
    names: tuple[str, ...], size: int, class_id: int, count: int, seed: int
) -> tuple[Tensor, Tensor, str]:
    """Return the pictures and their noise, on the CPU, and what they are."""
    generator = torch.Generator().manual_seed(_STREAM + seed)
    of_class = class_id < len(names)
    classes = FIELDS if names == FIELDS else PHOTOGRAPHS
    order = torch.randperm(len(classes), generator=generator)
    chosen = torch.full((count,), class_id) if of_class else order[:count]
    if names == FIELDS:
        images = FieldSampler(size).sample(count, generator, chosen).images
    else:  # only those that are cut from: reading them all takes seconds
        found, of = chosen.unique(return_inverse=True)
        read = [load_photograph(PHOTOGRAPHS[i]) for i in found.tolist()]
        images = CropSampler(read, size).sample(count, generator, of).images
    kind = "fields" if names == FIELDS else "crops"
    if of_class:
        said = f"{count} other {kind} of the class {names[class_id]}"
    elif names:
        said = f"{count} {kind} of several classes, told no class"
    else:
        said = (
            f"{count} crops of bundled photographs, told no class, since the app has no pictures "
            "of this model's classes"
        )
    noise = torch.randn(images.shape, generator=generator)
    return images, noise, said
