"""What images are drawn of, as a model takes it: nothing else looks inside.

    model(x, t, labels.values)              of the labels
    model(x, t, labels.null)                of nothing at all
    model([x, x], [t, t], labels.both)      of the one and the other, in one pass

Today these are class ids, (B,), and the null class; text features, (B, L, W), and those of a
negative prompt go the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from deco_lab.setting import check_whole


@dataclass(frozen=True, eq=False)
class Labels:
    """What a batch of images is of."""

    values: Tensor
    """(B, ...), what the model takes."""
    null: Tensor | None = None
    """(B, ...), what it takes where an image is of nothing; None where it knows no such thing."""

    def __len__(self) -> int:
        return len(self.values)

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


def same_labels(values: Tensor | None, others: Tensor) -> bool:
    """Return whether a model is given the same labels, in the same memory or by their values."""
    if values is None or values.shape != others.shape:
        return False
    # By their values only where they are in other memory: for values the host waits.
    return values.is_set_to(others) or torch.equal(values, others)


def class_labels(class_ids: Any, num_classes: int | None) -> Labels:
    """Return labels of classes; the null class is `num_classes`.

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
        raise ValueError(
            f"class_ids must be at most {num_classes - 1}, since the model knows {num_classes} "
            f"classes, got {max(ids)}"
        )
    return Labels(torch.tensor(ids), torch.full((len(ids),), num_classes))
