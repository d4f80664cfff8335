"""What is measured: the rows of the table.

A row prepares its cases, each of which runs something once and says how long that took; the first
is the plain one, which the others are compared with. What runs a model runs in a process of its
own, the rest in this one.
"""

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import scipy.fft
import torch
from torch import Tensor

from deco_lab.benchmark.bench import Bench, config_of, labels, noisy_images
from deco_lab.benchmark.floor import Work, decoder_work, forward_work
from deco_lab.benchmark.live import WAYS, LiveRunner
from deco_lab.benchmark.measure import Timed, synchronizer
from deco_lab.benchmark.runner import Runner, peak_memory
from deco_lab.benchmark.variants import GUIDANCE, Variant
from deco_lab.benchmark.workers import Worker
from deco_lab.config import PRESETS
from deco_lab.data import bundled_crops
from deco_lab.fast import keep_freed_memory
from deco_lab.flow import seeded_noise, time_grid
from deco_lab.losses import frequency_loss
from deco_lab.spectra import block_dct
from deco_lab.training import Trainer, TrainingConfig
from deco_lab.workbench import Settings

NUM_STEPS, WARM_STEPS, XL = 50, 11, "DeCo-XL/16"
"""Of eleven steps the first two are not guided, so both sizes of batch are warm."""


@dataclass(frozen=True)
class Case:
    """One line of a row."""

    name: str
    run: Callable[[], float] | None = None
    """Runs it once, warm already, and returns the seconds that it took."""
    result: Callable[[], Any] = lambda: None
    """Returns what the last run gave; a tensor is compared with the first case's."""
    work: Sequence[Work] = ()
    """What it has to do at the least, one after the other."""
    dtype: torch.dtype = torch.float32
    images: int = 0
    """Images that a run draws; 0 where it draws none."""
    peak: Callable[[], float] | None = None
    """In place of `run`: measures the memory, in MiB."""


def case_here(
    name: str, run: Callable[[], Any], device: torch.device, work: Sequence[Work] = ()
) -> Case:
    """Return a case that runs in this process, once before."""
    timed = Timed(run, synchronizer(device))
    timed()
    return Case(name, timed, lambda: timed.result, work)


def case_of(
    worker: Worker, variant: Variant, dtype: torch.dtype, work: Sequence[Work], images: int = 0
) -> Case:
    """Return a case that a worker has been made ready for."""
    run, result = (lambda: worker.ask(Runner.run)), (lambda: worker.ask(Runner.result))
    return Case(variant.name, run, result, work, dtype, images)


def velocity_cases(bench: Bench, preset: str, batch: int, decoder: bool = False) -> Iterator[Case]:
    """Yield one velocity of noisy photographs at t = 0.5, by each variant.

    With `decoder` its pixel decoder alone, of the condition that the first variant computes.
    """
    config = config_of(preset)
    side = config.image_size
    x, class_ids = noisy_images(config, batch), labels(config, batch)
    work, condition = forward_work(config, batch, side, side), None
    variants = bench.variants(preset)
    if decoder:
        work = decoder_work(config, batch, (side // config.patch_size) ** 2)
        condition = bench.runner(preset, variants[0]).ask(Runner.condition, x, class_ids)
    for variant in variants:
        worker = bench.runner(preset, variant)
        dtype = worker.ask(Runner.make_velocity, x, class_ids, condition)
        yield case_of(worker, variant, dtype, [work])


def sampling_cases(bench: Bench, preset: str, batch: int) -> Iterator[Case]:
    """Yield fifty guided Euler steps, by each variant, or what stands in for them.

    The floor has the passes that guidance needs: a pair inside the interval, one outside. It is
    also that of variants with fewer steps or passes of the DiT, which may come below it.
    """
    config = config_of(preset)
    side, low = config.image_size, GUIDANCE["guidance_interval"][0]
    guided = sum(t > low + 1e-9 for t in time_grid(NUM_STEPS)[:-1].tolist())
    work = [forward_work(config, 2 * batch, side, side)] * guided
    work += [forward_work(config, batch, side, side)] * (NUM_STEPS - guided)
    for variant in bench.variants(preset, drawing=True):
        worker = bench.runner(preset, variant)
        dtype = worker.ask(Runner.make_sample, labels(config, batch), NUM_STEPS, WARM_STEPS)
        yield case_of(worker, variant, dtype, work, images=batch)


def live_cases(bench: Bench) -> Iterator[Case]:
    """Yield the app's run of one image by itself, and with what its panels are sent of it."""
    settings = Settings(num_images=1)

    def case(way: str) -> Case:
        worker = bench.worker("live panels", "tiny", LiveRunner, bench.device, settings)

        def run() -> float:
            return worker.ask(LiveRunner.run, way)

        run()
        return Case(way, run, lambda: worker.ask(LiveRunner.result, way), images=1)

    yield from map(case, WAYS)


def dct_cases(bench: Bench, side: int = 512, batch: int = 8) -> list[Case]:
    """Return the 8 x 8 block DCT of eight images of 512 x 512, against scipy and a copy.

    From here on this process keeps freed memory: to clear and map 6,144 pages takes as long as
    three copies, and which case pays for it is chance.
    """
    keep_freed_memory()
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8).contiguous().numpy()
    given = images.to(bench.device)
    work = [Work(0, 0, 2 * images.numel())]

    def by_scipy() -> Tensor:
        done = scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho", workers=2)
        return torch.from_numpy(done)

    def copy() -> None:
        given.clone()  # with memory of its own, as the others' results

    return [
        case_here("scipy on a CPU, 2 workers, blocks cut before", by_scipy, bench.device, work),
        case_here("library", lambda: block_dct(given), bench.device, work),
        case_here("a copy", copy, bench.device, work),
    ]


def loss_cases(bench: Bench, batch: int = 32) -> list[Case]:
    """Return a training step of `tiny`, and the part of it that the frequency loss takes."""
    crops = bundled_crops(64, bench.device)
    cases = []
    for precision in ("float32", "bf16"):
        config = TrainingConfig(batch_size=batch, precision=precision)
        trainer = Trainer(PRESETS["tiny"], config, crops)

        def step(trainer: Trainer = trainer) -> None:
            trainer.train_step()

        cases.append(case_here(f"training step, {precision}", step, bench.device))
    predicted, target = (
        seeded_noise(batch, (3, 64, 64), seed).to(bench.device) for seed in (0, batch)
    )
    predicted.requires_grad_()

    def loss() -> None:
        frequency_loss(predicted, target).backward()
        predicted.grad = None

    return [*cases, case_here("frequency loss, with its gradient", loss, bench.device)]


def import_cases(bench: Bench) -> list[Case]:
    """Return the start of a Python that imports PyTorch alone, and of one with `decompose`."""

    def started(statement: str) -> Callable[[], None]:
        def run() -> None:
            subprocess.run([sys.executable, "-c", statement], check=True)

        return run

    statements = ("import torch", "from deco_lab.spectra import decompose")
    return [case_here(statement, started(statement), bench.device) for statement in statements]


def memory_cases(bench: Bench, preset: str, batch: int) -> list[Case]:
    """Return the largest memory of a process that loads and draws, by each variant.

    The first has only imported what they all do. Every round has new processes.
    """
    bench.end_workers()  # which hold a GPU's memory
    source, class_ids = bench.source(preset), labels(config_of(preset), batch)

    def imports() -> float:
        with closing(Worker("imports", torch.device, str(bench.device))) as worker:
            return worker.ask(peak_memory)

    def peak(variant: Variant) -> float:
        name = f"{variant.name} ({preset})"
        with closing(Worker(name, Runner, source, variant, bench.device)) as worker:
            worker.ask(Runner.make_sample, class_ids, NUM_STEPS, WARM_STEPS)
            return worker.ask(Runner.peak)

    variants = bench.variants(preset, drawing=True)
    return [
        Case("imports", peak=imports),
        *(Case(variant.name, peak=partial(peak, variant)) for variant in variants),
    ]


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    title: str
    cases: Callable[[Bench], Iterable[Case]]
    """Each is made ready when it is asked for."""
    repeats: int
    """Rounds, where none are asked for."""
    needs_gpu: bool = False


ROWS: dict[str, Row] = {
    "forward-1": Row(
        "tiny, a velocity, batch 1", partial(velocity_cases, preset="tiny", batch=1), 31
    ),
    "forward-8": Row(
        "tiny, a velocity, batch 8", partial(velocity_cases, preset="tiny", batch=8), 15
    ),
    "decoder": Row(
        "tiny, decoder alone, batch 8",
        partial(velocity_cases, preset="tiny", batch=8, decoder=True),
        15,
    ),
    "sample-1": Row(
        "tiny, 50 guided steps, batch 1", partial(sampling_cases, preset="tiny", batch=1), 5
    ),
    "sample-8": Row(
        "tiny, 50 guided steps, batch 8", partial(sampling_cases, preset="tiny", batch=8), 3
    ),
    "live": Row("tiny, 50 steps with panels' data", live_cases, 5),
    "memory": Row(
        "tiny, memory of 11 steps, batch 8", partial(memory_cases, preset="tiny", batch=8), 3
    ),
    "dct": Row("block DCT, 8 x 3 x 512 x 512, freed memory kept", dct_cases, 15),
    "loss": Row("training tiny, batch 32", loss_cases, 5),
    "import": Row("import, a fresh Python", import_cases, 5),
    "xl-forward-1": Row("XL, a velocity, batch 1", partial(velocity_cases, preset=XL, batch=1), 2),
    "xl-forward-64": Row(
        "XL, a velocity, batch 64", partial(velocity_cases, preset=XL, batch=64), 5, True
    ),
    "xl-sample-1": Row(
        "XL, 50 guided steps, batch 1", partial(sampling_cases, preset=XL, batch=1), 3, True
    ),
    "xl-sample-64": Row(
        "XL, 50 guided steps, batch 64", partial(sampling_cases, preset=XL, batch=64), 1, True
    ),
    "xl-memory": Row(
        "XL, memory of 11 steps, batch 1", partial(memory_cases, preset=XL, batch=1), 1, True
    ),
}
"""By name, in the order of the table; XL is DeCo-XL/16 at 256 with random weights."""
