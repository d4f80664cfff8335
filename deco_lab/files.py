"""Files that are whole at any moment, written to the side, then renamed; and names for printing.

A process that is killed while it writes leaves the older file in place, and beside it a hidden
part, `.name.1a2b3c4d.tmp`, which `remove_leftovers` finds by the name.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError


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

    Raises
    ------
    OSError
        Where it cannot be written; the message names `path`.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("r+b") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what libraries raise where `path` cannot be written into one sentence that names it.

    Raises
    ------
    OSError
        In their place.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{path} cannot be written ({reason}); make room for it or choose another place, and "
            "try again"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise ValueError unless files can be written in a folder; it is not made if it is not there.

    Parameters
    ----------
    folder : Path
        Where somebody asks for what is going to be written.
    """
    try:
        places = (folder, *folder.absolute().parents)
        place = next(place for place in places if place.exists() or place.is_symlink())
        TemporaryFile(dir=place).close()
    except OSError as error:
        raise ValueError(
            f"out must be in a folder that can be written to, got {folder} ({error.strerror}); "
            "give another"
        ) from error


def printable(text: str) -> str:
    r"""Return text that any file, page or terminal takes: \xe9, \n and the like for what it lacks.

    Names of files and what files say may hold control characters, and lone surrogates, some of
    which are Python's stand-ins for bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    byte = ord(character) - 0xDC00  # where the character stands in for one
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else repr(character)[1:-1]


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
