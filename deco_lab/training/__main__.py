"""`python -m deco_lab.training`: train a model, or go on where a run was stopped."""

import sys
from collections.abc import Sequence
from dataclasses import replace

from deco_lab.checkpoints import CheckpointError
from deco_lab.cli import refuse
from deco_lab.data import PictureCrops, open_source
from deco_lab.fast import keep_freed_memory
from deco_lab.training.measuring import Measure
from deco_lab.training.order import PROGRAM, read_order
from deco_lab.training.parallel import training_processes
from deco_lab.training.run import claim, run
from deco_lab.training.trainer import Trainer


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    try:
        order = read_order(words)
        assert order.out is not None
        claim(order.out)
        processes = training_processes(order.device)
        if processes.device.type == "cpu":
            keep_freed_memory()  # three hundredths of a step of `tiny`, or more
        source = open_source(order.source, order.model.image_size, processes.device)
        crops = source.crops
        for line in source.left_out if processes.is_main else ():
            print(line, file=sys.stderr)
        trainer = Trainer(
            replace(order.model, num_classes=crops.num_classes, class_names=crops.class_names),
            order.training,
            crops,
            data=source.record,
            processes=processes,
            prefetch=bool(order.source.data or order.source.dataset),
        )
        command = order.command
        if order.training.precision == "auto":
            command += f" --precision {trainer.config.precision}"
        run(
            trainer,
            order.out,
            name=order.name,
            command=command,
            compiled=order.compile,
            save_every=order.save_every,
            evaluate=Measure(source) if order.evaluate_every else None,
            evaluate_every=order.evaluate_every,
        )
    except (CheckpointError, FloatingPointError, OSError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")
    except ValueError as error:
        refuse(PROGRAM, error)
    if isinstance(crops, PictureCrops) and crops.skipped and processes.is_main:
        print(f"{crops.skipped} pictures were met that cannot be read", file=sys.stderr)
    processes.close()


if __name__ == "__main__":
    main()
