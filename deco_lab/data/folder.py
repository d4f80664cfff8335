"""A folder of pictures by class: every sub-folder is a class, its pictures at any depth in it.

photos/cats/a.jpg, photos/cats/indoors/b.png, photos/dogs/c.webp  ->  cats = 0, dogs = 1
"""

import os
from itertools import compress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from deco_lab.data.decoding import UnreadablePictureError, open_picture, picture_suffixes
from deco_lab.data.pictures import Folder, Pictures, hold_out


def read_folder(path: str | os.PathLike[str], *, held_out: float = 0.1) -> Folder:
    """Return the pictures of a folder, in a share to train on and one to measure against.

    The sub-folders are the classes, in alphabetical order. Hidden files and folders, and files
    whose suffix is not that of a picture, are passed over. Every picture is decoded once, with a
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
        Names read "class/file.jpg".

    Raises
    ------
    ValueError
        Where there is no such folder, it has no sub-folders, or one of them holds no picture that
        can be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist; name a folder with a sub-folder for each class")
    if not path.is_dir():
        raise ValueError(f"{path} is a file; name a folder with a sub-folder for each class")
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise ValueError(
            f"{path} has no sub-folders; put the pictures of each class into a sub-folder of it, "
            "named for the class"
        )
    found = [_pictures_in(folder) for folder in folders]
    files = [file for members in found for file in members]
    with ThreadPool() as pool:
        checked = pool.imap(_is_readable, files, chunksize=8)
        bar = tqdm(checked, desc="checking pictures", unit=" pictures", total=len(files))
        readable = np.array(list(bar), bool)
    names = [file.relative_to(path).as_posix() for file in files]
    labels = np.repeat(np.arange(len(folders)), [len(members) for members in found])
    for label, folder in enumerate(folders):
        if not readable[labels == label].any():
            raise ValueError(
                f"class {folder.name} has no picture that can be read, of {len(found[label])} "
                f"in {folder}; add some, or remove the folder"
            )
    kept = list(compress(files, readable))
    # The class is part of no key: renaming a class leaves its shares alone.
    keys = [Path(*file.relative_to(path).parts[1:]).as_posix() for file in kept]
    pictures = Pictures(
        lambda index: open_picture(kept[index]),
        labels[readable],
        tuple(folder.name for folder in folders),
        list(compress(names, readable)),
    )
    away = hold_out(pictures.labels, keys, held_out)
    return Folder(pictures.select(~away), pictures.select(away), tuple(compress(names, ~readable)))


def _pictures_in(folder: Path) -> list[Path]:
    """Return the files in a folder, at any depth, that have a picture's suffix, sorted."""
    suffixes = picture_suffixes()
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if not name.startswith(".")]
    return sorted(file for file in found if file.suffix.lower() in suffixes)


def _is_readable(file: Path) -> bool:
    try:
        open_picture(file)
    except UnreadablePictureError:
        return False
    return True
