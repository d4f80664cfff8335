"""What images are drawn of, as a model takes it: nothing else looks inside.

    model(x, t, labels.values)              of the labels
    model(x, t, labels.null)                of nothing at all
    model([x, x], [t, t], labels.both)      of the one and the other, in one pass

Today these are class ids, (B,), and the null class; text features, (B, L, W), and those of a
negative prompt go the same way: whoever takes class_ids takes `Labels` too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from deco_lab.setting import RuleError, check_whole


@dataclass(frozen=True, eq=False)
class Labels:
    """What a batch of images is of."""

    values: Tensor
    """(B, ...), what the model takes."""
    null: Tensor | None = None
    """(B, ...), what it takes where an image is of nothing; None where it knows no such thing."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        null = None if self.null is None else self.null[rows]
        return type(self)(self.values[rows], null)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    def to(self, device: torch.device | str) -> Self:
        """Return the same labels on another device."""
        null = None if self.null is None else self.null.to(device)
        return type(self)(self.values.to(device), null)

    @cached_property
    def both(self) -> Tensor:
        """(2 B, ...), the values and then the null: one tensor, by which a model knows it again."""
        assert self.null is not None
        return torch.cat([self.values, self.null])

    @cached_property
    def kinds(self) -> Tensor:
        """(B,), int64, on the CPU: a number for each image, the same for those of one label."""
        return self.values.cpu().unique(dim=0, return_inverse=True)[1]

    def listed(self) -> Any:
        """Return what they are for a recipe, JSON-ready: class ids, and all else by hash."""
        values = self.values.cpu()
        if values.ndim == 1:
            return values.tolist()
        return [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in values.float()]


def same_labels(values: Tensor | None, others: Tensor) -> bool:
    """Return whether a model is given the same labels, in the same memory or by their values."""
    if values is None or values.shape != others.shape:
        return False
    # By their values only where they are in other memory: for values the host waits.
    return values.is_set_to(others) or torch.equal(values, others)


def check_null(labels: Labels, model: Any) -> Tensor:
    """Return what a model takes for nothing, (B, ...); raise ValueError where it has no such."""
    if labels.null is None:
        raise ValueError(
            "model must have a null class, model.config.num_classes, "
            f"which a {type(model).__name__} has not; pass a class-conditional model"
        )
    return labels.null


def null_rows(labels: Tensor, model: Any) -> Tensor:
    """Return which of the labels that a model is given, (B, ...), are its null class, (B,)."""
    return labels == getattr(getattr(model, "config", None), "num_classes", -1)


def labels_of(class_ids: Any, count: int, model: Any = None) -> Labels:
    """Return `count` labels, on the device where they are; the null class is one too.

    Parameters
    ----------
    class_ids : Tensor, sequence of int, or Labels
        (count,); what is `Labels` already is taken as it is.
    count : int
        Images.
    model : object, optional
        Whose `config.num_classes`, if it has one, is the null class.

    Raises
    ------
    ValueError
        Where they are not so many whole numbers, or one is no label of the model's.
    """
    if isinstance(class_ids, Labels):
        if len(class_ids) != count:
            raise ValueError(
                f"labels must be one for each of {count} images, got {len(class_ids)}; repeat them"
            )
        return class_ids
    values = torch.as_tensor(class_ids)
    if values.shape != (count,) or values.is_floating_point():
        raise ValueError(
            f"class_ids must be one whole number for each image, shape ({count},), "
            f"got {tuple(values.shape)} of {values.dtype}; repeat a label for every image"
        )
    known = getattr(getattr(model, "config", None), "num_classes", None)
    on_host = values.cpu()  # where a GPU is waited for once
    least, most = int(on_host.min()), int(on_host.max())
    if least < 0 or (known is not None and most > known):
        rule = "at least 0" if known is None else f"from 0 to {known}, the null class"
        raise ValueError(
            f"class_ids must be {rule}, got {least} to {most}; take them from config.class_names"
        )
    values = values.long()
    return Labels(values, None if known is None else torch.full_like(values, known))


def class_labels(class_ids: Any, num_classes: int | None) -> Labels:
    """Return labels of classes to draw; the null class is `num_classes`, and none of them.

    Parameters
    ----------
    class_ids : sequence of int or Tensor
        One label for each image, from 0 to num_classes - 1.
    num_classes : int or None
        How many classes the model knows; None where it does not say, and has no null class.

    Raises
    ------
    ValueError
        Where there is none, or one that is no label of the model's.
    """
    values = class_ids.tolist() if hasattr(class_ids, "tolist") else class_ids
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) == 0:
        raise ValueError(
            f"class_ids must be one label for each image, got {class_ids!r}; pass a list like [0]"
        )
    ids = [check_whole("each of class_ids", value, 0) for value in values]
    if num_classes is None:
        return Labels(torch.tensor(ids))
    if max(ids) >= num_classes:
        raise RuleError(
            "class_ids",
            f"must be at most {num_classes - 1}, since the model knows {num_classes} "
            f"classes, got {max(ids)}",
        )
    return Labels(torch.tensor(ids), torch.full((len(ids),), num_classes))
