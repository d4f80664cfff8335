"""One variant of a model inside its process: what it is made ready for, runs and is asked about."""

import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deco_lab.benchmark.measure import Timed, synchronizer
from deco_lab.benchmark.variants import Variant


class Runner:
    """A variant's model, and one thing at a time that it is ready to run.

    Parameters
    ----------
    source : str
        A bundled model's name or a file.
    variant : Variant
        How it is loaded and run.
    device : torch.device
        Where.
    """

    def __init__(self, source: str, variant: Variant, device: torch.device) -> None:
        self._variant = variant
        self._device = device
        self._model = variant.model(source, device)
        self._job = Timed(lambda: None)

    def make_velocity(
        self, x: Tensor, class_ids: Sequence[int], condition: Tensor | None = None
    ) -> torch.dtype:
        """Get ready for a velocity at t = 0.5, or for the decoder's part of it alone; warm up.

        Parameters
        ----------
        x : Tensor
            (B, 3, H, W), noisy images.
        class_ids : sequence of int
            B labels.
        condition : Tensor, optional
            (B, N, D): what the decoder alone is given.

        Returns
        -------
        torch.dtype
            What the variant multiplies in.
        """
        inputs = self._inputs(x, class_ids)
        if condition is None:
            return self._ready(lambda: self._model(*inputs))
        given = condition.to(self._device, self._variant.dtype(self._model))
        return self._ready(lambda: self._model.decode(inputs[0], given))

    def make_sample(self, class_ids: Sequence[int], num_steps: int, warm_steps: int) -> torch.dtype:
        """Get ready to draw a batch in so many guided steps, and draw it in fewer; as above."""
        run, warm = (
            partial(self._variant.draw, self._model, class_ids, n) for n in (num_steps, warm_steps)
        )
        return self._ready(run, warm)

    def run(self) -> float:
        """Run once what this is ready for, and return the seconds that it took."""
        return self._job()

    def result(self) -> Tensor:
        """Return the velocity or the images of the last run, (B, 3, H, W), on the CPU."""
        return self._job.result.cpu()

    def condition(self, x: Tensor, class_ids: Sequence[int]) -> Tensor:
        """Return what the DiT hands the decoder at t = 0.5, (B, N, D), on the CPU."""
        return self._call(lambda: self._model.condition(*self._inputs(x, class_ids))).cpu()

    def peak(self) -> float:
        """Return the largest memory that this process has had, in MiB."""
        return peak_memory(self._device)

    def _inputs(self, x: Tensor, class_ids: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.full((len(x),), 0.5, device=self._device)
        return x.to(self._device), t, torch.tensor(class_ids, device=self._device)

    def _ready(self, run: Callable[[], Any], warm: Callable[[], Any] | None = None) -> torch.dtype:
        self._job = Timed(partial(self._call, run), synchronizer(self._device))
        self._call(warm or run)
        return self._variant.dtype(self._model)

    def _call(self, run: Callable[[], Any]) -> Any:
        with torch.no_grad(), self._variant.precision(self._device):
            return run()


def peak_memory(device: torch.device) -> float:
    """Return the largest memory that this process has had, in MiB: the GPU's where it is on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # what the system says otherwise counts the parent's memory before exec
        text = status.read_text(encoding="utf-8", errors="replace")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)
