"""What is measured: the rows of the table.

A row prepares its cases, each of which runs something once and says how long that took; the first
is the plain one, which the others are compared with. What runs a model runs in a process of its
own, the rest in this one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import scipy.fft
import torch
from torch import Tensor

from deco_lab.benchmark.floor import Work, decoder_work, forward_work
from deco_lab.benchmark.variants import (
    GUIDANCE,
    Runner,
    Timed,
    Variant,
    peak_memory,
    variants_for,
)
from deco_lab.benchmark.worker import Worker
from deco_lab.checkpoints import save
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.fast import keep_freed_memory, share_one_heap
from deco_lab.flow import interpolate, seeded_noise, time_grid
from deco_lab.losses import frequency_loss
from deco_lab.models import build
from deco_lab.sampling import sample
from deco_lab.spectra import block_dct
from deco_lab.training import Trainer, TrainingConfig
from deco_lab.workbench import Library, Settings, Workbench

TINY, XL = "tiny", "DeCo-XL/16"
NUM_STEPS, WARM_STEPS = 50, 11
"""Of eleven steps the first two are not guided, so both sizes of batch are warm."""


@dataclass(frozen=True)
class Case:
    """One line of a row."""

    name: str
    run: Callable[[], float]
    """Runs it once, warm already, and returns the seconds that it took, or MiB."""
    result: Callable[[], Any] = lambda: None
    """Returns what the last run gave; a tensor is compared with the first case's."""
    work: Sequence[Work] = ()
    """What it has to do at the least, one after the other."""
    dtype: torch.dtype = torch.float32
    images: int = 0
    """Images that a run draws; 0 where it draws none."""


class Bench:
    """The device, the variants, and the processes that are at hand.

    Models are loaded as anyone would load them, by `deco_lab.load`: the large one, which has no
    weights here, from a file of random ones that lasts as long as this.

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
        self._folder = tempfile.TemporaryDirectory()
        self._workers: dict[str, Worker] = {}
        self._group = ""

    def variants(self, preset: str, *, drawing: bool = False) -> list[Variant]:
        """Return the variants of a preset; with `drawing` also those that only differ in it.

        Of the large model a CPU has room for the first and the fast ones.
        """
        few = preset != TINY and self.device.type == "cpu"
        return [
            variant
            for variant in self._variants
            if (drawing or not variant.sampling)
            and (not few or variant is self._variants[0] or "fast" in variant.load)
        ]

    def runner(self, preset: str, variant: Variant) -> Worker:
        """Return the process that holds a `Runner` of a preset, started once."""
        arguments = self.source(preset), variant, self.device
        return self.worker(preset, f"{variant.name} ({preset})", Runner, *arguments)

    def worker(self, group: str, name: str, make: Callable[..., Any], *arguments: Any) -> Worker:
        """Return the process of a name, started once; those of another group end."""
        if group != self._group:
            self.end_workers()
            self._group = group
        if name not in self._workers:
            self._workers[name] = Worker(name, make, *arguments)
        return self._workers[name]

    def source(self, preset: str) -> str:
        """Return what to give to `load`: a bundled name, or a file of random weights."""
        path = Path(self._folder.name) / "random.safetensors"
        if preset == TINY:
            return preset
        if not path.exists():
            model = build(PRESETS[preset])
            for parameter in model.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
            save(model, path)
        return str(path)

    def end_workers(self) -> None:
        """End all processes; those that are asked for again are started again."""
        while self._workers:
            self._workers.popitem()[1].close()

    def close(self) -> None:
        """End all processes and remove the file of random weights."""
        self.end_workers()
        self._folder.cleanup()


def config_of(preset: str) -> DeCoConfig:
    """Return the configuration of a preset with a pixel decoder."""
    config = PRESETS[preset]
    assert isinstance(config, DeCoConfig)
    return config


def labels(preset: str, batch: int) -> list[int]:
    """Return a class for each image of a batch, in turn."""
    return [i % PRESETS[preset].num_classes for i in range(batch)]


def cases_here(ways: Mapping[str, Callable[[], Any]], work: Sequence[Work] = ()) -> list[Case]:
    """Return cases that run in this process, once before."""
    timed = {name: Timed(run) for name, run in ways.items()}
    for run in timed.values():
        run()
    return [Case(name, run, partial(getattr, run, "result"), work) for name, run in timed.items()]


def cases_of(
    bench: Bench, preset: str, variants: Iterable[Variant], work: Sequence[Work], *job: Any,
    warm: Sequence[Any], images: int = 0,
) -> Iterator[Case]:  # fmt: skip
    """Yield a method of `Runner`, with arguments, by each variant, once it has run `warm`."""
    for variant in variants:
        worker = bench.runner(preset, variant)
        worker.ask(Runner.run, *warm)
        run, result = partial(worker.ask, Runner.run, *job), partial(worker.ask, Runner.result)
        yield Case(variant.name, run, result, work, worker.ask(Runner.multiplies_in), images)


def velocity_cases(bench: Bench, preset: str, batch: int, decoder: bool = False) -> Iterator[Case]:
    """Return one velocity of noisy photographs at t = 0.5, by each variant.

    With `decoder` only its pixel decoder, of a random condition.
    """
    config = config_of(preset)
    side, tokens = config.image_size, (config.image_size // config.patch_size) ** 2
    crops, _ = bundled_crops(side).sample(batch, torch.Generator().manual_seed(0))
    x = interpolate(crops, seeded_noise(batch, crops.shape[1:], 0), 0.5)
    work: Work = forward_work(config, batch, side, side)
    job: tuple[Any, ...] = (Runner.velocity, x, labels(preset, batch))
    if decoder:
        work = decoder_work(config, batch, tokens)
        job = (Runner.decode, x, seeded_noise(batch, (tokens, config.hidden_size), 0))
    return cases_of(bench, preset, bench.variants(preset), [work], *job, warm=job)


def drawing(preset: str, batch: int, num_steps: int) -> tuple[Any, ...]:
    """Return what to ask a `Runner` to run: so many guided steps."""
    return Runner.draw, labels(preset, batch), num_steps


def sampling_cases(bench: Bench, preset: str, batch: int) -> Iterator[Case]:
    """Return fifty guided Euler steps, by each variant, or what stands in for them.

    The floor has the passes that guidance needs: a pair inside the interval, one outside. It is
    also that of variants with fewer steps or passes of the DiT, which may come below it.
    """
    config = config_of(preset)
    side, low = config.image_size, GUIDANCE["guidance_interval"][0]
    guided = sum(t > low + 1e-9 for t in time_grid(NUM_STEPS)[:-1].tolist())
    work = [forward_work(config, 2 * batch, side, side)] * guided
    work += [forward_work(config, batch, side, side)] * (NUM_STEPS - guided)
    job, warm = drawing(preset, batch, NUM_STEPS), drawing(preset, batch, WARM_STEPS)
    variants = bench.variants(preset, drawing=True)
    return cases_of(bench, preset, variants, work, *job, warm=warm, images=batch)


def memory_cases(bench: Bench, preset: str, batch: int) -> Iterator[Case]:
    """Yield the largest memory of a process that loads and draws, by each variant.

    The first has only imported what they all do. Every round has new processes.
    """
    bench.end_workers()  # which hold a GPU's memory
    source = bench.source(preset)

    def imports() -> float:
        with closing(Worker("imports", torch.device, str(bench.device))) as worker:
            return worker.ask(peak_memory)

    def peak(variant: Variant) -> float:
        name = f"{variant.name} ({preset})"
        with closing(Worker(name, Runner, source, variant, bench.device)) as worker:
            worker.ask(Runner.run, *drawing(preset, batch, WARM_STEPS))
            return worker.ask(Runner.peak)

    yield Case("imports", imports)
    for variant in bench.variants(preset, drawing=True):
        yield Case(variant.name, partial(peak, variant))


LIVE = ("drawn alone", "with all spectra", "with spectra and parts")
"""A run of the app: without what its panels are sent, with the spectra, with all of it."""


class LiveRunner:
    """The workbench behind the app, and a run of its Sample tab, without the browser that draws it.

    As in the app, models are loaded fast and one core is left to server and browser: PyTorch takes
    the others, drawing alone or not.
    """

    def __init__(self, device: torch.device, settings: Settings) -> None:
        share_one_heap()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        bench = Workbench(Library(settings.model, device=str(device), fast=True))

        def alone() -> Tensor:
            return sample(bench.library.get(settings.model), **settings.sampling_arguments())

        def watched(decompose: bool) -> Tensor:
            for message in bench.draw("benchmark", [replace(settings, decompose=decompose)]):
                json.dumps(message, default=vars)  # what the page is sent
            return bench.sessions.kept("benchmark").images

        ways = alone, partial(watched, False), partial(watched, True)
        self._ways: dict[str, Timed] = dict(zip(LIVE, map(Timed, ways), strict=True))

    def run(self, way: str) -> float:
        """Draw once and return the seconds that it took."""
        return self._ways[way]()

    def result(self, way: str) -> Tensor:
        """Return the images of the last run of that way, (B, 3, H, W), on the CPU."""
        return self._ways[way].result.cpu()


def live_cases(bench: Bench) -> Iterator[Case]:
    """Yield the app's run of one image by itself, and with what its panels are sent of it."""
    worker = bench.worker("app", "live panels", LiveRunner, bench.device, Settings(num_images=1))
    for way in LIVE:
        run = partial(worker.ask, LiveRunner.run, way)
        run()
        yield Case(way, run, partial(worker.ask, LiveRunner.result, way), images=1)


def dct_cases(bench: Bench, side: int = 512, batch: int = 8) -> list[Case]:
    """Return the 8 x 8 block DCT of eight images of 512 x 512, against scipy and a copy.

    From here on this process keeps freed memory: to clear and map 6,144 pages takes as long as
    three copies, and which case pays for it is chance.
    """
    keep_freed_memory()
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8).contiguous().numpy()
    given = images.to(bench.device)

    def by_scipy() -> Tensor:
        done = scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho", workers=2)
        return torch.from_numpy(done)

    def copy() -> None:
        given.clone()  # with memory of its own, as the others' results

    ways = {
        "scipy on a CPU, 2 workers, blocks cut before": by_scipy,
        "library": partial(block_dct, given),
        "a copy": copy,
    }
    work = [Work(0, 0, 2 * images.numel())]
    return cases_here(ways, work)


def loss_cases(bench: Bench, batch: int = 32) -> list[Case]:
    """Return a training step of `tiny`, and the part of it that the frequency loss takes."""
    crops = bundled_crops(64, bench.device)
    predicted, target = seeded_noise(2 * batch, (3, 64, 64), 0).to(bench.device).split(batch)
    predicted.requires_grad_()

    def loss() -> None:
        frequency_loss(predicted, target).backward()
        predicted.grad = None

    ways: dict[str, Callable[[], Any]] = {}
    for precision in ("float32", "bf16"):
        recipe = TrainingConfig(batch_size=batch, precision=precision)
        ways[f"training step, {precision}"] = Trainer(PRESETS["tiny"], recipe, crops).train_step
    ways["frequency loss, with its gradient"] = loss
    return cases_here(ways)


def import_cases(bench: Bench) -> list[Case]:
    """Return the start of a Python that imports PyTorch alone, and of one with `decompose`."""
    return cases_here({
        statement: partial(subprocess.run, [sys.executable, "-c", statement], check=True)
        for statement in ("import torch", "from deco_lab.spectra import decompose")
    })  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    title: str
    repeats: int
    """Rounds, where none are asked for."""
    cases: Callable[[Bench], Iterable[Case]]
    """Each is made ready when it is asked for."""
    needs_gpu: bool = False


# fmt: off
ROWS: dict[str, Row] = {
    "forward-1": Row("tiny, a velocity, batch 1", 31, lambda b: velocity_cases(b, TINY, 1)),
    "forward-8": Row("tiny, a velocity, batch 8", 15, lambda b: velocity_cases(b, TINY, 8)),
    "decoder": Row("tiny, decoder alone, batch 8", 15, lambda b: velocity_cases(b, TINY, 8, True)),
    "sample-1": Row("tiny, 50 guided steps, batch 1", 5, lambda b: sampling_cases(b, TINY, 1)),
    "sample-8": Row("tiny, 50 guided steps, batch 8", 3, lambda b: sampling_cases(b, TINY, 8)),
    "live": Row("tiny, 50 steps with panels' data", 5, live_cases),
    "memory": Row("tiny, MiB of 11 steps, batch 8", 3, lambda b: memory_cases(b, TINY, 8)),
    "dct": Row("block DCT, 8 x 3 x 512 x 512, freed memory kept", 15, dct_cases),
    "loss": Row("training tiny, batch 32", 5, loss_cases),
    "import": Row("import, a fresh Python", 5, import_cases),
    "xl-forward-1": Row("XL, a velocity, batch 1", 2, lambda b: velocity_cases(b, XL, 1)),
    "xl-forward-64": Row("XL, a velocity, batch 64", 5, lambda b: velocity_cases(b, XL, 64), True),
    "xl-sample-1": Row("XL, 50 steps, batch 1", 3, lambda b: sampling_cases(b, XL, 1), True),
    "xl-sample-64": Row("XL, 50 steps, batch 64", 1, lambda b: sampling_cases(b, XL, 64), True),
    "xl-memory": Row("XL, MiB of 11 steps, batch 1", 1, lambda b: memory_cases(b, XL, 1), True),
}
# fmt: on
"""By name, in the order of the table; XL is DeCo-XL/16 at 256 with random weights."""
