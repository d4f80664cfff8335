"""A run: steps until the last one, with what a person wants to see and keep written as it goes.

Every file is whole at any moment, and the state is written last: a run that is killed goes on from
the last checkpoint. With several processes all of them take part in every step and checkpoint, and
only the main one writes and prints.
"""

import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from tqdm.auto import tqdm

from deco_lab import checkpoints
from deco_lab.data import to_picture
from deco_lab.files import check_writable, remove_leftovers, replacing
from deco_lab.models import Model
from deco_lab.sampling import sample
from deco_lab.training.journal import Board, Table, draw_losses
from deco_lab.training.trainer import Losses, ResumeError, Trainer

EVERY = 20
"""Steps that share a row of `loss.csv`, their mean."""

FILES = (
    "state.pt",
    "model.safetensors",
    "loss.csv",
    "loss.png",
    "preview.png",
    "evaluation.csv",
    "tensorboard",
)
"""What a run leaves in its folder, which may hold other files."""

PREVIEW_EVERY = 1000
"""Steps between two previews; there is one at the end, too."""

Evaluate = Callable[[Model], Mapping[str, float]]
"""Returns a model's figures by name."""


def preview(model: Model) -> Image.Image:
    """Return guided samples of the first classes, at most 28, on one picture, seven in a row."""
    class_ids = list(range(min(28, model.config.num_classes)))
    return to_picture(sample(model, class_ids, num_steps=25, guidance_scale=2.0), columns=7)


def run(
    trainer: Trainer,
    out: Path,
    *,
    name: str,
    command: str = "",
    compiled: bool = True,
    save_every: int = 200,
    evaluate: Evaluate | None = None,
    evaluate_every: int = 0,
) -> None:
    """Train to the last step, leaving in `out` what was reached whenever the run ends.

    `out` holds `state.pt` (to resume from), `model.safetensors` (the averaged weights, for
    `deco_lab.load`), `loss.csv`, `loss.png` and `preview.png`; `evaluation.csv` where the model is
    evaluated, and a folder `tensorboard` where TensorBoard is installed. Ctrl-C saves and returns.

    Parameters
    ----------
    trainer : Trainer
        A new one, or one with another recipe for the same model whose run is in `out`.
    out : Path
        Folder, which all processes see; an earlier run in it is resumed.
    name : str
        What the model is called in its checkpoint.
    command : str
        What trains it again; kept in the checkpoint's record.
    compiled : bool
        Compile by region.
    save_every : int
        Steps between two checkpoints, at least 0; 0 writes one only at the end.
    evaluate : callable, optional
        Called with the averaged model after the last step, and every `evaluate_every` steps.
    evaluate_every : int
        Steps between two evaluations, at least 0; 0 evaluates only at the end.

    Raises
    ------
    ValueError
        Where `out` cannot be written to, or holds files that are no run's; for steps below 0.
    ResumeError
        Where `out` holds another run.
    OSError
        Where a file cannot be written; what was written before stays, and is gone on from.
    FloatingPointError
        Where the loss is no longer finite; the last good state stays.
    """
    processes, config = trainer.processes, trainer.config
    for option, every in {"save_every": save_every, "evaluate_every": evaluate_every}.items():
        if every < 0:
            raise ValueError(f"{option} must be at least 0, got {every}; 0 waits for the end")
    claim(out)
    _restore(trainer, out)
    record = Record(trainer, out, name, command, evaluate) if processes.is_main else None
    stopped = False
    with closing(record) if record else nullcontext(), _interrupts() as interrupted:
        if compiled and trainer.step < config.steps:
            if record:
                record.say("compiling by region (a minute on a CPU) ...")
            trainer.compile()
        trainer.distribute()
        while trainer.step < config.steps and not stopped:
            started = time.perf_counter()
            losses = trainer.train_step()
            row = trainer.step % EVERY == 0
            if row and not torch.isfinite(losses.flow_matching):
                raise FloatingPointError(
                    f"the loss is {losses.flow_matching} at step {trainer.step}; lower muon_lr "
                    f"or adamw_lr and start again (the last good state is {out / 'state.pt'})"
                )
            trainer.seconds += time.perf_counter() - started
            if record:
                record.note(losses)
                for every, act in (
                    (save_every, record.keep),
                    (PREVIEW_EVERY, record.show),
                    (evaluate_every, record.judge),
                ):
                    if every and trainer.step % every == 0:
                        act()
            # Processes are told of Ctrl-C at different steps, and must stop at the same.
            stopped = interrupted.is_set()
            if processes.count > 1:
                told = torch.tensor(float(stopped and row), device=trainer.device)
                stopped = row and bool(processes.mean(told) > 0)
        if record:
            record.finish(stopped)


class Record:
    """What a run keeps and shows as it goes; the main process has it.

    Parameters are those of `run`.
    """

    def __init__(
        self, trainer: Trainer, out: Path, name: str, command: str, evaluate: Evaluate | None
    ) -> None:
        config, step = trainer.config, trainer.step
        self.trainer, self.out, self.command, self.evaluate = trainer, out, command, evaluate
        self.losses = Table(out / "loss.csv", step, (*Losses._fields, "seconds"))
        self.evaluations = Table(out / "evaluation.csv", step)
        if not step:
            trainer.save(out / "state.pt")  # the folder is this run's from now on
        self.board = Board(out / "tensorboard", step)
        many = f" x {trainer.processes.count}" if trainer.processes.count > 1 else ""
        self.machine = machine(trainer.device) + many
        parameters = sum(p.numel() for p in trainer.model.parameters())
        print(
            f"{name}: {type(trainer.model).__name__} of {parameters / 1e6:.2f}M parameters, "
            f"{config.steps} steps of {config.batch_size} crops in {config.precision} on "
            f"{self.machine}; "
            + (f"resumed at step {step} from {out}" if step else f"kept in {out}"),
            file=sys.stderr,
        )
        self.bar = tqdm(
            desc=name,
            unit=" img",
            unit_scale=True,
            smoothing=0.05,
            initial=step * config.batch_size,
            total=config.steps * config.batch_size,
        )

    def close(self) -> None:
        """Leave the terminal and TensorBoard's files in order."""
        self.bar.close()
        self.board.close()

    def note(self, losses: Losses) -> None:
        """Take a step's losses; log and show the mean of those since the last row."""
        trainer = self.trainer
        trainer.unlogged.append(torch.stack(losses))
        self.bar.update(trainer.config.batch_size)
        if trainer.step % EVERY:
            return
        means = torch.stack(trainer.unlogged).mean(0).tolist()
        trainer.unlogged.clear()
        figures = dict(zip(Losses._fields, means, strict=True))
        self.losses.add(trainer.step, {**figures, "seconds": trainer.seconds})
        self.board.add(trainer.step, figures, "training")
        self.bar.set_postfix_str(" + ".join(f"{v:.4f}" for v in means[:3] if v))

    def keep(self) -> None:
        """Write what a person loads and what the run goes on from."""
        trainer, last = self.trainer, self.losses.rows[-1] if self.losses.rows else {}
        training = {
            **asdict(trainer.config),
            "step": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "machine": self.machine,
            "torch": torch.__version__,
            "data": trainer.data,
            "command": self.command,
            "flow_matching_loss": last.get("flow_matching"),
            "frequency_loss": last.get("frequency"),
        }
        # First the model, which is refused if it is not finite: the last good state then stays.
        model = trainer.averaged_model()
        checkpoints.save(model, self.out / "model.safetensors", training=training)
        self.losses.write()
        draw_losses(self.losses)
        trainer.save(self.out / "state.pt")

    def show(self) -> None:
        """Write the preview."""
        picture = preview(self.trainer.averaged_model())
        with replacing(self.out / "preview.png") as beside:
            picture.save(beside, format="PNG")
        self.board.add_picture(self.trainer.step, picture)

    def judge(self) -> None:
        """Evaluate the averaged model, unless that has been done."""
        step = self.trainer.step
        if self.evaluate and not self.evaluations.has(step):
            figures = self.evaluate(self.trainer.averaged_model())
            self.evaluations.add(step, figures)
            self.evaluations.write()
            self.board.add(step, figures, "evaluation")
            text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            self.say(f"step {step}: {text}")

    def finish(self, stopped: bool) -> None:
        """Keep what was reached, and say what to do with it."""
        self.keep()
        self.show()
        if stopped:
            self.say(f"stopped at step {self.trainer.step}; the same command goes on")
        else:
            self.judge()
            self.say(f'done: deco_lab.load("{self.out / "model.safetensors"}")')

    def say(self, text: str) -> None:
        """Write a line above the progress bar."""
        self.bar.write(text, file=sys.stderr)


def claim(out: Path) -> None:
    """Raise ValueError unless a run may write in `out`: what it would write over is its own."""
    check_writable(out)
    taken = [name for name in FILES if (out / name).exists()]
    if taken and "state.pt" not in taken:
        raise ValueError(
            f"out must be a folder of this run or one without files of its names, got {out}, which "
            f"holds {', '.join(taken)} and no state.pt; give another --out, or move them"
        )


def _restore(trainer: Trainer, out: Path) -> None:
    """Go on from the state in `out`; make the folder where there is none."""
    path = out / "state.pt"
    if trainer.processes.is_main:
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            remove_leftovers(out / name)
    seen = float(trainer.processes.mean(torch.tensor(float(path.exists()), device=trainer.device)))
    if 0 < seen < 1:
        raise ResumeError(f"{path} must be seen by every process; put --out on a shared disk")
    if seen:
        trainer.restore(path)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets, so that a step is finished before the run ends."""
    told = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *_: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, previous)


def machine(device: torch.device) -> str:
    """Return in words what a run on `device` runs on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"
