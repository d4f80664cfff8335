"""One process or many: what a training step asks of the processes it is shared by.

Every process draws the whole batch's randomness and works on its own rows of it, so that gradients
averaged over processes are those of one process with the whole batch. Starting processes, wrapping
the model and averaging are Accelerate's [1], which a single process never imports.

    accelerate launch --multi_gpu --num_processes 8 -m deco_lab.training ...

On CPUs the same, with `--device cpu` at its end.

References
----------
[1] Accelerate, https://huggingface.co/docs/accelerate.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deco_lab.checkpoints import choose_device
from deco_lab.sampling.processes import PATIENCE, are_many, need_accelerate


@dataclass(frozen=True)
class TrainingProcesses:
    """The processes that share each step, as one of them sees them; by default only itself."""

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

    def wrap(self, learner: nn.Module) -> nn.Module:
        """Return what to call in place of `learner`, so that gradients are averaged."""
        return self.accelerator.prepare(learner) if self.accelerator else learner

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


def training_processes(device: str | None = None) -> TrainingProcesses:
    """Return the processes that this one was started among: only itself, unless launched so.

    Parameters
    ----------
    device : str, optional
        "cpu" for processes without GPUs; by default each of many takes the GPU that is its own.

    Raises
    ------
    ValueError
        For a device that cannot be used here, or where there are many without Accelerate.
    """
    chosen = choose_device(device)
    if not are_many():
        return TrainingProcesses(chosen)
    need_accelerate()
    from accelerate import Accelerator, InitProcessGroupKwargs

    accelerator = Accelerator(
        cpu=chosen.type == "cpu",
        mixed_precision="no",  # the step has its own autocast
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    return TrainingProcesses(
        accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator
    )
