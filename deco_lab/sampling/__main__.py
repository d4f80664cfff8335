"""`python -m deco_lab.sampling`: many images into a folder, or on where a job was stopped."""

import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from deco_lab import checkpoints
from deco_lab.files import check_writable
from deco_lab.sampling.many import PRECISIONS, SamplingConfig, sample_many
from deco_lab.sampling.processes import processes_here
from deco_lab.setting import Setting, check_choice
from deco_lab.spectra import weights_hash
from deco_lab.terminal import print_any_text

PROGRAM = "python -m deco_lab.sampling"
FORMATS: dict[str, None] = {"png": None, "npz": None}


@dataclass(frozen=True, kw_only=True)
class Order(SamplingConfig):
    """Draw many images of a model into a folder.

    The same command goes on where a job was stopped, and with a larger --count it adds to one that
    is done. On several GPUs: accelerate launch --multi_gpu -m deco_lab.sampling ...
    """

    count: Annotated[int, Setting("Images in all.")]
    out: Annotated[Path, Setting("Folder of the job; resumed if there.")]
    weights: tyro.conf.Suppress[str] = ""
    format: Annotated[str, Setting("PNGs, or also an NPZ of all.", choices=FORMATS)] = "png"
    image_size: Annotated[int | None, Setting("Where the model's file does not say.")] = None
    plain: Annotated[bool, Setting("Without native kernels, torch.compile or CUDA graphs.")] = False
    batch_size: Annotated[int, Setting("Images at a time, of a process.")] = 32
    device: Annotated[str | None, Setting("cpu, cuda, mps; the best there is if not given.")] = None

    def __post_init__(self) -> None:
        """Leave the checks to `config`: in a sentence, where tyro would show a box."""

    def config(self) -> SamplingConfig:
        """Return what decides the images, checked."""
        check_choice("format", self.format, FORMATS)
        return SamplingConfig(**{f.name: getattr(self, f.name) for f in fields(SamplingConfig)})


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    print_any_text()
    order = tyro.cli(Order, args=arguments, prog=PROGRAM, config=(tyro.conf.FlagCreatePairsOff,))
    try:
        config = order.config()
        check_writable(order.out)
        processes = processes_here(order.device)
        if processes.is_main:
            print(f"Loading {config.model} ...", file=sys.stderr, flush=True)
        model = checkpoints.load(
            config.model,
            processes.device,
            PRECISIONS[config.precision],
            fast=not order.plain,
            image_size=order.image_size,
        )
        class_ids = config.class_ids or range(model.config.num_classes)
        drawn = sample_many(
            model,
            replace(config, weights=weights_hash(model), class_ids=tuple(class_ids)),
            order.out,
            order.count,
            npz=order.format == "npz",
            batch_size=order.batch_size,
            processes=processes,
        )
    except (ValueError, FileNotFoundError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except (FloatingPointError, OSError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")
    except torch.OutOfMemoryError:
        smaller = f"give a smaller --batch-size than {order.batch_size}, and the job goes on"
        sys.exit(f"{PROGRAM}: error: the images of a batch do not fit into memory; {smaller}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
    if processes.is_main and drawn.images:
        print(
            f"{order.count} images in {order.out}: {drawn.images} drawn in {drawn.seconds:.1f} s, "
            f"{drawn.images / drawn.seconds:.3g} images/s, {drawn.nfe} network passes per image"
        )
    elif processes.is_main:
        print(f"{order.count} images in {order.out}: all were there, none is drawn again")
    processes.close()


if __name__ == "__main__":
    main()
