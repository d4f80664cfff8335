"""`deco-lab COMMAND ...`: one door to the command lines, each of which also runs as a module.

A command's module is imported once it is asked for, so that none waits for another's libraries.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import tyro

from deco_lab.setting import check_settings
from deco_lab.terminal import print_any_text

Order = TypeVar("Order")

COMMANDS = {
    "train": "deco_lab.training.__main__:main",
    "sample": "deco_lab.sampling.__main__:main",
    "evaluate": "deco_lab.evaluation.__main__:main",
    "compare": "deco_lab.evaluation.compare:main",
    "grid": "deco_lab.evaluation.grid:main",
    "study": "deco_lab.studies.__main__:main",
}
"""Where the function of a command stands; it takes the words that follow the command."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command that the words begin with; `deco-lab COMMAND --help` lists its options."""
    command, *rest = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if command in ("-h", "--help"):
        print(f"usage: deco-lab {{{','.join(COMMANDS)}}} [--help] ...")
        return
    if command not in COMMANDS:
        refuse("deco-lab", f"command must be one of {', '.join(COMMANDS)}, got {command!r}")
    module, function = COMMANDS[command].split(":")
    getattr(import_module(module), function)(rest)


def run(
    kind: type[Order], program: str, work: Callable[[Order], None], words: Sequence[str] | None
) -> None:
    """Read a command line into a dataclass, check its settings, and do what it asks for.

    What is wrong is said in one sentence. Settings that share a dataclass, in one of its fields,
    are options like the others.
    """
    print_any_text()
    order: Any = tyro.cli(kind, prog=program, args=words, config=(tyro.conf.OmitArgPrefixes,))
    try:
        for part in (order, *filter(is_dataclass, vars(order).values())):
            check_settings(part, limited=False)
        work(order)
    except ValueError as error:
        refuse(program, error)
    except OSError as error:
        sys.exit(f"{program}: error: {error}")


def refuse(program: str, reason: object) -> NoReturn:
    """End with one sentence for what a command line's words get wrong, and status 2."""
    print(f"{program}: error: {reason}", file=sys.stderr)
    sys.exit(2)
