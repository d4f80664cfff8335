"""One process or many: what a training step asks of the processes it is shared by.

Every process draws the whole batch's randomness and works on its own rows of it, so that gradients
averaged over processes are those of one process with the whole batch. Wrapping the model, averaging
and sharding are Accelerate's [1]; a single process needs none of it, not even to be installed.

    accelerate launch --multi_gpu --num_processes 8 -m deco_lab.training ...            (DDP)
    accelerate launch --use_fsdp --fsdp_version 2 --num_processes 8 \
        --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP -m deco_lab.training ...         (FSDP)

On CPUs the first of them, with `--device cpu` at its end, shares a step among processes.

References
----------
[1] Accelerate, https://huggingface.co/docs/accelerate.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from deco_lab.checkpoints import choose_device
from deco_lab.sampling import processes

Optimizers = tuple[torch.optim.Optimizer, ...]


class OneProcess(processes.Processes):
    """A run that has the machine to itself.

    Parameters
    ----------
    device : torch.device
        Where it trains.
    """

    def prepare(self, learner: nn.Module, optimizers: Optimizers) -> tuple[nn.Module, Optimizers]:
        """Return what to call in place of `learner`, and the optimisers of its parameters."""
        return learner, optimizers

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, averaged over processes."""
        loss.backward()

    def unshared(self, forward: nn.Module) -> AbstractContextManager[None]:
        """Return what calls of `forward` run in whose gradients are not to be averaged yet."""
        return nullcontext()

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradient's norm over all parameters; return what it was, a scalar."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def mean(self, values: Tensor) -> Tensor:
        """Return `values`, of any shape, averaged over processes."""
        return values

    def close(self) -> None:
        """Part from the others, once they have come here."""


class Processes(OneProcess):
    """Several processes, started by `accelerate launch` or `torchrun`, that share each step.

    Parameters
    ----------
    device : str, optional
        "cpu" for processes without GPUs; by default each takes the GPU that is its own.

    Raises
    ------
    ValueError
        Where Accelerate is not installed, or asked for a way to shard that is not supported.
    """

    def __init__(self, device: str | None) -> None:
        processes.need_accelerate()
        from accelerate import Accelerator, InitProcessGroupKwargs

        # The others wait while the main process draws a preview or evaluates.
        patience = InitProcessGroupKwargs(timeout=processes.PATIENCE)
        self.accelerator = Accelerator(
            cpu=choose_device(device).type == "cpu",
            mixed_precision="no",  # the step has its own autocast
            kwargs_handlers=[patience],
        )
        super().__init__(self.accelerator.device)
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self._check_sharding()

    def _check_sharding(self) -> None:
        wanted = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        if wanted and self.device.type == "cpu":
            raise ValueError(
                "Accelerate shards models on GPUs alone, got device cpu; use --multi_gpu in place "
                "of --use_fsdp"
            )
        if wanted and not self.accelerator.is_fsdp2:
            raise ValueError("FSDP must be of version 2, got 1; add --fsdp_version 2")

    def prepare(self, learner: nn.Module, optimizers: Optimizers) -> tuple[nn.Module, Optimizers]:
        """Return what to call in place of `learner`, and the optimisers of its parameters."""
        prepared, *wrapped = self.accelerator.prepare(learner, *optimizers)
        return prepared, tuple(each.optimizer for each in wrapped)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, averaged over processes."""
        self.accelerator.backward(loss)

    def unshared(self, forward: nn.Module) -> AbstractContextManager[None]:
        """Return what calls of `forward` run in whose gradients are not to be averaged yet."""
        return self.accelerator.no_sync(forward)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clip the gradient's norm over all parameters; return what it was, a scalar."""
        norm = self.accelerator.clip_grad_norm_(list(parameters), max_norm)
        assert norm is not None  # it is None for DeepSpeed alone
        return whole(norm)

    def mean(self, values: Tensor) -> Tensor:
        """Return `values`, of any shape, averaged over processes."""
        averaged = self.accelerator.reduce(values, "mean")
        assert isinstance(averaged, Tensor)
        return averaged

    def close(self) -> None:
        """Part from the others, once they have come here."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def processes_here(device: str | None = None) -> OneProcess:
    """Return the processes that this one was started among: itself alone, unless launched so.

    Raises
    ------
    ValueError
        For a device that cannot be used here, and as `Processes`.
    """
    if processes.are_many():
        return Processes(device)
    return OneProcess(choose_device(device))


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be sharded as a plain one; every process must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor on the device of `like`, sharded as `like` is."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's state with whole tensors; every process must call this."""
    state = optimizer.state_dict()
    tensors = {
        index: {key: whole(v) if isinstance(v, Tensor) else v for key, v in values.items()}
        for index, values in state["state"].items()
    }
    return {"state": tensors, "param_groups": state["param_groups"]}


def load_whole_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimiser what `whole_state` returned, sharded as its parameters are."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = placed(value, parameter)
