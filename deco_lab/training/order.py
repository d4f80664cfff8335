"""What a command line asks for: options made of the fields of the configurations, by tyro [1].

An option's meaning is the line under its field, so it is written once. The command that trains a
model again is made the same way backwards: every option that differs from its default.

References
----------
[1] Yi et al., tyro, https://brentyi.github.io/tyro.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Suppress

from deco_lab.config import PRESETS, DeCoConfig, ModelConfig
from deco_lab.data import SourceConfig
from deco_lab.files import printable
from deco_lab.training.recipe import TrainingConfig

PROGRAM = "python -m deco_lab.training"
_NO_BEARING = {"out", "device", "save_every", "evaluate_every", "name", "command"}
"""Fields that say nothing of a model's weights."""


@dataclass(frozen=True, kw_only=True)
class _Shape(DeCoConfig):
    """What to change of the preset."""

    num_classes: Suppress[int] = 0  # the data's, as are their names
    class_names: Suppress[tuple[str, ...]] = ()
    image_size_assumed: Suppress[bool] = False

    def __post_init__(self) -> None:
        """Leave the checks to the configuration that it becomes, whose sentences are plain."""


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What has to be known before the rest can be read."""

    preset: Annotated[str, tyro.conf.arg(metavar="|".join(PRESETS))] = "tiny"
    """Where to start."""


@dataclass(frozen=True, kw_only=True)
class Order(_Start):
    """Train a DeCo or its baseline on the bundled photographs, a folder by class, or a dataset.

    The same command goes on where a run was stopped. On several GPUs: accelerate launch --multi_gpu
    -m deco_lab.training ...
    """

    compile: bool = True
    """Compile by region."""
    out: Path | None = None
    """Folder of the run, resumed if there; runs/NAME when not given."""
    device: str | None = None
    """cpu, cuda or mps; the best there is when not given."""
    save_every: int = 200
    """Steps between two checkpoints, and one at the end; 0 leaves the others out."""
    evaluate_every: int = 0
    """Steps between two evaluations, and one at the end; 0 leaves all of them out."""
    model: ModelConfig = _Shape()
    source: SourceConfig = field(default_factory=SourceConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    name: Suppress[str] = ""
    """What to call the model."""
    command: Suppress[str] = ""
    """What trains the model again."""


def read_order(words: Sequence[str] | None = None) -> Order:
    """Return what a command line's words ask for; those of this process when not given.

    Raises
    ------
    ValueError
        Where a value is out of range, or an option does not go with the others.
    """
    begun, _ = tyro.cli(_Start, args=words, return_unknown_args=True, add_help=False)
    if begun.preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {begun.preset!r}")
    start, name = PRESETS[begun.preset], begun.preset.replace("/", "-")
    asked = [f.name for f in fields(_Shape) if f.name not in _Shape.__annotations__]
    shape = _Shape(**{each: getattr(start, each) for each in asked if hasattr(start, each)})
    default = Order(preset=begun.preset, model=shape)
    order = tyro.cli(
        Order, prog=PROGRAM, args=words, default=default, config=(tyro.conf.OmitArgPrefixes,)
    )
    given = vars(order.model)
    changed = {each: given[each] for each in asked if given[each] != getattr(shape, each)}
    if foreign := [option for option in changed if not hasattr(start, option)]:
        raise ValueError(
            f"{', '.join(foreign)} must be left out for a single DiT, which has no pixel decoder; "
            "train a DeCo, with another preset"
        )
    return replace(
        order,
        name=name,
        out=order.out or Path("runs") / name,
        model=replace(start, **changed),
        command=printable(shlex.join([*PROGRAM.split(), *_words(order, default)])),
    )


def _words(given: Any, default: Any) -> Iterator[str]:
    """Yield the words of what differs from the default and bears on the weights."""
    for each in fields(given):
        value, usual = getattr(given, each.name), getattr(default, each.name)
        option = each.name.replace("_", "-")
        if is_dataclass(value):
            yield from _words(value, usual)
        elif each.name in _NO_BEARING or (value == usual and each.name != "preset"):
            continue
        elif isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield from (f"--{option}", *map(str, value if isinstance(value, tuple) else [value]))
