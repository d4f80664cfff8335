"""`python -m deco_lab.training`: train a preset, or go on where a run was stopped."""

import argparse
import ast
import inspect
from itertools import pairwise
from pathlib import Path
from typing import cast

from deco_lab.checkpoints import choose_device
from deco_lab.config import PHOTOGRAPHS, PRESETS
from deco_lab.data import bundled_crops
from deco_lab.training.run import run
from deco_lab.training.trainer import Trainer, TrainingConfig


def _field_texts() -> dict[str, str]:
    """Return the line under each field of `TrainingConfig`, so that it is written once."""
    body = cast(ast.ClassDef, ast.parse(inspect.getsource(TrainingConfig)).body[0]).body
    return {
        field.target.id: str(ast.literal_eval(text.value))
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option with its default."""
    defaults = TrainingConfig()
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.training",
        description="Train a DeCo or its baseline on the bundled photographs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    presets = [name for name, c in PRESETS.items() if c.class_names == PHOTOGRAPHS]
    parser.add_argument("--preset", choices=presets, default="tiny", help="shape of the model")
    parser.add_argument(
        "--out", type=Path, help="folder of the run [runs/PRESET]; resumed if there"
    )
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is when not given")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile")
    texts = _field_texts()
    for name, text in texts.items():
        default = getattr(defaults, name)
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(default), default=default, help=text
        )
    given = parser.parse_args(arguments)
    try:
        config = TrainingConfig(**{name: getattr(given, name) for name in texts})
        device = choose_device(given.device)
        model_config = PRESETS[given.preset]
        trainer = Trainer(model_config, config, bundled_crops(model_config.image_size, device))
    except ValueError as error:
        parser.error(str(error))
    run(
        trainer,
        given.out or Path("runs") / given.preset,
        name=given.preset,
        compiled=not given.no_compile,
    )


if __name__ == "__main__":
    main()
