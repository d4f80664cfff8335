"""What is started from a checkout brings its own environment; whoever has one keeps it."""

import ast
import io
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from deco_lab import environment

ROOT = Path(__file__).parents[1]
BACKEND = '''
"""Builds wheels without a network."""
import zipfile


def wheel(folder, name, version, metadata=""):
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{file}", "w") as archive:
        files = {
            "METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{metadata}",
            "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "RECORD": "",
        }
        for path, text in files.items():
            archive.writestr(f"{name}-{version}.dist-info/{path}", text)
    return file


def build_editable(folder, *_):
    extras = "".join(
        f"Provides-Extra: {extra}\\nRequires-Dist: {needed}; extra == '{extra}'\\n"
        for extra, needed in {"app": "thing", "test": "deco_lab[app]"}.items()
    )
    return wheel(folder, "deco_lab", "1", extras)
'''
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "deco-lab"
dependencies = []
[project.optional-dependencies]
app = ["thing>=1"]
test = ["deco-lab[app]"]
"""


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only place in which pip finds anything: `thing` and two builds of PyTorch."""
    names: dict = {}
    exec(BACKEND, names)
    for name, version in (("thing", "1"), ("torch", "3.0"), ("torch", "2.9+cpu")):
        names["wheel"](tmp_path, name, version)
    for name in ("PYTHONPATH", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


@pytest.fixture
def checkout(wheels: Path) -> Path:
    """Return a checkout whose app needs `thing` and whose tests need the app."""
    folder = wheels / "checkout"
    (folder / "deco_lab").mkdir(parents=True)
    for name in ("__init__.py", "environment.py"):
        shutil.copy(ROOT / "deco_lab" / name, folder / "deco_lab")
    (folder / "backend.py").write_text(BACKEND, encoding="utf-8")
    (folder / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    return folder


def start(python: Path | str, checkout: Path) -> subprocess.CompletedProcess[str]:
    """Start a command that needs the tests' environment, and prints whose Python it found."""
    command = ["python", "-c", "import sys; print(sys.prefix)"]
    return subprocess.run(
        [python, "-m", "deco_lab.environment", "test", *command],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_command_makes_the_checkouts_environment_once(checkout, wheels):
    python, own = Path(sys.base_prefix, "bin", "python3"), checkout / ".venv"
    wheel = wheels / "thing-1-py3-none-any.whl"
    wheel.rename(wheels / "kept")
    broken = start(python, checkout)
    assert broken.returncode == 1
    assert "could not be installed" in broken.stderr.splitlines()[-1]
    (wheels / "kept").rename(wheel)
    mended = start(python, checkout)
    assert mended.stdout.splitlines()[-1:] == [str(own)], mended.stderr
    (packages,) = own.glob("lib/python*/site-packages")
    found = {path.name for path in packages.glob("*.dist-info")}
    assert {"thing-1.dist-info", "deco_lab-1.dist-info"} <= found
    if sys.platform == "linux" and not environment.has_gpu():
        assert "torch-2.9+cpu.dist-info" in found
    again = start(python, checkout)
    assert (again.stdout, again.stderr) == (f"{own}\n", "")  # pip would say something


def test_command_leaves_the_environment_that_one_has(checkout):
    own = checkout / "own"
    venv.create(own)
    lacking = start(own / "bin" / "python", checkout)
    assert lacking.returncode == 1
    assert f"{own} lacks thing: pip install -e '.[test]'" in lacking.stderr
    (packages,) = own.glob("lib/python*/site-packages")
    (packages / "thing-1.dist-info").mkdir()
    (packages / "thing-1.dist-info" / "METADATA").write_text("Name: thing\n", encoding="utf-8")
    assert start(own / "bin" / "python", checkout).stdout == f"{own}\n"
    assert not (checkout / ".venv").exists()


def test_cpu_build_is_taken_on_linux_without_a_gpu(wheels, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(environment, "has_gpu", lambda: False)
    assert environment.cpu_build() == ["torch==2.9+cpu"]
    (wheels / "torch-2.9+cpu-py3-none-any.whl").unlink()
    assert environment.cpu_build() == []
    assert f"{environment.CPU_BUILDS} cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(("platform", "gpu"), [("linux", True), ("darwin", False)])
def test_cpu_build_leaves_a_gpu_and_other_systems_the_default(monkeypatch, platform, gpu):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(environment, "has_gpu", lambda: gpu)
    assert environment.cpu_build() == []


def test_install_fetches_pip_where_debian_has_none(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.util, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "cpu_build", list)
    script = f"open({str(tmp_path / 'got')!r}, 'w').close()".encode()
    monkeypatch.setattr(environment.urllib.request, "urlopen", lambda *_, **__: io.BytesIO(script))
    monkeypatch.setattr(environment, "ROOT", tmp_path)  # which pip cannot install
    with pytest.raises(SystemExit, match="could not be installed"):
        environment.install("app")
    assert (tmp_path / "got").exists()

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(environment.urllib.request, "urlopen", unreachable)
    with pytest.raises(SystemExit, match=r"\(no network\): sudo apt install python3-venv"):
        environment.install("app")


@pytest.mark.parametrize("name", ["app.py", "deco_lab/__init__.py", "deco_lab/environment.py"])
def test_start_is_read_by_old_pythons(name):
    ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_need_tells_an_old_python_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 6))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or later, and this is 3\.9; .*brew"):
        environment.need("app")
