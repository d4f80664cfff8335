"""What a person takes away from a run: a picture that remembers, spectra, curves, a script.

PNG    the images side by side; its text "deco_lab" holds the settings, and restores the run
NPZ    every curve with its axes and units, the images, and the recipe; no pickles
CSV    every curve, one value a line
script what draws the same run, and its spectrum, in a notebook
"""

import csv
import io
import itertools
import json
import math
import re
import struct
import tokenize
import zipfile
import zlib
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deco_lab.data import to_picture
from deco_lab.sampling import Plan
from deco_lab.workbench.record import Curve, Record
from deco_lab.workbench.settings import Settings, settings_from

_KEY = "deco_lab"
_FORMAT = 1
_MAX_TEXT = 64 * 2**10
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
    kept = recipe(record)
    kept["model"] = {name: v for name, v in record.model.items() if name != "class_names"}
    text = PngInfo()
    text.add_itxt(_KEY, json.dumps(kept))
    file = io.BytesIO()
    to_picture(record.images, columns).save(file, "PNG", pnginfo=text)
    return file.getvalue()


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
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError("too long")
        found = json.loads(text)
        newer = found["format"] > _FORMAT
        settings, model = (None, {}) if newer else (found["settings"], dict(found["model"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("the picture's settings are damaged; draw the run anew") from None
    if newer or settings is None:
        raise ValueError("the picture was kept by a newer deco_lab than this one; update deco_lab")
    return Saved(settings_from(settings), model)


def to_npz(record: Record) -> bytes:
    """Return every curve, its axes, the images and the recipe as an .npz file without pickles.

    `load_record` reads it. Curves and axes are arrays by their names, axes with "axis_" before; the
    entry "recipe" is JSON, which also says each curve's axes and unit.
    """
    head = recipe(record) | {
        "curves": {
            name: {"axes": curve.axes, "unit": curve.unit} for name, curve in record.curves.items()
        }
    }
    arrays: dict[str, Any] = {f"axis_{name}": values for name, values in record.axes.items()}
    arrays |= {name: curve.values for name, curve in record.curves.items()}
    file = io.BytesIO()
    np.savez_compressed(
        file,
        allow_pickle=False,
        images=record.images.numpy(),
        recipe=np.array(json.dumps(head)),
        **arrays,
    )
    return file.getvalue()


def load_record(file: str | Path | bytes) -> Record:
    """Return the run that `to_npz` wrote: of a path, or of the bytes themselves.

    Raises
    ------
    ValueError
        Where the file holds none.
    FileNotFoundError
        Where there is no such file.
    """
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            head = json.loads(str(stored["recipe"]))
            curves = {
                name: Curve(tuple(about["axes"]), stored[name], about["unit"])
                for name, about in head["curves"].items()
            }
            axes = {
                name.removeprefix("axis_"): stored[name]
                for name in stored.files
                if name.startswith("axis_")
            }
            return Record(
                settings=settings_from(head["settings"]),
                model=head["model"],
                images=torch.from_numpy(stored["images"]),
                num_steps=head["num_steps"],
                axes=axes,
                curves=curves,
            )
    except _NO_RECORD as error:
        raise ValueError(
            f"the file must be one of to_npz, and holds no run ({type(error).__name__})"
        ) from error


# What numpy and zipfile raise for files of another kind, found by damaging and cutting some.
_NO_RECORD = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError,
    MemoryError, SyntaxError, SystemError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def to_csv(record: Record) -> str:
    """Return every curve as lines of curve, step, t, axis values, value and unit.

    The columns between t and value are the other axes; those that a curve has not are empty, and
    so is a value that was not measured.
    """
    others = [name for name in record.axes if name != "step"]
    t = record.curves["t"].values
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n").writerow
    write(["curve", "step", "t", *others, "value", "unit"])
    for name, curve in record.curves.items():
        axes = [record.axes[axis] for axis in curve.axes]
        for index in itertools.product(*(range(len(axis)) for axis in axes)):
            at = {
                axis: axes[i][k] for i, (axis, k) in enumerate(zip(curve.axes, index, strict=True))
            }
            value = curve.values[index]
            said = "" if math.isnan(value) else repr(float(value))
            step = index[0]
            places = [at.get(axis, "") for axis in others]
            write([name, at["step"], repr(float(t[step])), *places, said, curve.unit])
    return file.getvalue()


def to_snippet(settings: Settings) -> str:
    """Return a script that draws the settings' run in a notebook, its images and their spectrum."""
    defaults, rule = Plan().arguments(), settings.rule()
    said = {
        name: repr(value)
        for name, value in settings.sampling_arguments().items()
        if value != defaults.get(name)
    }
    load = [f"model = deco_lab.load({settings.model!r})"]
    if settings.model.endswith((".safetensors", ".ckpt")) and "://" not in settings.model:
        load[0] += "  # its path on your machine"
    imports = {"deco_lab.plots": ["dct_curves", "image_grid"], "deco_lab.spectra": ["dct_energy"]}
    if "guidance" in said:
        said["guidance"] = _call(rule)
        place = type(rule).__module__
        place = "deco_lab.sampling" if place.startswith("deco_lab.sampling.") else place
        imports[place] = [type(rule).__name__]
    if settings.has_gains:
        if said.pop("condition_reuse", None):  # the parts are those of the reused condition
            imports.setdefault("deco_lab.sampling", []).append("ReusedCondition")
            load.append(f"model = ReusedCondition(model, {settings.condition_reuse})")
        imports["deco_lab.spectra"].append("PartGains")
        gains = f"dit={settings.dit_gains}, decoder={settings.decoder_gains}"
        load.append(f"model = PartGains(model, {gains})")
    arguments = ", ".join(f"{name}={value}" for name, value in said.items())
    lines = [
        "from IPython.display import display",
        "",
        "import deco_lab",
        *(f"from {place} import {', '.join(sorted(n))}" for place, n in sorted(imports.items())),
        "",
        *load,
        "energies = {}  # how the predicted image's spectrum settles",
        f"for step in deco_lab.sample_steps(model, {arguments}):",
        f"    if step.index and step.index % {math.ceil(settings.num_steps / 6)} == 0:",
        '        energies[f"t = {step.t:.2f}"] = dct_energy(step.predicted_image)',
        "images = step.x",
        "",
        f"display(image_grid(images, columns={math.ceil(math.sqrt(settings.num_images))}))",
        "display(dct_curves(energies))",
    ]
    return "\n".join(lines) + "\n"


def _call(rule: Any) -> str:
    """Return the code that makes a dataclass, with what differs from its defaults."""
    said = [
        f"{field.name}={getattr(rule, field.name)!r}"
        for field in fields(rule)
        if getattr(rule, field.name) != field.default
    ]
    return f"{type(rule).__name__}({', '.join(said)})"


def file_name(record: Record, suffix: str) -> str:
    """Return a name for what is kept of a run, safe on all systems."""
    settings = record.settings
    model = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(settings.model).stem).strip("-")[:40] or "model"
    classes = "-".join(map(str, settings.class_ids[:4]))
    return f"deco-lab-{model}-class-{classes}-seed-{settings.seed}.{suffix}"
