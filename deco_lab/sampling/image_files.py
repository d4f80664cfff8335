"""Numbered images in a folder: a PNG each, and an NPZ of all of them as ADM's evaluator reads it.

    000000.png, 000001.png, ...     where FID tools look for them
    samples_{count}x{H}x{W}x3.npz   arr_0 uint8 (count, H, W, 3), arr_1 int64 labels [1]

Every file is whole at any moment. The NPZ is put together of the PNGs, with one image at a time in
memory, however many there are.

References
----------
[1] Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis", arXiv 2105.05233; its
    evaluator, https://github.com/openai/guided-diffusion/tree/main/evaluations.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deco_lab.data import to_picture
from deco_lab.files import replacing

MAX_IMAGES = 10**6
"""As many as six digits number."""


def path_of(folder: Path, index: int) -> Path:
    """Return the PNG of image `index`."""
    return folder / f"{index:06d}.png"


def present(folder: Path, count: int) -> NDArray[np.bool_]:
    """Return which of the first `count` images are written, (count,)."""
    names = {path.name for path in folder.glob("*.png")}
    return np.array([path_of(folder, index).name in names for index in range(count)])


def write_pngs(folder: Path, first: int, images: Tensor) -> None:
    """Write images `first` and on, (B, 3, H, W) in [-1, 1]; what is written already stays."""
    for index, image in enumerate(images.cpu(), start=first):
        path = path_of(folder, index)
        if not path.exists():
            with replacing(path) as beside:
                to_picture(image[None]).save(beside, format="PNG")


def write_npz(folder: Path, image_size: int, class_ids: Sequence[int]) -> None:
    """Join the PNGs of as many images as labels, unless that was done before."""
    count = len(class_ids)
    path = folder / f"samples_{count}x{image_size}x{image_size}x3.npz"
    if path.exists():
        return
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, image_size, image_size, 3)}
    # A ZipInfo made of only a name has a fixed date: the same images are the same bytes.
    with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for index in range(count):
                with Image.open(path_of(folder, index)) as image:
                    member.write(image.tobytes())
        with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as member:
            np.lib.format.write_array(member, np.array(class_ids, np.int64), version=(1, 0))
