"""A run: steps until the last one, with what a person wants to see and keep written as it goes."""

import csv
import platform
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from deco_lab import checkpoints
from deco_lab.data import to_picture
from deco_lab.models import Model
from deco_lab.sampling import sample
from deco_lab.training.trainer import Trainer


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
    """

    columns = ("step", "flow_matching", "frequency", "seconds")

    def __init__(self, path: Path, step: int, every: int = 20) -> None:
        self.path = path
        self.every = every
        self.rows: list[tuple[float, ...]] = []
        self._pending: list[Tensor] = []
        if step and path.exists():
            with path.open(newline="") as file:
                rows = [tuple(float(v) for v in row) for row in list(csv.reader(file))[1:]]
            self.rows = [row for row in rows if row[0] <= step]

    def add(self, step: int, losses: tuple[Tensor, Tensor], seconds: float) -> None:
        """Take the losses of the step that ended as number `step`."""
        self._pending.append(torch.stack(losses))
        if step % self.every == 0:
            flow, frequency = torch.stack(self._pending).mean(0).tolist()
            self.rows.append((step, flow, frequency, seconds))
            self._pending.clear()

    def write(self) -> None:
        """Write the rows so far, and their curve where matplotlib is installed."""
        beside = self.path.with_name(self.path.name + ".part")
        with beside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows(
                (int(step), f"{flow:.6f}", f"{frequency:.6f}", f"{seconds:.1f}")
                for step, flow, frequency, seconds in self.rows
            )
        beside.replace(self.path)
        if not self.rows:
            return
        try:
            from deco_lab.plots import loss_curve
        except ModuleNotFoundError:
            return
        steps, flow, frequency, _ = zip(*self.rows, strict=True)
        figure = loss_curve(steps, {"flow matching": flow, "frequency-aware": frequency})
        figure.savefig(self.path.with_suffix(".png"), dpi=120)


def preview(model: Model) -> Image.Image:
    """Return guided samples of the first classes, at most 28, on one picture, seven in a row."""
    class_ids = list(range(min(28, model.config.num_classes)))
    return to_picture(sample(model, class_ids, num_steps=25, guidance_scale=2.0), columns=7)


def run(
    trainer: Trainer,
    out: Path,
    *,
    name: str,
    compiled: bool = True,
    save_every: int = 200,
    preview_every: int = 1000,
) -> None:
    """Train to the last step, leaving in `out` what was reached whenever the run ends.

    `out` holds `state.pt` (to resume from), `model.safetensors` (the averaged weights, for
    `deco_lab.load`), `loss.csv`, `loss.png` and `preview.png`. Ctrl-C saves and returns.

    Parameters
    ----------
    trainer : Trainer
        A new one, or one with another recipe for the same model whose run is in `out`.
    out : Path
        Folder; an earlier run in it is resumed.
    name : str
        What the model is called in its checkpoint.
    compiled : bool
        Compile by region.
    save_every, preview_every : int
        Steps between two checkpoints, and between two previews.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = out / "state.pt"
    if state.exists():
        trainer.restore(state)
    config = trainer.config
    log = LossLog(out / "loss.csv", trainer.step)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(
        f"{name}: {type(trainer.model).__name__} of {parameters / 1e6:.2f}M parameters, "
        f"{config.steps} steps of {config.batch_size} crops in {config.precision} on "
        f"{machine(trainer.device)}; "
        + (f"resumed at step {trainer.step} from {out}" if trainer.step else f"kept in {out}"),
        file=sys.stderr,
    )
    if compiled and trainer.step < config.steps:
        print("compiling by region (a minute on a CPU) ...", file=sys.stderr)
        trainer.compile()
    bar = tqdm(
        desc=name,
        unit=" img",
        unit_scale=True,
        smoothing=0.05,
        initial=trainer.step * config.batch_size,
        total=config.steps * config.batch_size,
    )

    def keep() -> None:
        # First the model, which is refused if it is not finite: the last good state then stays.
        training = {
            **asdict(config),
            "step": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "machine": machine(trainer.device),
            "torch": torch.__version__,
            "flow_matching_loss": log.rows[-1][1] if log.rows else None,
            "frequency_loss": log.rows[-1][2] if log.rows else None,
        }
        checkpoints.save(trainer.averaged_model(), out / "model.safetensors", training=training)
        trainer.save(state)
        log.write()

    stopped = threading.Event()
    # A step is finished before the run ends, or the saved state would lie between two steps.
    # Only the main thread is told of Ctrl-C; a run in another one goes on to its end.
    interruptible = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGINT)
    if interruptible:
        signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        while trainer.step < config.steps and not stopped.is_set():
            started = time.perf_counter()
            losses = trainer.train_step()
            if trainer.step % log.every == 0 and not torch.isfinite(losses[0]):
                raise FloatingPointError(
                    f"the loss is {losses[0]} at step {trainer.step}; lower muon_lr or adamw_lr "
                    f"and start again (the last good state is {state})"
                )
            trainer.seconds += time.perf_counter() - started
            log.add(trainer.step, losses, trainer.seconds)
            bar.update(config.batch_size)
            if log.rows and trainer.step % log.every == 0:
                bar.set_postfix_str(f"loss {log.rows[-1][1]:.4f} + {log.rows[-1][2]:.4f}")
            if trainer.step % save_every == 0:
                keep()
            if trainer.step % preview_every == 0:
                preview(trainer.averaged_model()).save(out / "preview.png")
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, previous)
        bar.close()
    keep()
    preview(trainer.averaged_model()).save(out / "preview.png")
    if stopped.is_set():
        print(f"stopped at step {trainer.step}; the same command goes on", file=sys.stderr)
    else:
        print(f'done: deco_lab.load("{out / "model.safetensors"}")', file=sys.stderr)


def machine(device: torch.device) -> str:
    """Return in words what a run on `device` runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"
