"""What a measurement leaves: a JSON file and figures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deco_lab.files import check_writable, replacing


def name_of(model: str) -> str:
    """Return what a model is called: a bundled name, or of a file its folder's or its own name.

    Every run calls its model "model.safetensors", so there the folder's name tells them apart.
    """
    path = Path(model)
    if not path.suffix:
        return model
    return (path.stem if path.stem != "model" else path.parent.name) or path.stem


def _paths(out: Path, endings: Sequence[str]) -> list[Path]:
    return [out.with_name(out.name + ending) for ending in endings]


def claim(out: Path, figures: Sequence[str], setting: str) -> None:
    """Raise ValueError unless a command may write its files.

    Parameters
    ----------
    out : Path
        Their path, without endings.
    figures : sequence of str
        What the names of the figures add to it.
    setting : str
        A name among the settings in the JSON file, by which it is known to be of a command of this
        kind; its files may be replaced.
    """
    if not out.name:
        raise ValueError(f"out must end in what to call the files, got {out}; add a name")
    check_writable(out.parent)
    paths = _paths(out, [".json", *figures])
    taken = [path for path in paths if path.exists()]
    try:
        ours = setting in json.loads(paths[0].read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if taken and not ours:
        raise ValueError(
            f"out must be new or an earlier evaluation's, got {out}, and {taken[0]} is another "
            "file; give another --out"
        )


def write(out: Path, values: Mapping[str, object], figures: Mapping[str, Any]) -> None:
    """Write OUT.json and each figure, under the ending that is its key, and say so."""
    json_file, *pictures = paths = _paths(out, [".json", *figures])
    with replacing(json_file) as beside:
        beside.write_text(json.dumps(values, indent=1), encoding="utf-8")
    for path, figure in zip(pictures, figures.values(), strict=True):
        with replacing(path) as beside:
            figure.savefig(beside, dpi=120, format="png")
    print("written:", *paths)
