"""Command lines print on terminals whose encodings lack letters of what they print."""

import io
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from test_app import load_app

from deco_lab.terminal import aligned, print_any_text


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], io.BytesIO]:
    """Return what makes `sys.stdout` a terminal of an encoding, and gives what it shows."""

    def opened(encoding: str) -> io.BytesIO:
        shown = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, write_through=True))
        return shown

    return opened


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("cp932", "Fréchet 写真", r"Fr\xe9chet 写真"),
        ("cp1251", "Fréchet фото", r"Fr\xe9chet фото"),
        ("ascii", "Fréchet фото", r"Fr\xe9chet \u0444\u043e\u0442\u043e"),
        ("utf-8", "Fréchet \udcff", r"Fréchet \udcff"),
    ],
)
def test_print_any_text_prints_codes_for_what_the_terminal_lacks(
    encoding: str, text: str, expected: str, terminal
):
    shown = terminal(encoding)
    print_any_text()
    print(text, end="")
    assert shown.getvalue().decode(encoding) == expected


def test_print_any_text_leaves_a_notebook_s_output(monkeypatch: pytest.MonkeyPatch):
    output: Any = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    print_any_text()
    print("Fréchet", end="")
    assert output.getvalue() == "Fréchet"


@pytest.mark.parametrize(
    "program", ["sampling", "training", "evaluation", "evaluation.compare", "benchmark", "app"]
)
def test_every_command_line_prints_its_help_on_any_terminal(program: str, terminal, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    shown = terminal("ascii")
    if program == "app":
        main = load_app().main
    else:
        whole = "deco_lab." + program
        main = import_module(whole if "." in program else whole + ".__main__").main
    with pytest.raises(SystemExit, match="0"):
        main()
    assert b"--help" in shown.getvalue()
    # Training prints nothing else but to stderr, which Python opens so.
    assert program == "training" or sys.stdout.errors == "backslashreplace"


def test_aligned_leaves_out_columns_without_cells():
    rows = [["row", "ms", "none", "x"], ["a", "2.00", "", "10"], ["longer", "1.0", "", "7"]]
    expected = ["row       ms   x", "----------------", "a       2.00  10", "longer   1.0   7"]
    assert aligned(rows).splitlines() == expected
    assert aligned(rows, left=2).splitlines()[0] == "row     ms     x"
    assert aligned(rows[:1]).startswith("row  ms  none  x\n-")
