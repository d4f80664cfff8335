"""The command line: options made of the fields of the configurations, and what they add up to.

Each option's meaning is the line under its field, so it is written once. The command that trains a
model again is made the same way backwards: every option that differs from its default.
"""

import argparse
import ast
import inspect
import shlex
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from deco_lab.config import PRESETS, DeCoConfig, DiTConfig, ModelConfig
from deco_lab.data import SourceConfig
from deco_lab.files import printable
from deco_lab.training.recipe import TrainingConfig

PROGRAM = "python -m deco_lab.training"
_DEFAULT = " (default: %(default)s)"
_NOT_ASKED = {"num_classes", "class_names", "image_size_assumed"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a command line asks for."""

    name: str
    """What to call the model."""
    model: ModelConfig
    """Its shape, but for the classes, which are the data's."""
    training: TrainingConfig
    """How to train it."""
    source: SourceConfig
    """What on."""
    out: Path
    """Folder of the run."""
    device: str | None
    """Where; the best there is when None."""
    compiled: bool
    """Whether to compile by region."""
    save_every: int
    """Steps between two checkpoints."""
    evaluate_every: int
    """Steps between two evaluations; 0 leaves them out."""
    command: str
    """What trains the model again."""


def field_texts(config: type) -> dict[str, str]:
    """Return the line under each field of a dataclass, inherited ones first."""
    texts: dict[str, str] = {}
    for kind in reversed(config.__mro__[:-1]):
        body = cast(ast.ClassDef, ast.parse(inspect.getsource(kind)).body[0]).body
        for field, text in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
            ):
                texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts


def _add_options(group: argparse._ArgumentGroup, config: type, *, given_only: bool) -> None:
    """Add an option for each field; those of `given_only` are absent unless given."""
    texts = field_texts(config)
    for field in fields(config):
        if field.name in _NOT_ASKED:
            continue
        assert field.default is not MISSING
        option = "--" + field.name.replace("_", "-")
        text = texts[field.name].replace("%", "%%")
        if not given_only and field.default not in ("", None):
            text += _DEFAULT
        default = argparse.SUPPRESS if given_only else field.default
        if isinstance(field.default, bool):
            action = argparse.BooleanOptionalAction
            group.add_argument(option, action=action, default=default, help=text)
        elif field.name == "crop_scale":
            sides = ("LOW", "HIGH")
            group.add_argument(
                option, type=float, nargs=2, metavar=sides, default=argparse.SUPPRESS, help=text
            )
        else:
            group.add_argument(option, type=type(field.default), default=default, help=text)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train a DeCo or its baseline on the bundled photographs, a folder of pictures "
        "by class, or a dataset; the same command goes on where a run was stopped.",
        epilog="On several GPUs: accelerate launch --multi_gpu -m deco_lab.training ... (or "
        "--use_fsdp --fsdp_version 2 in place of --multi_gpu).",
    )
    add = parser.add_argument
    missing = argparse.SUPPRESS
    add("--out", type=Path, default=missing, help="folder of the run [runs/NAME]; resumed if there")
    add("--device", default=missing, help="cpu, cuda, mps; the best there is when not given")
    add("--no-compile", action="store_true", help="run without torch.compile")
    add("--save-every", type=_whole, default=200, help="steps between two checkpoints" + _DEFAULT)
    add(
        "--evaluate-every",
        type=_whole_or_zero,
        default=0,
        help="steps between two evaluations, and one at the end; 0 leaves them out" + _DEFAULT,
    )
    model = parser.add_argument_group("model", "A preset, and what to change of it.")
    model.add_argument(
        "--preset", choices=list(PRESETS), default="tiny", help="where to start" + _DEFAULT
    )
    kind = model.add_mutually_exclusive_group()
    kind.add_argument(
        "--deco",
        action="store_true",
        help="a DeCo of the preset's shape, where the preset is a baseline",
    )
    kind.add_argument(
        "--baseline",
        action="store_true",
        help="the single DiT of the preset's shape, where the preset is a DeCo; where the baseline "
        "has a preset of its own, such as tiny-dit for tiny, prefer that: it has as many "
        "parameters",
    )
    _add_options(model, DeCoConfig, given_only=True)
    data = parser.add_argument_group("data")
    _add_options(data, SourceConfig, given_only=False)
    _add_options(parser.add_argument_group("recipe"), TrainingConfig, given_only=False)
    return parser


def _whole(text: str, low: int = 1) -> int:
    value = int(text)
    if value < low:
        raise argparse.ArgumentTypeError(f"must be {low} or more, got {value}")
    return value


def _whole_or_zero(text: str) -> int:
    return _whole(text, 0)


def read_order(parser: argparse.ArgumentParser, arguments: list[str] | None) -> Order:
    """Return what the arguments ask for.

    Raises
    ------
    ValueError
        Where a value is out of range, or an option does not go with the others.
    """
    given = vars(parser.parse_args(arguments))
    name, model = _model(given)
    training = TrainingConfig(**{f.name: given[f.name] for f in fields(TrainingConfig)})
    options: dict[str, Any] = {
        f.name: given[f.name] for f in fields(SourceConfig) if f.name in given
    }
    if "crop_scale" in options:
        options["crop_scale"] = tuple(options["crop_scale"])
    return Order(
        name=name,
        model=model,
        training=training,
        source=SourceConfig(**options),
        out=given.get("out") or Path("runs") / name,
        device=given.get("device"),
        compiled=not given["no_compile"],
        save_every=given["save_every"],
        evaluate_every=given["evaluate_every"],
        command=command_again(parser, given),
    )


def _model(given: dict[str, Any]) -> tuple[str, ModelConfig]:
    """Return the name and shape of the model that the options ask for."""
    preset = PRESETS[given["preset"]]
    name = given["preset"].replace("/", "-")
    shape = {f.name: getattr(preset, f.name) for f in fields(DiTConfig)}
    start = preset
    if given["deco"] and not isinstance(preset, DeCoConfig):
        name, start = f"{name}-deco", DeCoConfig(**shape)
    elif given["baseline"] and isinstance(preset, DeCoConfig):
        name, start = f"{name}-baseline", DiTConfig(**shape)
    changed = {f.name: given[f.name] for f in fields(DeCoConfig) if f.name in given}
    known = {f.name for f in fields(start)}
    if foreign := [option for option in changed if option not in known]:
        raise ValueError(
            f"{', '.join(foreign)} must be left out for a baseline, which has no pixel decoder; "
            "train a DeCo, with --deco or another preset"
        )
    return name, replace(start, **changed)


def command_again(parser: argparse.ArgumentParser, given: dict[str, Any]) -> str:
    """Return the command line that trains the model again: what bears on its weights."""
    words: list[str] = [*PROGRAM.split()]
    for action in parser._actions:
        value = given.get(action.dest)
        passed_over = action.dest in ("out", "device", "save_every", "evaluate_every")
        if passed_over or value is None or (value == action.default and action.dest != "preset"):
            continue
        option = action.option_strings[0]
        if isinstance(action, argparse.BooleanOptionalAction):
            words.append(option if value else "--no-" + option.removeprefix("--"))
        elif value is True:
            words.append(option)
        else:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return printable(shlex.join(words))
