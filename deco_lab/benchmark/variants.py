"""The ways to run a model that are compared, and the memory that each of them takes.

One row of `VARIANTS` is one way: what `deco_lab.load` and `deco_lab.sample` are given, or the plain
path over the same weights. To compare another, add a row.

`python -m deco_lab.benchmark.variants MODEL VARIANT DEVICE BATCH` draws a batch in a few guided
steps and prints the largest memory of its process, in MiB: of a GPU where it is on one.
"""

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deco_lab.benchmark.plain import PlainDeCo, plain_sample
from deco_lab.checkpoints import load
from deco_lab.config import ModelConfig
from deco_lab.flow import seeded_noise
from deco_lab.memory import keep_freed_memory
from deco_lab.models import DeCo
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
    plain: bool = False
    """Whether the weights are given to the plain path."""

    def model(self, source: str, device: torch.device) -> Any:
        """Return the model of a bundled name or a file, as this variant runs it."""
        return self.around(load(source, device=device, **self.load))

    def around(self, model: Any) -> Any:
        """Return what this variant runs for a model that was loaded as it asks."""
        return PlainDeCo(model.config, model.state_dict()) if self.plain else model

    def draw(self, model: Any, class_ids: Sequence[int], num_steps: int) -> Tensor:
        """Return images, (B, 3, H, W), by guided Euler steps from the noise of seed 0."""
        arguments = {"num_steps": num_steps, **GUIDANCE, **self.sampling}
        if not self.plain:
            return sample(model, class_ids, **arguments)
        side = model.config.image_size
        noise = seeded_noise(len(class_ids), (3, side, side), 0).to(model.device)
        return plain_sample(model, class_ids, noise, **arguments)


_BF16 = {"dtype": torch.bfloat16}

VARIANTS: tuple[Variant, ...] = (
    Variant("plain float32", plain=True),
    Variant("plain bfloat16", _BF16, plain=True),
    Variant("library float32"),
    Variant("library bfloat16", _BF16),
    Variant("library fast, float32", {"fast": True, "dtype": torch.float32}),
    Variant("library fast", {"fast": True}),
    Variant("library fast, reuse 2", {"fast": True}, {"condition_reuse": 2}),
)
"""The first is what the others are compared with."""


def dtype_of(model: PlainDeCo | DeCo) -> torch.dtype:
    """Return the dtype of a model's weights."""
    return model.dtype if isinstance(model, PlainDeCo) else next(model.parameters()).dtype


def labels(config: ModelConfig, batch: int) -> list[int]:
    """Return a class for each image of a batch, in turn."""
    return [i % config.num_classes for i in range(batch)]


def peak_memory(device: torch.device) -> float:
    """Return the largest memory that this process has had, in MiB: the GPU's where it is on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # what the system says otherwise counts the parent's memory before exec
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def main(arguments: Sequence[str]) -> None:
    """Print the largest memory of a process that draws, or with variant "imports" only starts."""
    source, name, where, batch = arguments
    device = torch.device(where)
    keep_freed_memory()
    for variant in VARIANTS:
        if variant.name == name:
            model = variant.model(source, device)
            variant.draw(model, labels(model.config, int(batch)), 11)
    print(peak_memory(device))


if __name__ == "__main__":
    main(sys.argv[1:])
