"""An environment for what is started from a checkout, so that nothing has to be set up before.

    python3 app.py
    python3 -m deco_lab.environment test pytest
    python3 -m deco_lab.environment notebooks jupyter lab notebooks

Debian, Ubuntu and Homebrew refuse pip outside an environment [1]. So where Python lacks what is
started, `.venv` is made in the checkout, filled, and used from then on; `rm -r .venv` undoes it. A
Python that lacks nothing is used as it is, and one of a person's own environment is never changed.

Nothing here needs more than Python, and an old one is told so: hence no newer syntax.

References
----------
[1] PEP 668, "Marking Python base environments as externally managed".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
import venv
from importlib import metadata, util
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / ".venv"
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
GET_PIP = "https://bootstrap.pypa.io/get-pip.py"


def need(extra: str) -> None:
    """Return where an extra is installed; elsewhere start this command again in `.venv`.

    Parameters
    ----------
    extra : str
        One of pyproject.toml's, such as "app".

    Raises
    ------
    SystemExit
        Where a person's own environment lacks something, or `.venv` cannot be made.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - it is an older one that comes here
        start_again(newer_python())
    lacking = missing(extra)
    if not lacking:
        return
    python = OWN / "bin" / "python"
    if Path(sys.prefix).resolve() == OWN:
        install(extra)
    elif sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir():
        sys.exit(f"{sys.prefix} lacks {', '.join(lacking)}: pip install -e '.[{extra}]'")
    elif not python.exists():
        print(f"Making an environment in {OWN}, once", file=sys.stderr, flush=True)
        venv.create(OWN, clear=OWN.exists(), symlinks=True)
    start_again(str(python))


def missing(extra: str) -> list[str]:
    """Return what is not installed of the core's requirements and an extra's, by name."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [*project["dependencies"], f"{project['name']}[{extra}]"]
    found = []
    for requirement in waiting:
        name = re.split(r"[^\w.-]", requirement)[0]
        if name == project["name"]:
            for other in re.findall(r"[\w-]+", requirement.partition("[")[2]):
                waiting += project["optional-dependencies"][other]
        else:
            try:
                metadata.distribution(name)
            except metadata.PackageNotFoundError:
                found.append(name)
    return found


def install(extra: str) -> None:
    """Install the checkout with an extra into the environment that runs this."""
    python = sys.executable
    if util.find_spec("pip"):
        pass
    elif util.find_spec("ensurepip"):
        subprocess.run([python, "-m", "ensurepip"], stdout=subprocess.DEVNULL, check=True)
    else:  # as on Debian and Ubuntu without python3-venv
        try:
            with urllib.request.urlopen(GET_PIP, timeout=60) as answer:
                subprocess.run([python, "-"], input=answer.read(), check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{GET_PIP} cannot be used ({error}): sudo apt install python3-venv")
    command = [python, "-m", "pip", "install", "-e", f"{ROOT}[{extra}]"]
    if not util.find_spec("torch"):
        command += cpu_build()
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{ROOT.name}[{extra}] could not be installed, for the reason above")


def cpu_build() -> list[str]:
    """Return what tells pip to take PyTorch's build for a CPU; nothing where the default is right.

    By default Linux gets several GB of CUDA, which only a GPU has a use for.
    """
    if sys.platform != "linux" or has_gpu():
        return []
    for index in ([], ["--extra-index-url", CPU_BUILDS]):
        command = [sys.executable, "-m", "pip", "index", "versions", "torch", "--retries", "0"]
        listed = subprocess.run([*command, *index], capture_output=True, text=True, check=False)
        build = re.search(r"[\d.]+\+cpu", listed.stdout.partition("INSTALLED")[0])
        if build:
            return [*index, f"torch=={build[0]}"]
    print(
        f"{CPU_BUILDS} cannot be reached: pip takes the PyTorch that it finds, which may be"
        " several GB with CUDA",
        file=sys.stderr,
    )
    return []


def has_gpu() -> bool:
    """Return whether there is an NVIDIA GPU that PyTorch's default build would use."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def newer_python() -> str:
    """Return a Python that is new enough, in place of this one, which is not."""
    for minor in (14, 13, 12, 11):
        python = shutil.which(f"python3.{minor}")
        if python:
            return python
    sys.exit(
        "DeCo Lab needs Python 3.11 or later, and this is {}.{}; on macOS `brew install python`"
        " brings one, on Ubuntu `sudo apt install python3.11-venv`".format(*sys.version_info)
    )


def start_again(python: str) -> NoReturn:
    """Replace this process by the same command under another Python."""
    command = getattr(sys, "orig_argv", [sys.executable, *sys.argv])
    os.execv(python, [python, *command[1:]])


def main() -> None:
    """Run the command that follows an extra's name, in an environment that has the extra."""
    if len(sys.argv) < 3:
        sys.exit("python3 -m deco_lab.environment EXTRA COMMAND ..., e.g. test pytest")
    need(sys.argv[1])
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["PATH"] = programs
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
