"""Every notebook runs from top to bottom, in the time it promises, and is stored without output."""

import ast
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
MAX_SECONDS = 60
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


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebook_runs_and_draws(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = read(path)
    started = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=3 * MAX_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert time.monotonic() - started < 3 * MAX_SECONDS
    shown = [
        output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] != "stream"
    ]
    pictures = [data for data in shown if "image/png" in data or "plotly" in str(data.keys())]
    assert len(pictures) >= 3
    warned = [
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert not warned
    closing = notebook.cells[-1]["outputs"][-1]["data"]["text/markdown"]
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
