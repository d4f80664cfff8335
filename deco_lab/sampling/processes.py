"""One process or many: what a job of sampling asks of the processes that share it.

Each draws batches of its own, so nothing is averaged: the first process tells the others what is
left to draw, and waits for them at the end. Starting them is Accelerate's [1]; a single process
needs none of it, not even to be installed.

    accelerate launch --multi_gpu --num_processes 8 -m deco_lab.sampling ...

On CPUs the same, with `--device cpu` at its end.

References
----------
[1] Accelerate, https://huggingface.co/docs/accelerate.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import torch

from deco_lab.checkpoints import choose_device

Value = TypeVar("Value")

PATIENCE = timedelta(hours=2)
"""How long processes wait for one that draws the last batch, writes a preview or evaluates."""


@dataclass
class Processes:
    """Those that share a job, as one of them sees them; by default it is the only one."""

    device: torch.device
    """Where this one works."""
    index: int = 0
    """Of this one, from 0."""
    count: int = 1
    """Of all of them."""
    state: Any = None
    """Accelerate's, where there are several."""

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, which prints and writes."""
        return self.index == 0

    def from_main(self, value: Value) -> Value:
        """Return the main process's `value`, which can be pickled; every process must call this."""
        if self.state is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def close(self) -> None:
        """Part from the others."""
        if self.state is not None:
            self.state.destroy_process_group()


def are_many() -> bool:
    """Return whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def need_accelerate() -> None:
    """Raise ValueError where Accelerate is not installed."""
    if find_spec("accelerate") is None:
        raise ValueError(
            "several processes need accelerate, which is not installed; pip install accelerate"
        )


def processes_here(device: str | None = None) -> Processes:
    """Return the processes that this one was started among: only itself, unless launched so.

    Parameters
    ----------
    device : str, optional
        "cpu" for processes without GPUs; by default each of several takes the GPU that is its own.

    Raises
    ------
    ValueError
        For a device that cannot be used here, or several processes without Accelerate.
    """
    chosen = choose_device(device)
    if not are_many():
        return Processes(chosen)
    need_accelerate()
    from accelerate import PartialState

    state = PartialState(cpu=chosen.type == "cpu", timeout=PATIENCE)
    if chosen.type != "cpu":
        assert state.device is not None
        chosen = state.device
    return Processes(chosen, state.process_index, state.num_processes, state)
