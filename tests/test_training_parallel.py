"""Two processes on a CPU equal one with the whole batch."""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from deco_lab.config import DiTConfig
from deco_lab.models import build
from deco_lab.training.__main__ import main
from deco_lab.training.parallel import (
    OneProcess,
    load_whole_state,
    placed,
    processes_here,
    whole,
    whole_state,
)

SMALL = [
    "--image-size", "16", "--patch-size", "8", "--hidden-size", "32", "--num-heads", "2",
    "--depth", "2", "--decoder-depth", "1", "--decoder-width", "8", "--batch-size", "4",
    "--warmup-steps", "2", "--cooldown", "0", "--no-compile", "--device", "cpu",
]  # fmt: skip

SHARDED = """
import sys

from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType

from deco_lab.training import parallel
from deco_lab.training.__main__ import main


class Sharding(parallel.Processes):
    # Accelerate offers FSDP on GPUs alone; PyTorch's runs on a CPU just as well.
    def __init__(self, device):
        super().__init__(device)
        state = self.accelerator.state
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )


parallel.Processes = Sharding
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("script") / "sharded.py"
    path.write_text(SHARDED)
    return str(path)


def launch(*words: str) -> str:
    """Run two processes to their end; return what they printed."""
    pytest.importorskip("accelerate", reason="needs accelerate; pip install accelerate")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    done = subprocess.run(
        [*command, "--num_processes", "2", "--main_process_port", "0", *words],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def losses(out: Path) -> list[list[float]]:
    with (out / "loss.csv").open() as file:
        return [[float(value) for value in row[:5]] for row in list(csv.reader(file))[1:]]


def state_of(out: Path) -> dict[str, Any]:
    return torch.load(out / "state.pt", weights_only=True)


def assert_near(first: Path, second: Path) -> None:
    for got, expected in zip(losses(first), losses(second), strict=True):
        assert got == pytest.approx(expected, rel=1e-5, abs=2e-6)
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one_and_resume_as_one(kind: str, script: str, tmp_path: Path):
    options = [*SMALL, "--optimizer", "adamw", "--repa", encoder(tmp_path / "encoder")]
    one, two = tmp_path / "one", tmp_path / "two"
    program = ["-m", "deco_lab.training"] if kind == "ddp" else [script]
    accumulate = ["--accumulate", "2"]
    printed = launch(*program, *options, *accumulate, "--steps", "20", "--out", str(two))
    assert printed.count("steps of 4 crops") == 1
    assert printed.count("done: ") == 1
    assert " x 2; kept in" in printed
    main([*options, "--steps", "20", "--out", str(one)])
    assert_near(two, one)
    assert {p.name for p in two.iterdir()} == {p.name for p in one.iterdir()}
    if (two / "tensorboard").exists():
        assert len(list((two / "tensorboard").iterdir())) == 1
    # One process goes on from what two have left, and two from what one has.
    main([*options, "--steps", "40", "--out", str(two)])
    launch(*program, *options, "--steps", "40", "--out", str(one))
    assert_near(two, one)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_under_muon(tmp_path: Path):
    """Weights are not compared: Muon's products are in bf16, which tells last bits apart."""
    options = [*SMALL, "--steps", "20"]
    launch("-m", "deco_lab.training", *options, "--out", str(tmp_path / "two"))
    main([*options, "--out", str(tmp_path / "one")])
    (two,), (one,) = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert two == pytest.approx(one, rel=1e-5)


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


def test_whole_state_of_a_sharded_optimizer_goes_back_and_forth(one_rank):
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
    state = whole_state(sharded[1])
    assert not any(
        isinstance(v, DTensor) for values in state["state"].values() for v in values.values()
    )
    load_whole_state(resumed[1], state)
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
    assert type(processes_here("cpu")) is OneProcess
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes need accelerate, which is not inst"):
        processes_here("cpu")


@pytest.mark.slow
def test_fsdp_on_cpus_and_uneven_batches_are_refused(tmp_path: Path):
    pytest.importorskip("accelerate", reason="needs accelerate; pip install accelerate")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    for launcher, options, message in (
        (["--use_fsdp", "--fsdp_version", "2"], [], "shards models on GPUs alone, got device cpu"),
        (
            ["--multi_gpu"],
            ["--batch-size", "3"],
            "processes=2 times accumulate=1, got 3",
        ),
    ):
        done = subprocess.run(
            [*command, *launcher, "--main_process_port", "0", "-m", "deco_lab.training", *SMALL,
             *options, "--out", str(tmp_path / "out")],
            capture_output=True, text=True, timeout=200,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode != 0
        assert message in done.stderr
        assert not (tmp_path / "out").exists()
