"""The ways to run a model that are compared, and what a process of one does.

A variant is one way: what `deco_lab.load` and `deco_lab.sample` are given, or the plain path over
the same weights. To compare another, add it to `variants_for`.
"""

import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import timer

from deco_lab.benchmark.plain import PlainDeCo, plain_sample
from deco_lab.checkpoints import load
from deco_lab.fast import keep_freed_memory
from deco_lab.flow import seeded_noise
from deco_lab.sampling import sample

GUIDANCE: dict[str, Any] = {"guidance_scale": 2.0, "guidance_interval": (0.1, 1.0)}
"""Of every run that draws."""


@dataclass(frozen=True)
class Variant:
    """One way to run a model."""

    name: str
    load: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for `deco_lab.load`, besides the model's name and the device."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for `sample`, besides those that all have; where there are some, the variant has
    no place in rows of a single velocity."""
    most_steps: int = sys.maxsize
    """Steps of a run whose row has more."""
    plain: bool = False
    """Whether the weights are given to the plain path."""
    autocast: torch.dtype | None = None
    """What the plain path multiplies in, where that is not the weights' dtype."""
    keep_freed_memory: bool = False
    """Whether the process keeps memory that is freed, as `load` with `fast` lets it on a CPU."""


_BF16 = {"dtype": torch.bfloat16}


def variants_for(device: torch.device) -> tuple[Variant, ...]:
    """Return the variants of a device; the first is what the others are compared with.

    On a GPU that is float32 weights under bf16 autocast, the usual way there.
    """
    # With `fast` a GPU takes bfloat16 by itself, and a CPU float32; each is also given the other.
    other = "float32" if device.type == "cuda" else "bfloat16"
    first = [Variant("plain float32", plain=True)]
    if device.type == "cuda":
        first.insert(0, Variant("plain, bf16 autocast", plain=True, autocast=torch.bfloat16))
    elif device.type == "cpu" and sys.platform == "linux":  # elsewhere nothing can be set
        kept = "plain float32, freed memory kept"
        first.append(Variant(kept, plain=True, keep_freed_memory=True))
    return (
        *first,
        Variant("plain bfloat16", _BF16, plain=True),
        Variant("library float32"),
        Variant("library bfloat16", _BF16),
        Variant("library fast", {"fast": True}),
        Variant(f"library fast, {other}", {"fast": True, "dtype": getattr(torch, other)}),
        Variant("library fast, reuse 2", {"fast": True}, {"condition_reuse": 2}),
        Variant("library fast, 25 of adams2", {"fast": True}, {"solver": "adams2"}, 25),
    )


class Timed:
    """A function whose calls are timed; what the last of them returned is kept."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self.result: Any = None

    def __call__(self) -> float:
        """Run it once and return the seconds that it took."""
        self.result = None  # or two results would take memory at once
        start = timer()  # which waits until the device has done what it was asked
        self.result = self._run()
        return timer() - start


class Runner:
    """A variant's model in its process, and what it gave last.

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
        if variant.keep_freed_memory:
            keep_freed_memory()
        model: Any = load(source, device=device, **variant.load)
        self.model = PlainDeCo(model.config, model.state_dict()) if variant.plain else model
        self.dtype = next(model.parameters()).dtype
        self._variant, self._device = variant, device
        self._job = Timed(lambda: None)

    @torch.no_grad()
    def run(self, method: Callable[..., Tensor], *arguments: Any) -> float:
        """Run a method of those below once, and return the seconds that it took."""
        self._job = Timed(partial(method, self, *arguments))
        narrow = self._variant.autocast
        with torch.autocast(self._device.type, narrow, enabled=narrow is not None):
            return self._job()

    def result(self) -> Tensor:
        """Return what the last run gave, on the CPU."""
        return self._job.result.cpu()

    def multiplies_in(self) -> torch.dtype:
        """Return the type of the numbers in matrix products."""
        return self._variant.autocast or self.dtype

    def peak(self) -> float:
        """Return the largest memory that this process has had, in MiB."""
        return peak_memory(self._device)

    def velocity(self, x: Tensor, class_ids: Sequence[int]) -> Tensor:
        """Return the velocity, (B, 3, H, W), of noisy images at t = 0.5."""
        t = torch.full((len(x),), 0.5, device=self._device)
        return self.model(x.to(self._device), t, torch.tensor(class_ids, device=self._device))

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity that the decoder makes of a condition, (B, N, D)."""
        return self.model.decode(x.to(self._device), condition.to(self._device, self.dtype))

    def draw(self, class_ids: Sequence[int], num_steps: int) -> Tensor:
        """Return images (B, 3, H, W) of guided steps, Euler's by default, from noise of seed 0."""
        steps = min(num_steps, self._variant.most_steps)
        if not self._variant.plain:
            options = {**GUIDANCE, **self._variant.sampling}
            return sample(self.model, class_ids, num_steps=steps, **options)
        side = self.model.config.image_size
        noise = seeded_noise(len(class_ids), (3, side, side), 0).to(self._device)
        return plain_sample(self.model, class_ids, noise, num_steps=steps, **GUIDANCE)


def peak_memory(device: torch.device) -> float:
    """Return the largest memory that this process has had, in MiB: the GPU's where it is on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "linux":  # where getrusage counts the parent's memory before exec
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
