"""Labelled pictures of any source, each decoded to RGB when it is asked for; and of a folder.

In a folder every sub-folder is a class, its pictures at any depth in it:

    photos/cats/a.jpg, photos/cats/indoors/b.png, photos/dogs/c.webp  ->  cats = 0, dogs = 1
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
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


@dataclass(frozen=True, eq=False)
class PictureDataset:
    """Labelled pictures of any source."""

    open: Callable[[int], Image.Image]
    """Decodes the picture at an index to RGB, as `open_picture` does; it may be called from several
    threads at once, and raises `UnreadablePictureError`."""
    labels: NDArray[np.int64]
    """(count,), the class of each picture."""
    class_names: tuple[str, ...]
    """One name for each class."""
    name: Callable[[int], str]
    """What to call the picture at an index in a message."""

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

    def left_out(self) -> tuple[str, ...]:
        """Return what to tell a person of files that are not used, a line for each and a count."""
        lines = [
            f"left out, since it cannot be read: {name} ({reason})"
            for name, reason in self.unreadable.items()
        ]
        lines += [f"{len(lines)} pictures cannot be read"] if lines else []
        return (*lines, *([_say_passed_over(self.passed_over)] if self.passed_over else []))


def hold_out(labels: NDArray[np.int64], keys: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return which pictures to hold out, (count,): those whose key's hash falls into `share`.

    A picture's own key decides, so pictures that are added later do not move the others, with one
    exception: every class of two or more has at least one picture on either side, that of the
    smallest and that of the largest hash. A class of one picture has none held out, and `share` 0
    holds out none.

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
    they lead to folders that are read elsewhere. Hidden files and folders, and files whose suffix
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
    folders = _class_folders(path)
    passed_over: Counter[str] = Counter()
    found = _pictures_in(path, folders, passed_over)
    met = [file for members in found for file in members]
    with ThreadPool() as pool:
        checked = pool.imap(_why_unreadable, met, chunksize=8)
        bar = tqdm(checked, "checking pictures", len(met), unit=" pictures")
        reasons = dict(zip(met, bar, strict=True))

    def name_of(file: Path) -> str:
        return printable(file.relative_to(path).as_posix())

    files, labels, keys = [], [], []
    for label, (folder, members) in enumerate(zip(folders, found, strict=True)):
        readable = [file for file in members if not reasons[file]]
        if not readable:
            why = [f"{name_of(file)}: {reasons[file]}" for file in members[:1]]
            raise ValueError(
                f"class {folder.name} has no picture that can be read, of {len(members)} in "
                f"{folder} ({', '.join(why) or _say_passed_over(passed_over)}); add some, or "
                "remove the folder"
            )
        files += readable
        labels += [label] * len(readable)
        # The class is part of no key: renaming a class leaves its shares alone.
        keys += [file.relative_to(folder).as_posix() for file in readable]
    pictures = PictureDataset(
        lambda index: open_picture(files[index]),
        np.array(labels),
        tuple(printable(folder.name) for folder in folders),
        lambda index: name_of(files[index]),
    )
    away = hold_out(pictures.labels, keys, held_out)
    unreadable = {name_of(file): reason for file, reason in reasons.items() if reason}
    return PictureSplits(pictures.select(~away), pictures.select(away), unreadable, passed_over)


def _say_passed_over(passed_over: Mapping[str, int]) -> str:
    """Return what was passed over, the most frequent kinds first, and how HEIC would be read."""
    kinds = Counter(passed_over).most_common()
    said = [f"{count} {kind}" for kind, count in kinds[:12]] or ["nothing"]
    if others := sum(count for _, count in kinds[12:]):
        said.append(f"{others} of other kinds")
    heic = "; HEIC pictures are read where pillow-heif is installed: pip install pillow-heif"
    return f"passed over: {', '.join(said)}{heic if _HEIC & passed_over.keys() else ''}"


def _class_folders(path: Path) -> list[Path]:
    """Return the sub-folders that are classes, sorted."""
    try:
        folders = [e for e in sorted(path.iterdir()) if e.is_dir() and not e.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"{path} cannot be listed ({error.strerror}); name a folder with a sub-folder for each "
            "class"
        ) from error
    if not folders:
        raise ValueError(
            f"{path} has no sub-folders; put the pictures of each class into a sub-folder of it, "
            "named for the class"
        )
    are_splits = {folder.name.lower() for folder in folders} <= _SPLITS
    if are_splits and any(next(os.walk(folder), ("", []))[1] for folder in folders):
        raise ValueError(
            f"{path} holds {', '.join(f.name for f in folders)}, which are splits and no classes; "
            "give the one to train on, of which a share is held out to measure against"
        )
    return folders


def _pictures_in(
    path: Path, folders: Sequence[Path], passed_over: Counter[str]
) -> list[list[Path]]:
    """Return the files in each folder, at any depth, that have a picture's suffix, sorted."""
    suffixes, root = picture_suffixes(), path.resolve()
    seen = {root, *root.parents, *(folder.resolve() for folder in folders)}
    outside = len(list(path.iterdir())) - len(folders)
    passed_over += Counter({"outside of the class folders": outside})
    found: list[list[Path]] = [[] for _ in folders]
    waiting = deque(enumerate(folders))
    while waiting:
        label, folder = waiting.popleft()
        if folder not in folders:
            if folder.resolve() in seen:
                passed_over["folders met again by a link"] += 1
                continue
            seen.add(folder.resolve())
        try:
            entries = [(entry, entry.is_dir()) for entry in sorted(folder.iterdir())]
        except OSError:
            passed_over["folders that cannot be listed"] += 1
            continue
        for entry, is_folder in entries:
            suffix = entry.suffix.lower()
            if entry.name.startswith("."):
                passed_over["hidden"] += 1
            elif is_folder and entry.is_symlink():
                waiting.append((label, entry))  # what lies in a class itself is of that class
            elif is_folder:
                waiting.appendleft((label, entry))
            elif suffix in suffixes:
                found[label].append(entry)
            else:
                passed_over[printable(suffix) or "without suffix"] += 1
    return [sorted(files) for files in found]


def _why_unreadable(file: Path) -> str:
    """Return why a picture cannot be read, or nothing where it can."""
    try:
        open_picture(file)
    except UnreadablePictureError as error:
        return str(error)
    return ""
