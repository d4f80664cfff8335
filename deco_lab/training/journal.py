"""What a run writes down as it goes: losses, evaluations, and the same for TensorBoard.

Tables are CSV files, one row for every few steps; rows beyond the step that a run is resumed at are
dropped. TensorBoard's event files lie beside them where it is installed.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deco_lab.files import replacing, writing
from deco_lab.training.trainer import Losses, ResumeError


class LossLog:
    """The losses of a run as `loss.csv`: the mean over each `every` steps, one row for each.

    Parameters
    ----------
    path : Path
        Rows of a resumed run's future are dropped; those before `step` are kept.
    step : int
        Where the run continues.
    every : int
        Steps that share a row.
    pending : Tensor, optional
        (steps, 4), as `pending` was when the run stopped.

    Raises
    ------
    ResumeError
        Where the file is not as a run wrote it.
    """

    columns = ("step", *Losses._fields, "seconds")

    def __init__(
        self, path: Path, step: int, every: int = 20, pending: Tensor | None = None
    ) -> None:
        self.path = path
        self.every = every
        self.rows = [
            tuple(row[name] for name in self.columns) for row in _read(path, step, self.columns)
        ]
        self._pending = [] if pending is None else list(pending)

    @property
    def pending(self) -> Tensor:
        """The losses of the steps since the last row, (steps, 4), on the CPU."""
        if not self._pending:
            return torch.empty(0, len(Losses._fields))
        device = self._pending[-1].device  # those of a resumed run are on the CPU
        return torch.stack([losses.to(device) for losses in self._pending]).cpu()

    def add(self, step: int, losses: Losses, seconds: float) -> None:
        """Take the losses of the step that ended as number `step`."""
        self._pending.append(torch.stack(losses))
        if step % self.every == 0:
            self.rows.append((step, *self.pending.mean(0).tolist(), seconds))
            self._pending.clear()

    def write(self) -> None:
        """Write the rows so far, and their curve where matplotlib is installed."""
        with replacing(self.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(
                (int(step), *(f"{value:.6f}" for value in values), f"{seconds:.1f}")
                for step, *values, seconds in self.rows
            )
        if not self.rows:
            return
        try:
            from deco_lab.plots import loss_curve
        except ModuleNotFoundError:
            return
        steps, flow, frequency, alignment, *_ = zip(*self.rows, strict=True)
        curves = {"flow matching": flow, "frequency-aware": frequency}
        if any(alignment):
            curves["alignment"] = alignment
        with replacing(self.path.with_suffix(".png")) as beside:
            loss_curve(steps, curves).savefig(beside, dpi=120, format="png")


class EvaluationLog:
    """The figures of a run's evaluations as `evaluation.csv`, one row for each evaluation.

    Parameters
    ----------
    path : Path
        Rows of a resumed run's future are dropped.
    step : int
        Where the run continues.

    Raises
    ------
    ResumeError
        Where the file is not as a run wrote it.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows = _read(path, step, ("step",))

    def has(self, step: int) -> bool:
        """Return whether the model was evaluated at `step`."""
        return any(row["step"] == step for row in self.rows)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Add the figures of a step, replacing earlier ones, and write the file."""
        self.rows = [row for row in self.rows if row["step"] != step]
        self.rows.append({"step": step, **{name: float(v) for name, v in figures.items()}})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows({**row, "step": int(row["step"])} for row in self.rows)


def _read(path: Path, step: int, needed: Sequence[str]) -> list[dict[str, float]]:
    """Return the rows up to `step` of a table with, among others, the columns needed."""
    if not step or not path.exists():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)
            ]
        if not all(row.keys() >= set(needed) for row in rows):
            raise ValueError(f"a row lacks one of {', '.join(needed)}")
    except (ValueError, TypeError, csv.Error) as error:
        raise ResumeError(
            f"{path} is not as a run wrote it ({error}) and would be written over; save it in "
            "UTF-8 with commas between numbers like 0.5, or move it away, to go on without it"
        ) from error
    return [row for row in rows if row["step"] <= step]


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
        if self._writer:
            with writing(self.folder):
                self._writer.add_image("preview", np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """Write the rest."""
        if self._writer:
            with writing(self.folder):
                self._writer.close()
