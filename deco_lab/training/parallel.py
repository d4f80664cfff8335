"""One process or many: what a training step asks of the processes it is shared by.

Every process draws the whole batch's randomness and works on its own rows of it, so that gradients
averaged over processes are those of one process with the whole batch. Starting processes, wrapping
the model, averaging and sharding are Accelerate's [1], which a single process never imports.

    accelerate launch --multi_gpu --num_processes 8 -m deco_lab.training ...            (DDP)
    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 \
        --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP -m deco_lab.training ...         (FSDP)

On CPUs the first of them, with `--device cpu` at its end, shares a step among processes.

References
----------
[1] Accelerate, https://huggingface.co/docs/accelerate.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deco_lab.checkpoints import choose_device
from deco_lab.sampling.processes import PATIENCE, are_many, need_accelerate

Optimizers = tuple[torch.optim.Optimizer, ...]


@dataclass(frozen=True)
class Processes:
    """The processes that share each step, as one of them sees them; by default it is alone."""

    device: torch.device
    """Where this one trains."""
    index: int = 0
    """Of this one, from 0; the first is the main one, which prints and writes."""
    count: int = 1
    """Of all of them."""
    accelerator: Any = None
    """Accelerate's, where there are many."""

    @property
    def is_main(self) -> bool:
        """Whether this is the first process."""
        return self.index == 0

    def prepare(self, learner: nn.Module, optimizers: Optimizers) -> tuple[nn.Module, Optimizers]:
        """Return what to call in place of `learner`, and the optimisers of its parameters."""
        if not self.accelerator:
            return learner, optimizers
        prepared, *wrapped = self.accelerator.prepare(learner, *optimizers)
        return prepared, tuple(each.optimizer for each in wrapped)

    def unshared(self, forward: nn.Module) -> AbstractContextManager[None]:
        """Return what calls of `forward` run in whose gradients are not to be averaged yet."""
        return self.accelerator.no_sync(forward) if self.accelerator else nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Return `values`, of any shape, averaged over processes."""
        return self.accelerator.reduce(values, "mean") if self.accelerator else values

    def close(self) -> None:
        """Part from the others, once they have come here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()
            self.accelerator.end_training()


def processes_here(device: str | None = None) -> Processes:
    """Return the processes that this one was started among: itself alone, unless launched so.

    Parameters
    ----------
    device : str, optional
        "cpu" for processes without GPUs; by default each of many takes the GPU that is its own.

    Raises
    ------
    ValueError
        For a device that cannot be used here, where there are many without Accelerate, or where
        they are to shard in a way that is not supported.
    """
    chosen = choose_device(device)
    if not are_many():
        return Processes(chosen)
    need_accelerate()
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="no",  # the step has its own autocast
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        if accelerator.device.type == "cpu":
            raise ValueError(
                "Accelerate shards models on GPUs only, got device cpu; use --multi_gpu in place "
                "of --use_fsdp"
            )
        if not accelerator.is_fsdp2:
            raise ValueError("FSDP must be of version 2, got 1; add --fsdp_version 2")
    return Processes(
        accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator
    )


def whole(value: Any) -> Any:
    """Return a tensor, or a dictionary's, with what is sharded gathered; all processes call it."""
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of `like`, sharded as `like` is."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def load_whole(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser a `whole` state, sharded as its parameters are."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = placed(value, parameter)
