"""What a person takes away from a run: a picture that remembers, spectra, curves.

PNG    the images side by side; its text "deco_lab" holds the settings, and restores the run
GIF    a film of the predicted image, a frame a step
NPZ    every curve with its axes and units, the images, and the recipe; no pickles
CSV    every curve, one value a line
"""

import csv
import hashlib
import io
import json
import math
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deco_lab.data import to_picture
from deco_lab.workbench.record import Record
from deco_lab.workbench.settings import Settings, settings_from
from deco_lab.workbench.sweeping import Sweep

_KEY = "deco_lab"
_FORMAT = 1
_MAX_TEXT = 64 * 2**10
_FILM_MS, _LAST_MS = 3000, 1000
"""How long a film's frames are shown, and its last."""
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class Saved(NamedTuple):
    """What a picture remembers."""

    settings: Settings
    model: dict[str, Any]
    """Facts of the model that drew it."""


def recipe(record: Record) -> dict[str, Any]:
    """Return how a run came about, JSON-ready."""
    return {
        "format": _FORMAT,
        "deco_lab": version("deco-lab"),
        "torch": torch.__version__,
        "model": record.model,
        "settings": asdict(record.settings),
        "num_steps": record.num_steps,
    }


def to_png(record: Record) -> bytes:
    """Return the images, side by side in rows, as a PNG that holds the recipe as text.

    The names of the classes are left out: a thousand would be too long to be read back.
    """
    columns = math.ceil(math.sqrt(len(record.images)))
    file = io.BytesIO()
    to_picture(record.images, columns).save(file, "PNG", pnginfo=remembered(recipe(record)))
    return file.getvalue()


def remembered(kept: dict[str, Any]) -> PngInfo:
    """Return a recipe as the text of a PNG, from which `settings_from_png` reads its settings."""
    model = {name: said for name, said in kept["model"].items() if name != "class_names"}
    text = PngInfo()
    text.add_itxt(_KEY, json.dumps({"format": _FORMAT} | kept | {"model": model}))
    return text


def to_gif(record: Record) -> bytes:
    """Return a film of the predicted images: those of each step side by side in rows, as `to_png`.

    It lasts four seconds, of which the last frame stands for one, and begins again. A GIF's frame
    has 256 colours, each its own here, and dithers between them. Of long runs, and of large ones,
    the frames are those that the record has kept.

    Raises
    ------
    ValueError
        Where no predicted image is kept.
    """
    if not record.film:
        raise ValueError(
            "a film needs the predicted images of a run's steps, and there are none: it was "
            "stopped before the first, or made room for other runs; draw it again"
        )
    columns = math.ceil(math.sqrt(len(record.images)))
    frames = [_with_palette(_picture(record.film[step], columns)) for step in sorted(record.film)]
    # A GIF counts in hundredths of a second.
    ends = np.linspace(0, _FILM_MS, len(frames)).round(-1).astype(int)
    times = [*np.diff(ends).tolist(), _LAST_MS]
    file = io.BytesIO()
    first, *others = frames
    first.save(file, "GIF", save_all=True, append_images=others, duration=times, loop=0)
    return file.getvalue()


def _picture(pixels: torch.Tensor, columns: int) -> Image.Image:
    """Return bytes, (B, height, width, 3), as one picture."""
    return to_picture(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, columns)


def _with_palette(picture: Image.Image) -> Image.Image:
    """Return a picture in 256 colours of its own."""
    palette = picture.quantize(256, Image.Quantize.FASTOCTREE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)


def settings_from_png(data: bytes) -> Saved:
    """Return the settings that a picture of `to_png` remembers; no pixel is decoded.

    Raises
    ------
    ValueError
        For a file that is no PNG, remembers nothing, or something that this version does not know.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            text = image.info.get(_KEY)
    except (OSError, SyntaxError, ValueError, *_BOMBS):
        raise ValueError("the file must be a PNG that was kept here, and is none") from None
    if not isinstance(text, str):
        raise ValueError(
            "the picture must be one that was kept here, and remembers no settings; it may have "
            "been edited, or sent through something that takes them out"
        )
    is_newer, settings, model = False, None, {}
    try:
        found = json.loads(text[:_MAX_TEXT])
        is_newer = found["format"] > _FORMAT
        if not is_newer:
            settings, model = found["settings"], dict(found["model"])
    except (ValueError, KeyError, TypeError, RecursionError):
        settings = None
    if is_newer:
        raise ValueError("the picture was kept by a newer deco_lab than this one; update deco_lab")
    if settings is None:
        raise ValueError("the picture's settings are damaged; draw the run again")
    return Saved(settings_from(settings), model)


def to_npz(record: Record) -> bytes:
    """Return every curve, its axes, the images and the recipe as an .npz file without pickles.

    Curves and axes are arrays by their names, axes with "axis_" before; the entry "recipe" is JSON,
    which also says each curve's axes and unit.
    """
    about = {name: {"axes": c.axes, "unit": c.unit} for name, c in record.curves.items()}
    arrays: dict[str, Any] = {f"axis_{name}": values for name, values in record.axes.items()}
    arrays |= {name: curve.values for name, curve in record.curves.items()}
    arrays["recipe"] = np.array(json.dumps(recipe(record) | {"curves": about}))
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, images=record.images.numpy(), **arrays)
    return file.getvalue()


def to_csv(record: Record) -> str:
    """Return every curve as lines of curve, step, t, axis values, value and unit.

    The columns between t and value are the other axes; those that a curve has not are empty, and
    so is a value that was not measured.
    """
    others = [name for name in record.axes if name != "step"]
    t = record.curves["t"].values.tolist()
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n").writerow
    write(["curve", "step", "t", *others, "value", "unit"])
    for name, curve in record.curves.items():
        for index, value in np.ndenumerate(curve.values):
            at = {axis: record.axes[axis][i] for axis, i in zip(curve.axes, index, strict=True)}
            places = [at.get(axis, "") for axis in others]
            number = "" if math.isnan(value) else float(value)
            write([name, at["step"], t[index[0]], *places, number, curve.unit])
    return file.getvalue()


def file_name(record: Record, suffix: str) -> str:
    """Return a name for what is kept of a run, safe on all systems, another for other settings."""
    settings = record.settings
    model = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(settings.model).stem).strip("-")[:40] or "model"
    classes = "-".join(map(str, settings.class_ids[:4]))
    mark = f"w-{settings.guidance_scale:g}-{_mark(asdict(settings))}"
    return f"deco-lab-{model}-class-{classes}-seed-{settings.seed}-{mark}.{suffix}"


def sweep_name(sweep: Sweep, suffix: str) -> str:
    """Return a name for what is kept of a sweep, another for other cells."""
    said = sweep.recipe["settings"], sweep.x_values, sweep.y_values
    names = "-".join(filter(None, (sweep.x, sweep.y))).replace("_", "-")
    return f"deco-lab-sweep-{names}-{_mark(said)}.{suffix}"


def _mark(said: Any) -> str:
    """Return six digits that tell settings apart."""
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:6]
