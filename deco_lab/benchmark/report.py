"""What the benchmark found, as one table of text and as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deco_lab.benchmark.floor import Rates
from deco_lab.files import replacing
from deco_lab.spectra import OCTAVES, band_names, split_bands


@dataclass(frozen=True)
class Errors:
    """How far a result is from the plain one, in float32."""

    whole: float
    """Norm of the difference over the plain result's norm."""
    bands: tuple[float, ...] = ()
    """The same of each band of radial frequency, lowest first."""
    power: tuple[float, ...] = ()
    """Power of each band over the plain result's, less 1."""


def errors_of(result: Tensor, plain: Tensor) -> Errors:
    """Return how far `result` is from `plain`; by band where both are images, (B, C, H, W)."""
    ours, theirs = result.double().cpu(), plain.double().cpu()
    whole = float((ours - theirs).norm() / theirs.norm())
    if plain.ndim != 4:
        return Errors(whole)
    pairs = list(zip(split_bands(ours), split_bands(theirs), strict=True))
    return Errors(
        whole,
        tuple(float((a - b).norm() / b.norm()) for a, b in pairs),
        tuple(float(a.square().sum() / b.square().sum() - 1) for a, b in pairs),
    )


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    row: str
    """Its name, for --rows."""
    title: str
    variant: str
    seconds: tuple[float, ...] = ()
    """Of every round."""
    median_ms: float | None = None
    lower_quartile_ms: float | None = None
    upper_quartile_ms: float | None = None
    times_plain: float | None = None
    """Median over rounds of the time over the first variant's."""
    times_floor: float | None = None
    """Median over the least time that the machine could take."""
    images_per_second: float | None = None
    peak_mib: float | None = None
    errors: Errors | None = None


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    device: str
    threads: int
    system: str
    torch: str


def processor_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> Machine:
    """Return the machine that this process runs on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Machine(
        f"{processor_name()}, {os.cpu_count()} cores",
        name,
        torch.get_num_threads(),
        platform.platform(),
        torch.__version__,
    )


def _aligned(rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Join rows of cells into lines, `left` columns to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [c.ljust(w) for c, w in zip(row[:left], widths[:left], strict=True)]
        cells += [c.rjust(w) for c, w in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def number(value: float | None) -> str:
    """Write a number with three digits, small ones with two."""
    if value is None:
        return ""
    if value == 0 or 0.01 <= abs(value) < 1000:
        digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        return f"{value:.{digits + (abs(value) < 1)}f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}"


def table(results: Sequence[Result]) -> str:
    """Return one line for each result; columns that stay empty are left out."""
    rows = [
        ["row", "variant", "median ms", "quartiles ms", "x plain", "x floor", "images/s",
         "peak MiB", "error"]
    ]  # fmt: skip
    title = ""
    for result in results:
        spread = ""
        if result.median_ms is not None:
            spread = f"{number(result.lower_quartile_ms)} - {number(result.upper_quartile_ms)}"
        rows.append([
            result.title if result.title != title else "",
            result.variant,
            number(result.median_ms),
            spread,
            number(result.times_plain),
            number(result.times_floor),
            number(result.images_per_second),
            number(result.peak_mib),
            f"{result.errors.whole:.0e}" if result.errors else "",
        ])  # fmt: skip
        title = result.title
    kept = [i for i, column in enumerate(zip(*rows[1:], strict=True)) if any(column)]
    return _aligned([[row[i] for i in kept] for row in rows])


def band_table(results: Sequence[Result]) -> str:
    """Return the errors by band of those results that have them, empty if there are none."""
    names = band_names(OCTAVES)
    header = ["row", "variant", *names, *(f"power {name}" for name in names)]
    rows = [
        [
            result.title,
            result.variant,
            *(f"{value:.0e}" for value in result.errors.bands),
            *(f"{100 * value:+.2f}%" for value in result.errors.power),
        ]
        for result in results
        if result.errors and result.errors.bands
    ]
    return _aligned([header, *rows]) if rows else ""


def text(
    machine: Machine, rates: Rates, results: Sequence[Result], not_run: Mapping[str, str]
) -> str:
    """Return all that a person reads: machine, table, errors by band, and what was not run."""
    parts = [
        f"{machine.processor}; device {machine.device}; {machine.threads} threads; "
        f"PyTorch {machine.torch}; {machine.system}\n"
        f"matrix products at best {rates.float32 / 1e9:,.0f} GFLOP/s in float32 and "
        f"{rates.bfloat16 / 1e9:,.0f} in bfloat16; a copy moves {rates.copy / 1e9:,.1f} GB/s\n"
        "each variant runs in a process of its own, started as a script would be; on a CPU fast "
        "ones\nkeep freed memory for the next operation",
        table(results),
        "x plain: median over rounds of the time over the row's first variant. x floor: median "
        "over\nmax(FLOPs / matmul rate, bytes / copy rate). error: norm of the difference from "
        "the first\nvariant over its norm.",
    ]
    if bands := band_table(results):
        parts.append(
            "Errors by band of radial frequency, in cycles per pixel, and change of its power:\n\n"
            + bands
        )
    if not_run:
        lines = (f"  {title}: {reason}" for title, reason in not_run.items())
        parts.append("Not run:\n" + "\n".join(lines))
    return "\n\n".join(parts)


def write_json(
    path: Path,
    machine: Machine,
    rates: Rates,
    results: Sequence[Result],
    not_run: Mapping[str, str],
) -> None:
    """Write the same as JSON; bands are those of `deco_lab.spectra.OCTAVES`."""
    found: dict[str, Any] = {
        "machine": asdict(machine),
        "rates": asdict(rates),
        "bands": band_names(OCTAVES),
        "results": [asdict(result) for result in results],
        "not_run": dict(not_run),
    }
    with replacing(path) as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
