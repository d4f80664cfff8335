"""Labelled pictures of any source, each decoded to RGB when it is asked for."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Names(Protocol):
    """A name for each picture: a list, or something that makes them as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures of any source.

    Raises
    ------
    ValueError
        Where the labels are not whole numbers below the number of class names, or the names are
        not as many as the labels.
    """

    open: Callable[[int], Image.Image]
    """Decodes the picture at an index to RGB, as `open_picture` does; it may be called from several
    threads at once, and raises `UnreadablePictureError`."""
    labels: NDArray[np.int64]
    """(count,), the class of each picture."""
    class_names: tuple[str, ...]
    """One name for each class."""
    names: Names
    """What to call each picture in a message."""

    def __post_init__(self) -> None:
        labels, classes = self.labels, len(self.class_names)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels must be a row of whole numbers, got {labels.dtype} of shape {labels.shape}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"labels must lie in 0 to {classes - 1}, one class name for each, "
                f"got {labels.min()} to {labels.max()}"
            )
        if len(self.names) != len(labels):
            raise ValueError(
                f"names must be as many as the labels, {len(labels)}, got {len(self.names)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: NDArray[np.bool_]) -> "Pictures":
        """Return the pictures where `chosen`, (count,), is true."""
        indices = np.flatnonzero(chosen)
        return Pictures(
            lambda index: self.open(int(indices[index])),
            self.labels[indices],
            self.class_names,
            _Chosen(self.names, indices),
        )


class _Chosen:
    """Some of the names."""

    def __init__(self, names: Names, indices: NDArray[np.int64]) -> None:
        self._names, self._indices = names, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int, /) -> str:
        return self._names[int(self._indices[index])]


class Folder(NamedTuple):
    """The pictures of a folder or a dataset, in two disjoint shares."""

    training: Pictures
    """To train on; it has a picture of every class."""
    held_out: Pictures
    """To measure against. Where a class has a single picture, none of that class."""
    unreadable: Mapping[str, str]
    """Why pictures are left out that cannot be decoded, by their names."""
    passed_over: Mapping[str, int]
    """How many files and folders were not looked into, by their kind: a suffix such as ".heic", or
    what else is told in words."""


def hold_out(labels: NDArray[np.int64], keys: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return which pictures to hold out, (count,): those whose key's hash falls into `share`.

    A picture's own key decides, so pictures that are added later do not move the others, but for
    one: every class of two or more has at least one picture on either side, that of the smallest
    and that of the largest hash. A class of one picture has none held out, and `share` 0 none.

    Parameters
    ----------
    labels : array
        (count,), the class of each picture.
    keys : sequence of str
        What tells a picture from the others of its class, and stays.
    share : float
        In [0, 1).

    Raises
    ------
    ValueError
        Where `share` lies outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out must be a share in [0, 1), got {share}; 0.1 is a tenth")
    hashes = (sha256(os.fsencode(key)).digest()[:8] for key in keys)
    places = np.array([int.from_bytes(digest) for digest in hashes], np.float64) / 2.0**64
    chosen = places < share
    for label in np.unique(labels) if share else ():
        members = np.flatnonzero(labels == label)
        chosen[members[places[members].argmin()]] = True
        chosen[members[places[members].argmax()]] = False
    return chosen
