"""What a command line prints: aligned tables, on terminals that lack letters too."""

import io
import sys
from collections.abc import Sequence


def print_any_text() -> None:
    """Have letters that the terminal's encoding lacks printed as their codes.

    Otherwise `print` raises: on Windows in many languages at the first accent, and everywhere at a
    file's name that is not UTF-8. `sys.stderr` does so by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not a notebook's
        sys.stdout.reconfigure(errors="backslashreplace")


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Join rows of cells into lines, below the first a rule; columns that have no cells go.

    The first columns, `left` of them, are flush left and the others flush right.
    """
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        if any(column[1:]) or len(rows) == 1:
            columns.append([c.ljust(width) if i < left else c.rjust(width) for c in column])
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
