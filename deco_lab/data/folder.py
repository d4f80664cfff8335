"""A folder of pictures by class: every sub-folder is a class, its pictures at any depth in it.

photos/cats/a.jpg, photos/cats/indoors/b.png, photos/dogs/c.webp  ->  cats = 0, dogs = 1
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from deco_lab.data.decoding import UnreadablePictureError, open_picture, picture_suffixes
from deco_lab.data.pictures import Folder, Pictures, hold_out
from deco_lab.files import printable

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_HEIC = {".heic", ".heif", ".hif"}
_MOST_KINDS = 12
"""To name in a message."""


def read_folder(path: str | os.PathLike[str], *, held_out: float = 0.1) -> Folder:
    """Return the pictures of a folder, in a share to train on and one to measure against.

    The sub-folders are the classes, in alphabetical order. Links to folders are followed, unless
    they lead to pictures that are read elsewhere. Hidden files and folders, and files whose suffix
    is not that of a picture, are passed over and counted. Every picture is decoded once, with a
    progress bar, to find those that cannot be: they are left out and named.

    Parameters
    ----------
    path : path
        The folder.
    held_out : float
        Share of the files to hold out, in [0, 1). A file's name within its class decides, so that
        files added later leave the others where they are; every class of two or more files has at
        least one held out, unless the share is 0.

    Returns
    -------
    Folder
        Names read "class/file.jpg", made `printable`.

    Raises
    ------
    ValueError
        Where there is no such folder, it cannot be listed or has no sub-folders, these are splits
        (`train`, `val`) with the classes in them, or one of them holds no picture that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a folder with a sub-folder for each class")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder with a sub-folder for each class")
    passed_over: Counter[str] = Counter()
    folders = _class_folders(path, passed_over)
    found = _pictures_in(folders, passed_over)
    files = [file for members in found for file in members]
    with ThreadPool() as pool:
        checked = pool.imap(_why_unreadable, files, chunksize=8)
        bar = tqdm(checked, desc="checking pictures", unit=" pictures", total=len(files))
        reasons = list(bar)
    names = [printable(file.relative_to(path).as_posix()) for file in files]
    labels = np.repeat(np.arange(len(folders)), [len(members) for members in found])
    readable = np.array([not reason for reason in reasons], bool)
    for label, folder in enumerate(folders):
        members = np.flatnonzero(labels == label)
        if not readable[members].any():
            why = [f"{names[index]}: {reasons[index]}" for index in members[:1]]
            why += [] if len(members) else [say_passed_over(passed_over)]
            raise ValueError(
                f"class {folder.name} has no picture that can be read, of {len(members)} "
                f"in {folder} ({why[0]}); add some, or remove the folder"
            )
    kept = list(compress(files, readable))
    # The class is part of no key: renaming a class leaves its shares alone.
    keys = [Path(*file.relative_to(path).parts[1:]).as_posix() for file in kept]
    pictures = Pictures(
        lambda index: open_picture(kept[index]),
        labels[readable],
        tuple(printable(folder.name) for folder in folders),
        list(compress(names, readable)),
    )
    away = hold_out(pictures.labels, keys, held_out)
    return Folder(
        pictures.select(~away),
        pictures.select(away),
        dict(compress(zip(names, reasons, strict=True), ~readable)),
        dict(passed_over),
    )


def say_passed_over(passed_over: Mapping[str, int]) -> str:
    """Return what was passed over, the most frequent kinds first, and how HEIC would be read."""
    kinds = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    said = [f"{count} {kind}" for kind, count in kinds[:_MOST_KINDS]]
    if len(kinds) > _MOST_KINDS:
        said.append(f"{sum(count for _, count in kinds[_MOST_KINDS:])} of other kinds")
    heic = "; HEIC pictures are read where pillow-heif is installed: pip install pillow-heif"
    return f"passed over: {', '.join(said) or 'nothing'}{heic if _HEIC & set(passed_over) else ''}"


def _class_folders(path: Path, passed_over: Counter[str]) -> list[Path]:
    """Return the sub-folders, sorted, and count what else there is."""
    try:
        entries = sorted(path.iterdir())
        folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"{path} cannot be listed ({error.strerror}); see that you may read it"
        ) from error
    hidden = [entry for entry in entries if entry.name.startswith(".")]
    if not folders:
        raise ValueError(
            f"{path} has no sub-folders; put the pictures of each class into a sub-folder of it, "
            "named for the class"
        )
    training = [folder for folder in folders if folder.name.lower() in ("train", "training")]
    if training and {folder.name.lower() for folder in folders} <= _SPLITS:
        _, below, files = next(os.walk(training[0]), ("", [], []))
        pictures = [name for name in files if Path(name).suffix.lower() in picture_suffixes()]
        if below and not pictures:
            raise ValueError(
                f"{path} holds {', '.join(f.name for f in folders)}, which are splits and no "
                f"classes; give {training[0]}, of which a share is held out to measure against"
            )
    loose = len(entries) - len(folders) - len(hidden)
    passed_over += Counter({"hidden": len(hidden), "outside of the class folders": loose})
    return folders


def _pictures_in(folders: Sequence[Path], passed_over: Counter[str]) -> list[list[Path]]:
    """Return the files in each folder, at any depth, that have a picture's suffix, sorted."""
    suffixes = picture_suffixes()
    parent = Path(os.path.realpath(folders[0].parent))
    classes = [Path(os.path.realpath(folder)) for folder in folders]
    seen = set(classes)

    def kind_of(folder: Path) -> str:
        """Return why a folder is passed over, or nothing."""
        real = Path(os.path.realpath(folder))
        met_without = parent.is_relative_to(real) or any(map(real.is_relative_to, classes))
        if folder.name.startswith("."):
            return "hidden"
        if real in seen or (folder.is_symlink() and met_without):
            return "folders met again by a link"
        seen.add(real)
        return ""

    def pictures_in(folder: Path) -> Iterator[Path]:
        for root, below, files in os.walk(folder, onerror=unlisted, followlinks=True):
            kinds = {name: kind_of(Path(root, name)) for name in sorted(below)}
            below[:] = [name for name, kind in kinds.items() if not kind]
            passed_over.update(filter(None, kinds.values()))
            for file in (Path(root, name) for name in files):
                suffix = file.suffix.lower()
                if file.name.startswith("."):
                    passed_over["hidden"] += 1
                elif suffix in suffixes:
                    yield file
                else:
                    passed_over[printable(suffix) or "without suffix"] += 1

    def unlisted(error: OSError) -> None:
        passed_over["folders that cannot be listed"] += 1

    return [sorted(pictures_in(folder)) for folder in folders]


def _why_unreadable(file: Path) -> str:
    """Return why a picture cannot be read, or nothing where it can."""
    try:
        open_picture(file)
    except UnreadablePictureError as error:
        return str(error)
    return ""
