"""`python -m deco_lab.training.fields`: the bench of fields, from nothing to its table.

Trains every arm with every seed, several at once, measures each and compares them. Stopped at any
moment, killed too, the same command goes on; what is finished is not done again. Each training is
one of `python -m deco_lab.training`, by itself in OUT/ARM-SEED.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm.auto import tqdm

from deco_lab import checkpoints
from deco_lab.cli import refuse
from deco_lab.evaluation import fields
from deco_lab.files import check_writable, replacing
from deco_lab.spectra.bootstrap import over_seeds
from deco_lab.terminal import print_any_text

PROGRAM = "python -m deco_lab.training.fields"

ARMS: Mapping[str, tuple[str, ...]] = {
    "deco": ("--preset", "fields"),
    "no-freqfm": ("--preset", "fields", "--frequency-weight", "0"),
    "blind": ("--preset", "fields", "--no-decoder-sees-pixels"),
    "patch-8": ("--preset", "fields", "--decoder-patch", "8", "--decoder-width", "100"),
    "dit-v": ("--preset", "fields-dit", "--frequency-weight", "0"),
    "dit-x": ("--preset", "fields-dit", "--frequency-weight", "0", "--predicts", "image"),
}
"""Arms by name, as options of `deco_lab.training`: DeCo; without its frequency-aware loss; with a
decoder that does not see the pixels; with one on whole patches; the single DiT that predicts the
velocity, and the one that predicts the image. Parameters are within 1% of each other."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Train every arm with every seed, measure each and compare them.

    Stopped at any moment, the same command goes on.
    """

    arms: tuple[str, ...] = tuple(ARMS)
    """Which."""
    seeds: int = 5
    """Trainings of each arm."""
    steps: int = 1600
    """Steps of a training."""
    workers: int = 2
    """Trainings at once."""
    per_class: int = 128
    """Fields measured of each class."""
    device: str = "cpu"
    """cpu, cuda or mps."""
    out: Path = Path("runs/fields")
    """Folder of all runs."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    print_any_text()
    given = tyro.cli(Bench, prog=PROGRAM, args=words)
    for name in ("seeds", "steps", "workers", "per_class"):
        if getattr(given, name) < 1:
            refuse(PROGRAM, f"{name} must be at least 1, got {getattr(given, name)}")
    if not set(given.arms) <= set(ARMS):
        refuse(PROGRAM, f"arms must be some of {', '.join(ARMS)}, got {', '.join(given.arms)}")
    try:
        check_writable(given.out)
        _check_own(given.out)
        found = bench(given)
    except (ValueError, OSError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")
    print(fields.table(found), fields.tokens_table(found), sep="\n")
    print("written:", *_write(given, found))


def _check_own(out: Path) -> None:
    """Raise ValueError where a file that is to be written is there, and is no earlier bench's."""
    written = out / "bench.json"
    try:
        own = json.loads(written.read_text(encoding="utf-8")).keys() == {"settings", "arms"}
    except (OSError, ValueError, AttributeError):
        own = False
    taken = [path for path in (written, out / "bench.png") if path.exists()]
    if taken and not own:
        raise ValueError(f"out must hold no {taken[0].name} but a bench's, got {out}; give another")


def bench(given: Bench) -> dict[str, list[dict[str, Any]]]:
    """Train and measure; return what `fields.measure` says of each arm's trainings."""
    jobs = [(arm, seed) for seed in range(given.seeds) for arm in given.arms]
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in given.arms}
    with ThreadPoolExecutor(given.workers) as pool:
        folders = [pool.submit(_train, arm, seed, given) for arm, seed in jobs]
        try:
            # Measured one by one, here: forward derivatives are not for several threads.
            for (arm, _), folder in tqdm(zip(jobs, folders, strict=True), "bench", len(jobs)):
                found[arm].append(_measured(folder.result(), given.per_class))
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def _train(arm: str, seed: int, given: Bench) -> Path:
    """Train one arm with one seed to the last step, in a process of its own; return its folder."""
    folder = given.out / f"{arm}-{seed}"
    weights = folder / "model.safetensors"
    if weights.exists() and checkpoints.read_training(weights).get("step") == given.steps:
        return folder
    command = [sys.executable, "-m", "deco_lab.training", "--data", "fields", *ARMS[arm]]
    command += ["--steps", str(given.steps), "--seed", str(seed), "--device", given.device]
    command += ["--no-compile", "--precision", "float32", "--out", str(folder)]
    # One thread each: threads that share a core with another training's wait for one another.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = given.out / f"{folder.name}.log"
    with log.open("ab") as file:
        code = subprocess.run(command, env=environment, stderr=file, check=False).returncode
    if code or checkpoints.read_training(weights).get("step") != given.steps:  # Ctrl-C is no error
        raise ValueError(f"the training of {folder} stopped, see {log}; the same command goes on")
    return folder


def _measured(folder: Path, per_class: int) -> dict[str, Any]:
    """Return what is said of one training, from its folder where it has been measured before."""
    path, weights = folder / "bench.json", folder / "model.safetensors"
    training = checkpoints.read_training(weights)
    settings = {"per_class": per_class, "step": training["step"]}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["settings"] == settings:
            return stored
    model = checkpoints.load(weights, device="cpu")
    found = fields.measure(model, per_class=per_class)
    found |= {"settings": settings, "seconds": training["seconds"]}
    found["parameters"] = sum(p.numel() for p in model.parameters())
    with replacing(path) as beside:
        beside.write_text(json.dumps(found), encoding="utf-8")
    return found


def _write(given: Bench, found: Mapping[str, list[dict[str, Any]]]) -> list[Path]:
    """Write the table's numbers and, where matplotlib is installed, its figure."""
    written = [given.out / "bench.json"]
    settings = {"seeds": given.seeds, "steps": given.steps, "per_class": given.per_class}
    with replacing(written[0]) as beside:
        beside.write_text(json.dumps({"settings": settings, "arms": found}), encoding="utf-8")
    try:
        from deco_lab.plots import excess_figure
    except ModuleNotFoundError:
        return written
    written.append(given.out / "bench.png")
    curves = {arm: over_seeds(fields.primary_outcome(each)) for arm, each in found.items()}
    with replacing(written[1]) as beside:
        excess_figure(fields.BENCH_TIMES, curves).savefig(beside, dpi=120, format="png")
    return written


if __name__ == "__main__":
    main()
