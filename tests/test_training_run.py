import csv
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import alone, run_to_its_end, started

from deco_lab import checkpoints
from deco_lab.config import DeCoConfig
from deco_lab.data import CropSampler
from deco_lab.training.__main__ import main
from deco_lab.training.journal import EvaluationLog, LossLog
from deco_lab.training.recipe import TrainingConfig
from deco_lab.training.run import FILES, run
from deco_lab.training.trainer import Losses, ResumeError, Trainer

TINY = DeCoConfig(
    image_size=16, patch_size=8, num_classes=2, hidden_size=32, num_heads=2, depth=2,
    decoder_depth=1, decoder_width=8,
)  # fmt: skip
RECIPE = TrainingConfig(steps=12, batch_size=4, warmup_steps=2, precision="float32")
SMALL = [
    "--image-size", "16", "--patch-size", "8", "--hidden-size", "32", "--num-heads", "2",
    "--depth", "2", "--decoder-depth", "1", "--decoder-width", "8", "--batch-size", "2",
    "--no-compile", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def crops() -> CropSampler:
    rows, columns = np.mgrid[:50, :60]
    pictures = [
        np.stack([3 * rows, 4 * columns, 100 * np.ones_like(rows)], axis=-1).astype(np.uint8),
        np.full((50, 60, 3), 230, np.uint8),
    ]
    return CropSampler(pictures, 16, num_scales=4)


def trained(crops: CropSampler, config: DeCoConfig, steps: int) -> Trainer:
    trainer = Trainer(config, RECIPE, crops)
    for _ in range(steps):
        trainer.train_step()
    return trainer


def test_run_leaves_a_model_losses_and_a_preview(crops, tmp_path: Path, capsys):
    trainer = Trainer(TINY, TrainingConfig(**{**vars(RECIPE), "steps": 40}), crops)
    run(trainer, tmp_path / "run", name="test", compiled=False, save_every=20)
    shown = capsys.readouterr().err
    assert "test: DeCo of 0.0" in shown
    assert "40 steps of 4 crops in float32 on" in shown
    assert 'model.safetensors")' in shown
    names = {path.name for path in (tmp_path / "run").iterdir()}
    files = {"state.pt", "model.safetensors", "loss.csv", "loss.png", "preview.png"}
    assert names - {"tensorboard"} == files
    with (tmp_path / "run" / "loss.csv").open() as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["step", "20", "40"]
    model = checkpoints.load(tmp_path / "run" / "model.safetensors", device="cpu")
    assert model.config == TINY
    for name, value in trainer.average.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_run_keeps_the_last_good_state_when_weights_break(
    crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(trained(crops, TINY, RECIPE.steps), tmp_path, name="test", compiled=False)
    good = (tmp_path / "state.pt").read_bytes()
    broken = Trainer(TINY, RECIPE, crops)
    broken.restore(tmp_path / "state.pt")
    broken.average["decoder.head.bias"].fill_(math.nan)
    monkeypatch.setattr(broken, "load", lambda state: None)
    with pytest.raises(checkpoints.CheckpointError, match=r"decoder\.head\.bias holds NaN"):
        run(broken, tmp_path, name="test", compiled=False)
    assert (tmp_path / "state.pt").read_bytes() == good


def test_loss_log_drops_the_future_of_a_resumed_run(tmp_path: Path):
    log = LossLog(tmp_path / "loss.csv", 0, every=2)
    for step in range(1, 9):
        log.add(step, Losses(*torch.tensor([step, 0.5, 0.0, 2.0])), 1.0 * step)
    log.write()
    resumed = LossLog(tmp_path / "loss.csv", 4, every=2)
    assert [row[:2] for row in resumed.rows] == [(2, 1.5), (4, 3.5)]


def test_loss_log_of_a_stopped_run_has_the_rows_of_one_that_was_not(crops, tmp_path: Path):
    """Stopped at step 15, the row of step 20 is still the mean of twenty steps."""
    forty = replace(RECIPE, steps=40, cooldown=0.0)
    for steps, out in ((40, "straight"), (15, "stopped"), (33, "stopped"), (40, "stopped")):
        trainer = Trainer(TINY, replace(forty, steps=steps), crops)
        run(trainer, tmp_path / out, name="t", compiled=False)
    straight, stopped = (
        [row[:-1] for row in csv.reader((tmp_path / out / "loss.csv").read_text().splitlines())]
        for out in ("straight", "stopped")
    )
    assert [row[0] for row in straight] == ["step", "20", "40"]
    assert stopped == straight


SPREADSHEETS: dict[str, Callable[[str], bytes]] = {
    "semicolons": lambda text: text.replace(",", ";").replace(".", ",").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "decimal commas": lambda text: text.replace("0.", '"0,').replace(",", '",', 1).encode(),
    "no header": lambda text: text.split("\n", 1)[1].encode(),
    "cut": lambda text: text[:-9].encode(),
    "a page": lambda text: b"<!DOCTYPE html>\n<html>404</html>\n",
}


@pytest.mark.parametrize("change", SPREADSHEETS.values(), ids=SPREADSHEETS.keys())
def test_run_refuses_a_loss_log_that_it_would_lose(change, crops, tmp_path: Path):
    log = LossLog(tmp_path / "loss.csv", 0, every=2)
    for step in range(1, 9):
        log.add(step, Losses(*torch.tensor([0.1 * step, 0.5, 0.0, 2.0])), 1.0 * step)
    log.write()
    trained(crops, TINY, 8).save(tmp_path / "state.pt")
    damaged = change((tmp_path / "loss.csv").read_text(encoding="utf-8"))
    (tmp_path / "loss.csv").write_bytes(damaged)
    with pytest.raises(
        ResumeError, match=rf"^{tmp_path}/loss\.csv is not as a run wrote it \(.*or"
    ):
        run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)
    assert (tmp_path / "loss.csv").read_bytes() == damaged
    (tmp_path / "loss.csv").unlink()
    run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)


@pytest.mark.parametrize("change", [
    lambda text: "\ufeff" + text.replace("\n", "\r\n"), lambda text: "",
], ids=["mark", "empty"])  # fmt: skip
def test_loss_log_reads_what_loses_nothing(change, tmp_path: Path):
    log = LossLog(tmp_path / "loss.csv", 0, every=2)
    for step in range(1, 5):
        log.add(step, Losses(*torch.tensor([step, 0.5, 0.0, 2.0])), 1.0 * step)
    log.write()
    text = change((tmp_path / "loss.csv").read_text(encoding="utf-8"))
    (tmp_path / "loss.csv").write_text(text, encoding="utf-8", newline="")
    assert LossLog(tmp_path / "loss.csv", 4, every=2).rows == (log.rows if text else [])


def test_run_evaluates_every_so_often_and_at_the_end(crops, tmp_path: Path, capsys):
    seen: list[float] = []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training
        seen.append(float(model.decoder.head.bias[0]))
        return {"distance": float(len(seen))}

    recipe = TrainingConfig(**{**vars(RECIPE), "steps": 10})
    trainer = Trainer(TINY, recipe, crops)
    run(trainer, tmp_path, name="t", compiled=False, evaluate=evaluate, evaluate_every=4)
    with (tmp_path / "evaluation.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["step", "distance"], ["4", "1.0"], ["8", "2.0"], ["10", "3.0"]
        ]  # fmt: skip
    assert seen[-1] == float(trainer.average["decoder.head.bias"][0])
    assert "step 8: distance 2" in capsys.readouterr().err
    again = Trainer(TINY, recipe, crops)
    run(again, tmp_path, name="t", compiled=False, evaluate=evaluate, evaluate_every=4)
    assert len(seen) == 3  # the last step has its row already


def test_evaluation_does_not_change_what_is_trained(crops, tmp_path: Path):
    plain, judged = (Trainer(TINY, RECIPE, crops) for _ in range(2))
    run(plain, tmp_path / "a", name="t", compiled=False)

    def evaluate(model: Any) -> dict[str, float]:
        return {"noise": float(torch.randn(()))}

    run(judged, tmp_path / "b", name="t", compiled=False, evaluate=evaluate, evaluate_every=2)
    for name, value in plain.learner.state_dict().items():
        assert torch.equal(value, judged.learner.state_dict()[name]), name


def test_evaluation_log_drops_the_future_of_a_resumed_run(tmp_path: Path):
    log = EvaluationLog(tmp_path / "evaluation.csv", 0)
    log.add(4, {"a": 1.0})
    log.add(8, {"a": 0.5, "b": 2.0})
    resumed = EvaluationLog(tmp_path / "evaluation.csv", 5)
    assert resumed.rows == [{"step": 4, "a": 1.0}]
    assert not resumed.has(8)
    resumed.add(6, {"b": 3.0})
    assert (tmp_path / "evaluation.csv").read_text().split() == ["step,a,b", "4,1.0,", "6,,3.0"]
    assert EvaluationLog(tmp_path / "evaluation.csv", 6).rows[-1] == {"step": 6, "b": 3.0}


def test_run_writes_for_tensorboard(crops, tmp_path: Path):
    pytest.importorskip("tensorboard", reason="needs tensorboard; pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = TrainingConfig(**{**vars(RECIPE), "steps": 40})
    trainer = Trainer(TINY, recipe, crops)
    run(trainer, tmp_path, name="t", compiled=False, evaluate=lambda model: {"distance": 3.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    with (tmp_path / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("flow_matching", "frequency", "gradient_norm"):
        got = [(event.step, event.value) for event in events.Scalars(f"training/{name}")]
        want = [(int(row["step"]), pytest.approx(float(row[name]), abs=1e-6)) for row in rows]
        assert got == want
    rates = [event.value for event in events.Scalars("learning_rate/Muon")]
    assert rates == pytest.approx([0.02, 0.02 / 16])
    assert events.Scalars("training/images_per_second")[0].value > 0
    assert events.Scalars("evaluation/distance")[0].value == 3.0
    assert [image.step for image in events.Images("preview")] == [40]


def test_run_needs_no_tensorboard(crops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "model.safetensors").exists()


def test_run_removes_what_a_killed_run_left(crops, tmp_path: Path):
    names = [f".{name}.0a1b2c3d.tmp" for name in ("state.pt", "loss.csv", "model.safetensors")]
    others = ["notes.tmp", "film.mp4.part", ".other.safetensors.0a1b2c3d.tmp"]
    for name in (*names, *others):
        (tmp_path / name).write_bytes(b"half")
    run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert left.isdisjoint(names)
    assert left.issuperset(others)


@pytest.mark.slow
def test_killed_run_leaves_whole_files_and_ends_with_the_same_bits(tmp_path: Path):
    options = [*SMALL, "--cooldown", "0"]
    places = random.Random(0)
    killed = tmp_path / "killed"
    deadline, kills, last = time.monotonic() + 300, 0, 0
    while kills < 5:
        process = started(
            alone, main, [*options, "--steps", "5000", "--save-every", "1", "--out", str(killed)]
        )
        log = killed / "loss.csv"
        before = log.stat().st_mtime_ns if log.exists() else 0
        while not (log.exists() and log.stat().st_mtime_ns != before):
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(places.uniform(0, 0.7))
        assert process.is_alive(), "the run ended before it was killed; give it more steps"
        process.kill()
        process.join(60)
        kills += 1
        if not (killed / "state.pt").exists():
            continue  # killed in its first checkpoint, before the state was written
        state = torch.load(killed / "state.pt", weights_only=True)
        model = checkpoints.load(killed / "model.safetensors", device="cpu")
        record = checkpoints.read_training(killed / "model.safetensors")
        # The model is written first, so it may be ahead of the state by the step that was lost.
        assert int(str(record["step"])) - state["step"] in (0, 1)
        assert all(p.isfinite().all() for p in model.parameters())
        assert state["step"] >= last
        last = state["step"]
    assert last > 5
    straight = tmp_path / "straight"
    for out in (killed, straight):
        run_to_its_end(main, [*options, "--steps", str(last + 3), "--out", str(out)])
    assert not [*killed.glob(".*.tmp")]
    first, second = (torch.load(out / "state.pt", weights_only=True) for out in (straight, killed))
    assert first["step"] == second["step"] == last + 3
    for group in ("learner", "average"):
        for name, value in first[group].items():
            assert torch.equal(value, second[group][name]), name


@pytest.mark.slow
def test_interrupt_saves_a_finished_step(tmp_path: Path):
    command = [sys.executable, "-m", "deco_lab.training", *SMALL]
    with subprocess.Popen(
        [*command, "--steps", "100000", "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 120
        shown = ""
        while " img/s" not in shown or "0.00/" in shown:
            shown = shown[-200:] + process.stderr.read(1)
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 0
    assert "the same command goes on" in rest
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert f"stopped at step {state['step']};" in rest
    assert 0 < state["step"] < 100000


def test_run_writes_over_no_model_that_it_cannot_resume(crops, tmp_path: Path):
    run(trained_run(crops, 6), tmp_path, name="t", compiled=False, save_every=2)
    (tmp_path / "state.pt").unlink()
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(
        ValueError, match=r"which holds model\.safetensors, .* and no state\.pt; giv"
    ):
        run(trained_run(crops, 6), tmp_path, name="t", compiled=False, save_every=2)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", [name for name in FILES if name != "state.pt"])
def test_run_takes_no_folder_that_holds_files_of_its_names(name: str, crops, tmp_path: Path):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ValueError, match=rf"{tmp_path}, which holds {name} and no state\.pt; give"):
        run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"mine")]


def test_run_killed_before_its_first_checkpoint_goes_on(crops, tmp_path: Path, monkeypatch):
    """Its preview is there already; an error that nobody catches stands in for the kill."""

    def kill(*_: object, **__: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", kill)
        with pytest.raises(KeyError, match="killed"):
            run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False, preview_every=2)
    assert (tmp_path / "preview.png").exists()
    run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for key, value in trained(crops, TINY, RECIPE.steps).average.items():
        assert torch.equal(state["average"][key], value), key


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_run_names_the_file_that_a_full_disk_cuts_and_goes_on(
    name: str, crops, tmp_path: Path, full_disk
):
    """The disk is full once the model was evaluated for the first time."""
    straight = trained(crops, TINY, RECIPE.steps)
    with ExitStack() as stack:

        def fill(model: Any) -> dict[str, float]:
            size = (tmp_path / "model.safetensors").stat().st_size
            stack.enter_context(full_disk(10_000 if name == "model.safetensors" else size + 10_000))
            return {}

        options: dict[str, Any] = {"name": "t", "compiled": False, "save_every": 4}
        with pytest.raises(
            OSError, match=rf"^{tmp_path / name} cannot be written \(.*File too lar"
        ):
            run(Trainer(TINY, RECIPE, crops), tmp_path, **options, evaluate=fill, evaluate_every=4)
    resumed = Trainer(TINY, RECIPE, crops)
    run(resumed, tmp_path, **options)
    for key, value in straight.average.items():
        assert torch.equal(resumed.average[key], value), key
    assert not list(tmp_path.glob(".*"))


def test_run_that_took_no_step_may_begin_anew_as_another(crops, tmp_path: Path, monkeypatch):
    def fail(self: Trainer) -> None:
        raise torch.OutOfMemoryError("of the GPU")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail)
        with pytest.raises(torch.OutOfMemoryError):
            run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)
    smaller = Trainer(TINY, replace(RECIPE, batch_size=2), crops)
    run(smaller, tmp_path, name="t", compiled=False)
    with pytest.raises(ResumeError, match="trained with another batch_size; repeat"):
        run(Trainer(TINY, RECIPE, crops), tmp_path, name="t", compiled=False)


def trained_run(crops, steps: int) -> Trainer:
    return Trainer(TINY, TrainingConfig(**{**vars(RECIPE), "steps": steps}), crops)
