"""What is declared of the package is so: versions, what is installed with what, who joins."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_architecture import MODULES, imports_of_file, module_name

import deco_lab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
CALLED = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
"""Distributions by the name they are imported by, where that is another."""


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", line)[0] for line in requirements}


CORE = names_of(PROJECT["project"]["dependencies"])
CORE.add("typing_extensions")  # with PyTorch
APP = names_of(EXTRAS["app"])


def imported(path: Path) -> set[str]:
    """Return the distributions that a module imports when it is imported itself."""
    tops = {name.split(".")[0] for name, inside in imports_of_file(path) if not inside}
    return {CALLED.get(top, top) for top in tops - sys.stdlib_module_names - {"deco_lab"}}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_modules_import_what_is_installed_with_them(path):
    room = module_name(path).split(".")[0]
    typing_only = {"plotly"} if module_name(path) == "plots.over_time" else set()
    assert imported(path) - typing_only <= CORE | (APP if room == "page" else set())


def test_core_and_app_install_only_what_is_imported():
    everywhere = {
        CALLED.get(name.split(".")[0], name.split(".")[0])
        for path in MODULES
        for name, _ in imports_of_file(path)
    }
    assert everywhere >= CORE | APP


WITHOUT = '''
import sys

class Lacking:
    """A finder that does not see the extras."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {missing}:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Lacking, sys.meta_path)
{code}
'''


def without_extras(code: str) -> str:
    """Run code in a Python that has what the core installs, and return what it prints."""
    named = {name.replace("-", "_") for lines in EXTRAS.values() for name in names_of(lines)}
    missing = named - {"deco_lab"} | {"IPython", "fastapi", "gradio_client"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, code=code)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_library_samples_and_takes_apart_without_the_extras():
    printed = without_extras("""
import deco_lab, torch
from deco_lab.spectra import block_dct, decompose
model = deco_lab.load("tiny", device="cpu")
images = deco_lab.sample(model, class_ids=[0], num_steps=1)
parts = decompose(model, images, torch.tensor(0.5), [0])
print(tuple(images.shape), tuple(parts.dit.shape), block_dct(images, 8).numel())
import deco_lab.benchmark.__main__, deco_lab.evaluation.__main__, deco_lab.evaluation.grid
import deco_lab.plots, deco_lab.sampling.__main__, deco_lab.workbench
""")
    assert printed == "(1, 3, 64, 64) (1, 3, 64, 64) 12288\n"


@pytest.mark.slow
def test_command_line_trains_without_the_extras(tmp_path):
    without_extras(f"""
from deco_lab.training.__main__ import main
main("--preset fields --data fields --steps 20 --batch-size 2 --device cpu --no-compile".split()
     + ["--out", {str(tmp_path)!r}])
""")
    assert {"model.safetensors", "loss.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("import deco_lab.page", "app"),
        (
            "from deco_lab import plots; plots.band_share_curves([0], {'dit': [[1]]}, ())",
            "notebooks",
        ),
    ],
)
def test_sentence_names_the_extra_that_lacks(code, extra):
    said = without_extras(f"""
try:
    {code}
except ModuleNotFoundError as error:
    print(error)
""")
    assert f"pip install 'deco-lab[{extra}]'" in said


def test_version_stands_in_one_place_and_is_told_in_two():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "deco_lab.__version__"}
    changes = (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.search(r"^## (?!Unreleased)\[?([\d.]+)", changes, re.MULTILINE)
    assert released is not None
    assert released[1] == deco_lab.__version__
    cited = (ROOT / ".github" / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {deco_lab.__version__}\n" in cited


def test_pre_commit_runs_the_gates_ruff():
    pinned = re.search(r"ruff==(.+)", (ROOT / ".ci" / "constraints.txt").read_text("utf-8"))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert pinned is not None
    assert f"rev: v{pinned[1]}\n" in hooks


def test_package_says_that_it_is_typed():
    assert (ROOT / "deco_lab" / "py.typed").exists()
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["deco_lab"]
