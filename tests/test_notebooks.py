"""Every notebook runs from top to bottom, its figures follow its controls, it is stored as it runs.

Each is run once: the first in JupyterLab (test_jupyterlab.py), the others here, in a kernel. What
is stored in them is written by .ci/notebooks.py.
"""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import output_from_msg

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
IN_JUPYTERLAB = "01_first_look"
IN_KERNEL = [path for path in NOTEBOOKS if path.stem != IN_JUPYTERLAB]
MAX_SECONDS = 90
"""On two idle cores; the test counts the seconds of processors, which a loaded machine has too."""
CLOCK = "import time; print(time.process_time())"
KINDS = {"stream", "display_data", "execute_result", "error"}
"""Messages that are outputs."""
SHORTER = {"STEPS = 700": "STEPS = 150"}
"""Of a training in a notebook: what a reader is told to change, changed the other way."""

# Each slider and list to another value and back, with a mark before either.
MOVE_ALL = """
from IPython.display import display
from ipywidgets import Dropdown, FloatSlider, IntSlider, SelectionSlider
from ipywidgets.widgets.widget import _instances

for control in list(_instances.values()):
    if isinstance(control, Dropdown | SelectionSlider):
        name, first, last = "index", 0, len(control.options) - 1
    elif isinstance(control, IntSlider | FloatSlider):
        name, first, last = "value", control.min, control.max
    else:
        continue
    before = getattr(control, name)
    for value in (first if before == last else last, before):
        display({"text/plain": "MOVED"}, raw=True)
        setattr(control, name, value)
"""


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
        "07_photographs",
    ]


# Not nbclient: its asynchronous sockets lose a wake-up now and then, and a cell then waits for its
# whole time limit.
def outputs_of(cells: list[str], folder: Path) -> Iterator[list[Any]]:
    """Run cells of code in a kernel of their own, and yield the outputs of each."""
    manager, kernel = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        for source in cells:
            messages: list[Any] = []
            reply = kernel.execute_interactive(
                source, allow_stdin=False, timeout=6 * MAX_SECONDS, output_hook=messages.append
            )["content"]
            assert reply["status"] == "ok", "\n".join(reply["traceback"])
            yield [output_from_msg(m) for m in messages if m["msg_type"] in KINDS]
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def pictures_of(outputs: list[Any]) -> list[str]:
    """Return what is shown, as text: pictures and plotly's curves."""
    shown = [output.get("data", {}) for output in outputs]
    return [str(d) for d in shown if "image/png" in d or "plotly" in str(d.keys())]


def numbers_in(outputs: list[Any]) -> list[str]:
    """Return the numbers in printed lines and computed sentences, as they are written."""
    said = [o.get("data", {}).get("text/markdown", o.get("text", "")) for o in outputs]
    return re.findall(r"\d+\.\d+|\d+", "".join(map("".join, said)))


def as_written(stored: str, shown: str) -> bool:
    """Return whether two numbers agree to a twentieth, or to three of the last digit's units."""
    unit = 10.0 ** -len(stored.partition(".")[2])
    return abs(float(stored) - float(shown)) <= max(3 * unit, 0.05 * float(stored))


@pytest.mark.slow
@pytest.mark.parametrize("path", IN_KERNEL, ids=lambda path: path.stem)
def test_notebook_runs_and_its_figures_follow_their_controls(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    sources = [cell["source"] for cell in read(path).cells if cell["cell_type"] == "code"]
    shortened = any(given in source for given in SHORTER for source in sources)
    for given, shorter in SHORTER.items():
        sources = [source.replace(given, shorter) for source in sources]
    *cells, clock, moved = outputs_of([*sources, CLOCK, MOVE_ALL], tmp_path)
    assert float(clock[0].text) < 3 * MAX_SECONDS  # of slow processors
    outputs = [output for cell in cells for output in cell]
    assert len(pictures_of(outputs)) >= 3
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    if not shortened:
        stored = [cell.outputs for cell in read(path).cells if cell.cell_type == "code"]
        for before, now in zip(map(numbers_in, stored), map(numbers_in, cells), strict=True):
            assert [a for a, b in zip(before, now, strict=True) if not as_written(a, b)] == []
    closing = cells[-1][-1].data["text/markdown"]
    assert "nan" not in closing
    assert "%" in closing
    assert [output.traceback for output in moved if output.output_type == "error"] == []
    marks = [i for i, output in enumerate(moved) if "MOVED" in str(output.get("data"))]
    assert marks, "a notebook has something to move, and its figure follows"
    drawn = [pictures_of(moved[i:j]) for i, j in pairwise([*marks, len(moved)])]
    for elsewhere, restored in zip(drawn[::2], drawn[1::2], strict=True):
        assert elsewhere
        assert elsewhere != restored


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_notebook_is_stored_with_what_it_shows(path: Path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    data = [output.get("data", {}) for output in outputs]
    # Pages without scripts, such as GitHub's, show no curves of plotly's.
    assert not [d for d in data if "plotly" in str(d.keys()) and "image/png" not in d]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert "text/markdown" in cells[-1].outputs[-1]["data"]
    assert path.stat().st_size < 4e6
    for cell in cells:
        assert cell.execution_count is None
        if "interact(" in cell.source and "def " not in cell.source:
            before = cells[cells.index(cell) - 1]
            assert pictures_of(before.outputs)


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
