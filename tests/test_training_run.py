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

import pytest
import torch
from forked import alone, run_to_its_end, started
from training_cases import OPTIONS, RECIPE, TINY, trained

from deco_lab import checkpoints
from deco_lab.training.__main__ import main
from deco_lab.training.journal import Table
from deco_lab.training.run import FILES, run
from deco_lab.training.trainer import ResumeError, Trainer

PLAIN: dict[str, Any] = {"name": "t", "compiled": False}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def straight() -> Trainer:
    """What a run of `RECIPE` comes to, by steps."""
    return trained(steps=RECIPE.steps)


def assert_state(path: Path, expected: Trainer) -> None:
    state = torch.load(path, weights_only=True)
    assert state["step"] == expected.step
    for group, tensors in (
        ("average", expected.average),
        ("learner", expected.learner.state_dict()),
    ):
        for name, value in tensors.items():
            assert torch.equal(state[group][name], value), name


@pytest.mark.slow
def test_run_leaves_a_model_losses_evaluations_and_a_preview(tmp_path: Path, capsys):
    pytest.importorskip("tensorboard", reason="needs tensorboard; pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, seen = tmp_path / "run", []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training
        torch.randn(())  # which changes nothing of what is trained
        seen.append(float(model.decoder.head.bias[0]))
        return {"distance": float(len(seen))}

    trainer = trained(recipe=replace(RECIPE, steps=40))
    options: dict[str, Any] = {**PLAIN, "evaluate": evaluate, "evaluate_every": 16}
    run(trainer, out, **options, save_every=20)
    shown = capsys.readouterr().err
    for text in ("t: DeCo of 0.0", "40 steps of 4 crops in float32 on", 'model.safetensors")',
                 "step 32: distance 2"):  # fmt: skip
        assert text in shown
    assert {path.name for path in out.iterdir()} == set(FILES)
    assert_state(out / "state.pt", trained(recipe=replace(RECIPE, steps=40), steps=40))
    model = checkpoints.load(out / "model.safetensors", device="cpu")
    assert model.config == TINY
    for name, value in trainer.average.items():
        assert torch.equal(model.state_dict()[name], value), name
    losses = rows_of(out / "loss.csv")
    assert [row["step"] for row in losses] == ["20", "40"]
    assert rows_of(out / "evaluation.csv") == [
        {"step": str(step), "distance": f"{count}.0"} for step, count in ((16, 1), (32, 2), (40, 3))
    ]
    assert seen[-1] == float(trainer.average["decoder.head.bias"][0])
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    for name in ("flow_matching", "frequency", "gradient_norm"):
        got = [(event.step, event.value) for event in events.Scalars(f"training/{name}")]
        assert got == [(int(r["step"]), pytest.approx(float(r[name]), rel=1e-5)) for r in losses]
    assert events.Scalars("evaluation/distance")[-1].value == 3.0
    assert [image.step for image in events.Images("preview")] == [40]
    run(trained(recipe=replace(RECIPE, steps=40)), out, **options)
    assert len(seen) == 3  # the last step has its row already


def test_run_needs_no_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(trained(), tmp_path, **PLAIN)
    assert {path.name for path in tmp_path.iterdir()} == {
        "state.pt", "model.safetensors", "loss.csv", "preview.png"
    }  # fmt: skip


def test_run_keeps_the_last_good_state_when_weights_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run(trained(), tmp_path, **PLAIN)
    good = (tmp_path / "state.pt").read_bytes()
    broken = trained()
    broken.restore(tmp_path / "state.pt")
    broken.average["decoder.head.bias"].fill_(math.nan)
    monkeypatch.setattr(broken, "restore", lambda path: None)
    with pytest.raises(checkpoints.CheckpointError, match=r"decoder\.head\.bias holds NaN"):
        run(broken, tmp_path, **PLAIN)
    assert (tmp_path / "state.pt").read_bytes() == good


def test_table_drops_the_future_of_a_resumed_run(tmp_path: Path):
    table = Table(tmp_path / "x.csv", 0)
    table.add(4, {"a": 1.0})
    table.add(8, {"a": 1 / 3, "b": 2e-9})
    table.write()
    assert Table(tmp_path / "x.csv", 8).rows == [
        {"step": 4, "a": 1.0}, {"step": 8, "a": 0.3333333, "b": 2e-9}
    ]  # fmt: skip
    resumed = Table(tmp_path / "x.csv", 5)
    assert not resumed.has(8)
    resumed.add(6, {"b": 3.0})
    resumed.write()
    assert (tmp_path / "x.csv").read_text().split() == ["step,a,b", "4,1.0,", "6,,3.0"]


@pytest.mark.slow
def test_loss_table_of_a_stopped_run_has_the_rows_of_one_that_was_not(tmp_path: Path):
    """Stopped at step 15, the row of step 20 is still the mean of twenty steps."""
    forty = replace(RECIPE, steps=40, cooldown=0.0)
    for steps, out in ((40, "straight"), (15, "stopped"), (33, "stopped"), (40, "stopped")):
        run(trained(recipe=replace(forty, steps=steps)), tmp_path / out, **PLAIN)
    straight, stopped = (
        [{**row, "seconds": ""} for row in rows_of(tmp_path / out / "loss.csv")]
        for out in ("straight", "stopped")
    )
    assert [row["step"] for row in straight] == ["20", "40"]
    assert stopped == straight


SPREADSHEETS: dict[str, Callable[[str], bytes]] = {
    "semicolons": lambda text: text.replace(",", ";").replace(".", ",").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "decimal commas": lambda text: text.replace("0.", '"0,').replace(",", '",', 1).encode(),
    "no header": lambda text: text.split("\n", 1)[1].encode(),
    "cut": lambda text: text[: text.rindex(",")].encode(),
    "a page": lambda text: b"<!DOCTYPE html>\n<html>404</html>\n",
}


def test_run_refuses_a_table_that_it_would_lose(tmp_path: Path):
    log, state = tmp_path / "loss.csv", tmp_path / "state.pt"
    run(trained(recipe=replace(RECIPE, steps=40)), tmp_path, **PLAIN)
    before, good = log.read_text(encoding="utf-8"), state.read_bytes()
    for name, change in SPREADSHEETS.items():
        log.write_bytes(change(before))
        with pytest.raises(ResumeError) as raised:
            run(trained(recipe=replace(RECIPE, steps=41)), tmp_path, **PLAIN)
        assert str(raised.value).startswith(f"{log} is not as a run wrote it ("), name
        assert log.read_bytes() == change(before), name
        assert state.read_bytes() == good
    for harmless in ("\ufeff" + before.replace("\n", "\r\n"), ""):
        log.write_text(harmless, encoding="utf-8", newline="")
        rows = Table(log, 40, ("seconds",)).rows
        assert [row["step"] for row in rows] == ([20, 40] if harmless else [])
    log.unlink()
    run(trained(recipe=replace(RECIPE, steps=41)), tmp_path, **PLAIN)


def test_run_removes_what_a_killed_run_left(tmp_path: Path):
    names = [f".{name}.0a1b2c3d.tmp" for name in ("state.pt", "loss.csv", "model.safetensors")]
    others = ["notes.tmp", "film.mp4.part", ".other.safetensors.0a1b2c3d.tmp"]
    for name in (*names, *others):
        (tmp_path / name).write_bytes(b"half")
    run(trained(), tmp_path, **PLAIN)
    left = {path.name for path in tmp_path.iterdir()}
    assert left.isdisjoint(names)
    assert left.issuperset(others)


@pytest.mark.slow
def test_killed_run_leaves_whole_files_and_ends_with_the_same_bits(tmp_path: Path):
    options = [*OPTIONS, "--batch-size", "2", "--cooldown", "0"]
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
    command = [sys.executable, "-m", "deco_lab.training", *OPTIONS]
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


def test_run_writes_over_no_files_of_its_names_that_it_cannot_resume(tmp_path: Path):
    for name in FILES:
        (tmp_path / name).write_bytes(b"mine")
        if name != "state.pt":
            with pytest.raises(ValueError, match=f"{tmp_path}, which holds {name} and no state.pt"):
                run(trained(), tmp_path, **PLAIN)
            assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"mine")]
        (tmp_path / name).unlink()


def test_run_killed_before_its_first_checkpoint_goes_on(tmp_path: Path, monkeypatch, straight):
    """Its preview is there already; an error that nobody catches stands in for the kill."""

    def kill(*_: object, **__: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", kill)
        patch.setitem(run.__globals__, "PREVIEW_EVERY", 2)
        with pytest.raises(KeyError, match="killed"):
            run(trained(), tmp_path, **PLAIN)
    assert (tmp_path / "preview.png").exists()
    run(trained(), tmp_path, **PLAIN)
    assert_state(tmp_path / "state.pt", straight)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_run_names_the_file_that_a_full_disk_cuts_and_goes_on(
    name: str, tmp_path: Path, full_disk, straight
):
    """The disk is full once the model was evaluated for the first time."""
    with ExitStack() as stack:

        def fill(model: Any) -> dict[str, float]:
            size = (tmp_path / "model.safetensors").stat().st_size
            stack.enter_context(full_disk(10_000 if name == "model.safetensors" else size + 10_000))
            return {}

        with pytest.raises(
            OSError, match=rf"^{tmp_path / name} cannot be written \(.*File too lar"
        ):
            run(trained(), tmp_path, **PLAIN, save_every=4, evaluate=fill, evaluate_every=4)
    run(trained(), tmp_path, **PLAIN, save_every=4)
    assert_state(tmp_path / "state.pt", straight)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("option", ["save_every", "evaluate_every"])
def test_run_refuses_steps_below_0(tmp_path: Path, option: str):
    given: Any = PLAIN | {option: -1}
    with pytest.raises(ValueError, match=f"{option} must be at least 0, got -1; 0 waits for"):
        run(trained(), tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_run_that_took_no_step_may_begin_again_as_another(tmp_path: Path, monkeypatch):
    def fail(self: Trainer) -> None:
        raise torch.OutOfMemoryError("of the GPU")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail)
        with pytest.raises(torch.OutOfMemoryError):
            run(trained(), tmp_path, **PLAIN)
    run(trained(recipe=replace(RECIPE, batch_size=2)), tmp_path, **PLAIN)
    with pytest.raises(ResumeError, match="of another recipe, which differs in batch_size; give"):
        run(trained(), tmp_path, **PLAIN)
