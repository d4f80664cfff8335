"""What a command line prints, on terminals that lack letters."""

import io
import sys


def print_any_text() -> None:
    """Have letters that the terminal's encoding lacks printed as their codes.

    Otherwise `print` raises: on Windows in many languages at the first accent, and everywhere at a
    file's name that is not UTF-8. `sys.stderr` does so by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not a notebook's
        sys.stdout.reconfigure(errors="backslashreplace")
