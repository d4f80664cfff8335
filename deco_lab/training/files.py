"""Files of a run that are whole at any moment: written to the side, then renamed.

A run that is killed while it writes leaves the older file in place, and beside it a part that the
next run in the folder removes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LEFTOVERS = (
    "state.pt.part",
    "loss.csv.part",
    "loss.png.part",
    "preview.png.part",
    "evaluation.csv.part",
    ".model.safetensors.*.tmp",
)
"""Of a run's own files alone: a run may be kept in a folder that holds others."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write to, which takes the place of `path` once it is whole."""
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left half written in its folder."""
    for pattern in _LEFTOVERS:
        for path in folder.glob(pattern):
            path.unlink()
