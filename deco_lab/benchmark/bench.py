"""Where the benchmark runs: the machine, a process for each variant, and what they are given.

Models are loaded as anyone would load them, by `deco_lab.load`: the large one, which has no weights
here, from a file of random ones that lasts as long as the benchmark.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deco_lab.benchmark.runner import Runner
from deco_lab.benchmark.variants import Variant, variants_for
from deco_lab.benchmark.workers import Worker
from deco_lab.checkpoints import save
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.flow import interpolate, seeded_noise
from deco_lab.models import build


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every weight a random value of the size that keeps a signal's; none stays zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            bound = (3 / parameter.shape[-1]) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=generator)
            if parameter.ndim == 1 and name.endswith("norm.weight"):
                parameter.add_(1)


class Bench:
    """The device, the variants, and the workers that are at hand.

    Parameters
    ----------
    device : torch.device
        Where everything runs.
    variants : sequence of Variant, optional
        What is compared; by default all of that device.
    """

    def __init__(self, device: torch.device, variants: Sequence[Variant] | None = None) -> None:
        self.device = device
        self._variants = variants_for(device) if variants is None else variants
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._group = ""
        self._workers: dict[str, Worker] = {}

    def variants(self, preset: str, *, drawing: bool = False) -> list[Variant]:
        """Return the variants of a preset; with `drawing` also those that differ in it alone.

        Of the large model a CPU has room for the first and the fast ones.
        """
        few = preset != "tiny" and self.device.type == "cpu"
        return [
            variant
            for variant in self._variants
            if (drawing or not variant.sampling)
            and (not few or variant is self._variants[0] or "fast" in variant.load)
        ]

    def runner(self, preset: str, variant: Variant) -> Worker:
        """Return the process that holds a `Runner` of a preset, started once."""
        return self.worker(preset, variant.name, Runner, self.source(preset), variant, self.device)

    def worker(self, group: str, name: str, make: Callable[..., Any], *arguments: Any) -> Worker:
        """Return a process of a group, started once; those of another group are ended."""
        if group != self._group:
            self.end_workers()
            self._group = group
        if name not in self._workers:
            self._workers[name] = Worker(f"{name} ({group})", make, *arguments)
        return self._workers[name]

    def source(self, preset: str) -> str:
        """Return what to give to `load`: a bundled name, or a file of random weights."""
        if preset == "tiny":
            return preset
        self._folder = self._folder or tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / f"{preset.replace('/', '-')}.safetensors"
        if not path.exists():
            with torch.device("meta"):
                model = build(PRESETS[preset])
            model.to_empty(device="cpu")
            randomize(model)
            save(model, path)
        return str(path)

    def end_workers(self) -> None:
        """End all processes; those that are asked for again start anew."""
        while self._workers:
            self._workers.popitem()[1].close()

    def close(self) -> None:
        """End all processes and remove the file of random weights."""
        self.end_workers()
        if self._folder:
            self._folder.cleanup()


def config_of(preset: str) -> DeCoConfig:
    """Return the configuration of a preset with a pixel decoder."""
    config = PRESETS[preset]
    assert isinstance(config, DeCoConfig)
    return config


def noisy_images(config: DeCoConfig, batch: int, t: float = 0.5) -> Tensor:
    """Return x_t, (B, 3, H, W), of the bundled photographs' crops."""
    generator = torch.Generator().manual_seed(0)
    images, _ = bundled_crops(config.image_size).sample(batch, generator)
    return interpolate(images, seeded_noise(batch, images.shape[1:], 0), t)


def labels(config: DeCoConfig, batch: int) -> list[int]:
    """Return a class for each image of a batch, in turn."""
    return [i % config.num_classes for i in range(batch)]
