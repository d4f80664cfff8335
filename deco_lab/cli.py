"""`deco-lab COMMAND ...`: one door to the command lines, each of which also runs as a module.

A command's module is imported once it is asked for, so that none waits for another's libraries.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

COMMANDS = {
    "train": "deco_lab.training.__main__:main",
    "sample": "deco_lab.sampling.__main__:main",
    "evaluate": "deco_lab.evaluation.__main__:main",
    "compare": "deco_lab.evaluation.compare:main",
    "grid": "deco_lab.evaluation.grid:main",
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


def refuse(program: str, reason: object) -> NoReturn:
    """End with one sentence for what a command line's words get wrong, and status 2."""
    print(f"{program}: error: {reason}", file=sys.stderr)
    sys.exit(2)
