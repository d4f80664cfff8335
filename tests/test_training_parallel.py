"""Two processes on a CPU equal one with the whole batch."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_cases import OPTIONS

from deco_lab.config import DiTConfig
from deco_lab.models import build
from deco_lab.training.__main__ import main
from deco_lab.training.parallel import load_whole, placed, processes_here, whole

SMALL = [
    *OPTIONS,
    "--data",
    "fields",
    "--batch-size",
    "4",
    "--warmup-steps",
    "2",
    "--cooldown",
    "0",
]
ADAMW = [*SMALL, "--optimizer", "adamw"]

# One after the other in the same two processes, since a start takes longer than a small training.
IN_TURN = """
import json
import sys

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from deco_lab.training import __main__ as program


def sharding(device):
    # Accelerate offers FSDP on GPUs only; PyTorch's runs on a CPU just as well.
    here = processes_here(device)
    state = here.accelerator.state
    state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )
    return here


processes_here = program.processes_here
kinds = {"ddp": processes_here, "fsdp": sharding}
jobs = json.loads(sys.argv[1])
part, Accelerator.end_training = Accelerator.end_training, lambda self: None
for number, (kind, *words) in enumerate(jobs, 1):
    program.processes_here = kinds[kind]
    AcceleratorState._reset_state()
    if number == len(jobs):
        Accelerator.end_training = part
    try:
        program.main(words)
    except SystemExit as stop:
        print("stopped with", stop.code)
"""


def launch(options: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run two processes to their end."""
    pytest.importorskip("accelerate", reason="needs accelerate; pip install accelerate")
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return subprocess.run(
        [*command, "--num_processes", "2", "--main_process_port", "0", *words],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def losses(out: Path) -> list[list[float]]:
    with (out / "loss.csv").open() as file:
        return [[float(value) for value in row[:5]] for row in list(csv.reader(file))[1:]]


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / "state.pt", weights_only=True)


def assert_near(first: Path, second: Path) -> None:
    for got, expected in zip(losses(first), losses(second), strict=True):
        # Sharded and divided, the mean norm of the gradient is 1.05e-5 off; losses are by 3e-7.
        assert got == pytest.approx(expected, rel=2e-5, abs=2e-6)
    a, b = state_of(first), state_of(second)
    assert a["step"] == b["step"]
    for group in ("learner", "average"):
        assert a[group].keys() == b[group].keys()
        for name, value in b[group].items():
            torch.testing.assert_close(a[group][name], value, rtol=1e-5, atol=2e-5, msg=name)


def encoder(path: Path) -> str:
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers; pip install transformers"
    )
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        image_size=28, hidden_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.Dinov2Model(config).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of runs by one process and by two, and what the two printed."""
    out = tmp_path_factory.mktemp("runs")
    adamw = [*ADAMW, "--repa", encoder(out / "encoder")]
    main([*adamw, "--steps", "20", "--out", str(out / "one")])
    main([*SMALL, "--steps", "20", "--out", str(out / "muon one")])
    jobs = [
        ["ddp", *SMALL, "--batch-size", "3", "--out", str(out / "uneven")],
        ["ddp", *SMALL, "--steps", "20", "--out", str(out / "muon two")],
    ]
    for kind in ("ddp", "fsdp"):
        shared, resumed = out / kind, out / f"{kind} resumed"
        copytree(out / "one", resumed)
        jobs += [
            [kind, *adamw, "--accumulate", "2", "--steps", "20", "--out", str(shared)],
            [kind, *adamw, "--steps", "40", "--out", str(resumed)],
        ]
    script = out / "in_turn.py"
    script.write_text(IN_TURN)
    done = launch(["--multi_gpu"], str(script), json.dumps(jobs))
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one_and_resume_as_one(kind: str, runs: tuple[Path, str]):
    out, printed = runs
    one, two = out / "one", out / kind
    assert printed.count(f" x 2; kept in {two}\n") == 1
    assert printed.count(f'done: deco_lab.load("{two}/') == 1
    assert_near(two, one)
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    if (two / "tensorboard").exists():
        assert len(list((two / "tensorboard").iterdir())) == 1
    # One process goes on from what two have left, and two from what one has.
    main([*ADAMW, "--repa", str(out / "encoder"), "--steps", "40", "--out", str(two)])
    assert_near(two, out / f"{kind} resumed")


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


@pytest.fixture
def one_rank() -> Iterator[Any]:
    """A process group of this process alone, and its mesh."""
    distributed = torch.distributed
    with tempfile.NamedTemporaryFile() as file:
        distributed.init_process_group(
            "gloo", init_method=f"file://{file.name}.store", rank=0, world_size=1
        )
        try:
            yield distributed.device_mesh.init_device_mesh("cpu", (1,))
        finally:
            distributed.destroy_process_group()


def test_whole_of_a_sharded_optimizer_goes_back_and_forth(one_rank):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    def made(sharded: bool) -> tuple[Any, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model: Any = build(DiTConfig(image_size=16, patch_size=8, num_classes=2, hidden_size=32,
                                num_heads=2, depth=1))  # fmt: skip
        torch.nn.init.normal_(model.head.weight)
        if sharded:
            fully_shard(model, mesh=one_rank)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3)

    inputs = torch.randn(2, 3, 16, 16), torch.rand(2), torch.tensor([0, 1])

    def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
        model(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    plain, sharded, resumed = made(False), made(True), made(True)
    step(*plain)
    step(*sharded)
    state = whole(sharded[1].state_dict())
    assert not any(
        isinstance(v, DTensor) for values in state["state"].values() for v in values.values()
    )
    load_whole(resumed[1], state)
    for name, tensor in resumed[0].state_dict().items():
        assert isinstance(tensor, DTensor)
        tensor.copy_(placed(whole(sharded[0].state_dict()[name]), tensor))
    step(*plain)
    step(*resumed)
    for name, value in plain[0].state_dict().items():
        torch.testing.assert_close(whole(resumed[0].state_dict()[name]), value)


def test_processes_here_is_one_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert (processes_here("cpu").count, processes_here("cpu").accelerator) == (1, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes need accelerate, which is not inst"):
        processes_here("cpu")


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu", "shards models on GPUs only, got device cpu"), ("cuda", "version 2, got 1; add --fs")],
)
def test_processes_here_refuses_to_shard(device: str, message: str, monkeypatch):
    accelerate = pytest.importorskip(
        "accelerate", reason="needs accelerate; pip install accelerate"
    )
    here = SimpleNamespace(device=torch.device(device), is_fsdp2=False)
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: here)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=message):
        processes_here("cpu")
