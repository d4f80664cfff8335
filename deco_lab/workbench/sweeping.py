"""A sweep: one run, again and again, with two of its settings varied over a small grid.

The cell in row i and column j is the run whose setting y has its i-th value and whose setting x has
its j-th, all else as it was: the same images, bit for bit, as that run by itself. Of each cell the
mean square of the images is measured in each octave of frequency.

    found = sweep(Settings(num_images=1), ("guidance_scale", [1, 2, 4, 8]), ("seed", [0, 1, 2]))
    found.decibels                  # over the first cell
    found.save("sweep.npz")
"""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deco_lab.checkpoints import load
from deco_lab.result import Result
from deco_lab.sampling import Start
from deco_lab.setting import RuleError, check_choice, settings_of
from deco_lab.spectra import OCTAVES, band_names, split_bands
from deco_lab.workbench.record import Paused
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.watching import Watch

MAX_CELLS = 36
"""Most cells of a sweep."""
MAX_SWEEP_PIXELS = 2**22
"""Most pixels of all its images together: 36 cells of sixteen 64 x 64, or four of 1024 x 1024."""
VARIED = tuple(f.name for f in fields(Settings) if f.name not in ("decompose", "origin", "mask"))
"""Settings that can be varied: all that change the images and that a person can write."""
_NONE = (None,)
_USUAL: dict[str, tuple[Any, ...]] = {
    "guidance_scale": (1, 2, 4, 8), "seed": (0, 1, 2, 3), "num_steps": (5, 10, 20, 50),
    "class_ids": (0, 1, 2, 3), "num_images": (1, 2, 4), "time_shift": (0.5, 1, 2, 4),
    "condition_reuse": (1, 2, 4, 8), "start_t": (0.2, 0.4, 0.6, 0.8),
    "guidance_curve": ([], [1, 0], [0, 1], [0, 1, 0]),
    "band_curves": ([], [1, 0] * 4, [0, 1] * 4), "dit_curves": ([], [1, 0] * 4, [0, 1] * 4),
    "decoder_curves": ([], [1, 0] * 4, [0, 1] * 4),
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep, checked.

    Parameters
    ----------
    settings : Settings
        What all cells share.
    x, y : tuple of (str, sequence)
        A field of Settings and its values, of the columns and of the rows; for class_ids a label
        stands for itself. An empty name for y is one row.

    Raises
    ------
    ValueError
        For a name that is none of VARIED, the same name twice, no value, values that break their
        rule, or more than MAX_CELLS.
    """

    settings: Settings
    x: tuple[str, Sequence[Any]]
    y: tuple[str, Sequence[Any]] = ("", _NONE)

    def __post_init__(self) -> None:
        for axis in ("x", "y"):
            name, values = getattr(self, axis)
            if axis == "y" and name == "":
                values = _NONE
            elif not isinstance(name, str) or name not in VARIED:
                check_choice(axis, name, VARIED)
            object.__setattr__(self, axis, (name, tuple(values)))
        (x, columns), (y, rows) = self.x, self.y
        if x == y:
            raise RuleError("y", f"must be another setting than x, got {x} for both")
        if not columns or not rows:
            raise RuleError(
                "x_values" if not columns else "y_values",
                "must be at least one value, got none; write them with commas between",
            )
        if len(columns) * len(rows) > MAX_CELLS:
            raise RuleError(
                ("x_values", "y_values"),
                f"must make at most {MAX_CELLS} cells together, got {len(columns)} x {len(rows)}; "
                "leave some out",
            )
        self.cells()

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns."""
        return len(self.y[1]), len(self.x[1])

    def cells(self) -> list[list[Settings]]:
        """Return the settings of each cell, row by row."""
        return [
            [replace(self.settings, **_told(*self._at(i, j))) for j in range(self.shape[1])]
            for i in range(self.shape[0])
        ]

    def _at(self, row: int, column: int) -> list[tuple[str, Any]]:
        return [(self.y[0], self.y[1][row]), (self.x[0], self.x[1][column])]


def _told(*values: tuple[str, Any]) -> dict[str, Any]:
    """Return values by the names of their fields; one label is a list of one."""
    return {
        name: [value] if name == "class_ids" and not isinstance(value, list | tuple) else value
        for name, value in values
        if name
    }


@dataclass(frozen=True)
class Cell:
    """What one run of a sweep left."""

    row: int
    column: int
    images: Tensor
    """(B, 3, H, W), float32 on the CPU, unclamped."""
    bands: Tensor
    """(4,), float64, mean square of the images' octaves, lowest first."""
    nfe: int
    """Network passes per image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep(Result):
    """The cells of a sweep, rows of y and columns of x; what was not drawn is NaN."""

    x: str
    y: str
    """The settings that were varied; "" for none."""
    x_values: tuple[str, ...]
    y_values: tuple[str, ...]
    """Their values, as words."""
    bands: np.ndarray
    """(rows, columns, 4), mean square of the images' octaves, lowest first."""
    nfe: np.ndarray
    """(rows, columns), network passes per image."""
    images: np.ndarray
    """(rows, columns, B, 3, H, W), float32, unclamped; of cells that have fewer images, or smaller
    ones, the rest is NaN."""

    @property
    def decibels(self) -> np.ndarray:
        """(rows, columns, 4), energy of each octave over that of the first cell's, in dB."""
        return 10 * np.log10(self.bands / self.bands[0, 0])

    def cell(self, row: int, column: int) -> Tensor:
        """Return the images of a cell, (B, 3, H, W); of none, if it was not drawn."""
        images = torch.from_numpy(self.images[row, column])
        drawn = ~images.isnan()
        if not drawn.any():
            return images[:0]
        ends = [int(where.max()) + 1 for where in drawn.nonzero().unbind(1)]
        return images[tuple(slice(end) for end in ends)]

    def to_csv(self) -> str:
        """Return the energies, a line for each cell and band."""
        file = io.StringIO()
        write = csv.writer(file, lineterminator="\n").writerow
        write([self.y or "row", self.x, "band", "mean_square", "decibels", "nfe"])
        for (row, column, band), value in np.ndenumerate(self.bands):
            if not math.isnan(value):
                at = [self.y_values[row], self.x_values[column], band_names(OCTAVES)[band]]
                over = float(self.decibels[row, column, band])
                write([*at, float(value), over, int(self.nfe[row, column])])
        return file.getvalue()

    def to_npz(self) -> bytes:
        """Return the file that `save` writes."""
        with TemporaryDirectory() as folder:
            path = Path(folder, "sweep.npz")
            self.save(path)
            return path.read_bytes()


def draw_cells(
    grid: Grid,
    model_of: Callable[[str], Any],
    start_of: Callable[[Settings, Any], Start | Paused | None] = lambda settings, model: None,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
    time_limit: float = math.inf,
) -> Generator[Cell, None, None]:
    """Draw the cells of a sweep, row by row, until the end, a stop or the time limit.

    Parameters
    ----------
    grid : Grid
        The runs.
    model_of : callable
        From a name to the model.
    start_of : callable
        From settings and their model to the picture that they start from, if any.
    is_wanted : callable
        Asked before each step; no further cell comes where it returns False.
    time_limit : float
        Seconds after which no further step begins.

    Raises
    ------
    ValueError
        Where settings do not go with their model, or the images have too many pixels together;
        that is known before the first cell.
    """
    ends = time.monotonic() + time_limit
    cells = [(i, j, one) for i, row in enumerate(grid.cells()) for j, one in enumerate(row)]
    sides = {one.model: model_of(one.model).config.image_size for *_, one in cells}
    pixels = sum(one.num_images * sides[one.model] ** 2 for *_, one in cells)
    if pixels > MAX_SWEEP_PIXELS:
        raise RuleError(
            "num_images",
            f"must leave at most {MAX_SWEEP_PIXELS} pixels to all cells together, got {pixels}; "
            "draw fewer images in each, or fewer cells",
        )
    watches = []
    for i, j, one in cells:
        model = model_of(one.model)
        # Nothing but the images is measured.
        watches.append((i, j, Watch(model, replace(one, decompose=False), start_of(one, model))))
    while watches:
        i, j, watch = watches.pop(0)
        step = watch.skip()
        while step.index < watch.num_steps:
            if not is_wanted() or time.monotonic() > ends:
                return
            step = watch.skip()
        images = step.x.detach().float().cpu()
        yield Cell(i, j, images, _energies(images), step.nfe)


def _energies(images: Tensor) -> Tensor:
    return split_bands(images.double(), OCTAVES).square().mean((1, 2, 3, 4))


def gather(grid: Grid, cells: Sequence[Cell], recipe: dict[str, Any]) -> Sweep:
    """Return the cells that were drawn as one result."""
    rows, columns = grid.shape
    shapes = [cell.images.shape for cell in cells]
    most = [max(sizes) for sizes in zip(*shapes, strict=True)] if shapes else [0, 3, 0, 0]
    bands = np.full((rows, columns, len(OCTAVES) + 1), np.nan)
    nfe = np.full((rows, columns), np.nan)
    images = np.full((rows, columns, *most), np.nan, np.float32)
    for cell in cells:
        at = cell.row, cell.column
        bands[at], nfe[at] = cell.bands.numpy(), cell.nfe
        images[at][tuple(slice(size) for size in cell.images.shape)] = cell.images.numpy()
    said = {
        "deco_lab": version("deco-lab"),
        "torch": torch.__version__,
        "settings": asdict(grid.settings),
        "octaves": list(OCTAVES),
    }
    return Sweep(
        x=grid.x[0],
        y=grid.y[0],
        x_values=tuple(map(word_of, grid.x[1])),
        y_values=tuple(map(word_of, grid.y[1])),
        bands=bands,
        nfe=nfe,
        images=images,
        recipe=said | recipe,
    )


def word_of(value: Any) -> str:
    """Return a value as a person writes it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def sweep(
    settings: Settings,
    x: tuple[str, Sequence[Any]],
    y: tuple[str, Sequence[Any]] = ("", _NONE),
    *,
    load: Callable[[str], Any] = load,
) -> Sweep:
    """Draw a run with two of its settings varied, and measure the energy of each band.

    Parameters
    ----------
    settings : Settings
        What all cells share; `start_from` must be "noise".
    x, y : tuple of (str, sequence)
        A field of `settings` and its values: columns and rows, at most 36 cells. Without y there
        is one row.
    load : callable
        From the name of a model to the model; each is loaded once.

    Returns
    -------
    Sweep
        With every cell; its images are those of `deco_lab.sample`, bit for bit.

    Raises
    ------
    ValueError
        As `Grid` and `draw_cells`.
    """
    if settings.start_from != "noise" or "start_from" in (x[0], y[0]):
        raise RuleError("start_from", "must be noise here; the app sweeps from a picture of yours")
    grid, models = Grid(settings, x, y), {}

    def model_of(name: str) -> Any:
        if name not in models:
            models[name] = load(name)
        return models[name]

    return gather(grid, list(draw_cells(grid, model_of)), {})


def values_of(text: Any) -> list[Any]:
    """Return the values that a person wrote, such as "1, 2, 4" or "euler, heun".

    Words are taken as they are, all else as JSON, so that [0.1, 1] is one value.

    Raises
    ------
    ValueError
        Where it is no text, or too long.
    """
    if not isinstance(text, str) or len(text) > 2000:
        raise ValueError("values must be a text of at most 2000 characters, commas between them")
    try:
        return json.loads(f"[{text}]")
    except (ValueError, RecursionError):
        return [part.strip() for part in text.split(",") if part.strip()]


def usual_values(name: str, settings: Settings, models: Sequence[str]) -> str:
    """Return values of a setting that are worth a look, as `values_of` reads them."""
    setting = settings_of(Settings)[name]
    if name == "model":
        return ", ".join(models[:4])
    if setting.choices is not None:
        told = bool(settings.origin)  # of a run to go on from
        known = [choice for choice in setting.choices if choice != "earlier run" or told]
        return ", ".join(known[:MAX_CELLS])
    if name in _USUAL:
        return ", ".join(map(word_of, _USUAL[name]))
    return json.dumps(getattr(settings, name))
