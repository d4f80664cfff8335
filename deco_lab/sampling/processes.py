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
from datetime import timedelta
from importlib.util import find_spec
from typing import TypeVar

import torch

from deco_lab.checkpoints import choose_device

Value = TypeVar("Value")

PATIENCE = timedelta(hours=2)
"""How long processes wait for one that draws the last batch, writes a preview or evaluates."""


class OneProcess:
    """A job that one process does alone.

    Parameters
    ----------
    device : torch.device
        Where it works.
    """

    index: int = 0
    """Of this process, from 0; the first is the main one, which prints and writes."""
    count: int = 1
    """Of all processes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.index == 0

    def from_main(self, value: Value) -> Value:
        """Return the main process's `value`, which can be pickled; every process must call this."""
        return value

    def wait(self) -> None:
        """Wait until every process has come here."""

    def close(self) -> None:
        """Part from the others."""


class Processes(OneProcess):
    """Several processes, started by `accelerate launch` or `torchrun`.

    Parameters
    ----------
    device : str, optional
        "cpu" for processes without GPUs; by default each takes the GPU that is its own.

    Raises
    ------
    ValueError
        Where Accelerate is not installed, or the device cannot be used here.
    """

    def __init__(self, device: str | None) -> None:
        need_accelerate()
        from accelerate import PartialState

        target = choose_device(device)
        self._state = PartialState(cpu=target.type == "cpu", timeout=PATIENCE)
        if target.type != "cpu":
            assert self._state.device is not None
            target = self._state.device
        super().__init__(target)
        self.index, self.count = self._state.process_index, self._state.num_processes

    def from_main(self, value: Value) -> Value:
        """Return the main process's `value`, which can be pickled; every process must call this."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Wait until every process has come here."""
        self._state.wait_for_everyone()

    def close(self) -> None:
        """Part from the others."""
        self._state.destroy_process_group()


def are_many() -> bool:
    """Return whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def need_accelerate() -> None:
    """Raise ValueError where Accelerate is not installed."""
    if find_spec("accelerate") is None:
        raise ValueError(
            "several processes need accelerate, which is not installed; pip install accelerate"
        )


def processes_here(device: str | None = None) -> OneProcess:
    """Return the processes that this one was started among: itself alone, unless launched so.

    Raises
    ------
    ValueError
        For a device that cannot be used here, and as `Processes`.
    """
    if are_many():
        return Processes(device)
    return OneProcess(choose_device(device))
