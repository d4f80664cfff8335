"""Labelled pictures of any source, each decoded to RGB when it is asked for; and of a folder.

In a folder every sub-folder is a class, its pictures at any depth in it:

    photos/cats/a.jpg, photos/cats/indoors/b.png, photos/dogs/c.webp  ->  cats = 0, dogs = 1
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from deco_lab.data.decoding import UnreadablePictureError, open_picture, picture_suffixes
from deco_lab.files import printable

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_HEIC = {".heic", ".heif", ".hif"}
_MOST_KINDS = 12
"""To name in a message."""


@dataclass(frozen=True, eq=False)
class PictureDataset:
    """Labelled pictures of any source.

    Raises
    ------
    ValueError
        Where the labels are not whole numbers below the number of class names.
    """

    open: Callable[[int], Image.Image]
    """Decodes the picture at an index to RGB, as `open_picture` does; it may be called from several
    threads at once, and raises `UnreadablePictureError`."""
    labels: NDArray[np.int64]
    """(count,), the class of each picture."""
    class_names: tuple[str, ...]
    """One name for each class."""
    name: Callable[[int], str]
    """What to call the picture at an index in a message."""

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

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: NDArray[np.bool_]) -> "PictureDataset":
        """Return the pictures where `chosen`, (count,), is true."""
        places = np.flatnonzero(chosen)
        return PictureDataset(
            lambda index: self.open(int(places[index])),
            self.labels[places],
            self.class_names,
            lambda index: self.name(int(places[index])),
        )


class PictureSplits(NamedTuple):
    """The pictures of a folder or a dataset, in two disjoint shares."""

    training: PictureDataset
    """To train on; it has a picture of every class."""
    held_out: PictureDataset
    """To measure against. Where a class has a single picture, none of that class."""
    unreadable: Mapping[str, str] = {}
    """Why pictures are left out that cannot be decoded, by their names."""
    passed_over: Mapping[str, int] = {}
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


def read_folder(path: str | os.PathLike[str], *, held_out: float = 0.1) -> PictureSplits:
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
    PictureSplits
        Names read "class/file.jpg", made `printable`.

    Raises
    ------
    ValueError
        Where there is no such folder, it cannot be listed or has no sub-folders, these are splits
        (`train`, `val`) with the classes in them, or one of them holds no picture that can be read.
    """
    path = Path(path)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"{path} {what}; name a folder with a sub-folder for each class")
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
    pictures = PictureDataset(
        lambda index: open_picture(files[index]),
        labels,
        tuple(printable(folder.name) for folder in folders),
        names.__getitem__,
    ).select(readable)
    # The class is part of no key: renaming a class leaves its shares alone.
    keys = [Path(*f.relative_to(path).parts[1:]).as_posix() for f in compress(files, readable)]
    away = hold_out(pictures.labels, keys, held_out)
    unreadable = dict(compress(zip(names, reasons, strict=True), ~readable))
    return PictureSplits(
        pictures.select(~away), pictures.select(away), unreadable, dict(passed_over)
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
