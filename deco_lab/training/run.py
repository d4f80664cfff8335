"""A run: steps until the last one, with what a person wants to see and keep written as it goes.

Every file is whole at any moment, and the state is written last: a run that is killed goes on from
the last checkpoint. With several processes all of them take part in every step and checkpoint, and
the main one alone writes and prints.
"""

import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
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
    preview_every: int = 1000,
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
    save_every, preview_every : int
        Steps between two checkpoints, and between two previews; 0 previews only at the end.
    evaluate : callable, optional
        Called with the averaged model after the last step, and every `evaluate_every` steps.
    evaluate_every : int
        Steps between two evaluations; 0 evaluates only at the end.

    Raises
    ------
    ValueError
        Where `out` cannot be written to, or holds files that are no run's.
    ResumeError
        Where `out` holds another run.
    OSError
        Where a file cannot be written; what was written before stays, and is gone on from.
    FloatingPointError
        Where the loss is no longer finite; the last good state stays.
    """
    processes, config = trainer.processes, trainer.config
    claim(out)
    state = _found_state(trainer, out)
    step = state["step"] if state else 0
    log = Table(out / "loss.csv", step, (*Losses._fields, "seconds"))
    evaluations = Table(out / "evaluation.csv", step)
    # The losses of the steps since the last row; those of a resumed run are on the CPU.
    saved = state["losses"] if state else None
    pending: list[Tensor] = [] if saved is None else [*saved.to(trainer.device)]
    if compiled and step < config.steps:
        _say(trainer, "compiling by region (a minute on a CPU) ...")
        trainer.compile()
    trainer.distribute()
    if state:
        trainer.load(state)
    else:
        trainer.save(out / "state.pt")  # the folder is this run's from now on
    judged = step if evaluations.has(step) else -1
    board = Board(out / "tensorboard", step) if processes.is_main else None
    parameters = sum(p.numel() for p in trainer.model.parameters())
    where = machine(trainer.device) + (f" x {processes.count}" if processes.count > 1 else "")
    _say(
        trainer,
        f"{name}: {type(trainer.model).__name__} of {parameters / 1e6:.2f}M parameters, "
        f"{config.steps} steps of {config.batch_size} crops in {config.precision} on {where}; "
        + (f"resumed at step {step} from {out}" if step else f"kept in {out}"),
    )
    bar = tqdm(
        desc=name,
        unit=" img",
        unit_scale=True,
        smoothing=0.05,
        initial=step * config.batch_size,
        total=config.steps * config.batch_size,
        disable=not processes.is_main,
    )

    def keep() -> None:
        # First the model, which is refused if it is not finite: the last good state then stays.
        model = trainer.averaged_model()
        last = log.rows[-1] if log.rows else {}
        if processes.is_main:
            training = {
                **asdict(config),
                "step": trainer.step,
                "seconds": round(trainer.seconds, 1),
                "machine": where,
                "torch": torch.__version__,
                "data": trainer.data,
                "command": command,
                "flow_matching_loss": last.get("flow_matching"),
                "frequency_loss": last.get("frequency"),
            }
            checkpoints.save(model, out / "model.safetensors", training=training)
            log.write()
            draw_losses(log)
        trainer.save(out / "state.pt", pending)

    def show() -> None:
        model = trainer.averaged_model()
        if board:
            picture = preview(model)
            with replacing(out / "preview.png") as beside:
                picture.save(beside, format="PNG")
            board.add_picture(trainer.step, picture)

    def judge() -> None:
        nonlocal judged
        judged = trainer.step
        model = trainer.averaged_model()
        if evaluate and board:
            figures = evaluate(model)
            evaluations.add(judged, figures)
            evaluations.write()
            board.add(judged, figures, "evaluation")
            text = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            bar.write(f"step {judged}: {text}", file=sys.stderr)

    def note() -> None:
        """Log the mean of the losses since the last row, and show it."""
        figures = dict(zip(Losses._fields, torch.stack(pending).mean(0).tolist(), strict=True))
        pending.clear()
        before = log.rows[-1]["seconds"] if log.rows else 0.0
        log.add(trainer.step, {**figures, "seconds": trainer.seconds})
        shown = [*figures.values()][: 3 if config.repa else 2]
        bar.set_postfix_str(" + ".join(f"{value:.4f}" for value in shown))
        if board:
            speed = EVERY * config.batch_size / max(trainer.seconds - before, 1e-9)
            board.add(trainer.step, {**figures, "images_per_second": speed}, "training")
            rates = {type(o).__name__: o.param_groups[0]["lr"] for o in trainer.optimizers}
            board.add(trainer.step, rates, "learning_rate")

    try:
        with _interrupts() as interrupted:
            stopped = False
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
                pending.append(torch.stack(losses))
                bar.update(config.batch_size)
                if row:
                    note()
                for every, act in (
                    (save_every, keep), (preview_every, show), (evaluate_every, judge)
                ):  # fmt: skip
                    if every and trainer.step % every == 0:
                        act()
                # Processes are told of Ctrl-C at different steps, and must stop at the same.
                stopped = interrupted.is_set()
                if processes.count > 1:
                    told = torch.tensor(float(stopped and row), device=trainer.device)
                    stopped = row and bool(processes.mean(told) > 0)
        keep()
        show()
        if evaluate and not stopped and judged != trainer.step:
            judge()
    finally:
        bar.close()
        if board:
            board.close()
    if stopped:
        _say(trainer, f"stopped at step {trainer.step}; the same command goes on")
    else:
        _say(trainer, f'done: deco_lab.load("{out / "model.safetensors"}")')


def claim(out: Path) -> None:
    """Raise ValueError unless a run may write in `out`: what it would write over is its own."""
    check_writable(out)
    taken = [name for name in FILES if (out / name).exists()]
    if taken and "state.pt" not in taken:
        raise ValueError(
            f"out must be a folder of this run or one without files of its names, got {out}, which "
            f"holds {', '.join(taken)} and no state.pt; give another --out, or move them"
        )


def _found_state(trainer: Trainer, out: Path) -> dict[str, Any] | None:
    """Return the state in `out` to go on from; make the folder where there is none."""
    path = out / "state.pt"
    if trainer.processes.is_main:
        out.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            remove_leftovers(out / name)
    seen = float(trainer.processes.mean(torch.tensor(float(path.exists()), device=trainer.device)))
    if 0 < seen < 1:
        raise ResumeError(f"{path} must be seen by every process; put --out on a shared disk")
    return trainer.read(path) if seen else None


def _say(trainer: Trainer, text: str) -> None:
    if trainer.processes.is_main:
        print(text, file=sys.stderr)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C sets, so that a step is finished before the run ends.

    Only the main thread is told of Ctrl-C; a run in another one goes on to its end.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
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
