"""The direction of imports: each part of the package may know only what stands in its row."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "deco_lab"

# The longest row that fits a module counts. Parts of a package may know one another, but for those
# that have a row of their own.
ALLOWED = {
    "": {"checkpoints", "sampling"},
    "arrays": set(),
    "cli": {"setting", "terminal"},
    "config": {"setting"},
    "gaussian": set(),
    "flow": set(),
    "files": set(),
    "wrapper": set(),
    "environment": set(),
    "proxies": set(),
    "palette": set(),
    "terminal": set(),
    "setting": set(),
    "labels": {"setting"},
    "result": {"files"},
    "fast": {"files", "models"},
    "fast.memory": set(),
    "fast.build": {"files"},
    "spectra.dct": {"arrays", "fast"},
    "spectra.jpeg": {"arrays"},
    "models.layers": set(),
    "models": {"config", "flow"},
    "sampling": {"flow", "labels", "setting", "wrapper"},
    "sampling.processes": {"checkpoints"},
    "sampling.image_files": {"data", "files"},
    "sampling.many": {"files", "labels", "sampling", "setting"},
    "sampling.__main__": {"checkpoints", "files", "sampling", "setting", "spectra", "terminal"},
    "losses": {"flow", "spectra"},
    "spectra": {"arrays", "flow", "gaussian", "labels", "result", "setting", "wrapper"},
    "checkpoints": {"config", "fast", "files", "models"},
    "data": {"config", "files", "gaussian"},
    "plots": {"palette", "result", "spectra"},
    "studies": {"config", "data", "files", "plots", "result", "sampling", "setting", "spectra"},
    "studies.__main__": {"cli", "evaluation", "files", "setting", "studies"},
    "workbench": {
        "checkpoints", "config", "data", "fast", "files", "flow", "labels", "models", "palette",
        "result", "sampling", "setting", "spectra", "wrapper",
    },
    "page": {"palette", "proxies", "sampling", "setting", "spectra", "studies", "workbench"},
    "evaluation": {"data", "files", "spectra", "terminal"},
    "evaluation.samples": {"checkpoints", "evaluation", "models", "sampling", "setting"},
    "evaluation.__main__": {
        "checkpoints", "cli", "config", "data", "evaluation", "models", "plots", "setting",
        "spectra", "terminal",
    },
    "evaluation.compare": {
        "checkpoints", "cli", "data", "evaluation", "flow", "models", "plots", "setting", "spectra",
        "terminal",
    },
    "evaluation.grid": {
        "cli", "data", "evaluation", "files", "plots", "setting", "spectra", "terminal",
    },
    "benchmark.plain": {"config"},
    "benchmark.worker": set(),
    "benchmark.floor": {"config"},
    "benchmark": {
        "checkpoints", "cli", "config", "data", "fast", "files", "flow", "losses", "models",
        "sampling", "setting", "spectra", "terminal", "training", "workbench",
    },
    "training": {
        "checkpoints", "cli", "config", "data", "evaluation", "fast", "files", "flow", "losses",
        "models", "sampling", "spectra", "terminal",
    },
}  # fmt: skip
ALLOWED_INSIDE_FUNCTIONS = {
    "training": {"plots"},
    "data": {"matplotlib"},  # for a photograph that comes with it
}
FRAMEWORKS = {"matplotlib": "plots", "plotly": "plots", "gradio": "page"}
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


class Import(NamedTuple):
    module: str
    inside_function: bool


def module_name(path: Path) -> str:
    """Return a file's name under deco_lab, such as "spectra.dct", or "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(node: ast.AST, inside_function: bool = False) -> Iterator[Import]:
    """Yield all that a piece of source imports, wherever it stands."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, inside_function)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            assert child.module is not None
            if child.module == "deco_lab":
                for alias in child.names:
                    yield Import(f"deco_lab.{alias.name}", inside_function)
            else:
                yield Import(child.module, inside_function)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(child, inside_function or function)


def imports_of_file(path: Path) -> list[Import]:
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        lines = "\n".join(code).splitlines()
        source = "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
    else:
        source = path.read_text(encoding="utf-8")
    return list(imports_of(ast.parse(source)))


def row_of(module: str) -> str | None:
    """Return the longest row of the table that `module` belongs to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in ALLOWED:
            return ".".join(parts[:length])
    return None


def violations(module: str, imports: list[Import]) -> list[str]:
    """Return the imports of `module` that its row does not allow."""
    row = row_of(module)
    if row is None:
        return [f"deco_lab.{module} has no row in the table of imports"]
    own_package = row if row in PACKAGES else None
    found = []
    for imported, inside_function in imports:
        top, _, rest = imported.partition(".")
        if top == "deco_lab":
            target = rest.split(".")[0]
            allowed = ALLOWED[row] | ({own_package} if own_package else set())
            if inside_function:
                allowed |= ALLOWED_INSIDE_FUNCTIONS.get(row, set())
            if target not in allowed:
                found.append(f"deco_lab.{module} imports {imported}")
        elif inside_function and top in ALLOWED_INSIDE_FUNCTIONS.get(row, set()):
            continue
        elif top in FRAMEWORKS and row != FRAMEWORKS[top]:
            found.append(f"deco_lab.{module} imports {imported}")
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted([*ROOT.glob("app.py"), *ROOT.glob("notebooks/*.ipynb")])


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_import_what_the_table_allows(path):
    assert violations(module_name(path), imports_of_file(path)) == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("sampling.loop", "import deco_lab.spectra", 1),
        ("spectra.dct", "from deco_lab.spectra.jpeg import jpeg_table", 1),
        ("spectra.radial", "from deco_lab import models", 1),
        ("training", "from deco_lab.plots import loss_curve", 1),
        ("training", "def draw():\n    from deco_lab.plots import loss_curve", 0),
        ("evaluation", "def draw():\n    import matplotlib.figure", 1),
        ("spectra.radial", "if True:\n    from matplotlib import figure", 1),
        ("live", "import gradio as gr", 1),
        ("config", "import deco_lab", 1),
        ("helpers", "import math", 1),
    ],
)
def test_violations_sees_what_the_table_forbids(module, source, count):
    assert len(violations(module, list(imports_of(ast.parse(source))))) == count


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_app_and_notebooks_import_public_names(path):
    for imported, _ in imports_of_file(path):
        if imported.split(".")[0] == "deco_lab":
            assert imported.count(".") <= 1, f"{path.name} imports {imported}, which is not public"
    if path.suffix == ".ipynb":
        assert "gradio" not in {imported.split(".")[0] for imported, _ in imports_of_file(path)}


def test_modules_are_named_for_what_they_do():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in PACKAGE.rglob("*") if path.stem in vague] == []


ABSENT = {
    "spectra": {"matplotlib", "plotly", "gradio", "deco_lab.plots", "torch._dynamo"},
    "sampling": {"PIL", "accelerate", "deco_lab.data", "deco_lab.sampling.many"},
    "evaluation": {"deco_lab.evaluation.compare", "deco_lab.evaluation.grid"},
    "plots": {"matplotlib.pyplot", "plotly", "gradio"},
}
"""What a fresh Python does not hold once it has imported a room, and those before it: PyTorch's
compiler takes as long as PyTorch itself, and Python warns of a command that is imported already."""


def test_imports_of_rooms_pull_in_no_more_than_they_need():
    room = "import deco_lab.{0}; print('{0}', *sys.modules)".format
    code = "; ".join(["import sys", *map(room, ABSENT)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {room: set(modules) for room, *modules in map(str.split, done.stdout.splitlines())}
    assert loaded.keys() == ABSENT.keys()
    for room, absent in ABSENT.items():
        assert f"deco_lab.{room}" in loaded[room]
        assert loaded[room].isdisjoint(absent), room
