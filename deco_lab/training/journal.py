"""What a run writes down as it goes: losses, evaluations, and the same for TensorBoard.

Tables are CSV files; rows beyond the step that a run is resumed at are dropped. TensorBoard's event
files lie beside them where it is installed.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deco_lab.files import replacing, writing
from deco_lab.training.trainer import ResumeError


class Table:
    """Figures of a run by step, as a CSV file.

    Parameters
    ----------
    path : Path
        The file.
    step : int
        Where the run continues; rows of later steps are dropped.
    needed : sequence of str
        Columns that every row has.

    Raises
    ------
    ResumeError
        Where the file is not as a run wrote it.
    """

    def __init__(self, path: Path, step: int, needed: Sequence[str] = ()) -> None:
        self.path, self.needed = path, ("step", *needed)
        self.rows: list[dict[str, float]] = []
        if not step or not path.exists():
            return
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file):
                    figures = {name: float(value) for name, value in row.items() if value}
                    if missing := set(self.needed) - figures.keys():
                        raise ValueError(f"a row lacks {', '.join(sorted(missing))}")
                    self.rows.append({**figures, "step": int(figures["step"])})
        except (ValueError, TypeError, csv.Error) as error:
            raise ResumeError(
                f"{path} is not as a run wrote it ({error}) and would be written over; save it in "
                "UTF-8 with commas between numbers like 0.5, or move it away, to go on without it"
            ) from error
        self.rows = [row for row in self.rows if row["step"] <= step]

    def has(self, step: int) -> bool:
        """Return whether there is a row of this step."""
        return any(row["step"] == step for row in self.rows)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step, to seven digits."""
        rounded = {name: float(f"{value:.7g}") for name, value in figures.items()}
        self.rows.append({"step": step, **rounded})

    def write(self) -> None:
        """Write the file."""
        names = dict.fromkeys([*self.needed, *(name for row in self.rows for name in row)])
        with replacing(self.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows(self.rows)


def draw_losses(table: Table) -> None:
    """Draw a table of losses beside it, where it has rows and matplotlib is installed."""
    try:
        from deco_lab.plots import loss_curve
    except ModuleNotFoundError:
        return
    if not table.rows:
        return
    names = {"flow_matching": "flow matching", "frequency": "frequency-aware"}
    if any(row["alignment"] for row in table.rows):
        names["alignment"] = "alignment"
    curves = {name: [row[column] for row in table.rows] for column, name in names.items()}
    with replacing(table.path.with_suffix(".png")) as beside:
        loss_curve([row["step"] for row in table.rows], curves).savefig(
            beside, dpi=120, format="png"
        )


class Board:
    """TensorBoard's event files; without TensorBoard it does nothing.

    Parameters
    ----------
    folder : Path
        Where they go.
    step : int
        Where the run continues; what was written of later steps is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        with writing(folder):
            self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, figures: Mapping[str, float], group: str) -> None:
        """Write figures by name, under the heading `group`."""
        with writing(self.folder):
            for name, value in figures.items() if self._writer else ():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def add_picture(self, step: int, picture: Image.Image) -> None:
        """Write the preview."""
        with writing(self.folder):
            if self._writer:
                self._writer.add_image("preview", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Write the rest."""
        with writing(self.folder):
            if self._writer:
                self._writer.close()
