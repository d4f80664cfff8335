"""What is measured: the variants of a model, and the rows of the table.

A row prepares its cases, each a function of no arguments; the first is the plain one, which the
others are compared with. Models are loaded as anyone would load them, by `deco_lab.load`: the large
one, which has no weights here, from a file of random ones that lasts as long as the benchmark.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import scipy.fft
import torch
from torch import Tensor

from deco_lab.benchmark.floor import Work, decoder_work, forward_work
from deco_lab.benchmark.variants import GUIDANCE, VARIANTS, Variant, dtype_of, labels
from deco_lab.checkpoints import load, save
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.data import bundled_crops
from deco_lab.flow import interpolate, seeded_noise, time_grid
from deco_lab.losses import frequency_loss
from deco_lab.models import build
from deco_lab.spectra import block_dct
from deco_lab.training import Trainer, TrainingConfig

NUM_STEPS, XL = 50, "DeCo-XL/16"


@dataclass(frozen=True)
class Case:
    """One variant of a row."""

    name: str
    run: Callable[[], Any] | None = None
    """What is timed; a tensor that it returns is compared with the first case's."""
    warm: Callable[[], Any] | None = None
    """What is run once before; `run` itself where not given."""
    work: Sequence[Work] = ()
    """What it has to do at the least, one after the other."""
    dtype: torch.dtype = torch.float32
    images: int = 0
    """Images that a call draws; 0 where it draws none."""
    peak: Callable[[], float] | None = None
    """In place of `run`: measures the memory, in MiB."""


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every weight a random value of the size that keeps a signal's; none stays zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            bound = (3 / parameter.shape[-1]) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=generator)
            if parameter.ndim == 1 and name.endswith("norm.weight"):
                parameter.add_(1)


@dataclass
class Bench:
    """Where the benchmark runs, and the models it has loaded so far."""

    device: torch.device
    variants: Sequence[Variant] = VARIANTS
    folder: tempfile.TemporaryDirectory[str] | None = None
    loaded: dict[tuple[str, str], Any] = field(default_factory=dict)

    def source(self, preset: str) -> str:
        """Return what to give to `load`: a bundled name, or a file of random weights."""
        if preset == "tiny":
            return preset
        self.folder = self.folder or tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / f"{preset.replace('/', '-')}.safetensors"
        if not path.exists():
            with torch.device("meta"):
                model = build(PRESETS[preset])
            model.to_empty(device="cpu")
            randomize(model)
            save(model, path)
        return str(path)

    def model(self, preset: str, variant: Variant) -> Any:
        """Return a variant's model of a preset, loaded once; the last preset's alone are kept."""
        if any(name != preset for name, _ in self.loaded):
            self.loaded.clear()
        key = preset, str(variant.load)
        if key not in self.loaded:
            self.loaded[key] = load(self.source(preset), device=self.device, **variant.load)
        return variant.around(self.loaded[key])

    def close(self) -> None:
        """Remove the file of random weights."""
        self.loaded.clear()
        if self.folder:
            self.folder.cleanup()


def noisy_images(config: DeCoConfig, batch: int, t: float = 0.5) -> Tensor:
    """Return x_t, (B, 3, H, W), of the bundled photographs' crops."""
    generator = torch.Generator().manual_seed(0)
    images, _ = bundled_crops(config.image_size).sample(batch, generator)
    return interpolate(images, seeded_noise(batch, images.shape[1:], 0), t)


def forward_cases(bench: Bench, preset: str, batch: int) -> list[Case]:
    """Return one velocity of noisy photographs at t = 0.5, by each variant."""
    config = _config(preset)
    side = config.image_size
    x = noisy_images(config, batch).to(bench.device)
    t = torch.full((batch,), 0.5, device=bench.device)
    class_ids = torch.tensor(labels(config, batch), device=bench.device)
    work = [forward_work(config, batch, side, side)]
    cases = []
    for variant in bench.variants:
        if variant.sampling:
            continue
        model = bench.model(preset, variant)
        run = torch.no_grad()(lambda model=model: model(x, t, class_ids))
        cases.append(Case(variant.name, run, work=work, dtype=dtype_of(model)))
    return cases


def decoder_cases(bench: Bench, preset: str, batch: int) -> list[Case]:
    """Return the pixel decoder alone, by each variant, of the first one's condition."""
    config = _config(preset)
    x = noisy_images(config, batch).to(bench.device)
    t = torch.full((batch,), 0.5, device=bench.device)
    class_ids = torch.tensor(labels(config, batch), device=bench.device)
    work = [decoder_work(config, batch, (config.image_size // config.patch_size) ** 2)]
    with torch.no_grad():
        condition = bench.model(preset, bench.variants[0]).condition(x, t, class_ids)
    cases = []
    for variant in bench.variants:
        if variant.sampling:
            continue
        model = bench.model(preset, variant)
        given = condition.to(dtype_of(model))
        run = torch.no_grad()(lambda model=model, given=given: model.decode(x, given))
        cases.append(Case(variant.name, run, work=work, dtype=dtype_of(model)))
    return cases


def sampling_cases(bench: Bench, preset: str, batch: int) -> list[Case]:
    """Return fifty guided Euler steps, by each variant.

    The floor has the passes that guidance needs: a pair inside the interval, one outside.
    """
    config = _config(preset)
    side, low = config.image_size, GUIDANCE["guidance_interval"][0]
    guided = sum(t > low + 1e-9 for t in time_grid(NUM_STEPS)[:-1].tolist())
    work = [forward_work(config, 2 * batch, side, side)] * guided
    work += [forward_work(config, batch, side, side)] * (NUM_STEPS - guided)
    class_ids = labels(config, batch)
    cases = []
    for variant in bench.variants:
        model = bench.model(preset, variant)
        # Eleven steps: the first two are not guided, so both sizes of batch are warm.
        run, warm = (
            lambda n=n, model=model, variant=variant: variant.draw(model, class_ids, n)
            for n in (NUM_STEPS, 11)
        )
        dtype = dtype_of(model)
        cases.append(Case(variant.name, run, warm, work, dtype, images=batch))
    return cases


def dct_cases(bench: Bench, side: int = 512, batch: int = 8) -> list[Case]:
    """Return the 8 x 8 block DCT of eight images of 512 x 512, against scipy and a copy."""
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8).contiguous().numpy()
    given = images.to(bench.device)
    target = torch.empty_like(given)
    work = [Work(0, 0, 2 * images.numel())]

    def by_scipy() -> Tensor:
        done = scipy.fft.dctn(blocks, axes=(-2, -1), norm="ortho", workers=2)
        return torch.from_numpy(done)

    def copy() -> None:
        target.copy_(given)

    return [
        Case("scipy on a CPU, 2 workers, blocks cut before", by_scipy, work=work),
        Case("library", lambda: block_dct(given), work=work),
        Case("a copy", copy, work=work),
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

        cases.append(Case(f"training step, {precision}", step))
    predicted, target = (
        seeded_noise(batch, (3, 64, 64), seed).to(bench.device) for seed in (0, batch)
    )
    predicted.requires_grad_()

    def loss() -> None:
        frequency_loss(predicted, target).backward()
        predicted.grad = None

    return [*cases, Case("frequency loss, with its gradient", loss)]


def import_cases(bench: Bench) -> list[Case]:
    """Return the start of a Python that imports PyTorch alone, and of one with `decompose`."""

    def started(statement: str) -> Callable[[], None]:
        def run() -> None:
            subprocess.run([sys.executable, "-c", statement], check=True)

        return run

    statements = ("import torch", "from deco_lab.spectra import decompose")
    return [Case(statement, started(statement)) for statement in statements]


def memory_cases(bench: Bench, preset: str, batch: int) -> list[Case]:
    """Return the largest memory of a process that draws, by each variant, and of its imports."""
    source = bench.source(preset)

    def peak(name: str) -> Callable[[], float]:
        command = [sys.executable, "-m", "deco_lab.benchmark.variants"]
        command += [source, name, str(bench.device), str(batch)]

        def run() -> float:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return float(done.stdout.split()[-1])

        return run

    names = ["imports", *(variant.name for variant in bench.variants)]
    return [Case(name, peak=peak(name)) for name in names]


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    title: str
    cases: Callable[[Bench], list[Case]]
    repeats: int
    """Rounds, where none are asked for."""
    needs_gpu: bool = False


ROWS: dict[str, Row] = {
    "forward-1": Row(
        "tiny, a velocity, batch 1", partial(forward_cases, preset="tiny", batch=1), 31
    ),
    "forward-8": Row(
        "tiny, a velocity, batch 8", partial(forward_cases, preset="tiny", batch=8), 15
    ),
    "decoder": Row(
        "tiny, decoder alone, batch 8", partial(decoder_cases, preset="tiny", batch=8), 15
    ),
    "sample-1": Row(
        "tiny, 50 guided steps, batch 1", partial(sampling_cases, preset="tiny", batch=1), 5
    ),
    "sample-8": Row(
        "tiny, 50 guided steps, batch 8", partial(sampling_cases, preset="tiny", batch=8), 3
    ),
    "memory": Row(
        "tiny, memory of 11 steps, batch 8", partial(memory_cases, preset="tiny", batch=8), 3
    ),
    "dct": Row("block DCT, 8 x 3 x 512 x 512", dct_cases, 15),
    "loss": Row("training tiny, batch 32", loss_cases, 5),
    "import": Row("import, a fresh Python", import_cases, 5),
    "xl-forward-1": Row("XL, a velocity, batch 1", partial(forward_cases, preset=XL, batch=1), 2),
    "xl-forward-64": Row(
        "XL, a velocity, batch 64", partial(forward_cases, preset=XL, batch=64), 5, True
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


def _config(preset: str) -> DeCoConfig:
    config = PRESETS[preset]
    assert isinstance(config, DeCoConfig)
    return config
