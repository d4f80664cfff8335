"""Many images of one model, in files: shared by processes, and resumed where it was stopped.

Image i has label class_ids[i % len(class_ids)] and seed + i, so it is the same in a job of any
count, batch size and number of processes, to rounding. The unit of work is the aligned batch of
images [k * batch_size, (k + 1) * batch_size): processes take in turn those that are not written
yet, and a batch of which a part is written is drawn whole again. So a job that was killed and
resumed leaves, on a CPU and with the same kernels, the same bytes as one that was not.

A folder holds one job. `sampling.json` in it says what image i is, and a job that differs is
refused; one of another count goes on with what is there.
"""

import json
import time
from collections import deque
from collections.abc import Generator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from tqdm.auto import tqdm

from deco_lab.files import check_writable, remove_leftovers, replacing
from deco_lab.labels import class_labels
from deco_lab.sampling.image_files import MAX_IMAGES, present, write_npz, write_pngs
from deco_lab.sampling.loop import Step, sample_steps
from deco_lab.sampling.plan import Plan, check_seeds
from deco_lab.sampling.processes import Processes
from deco_lab.setting import Setting, check_whole, said

RECIPE = "sampling.json"
"""What says, in the folder, how its images are drawn."""

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
"""What weights may be."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Plan):
    """What decides the images of a job."""

    # fmt: off
    model: Annotated[str, Setting("Bundled name, file or hf:// address, as for deco_lab.load.")]
    weights: str = ""
    """What tells its weights from others, such as `deco_lab.spectra.weights_hash`."""
    class_ids: Annotated[tuple[int, ...], Setting(
        "Labels in turn: image i has class_ids[i % len(class_ids)]."
    )] = ()
    precision: Annotated[str, Setting(
        "Of the weights; states are float32.", choices=PRECISIONS
    )] = "float32"
    # fmt: on

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "class_ids", tuple(self.class_ids))

    def labels(self, first: int, stop: int) -> list[int]:
        """Return the labels of images `first` to before `stop`."""
        return [self.class_ids[i % len(self.class_ids)] for i in range(first, stop)]


class Drawn(NamedTuple):
    """What a job did now."""

    images: int
    """Images drawn, by all processes; those that were there before are not counted."""
    seconds: float
    """From the first batch to the last file."""
    nfe: int
    """Network passes per image; 0 where nothing was left to draw."""


def sample_many(
    model: Any,
    config: SamplingConfig,
    out: Path,
    count: int,
    *,
    npz: bool = False,
    batch_size: int = 32,
    processes: Processes | None = None,
) -> Drawn:
    """Leave the first `count` images of a job in a folder, drawing those that are not there yet.

    Parameters
    ----------
    model : DeCo or DiT
        To sample with, on the device of this process.
    config : SamplingConfig
        What the images are; `config.weights` names the model's, `config.precision` their dtype.
    out : Path
        Folder, which all processes see: a new or empty one, or one of the same job.
    count : int
        Images in all, at most 10**6.
    npz : bool
        Put an NPZ of them all beside the PNGs.
    batch_size : int
        Images at a time in each process; it changes them by rounding at most.
    processes : Processes, optional
        Those that share the job, each of which must call this; only this one when not given.

    Raises
    ------
    ValueError
        In every process, before anything is drawn: where an argument breaks a rule, or `out` holds
        something else.
    FloatingPointError
        Where an image is not finite; the files before it stay.
    """
    processes = processes or Processes(next(model.parameters()).device)
    _check(model, config, count, batch_size)
    problem, starts = "", []
    if processes.is_main:
        try:
            _claim(out, {**asdict(config), "image_size": model.config.image_size})
            written = present(out, count)
            starts = [
                first
                for first in range(0, count, batch_size)
                if not written[first : first + batch_size].all()
            ]
        except (ValueError, OSError) as error:
            problem = str(error)
    problem, starts = processes.from_main((problem, starts))
    if problem:
        raise ValueError(problem)
    if not (out / RECIPE).exists():
        raise ValueError(f"{out} must be seen by every process; put it on a shared disk")

    left = sum(min(batch_size, count - first) for first in starts)
    started, nfe = time.perf_counter(), 0
    with tqdm(
        desc="sampling",
        total=count,
        initial=count - left,
        unit=" images",
        smoothing=0.05,
        bar_format="{desc}: {percentage:.0f}%|{bar}| {n_fmt}/{total_fmt} "
        "[{elapsed}<{remaining}, {rate_noinv_fmt}]",
        disable=not processes.is_main,
    ) as bar:
        for first in starts[processes.index :: processes.count]:
            stop = min(first + batch_size, count)
            step = deque(_steps(model, config, first, stop), maxlen=1).pop()
            if not step.x.isfinite().all():
                raise FloatingPointError(
                    f"one of the images {first} to {stop - 1} holds NaN or infinite values; lower "
                    f"guidance_scale, which is {config.guidance_scale:g}, or use another model"
                )
            write_pngs(out, first, step.x)
            nfe = step.nfe
            # The others are about as far.
            bar.update(min((stop - first) * processes.count, count - bar.n))
        processes.wait()
        bar.update(count - bar.n)
    if npz and processes.is_main:
        write_npz(out, model.config.image_size, config.labels(0, count))
    return Drawn(left, time.perf_counter() - started, nfe)


def _steps(
    model: Any, config: SamplingConfig, first: int, stop: int
) -> Generator[Step, None, None]:
    """Check the arguments, then give the steps of images `first` to before `stop`."""
    plan = replace(config, seed=config.seed + first)
    return sample_steps(model, plan.labels(first, stop), **plan.arguments())


def _check(model: Any, config: SamplingConfig, count: int, batch_size: int) -> None:
    """Raise ValueError for whatever would stop the job later."""
    six_digits = "; names have six digits, so draw more in another folder, from a later seed"
    check_whole("count", count, 1, MAX_IMAGES, six_digits)
    check_whole("batch_size", batch_size, 1)
    dtype = next(model.parameters()).dtype
    if dtype != PRECISIONS[config.precision]:
        raise ValueError(
            f"precision must be that of the model's weights, got {config.precision} for {dtype}; "
            f"load the model with dtype={PRECISIONS[config.precision]}"
        )
    class_labels(config.class_ids, model.config.num_classes)
    check_seeds(config.seed, count)
    _steps(model, config, 0, 1).close()


def _claim(out: Path, recipe: dict[str, Any]) -> None:
    """Make the folder this job's, without what killed processes left half written.

    Raises
    ------
    ValueError
        Where it is another job's, or holds other files.
    """
    check_writable(out)
    remove_leftovers(out / RECIPE)
    asked = json.loads(json.dumps(recipe))
    if (out / RECIPE).exists():
        _compare(out, asked)
        remove_leftovers(out / "*.png")
        remove_leftovers(out / "samples_*.npz")
        return
    # Hidden files are those of file managers.
    if out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(
            f"out must be a new or empty folder, or one with a {RECIPE}, got {out}, which holds "
            "other files; give another"
        )
    with replacing(out / RECIPE) as beside:
        beside.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")


def _compare(out: Path, asked: dict[str, Any]) -> None:
    """Raise ValueError where the folder's recipe is not the one that is asked for."""
    # A folder may be older than a setting.
    defaults = json.loads(json.dumps({each.name: each.default for each in fields(Plan)}))
    try:
        found = defaults | json.loads((out / RECIPE).read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        raise ValueError(
            f"{out / RECIPE} is damaged, so its images may be others; give another out"
        ) from None
    # A model's name may change, but not its weights, whose hash is that of their precision.
    may_differ = {"model"} if found.get("precision") == asked["precision"] else {"model", "weights"}
    differ = [
        f"{name} {said(found.get(name))}, not {said(value)}"
        for name, value in asked.items()
        if found.get(name) != value and name not in may_differ
    ]
    if differ:
        raise ValueError(
            f"out must be a folder of the same job, and {out} holds one with "
            f"{' and '.join(differ)}; ask for the same, or give another out"
        )
