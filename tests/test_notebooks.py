"""Every notebook runs from top to bottom, in the time it promises, and is stored without output."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
MAX_SECONDS = 90
"""On two cores; a loaded machine may take longer, so three times this fails the test."""


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def test_notebooks_are_found():
    assert IDS == [
        "01_first_look",
        "02_dit_versus_decoder",
        "03_dct_loss_weights",
        "04_guidance_in_frequency",
        "05_solvers_and_settling",
        "06_train_your_own",
    ]


# Not nbclient: its asynchronous sockets lose a wake-up now and then, and a cell then waits for its
# whole time limit.
def outputs_of(path: Path, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Run a notebook in a kernel of its own, and yield the messages of each code cell."""
    manager, kernel = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        for cell in read(path).cells:
            if cell["cell_type"] != "code":
                continue
            messages: list[dict[str, Any]] = []
            reply = kernel.execute_interactive(
                cell["source"],
                allow_stdin=False,
                timeout=3 * MAX_SECONDS,
                output_hook=messages.append,
            )["content"]
            assert reply["status"] == "ok", "\n".join(reply["traceback"])
            yield messages
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebook_runs_and_draws(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    started = time.monotonic()
    cells = list(outputs_of(path, tmp_path))
    assert time.monotonic() - started < 3 * MAX_SECONDS
    messages = [message for cell in cells for message in cell]
    shown = [m["content"]["data"] for m in messages if "data" in m["content"]]
    pictures = [data for data in shown if "image/png" in data or "plotly" in str(data.keys())]
    assert len(pictures) >= 3
    assert [m["content"] for m in messages if m["content"].get("name") == "stderr"] == []
    closing = cells[-1][-2]["content"]["data"]["text/markdown"]  # the last message says idle
    assert "nan" not in closing
    assert "%" in closing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebook_is_stored_without_output(path: Path):
    for cell in read(path).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebook_keeps_to_the_house_style(path: Path):
    cells = read(path).cells
    opening = cells[0]["source"]
    assert cells[0]["cell_type"] == "markdown"
    assert "**Question.**" in opening
    assert "**It takes**" in opening
    assert "## What we saw" in cells[-2]["source"]
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse(cell["source"])):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 10
