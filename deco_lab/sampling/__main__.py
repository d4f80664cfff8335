"""`python -m deco_lab.sampling`: many images into a folder, or on where a job was stopped."""

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import torch

from deco_lab import checkpoints
from deco_lab.files import check_writable
from deco_lab.sampling import SOLVERS
from deco_lab.sampling.image_files import FORMATS
from deco_lab.sampling.many import PRECISIONS, SamplingConfig, sample_many
from deco_lab.sampling.processes import processes_here
from deco_lab.spectra import weights_hash
from deco_lab.terminal import print_any_text

_DEFAULT = " [%(default)s]"


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.sampling",
        description="Draw many images of a model into a folder. The same command goes on where a "
        "job was stopped, and with a larger --count it adds to one that is done.",
        epilog="On several GPUs: accelerate launch --multi_gpu -m deco_lab.sampling ...",
    )
    defaults = {f.name: f.default for f in fields(SamplingConfig) if f.default is not MISSING}
    parser.set_defaults(**defaults)
    add = parser.add_argument
    add("--model", required=True, help="bundled name, file or hf:// address, as for deco_lab.load")
    add("--image-size", type=int, metavar="PIXELS", help="where the model's file does not say")
    add("--count", type=int, required=True, help="images in all")
    add("--out", type=Path, required=True, help="folder of the job; resumed if there")
    add("--format", choices=list(FORMATS), help="PNGs, or one NPZ for ADM's evaluator" + _DEFAULT)
    add("--class-ids", type=int, nargs="+", metavar="ID", help="labels in turn; all if not given")
    add("--num-steps", type=int, help="solver steps" + _DEFAULT)
    add("--guidance-scale", type=float, help="1 is off" + _DEFAULT)
    add("--guidance-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help="in t" + _DEFAULT)
    add("--solver", choices=list(SOLVERS), help=_DEFAULT.strip())
    add("--time-shift", type=float, help="above 1, more steps near the noise" + _DEFAULT)
    add("--seed", type=int, help="image i has seed + i" + _DEFAULT)
    add("--precision", choices=list(PRECISIONS), help="of weights; states are float32" + _DEFAULT)
    add("--plain", action="store_true", help="without native kernels, torch.compile or CUDA graphs")
    add("--batch-size", type=int, default=32, help="images at a time, of a process" + _DEFAULT)
    add("--device", help="cpu, cuda, mps; the best there is when not given")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    print_any_text()
    parser = make_parser()
    given = parser.parse_args(arguments)
    try:
        check_writable(given.out)
        processes = processes_here(given.device)
        if processes.is_main:
            print(f"Loading {given.model} ...", file=sys.stderr, flush=True)
        model = checkpoints.load(
            given.model,
            processes.device,
            PRECISIONS[given.precision],
            fast=not given.plain,
            image_size=given.image_size,
        )
        asked = {f.name: getattr(given, f.name) for f in fields(SamplingConfig) if f.name in given}
        asked["class_ids"] = given.class_ids or range(model.config.num_classes)
        config = SamplingConfig(**asked, weights=weights_hash(model))
        drawn = sample_many(
            model, config, given.out, given.count, batch_size=given.batch_size, processes=processes
        )
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    except (FloatingPointError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    except torch.OutOfMemoryError:
        smaller = f"give a smaller --batch-size than {given.batch_size}, and the job goes on"
        sys.exit(f"{parser.prog}: error: the images of a batch do not fit into memory; {smaller}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    if processes.is_main and drawn.images:
        print(
            f"{given.count} images in {given.out}: {drawn.images} drawn in {drawn.seconds:.1f} s, "
            f"{drawn.images / drawn.seconds:.3g} images/s, {drawn.nfe} network passes per image"
        )
    elif processes.is_main:
        print(f"{given.count} images in {given.out}: all were there, none is drawn again")
    processes.close()


if __name__ == "__main__":
    main()
