"""Two processes on a CPU equal one with the whole batch."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
import torch
from training_cases import OPTIONS, save_encoder

from deco_lab.training.__main__ import main
from deco_lab.training.parallel import training_processes

SMALL = [*OPTIONS, "--data", "fields", "--batch-size", "4", "--warmup-steps", "2"]
SMALL += ["--cooldown", "0"]
ADAMW = [*SMALL, "--optimizer", "adamw"]

# One after the other in the same two processes, since a start takes longer than a small training.
IN_TURN = """
import json
import sys

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from deco_lab.training.__main__ import main

jobs = json.loads(sys.argv[1])
part, Accelerator.end_training = Accelerator.end_training, lambda self: None
for number, words in enumerate(jobs, 1):
    AcceleratorState._reset_state()
    if number == len(jobs):
        Accelerator.end_training = part
    try:
        main(words)
    except SystemExit as stop:
        print("stopped with", stop.code)
"""


def losses(out: Path) -> list[list[float]]:
    with (out / "loss.csv").open() as file:
        return [[float(value) for value in row[:5]] for row in list(csv.reader(file))[1:]]


def assert_near(first: Path, second: Path) -> None:
    for got, expected in zip(losses(first), losses(second), strict=True):
        # Divided, the mean norm of the gradient is 1.05e-5 off; losses are by 3e-7.
        assert got == pytest.approx(expected, rel=2e-5, abs=2e-6)
    a, b = (torch.load(out / "state.pt", weights_only=True) for out in (first, second))
    assert a["step"] == b["step"]
    for group in ("learner", "average"):
        torch.testing.assert_close(a[group], b[group], rtol=1e-5, atol=2e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of runs by one process and by two, and what the two printed."""
    pytest.importorskip("accelerate", reason="needs accelerate; pip install accelerate")
    out = tmp_path_factory.mktemp("runs")
    adamw = [*ADAMW, "--repa", save_encoder(out / "encoder")]
    main([*adamw, "--steps", "20", "--out", str(out / "one")])
    main([*SMALL, "--steps", "20", "--out", str(out / "muon one")])
    copytree(out / "one", out / "resumed")
    jobs = [
        [*SMALL, "--batch-size", "3", "--out", str(out / "uneven")],
        [*SMALL, "--steps", "20", "--out", str(out / "muon two")],
        [*adamw, "--accumulate", "2", "--steps", "20", "--out", str(out / "two")],
        [*adamw, "--steps", "40", "--out", str(out / "resumed")],
    ]
    script = out / "in_turn.py"
    script.write_text(IN_TURN)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", "0", str(script), json.dumps(jobs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout + done.stderr


@pytest.mark.slow
def test_two_processes_equal_one_and_resume_as_one(runs: tuple[Path, str]):
    out, printed = runs
    one, two = out / "one", out / "two"
    assert printed.count(f" x 2; kept in {two}\n") == 1
    assert printed.count(f'done: deco_lab.load("{two}/') == 1
    assert_near(two, one)
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    if (two / "tensorboard").exists():
        assert len(list((two / "tensorboard").iterdir())) == 1
    # One process goes on from what two have left, and two from what one has.
    main([*ADAMW, "--repa", str(out / "encoder"), "--steps", "40", "--out", str(two)])
    assert_near(two, out / "resumed")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_under_muon(runs: tuple[Path, str]):
    """Weights are not compared: Muon's products are in bf16, which tells last bits apart."""
    (two,), (one,) = (losses(runs[0] / f"muon {count}") for count in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-5)


@pytest.mark.slow
def test_two_processes_refuse_an_uneven_batch(runs: tuple[Path, str]):
    out, printed = runs
    assert "processes=2 times accumulate=1, got 3" in printed
    assert printed.count("stopped with 2") == 2
    assert not (out / "uneven").exists()


def test_training_processes_are_one_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert (training_processes("cpu").count, training_processes("cpu").accelerator) == (1, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes need accelerate, which is not inst"):
        training_processes("cpu")
