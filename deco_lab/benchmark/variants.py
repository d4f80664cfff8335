"""The ways to run a model that are compared.

A variant is one way: what `deco_lab.load` and `deco_lab.sample` are given, or the plain path over
the same weights. To compare another, add it to `variants_for`.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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

    def model(self, source: str, device: torch.device) -> Any:
        """Return the model of a bundled name or a file, as this variant runs it."""
        if self.keep_freed_memory:
            keep_freed_memory()
        model = load(source, device=device, **self.load)
        return PlainDeCo(model.config, model.state_dict()) if self.plain else model

    def precision(self, device: torch.device) -> AbstractContextManager:
        """Return what every call of the model is made in."""
        return torch.autocast(device.type, self.autocast) if self.autocast else nullcontext()

    def dtype(self, model: Any) -> torch.dtype:
        """Return what a model of this variant multiplies in."""
        weights = model.dtype if isinstance(model, PlainDeCo) else next(model.parameters()).dtype
        return self.autocast or weights

    def draw(self, model: Any, class_ids: Sequence[int], num_steps: int) -> Tensor:
        """Return images (B, 3, H, W) of guided steps, Euler's by default, from noise of seed 0."""
        arguments = {
            "num_steps": min(num_steps, self.most_steps), **GUIDANCE, **self.sampling,
        }  # fmt: skip
        if not self.plain:
            return sample(model, class_ids, **arguments)
        side = model.config.image_size
        noise = seeded_noise(len(class_ids), (3, side, side), 0).to(model.device)
        return plain_sample(model, class_ids, noise, **arguments)


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
        first.append(
            Variant("plain float32, freed memory kept", plain=True, keep_freed_memory=True)
        )
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
