"""Files that are whole at any moment: written to the side, then renamed.

A process that is killed while it writes leaves the older file in place, and beside it a hidden
part, `.name.1a2b3c4d.tmp`, which `remove_leftovers` finds by the name.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a file to write to, which takes the place of `path` once it is written to the end.

    Parameters
    ----------
    path : str or path
        The file, replaced if it exists; its folder is made if it does not.

    Yields
    ------
    Path
        Beside `path`, with a name that no other process uses. Where the block raises it is
        removed, and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what killed processes left half written of a file.

    Parameters
    ----------
    path : str or path
        The file, or a pattern of files in one folder, such as "out/*.png".
    """
    path = Path(path)
    for leftover in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}.tmp"):
        leftover.unlink(missing_ok=True)
