"""What a person reads of an evaluation: the table, the JSON file and the figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from deco_lab.evaluation.judge import FIGURE_TITLES, Figures, Findings
from deco_lab.files import check_writable, replacing
from deco_lab.spectra import Estimate

REAL = "real crops"
RANDOM = "random weights"


def name_of(model: str) -> str:
    """Return what a model is called: a bundled name, or of a file its folder's or its own name.

    Every run calls its model "model.safetensors", so there the folder's name tells them apart.
    """
    path = Path(model)
    if not path.suffix:
        return model
    return (path.stem if path.stem != "model" else path.parent.name) or path.stem


def _written(estimate: Estimate) -> str:
    """Write an estimate with as many digits as its size needs."""
    digits = 3 if abs(estimate.value) < 1 else 2 if abs(estimate.value) < 100 else 0
    return format(estimate, f".{digits}f")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Join rows of cells into lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def table(findings: Mapping[str, Findings]) -> str:
    """Return the figures, one column for each of the findings, with their 95% intervals."""
    rows = [["", *findings]]
    for field in fields(Figures):
        cells = [_written(getattr(found.figures, field.name)) for found in findings.values()]
        rows.append([FIGURE_TITLES[field.name], *cells])
    return aligned(rows)


def class_table(found: Findings, real: Findings, class_names: Sequence[str]) -> str:
    """Return the figures by class: accuracy, what the class is mistaken for, spectrum, nearest."""
    rows = [["class", "accuracy", "mistaken for", "spectral error (dB)", "nearest crop", "of real"]]
    for i, c in enumerate(found.class_ids):
        counts = found.confusion[i]
        mistaken = np.where(np.arange(len(counts)) == c, 0, counts)
        worst = int(mistaken.argmax())
        rows.append(
            [
                class_names[c],
                f"{counts[c] / counts.sum():.2f}",
                f"{class_names[worst]} ({mistaken[worst]})" if mistaken[worst] else "",
                f"{found.class_spectral_error[i]:.2f}",
                f"{found.class_nearest_crop[i]:.1f}",
                f"{real.class_nearest_crop[i]:.1f}",
            ]
        )
    return aligned(rows)


def verdict(found: Findings, real: Findings, random: Findings) -> str:
    """Return the figures as ratios to the floor and to random weights, one line each."""
    own, floor, ceiling = (f.figures for f in (found, real, random))
    accuracy = f"{own.class_accuracy.value:.1%}, of real crops 0.0%"
    if floor.class_accuracy.value:  # of few held-out pictures, none may be told right
        ratio = own.class_accuracy.value / floor.class_accuracy.value
        accuracy = f"{ratio:.1%} of that of real crops"
    part = own.frechet_distance.value / ceiling.frechet_distance.value
    frechet = f"1/{1 / part:.0f} of" if 0 < part <= 1 else f"{part:.2g} times"
    return "\n".join(
        [
            f"class accuracy is {accuracy}",
            f"spectral error is {own.spectral_error.value:.2f} dB, of real crops "
            f"{floor.spectral_error.value:.2f} dB",
            f"Fréchet distance is {frechet} that of random weights",
        ]
    )


def claim(out: Path, endings: Sequence[str], setting: str) -> None:
    """Raise ValueError unless an evaluation may write its files.

    Parameters
    ----------
    out : Path
        Their path, without endings.
    endings : sequence of str
        What the names of the files add to it, of the JSON file first.
    setting : str
        A name among the settings in the JSON file, by which it is known to be of an evaluation of
        this kind; its files may be replaced.
    """
    if not out.name:
        raise ValueError(f"out must end in what to call the files, got {out}; add a name")
    check_writable(out.parent)
    paths = [out.with_name(out.name + ending) for ending in endings]
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


def write(
    path: Path,
    findings: Mapping[str, Findings],
    *,
    title: str,
    settings: Mapping[str, object],
) -> list[Path]:
    """Write PATH.json and, where matplotlib is installed, PATH.png; return what was written."""
    values = {"settings": dict(settings), **{name: f.to_dict() for name, f in findings.items()}}
    written = [path.with_name(path.name + ".json")]
    with replacing(written[0]) as beside:
        beside.write_text(json.dumps(values, indent=1), encoding="utf-8")
    try:
        from deco_lab.plots import evaluation_figure
    except ModuleNotFoundError:
        return written
    first = next(iter(findings.values()))
    figure = evaluation_figure(
        first.frequency,
        {name: found.power_ratio for name, found in findings.items()},
        first.coefficient_ratio,
        title=title,
    )
    written.append(path.with_name(path.name + ".png"))
    with replacing(written[1]) as beside:
        figure.savefig(beside, dpi=120, format="png")
    return written
