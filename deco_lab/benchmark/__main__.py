"""`python -m deco_lab.benchmark`: one table, measured in one run.

Every case runs once a round, in an order that turns with the round, so that a slow moment of the
machine hits all alike. A ratio is the median over rounds of the quotient of one round's two times,
which such moments move less than a quotient of medians.
"""

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from deco_lab import cli
from deco_lab.benchmark.floor import Rates, measure_rates
from deco_lab.benchmark.rows import ROWS, Bench, Case
from deco_lab.benchmark.worker import WorkerError
from deco_lab.checkpoints import choose_device
from deco_lab.files import check_writable, replacing
from deco_lab.setting import Setting, check_choice, check_whole
from deco_lab.terminal import aligned

PROGRAM = "python -m deco_lab.benchmark"
COLUMNS = (
    "row", "variant", "median ms", "quartiles", "x plain", "x floor", "images/s", "error",
)  # fmt: skip
LEGEND = """\
each variant runs in a process of its own, started as a script would be; on a CPU fast ones
keep freed memory for the next operation
x plain: median over rounds of the time over the row's first variant. x floor: median over
max(FLOPs / matmul rate, bytes / copy rate). error: norm of the difference from the first
variant over its norm."""
_SHORT = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class Order:
    """Measure how fast the library is, beside the straightforward way and the machine's limit.

    The straightforward way computes the same; the limit is the least time that this machine could
    take. All rows take about ten minutes on two cores.
    """

    device: Annotated[str | None, Setting("cpu, cuda, mps; the best there is if not given.")] = None
    out: Annotated[Path | None, Setting("Write the same as JSON to this file.")] = None
    repeats: Annotated[int | None, Setting("Rounds of every row; else each row's own.")] = None
    rows: Annotated[tuple[str, ...], Setting(f"All, or some of {', '.join(ROWS)}.")] = ()


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    row: str
    """Its name, for --rows."""
    variant: str
    rounds: tuple[float, ...]
    """Milliseconds, or MiB, of every round."""
    times_plain: float
    """Median over rounds of the time over the first variant's."""
    floor_ms: float | None = None
    """The least time that the machine could take."""
    images: int = 0
    """Images that a run draws."""
    error: float | None = None
    """Norm of the difference from the first variant's result, over its norm."""

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)

    def cells(self) -> list[str]:
        """Return what the table says of this, in `COLUMNS` from the third on."""
        return [
            number(self.median),
            " - ".join(number(end) for end in np.quantile(self.rounds, [0.25, 0.75])),
            number(self.times_plain),
            number(self.median / self.floor_ms) if self.floor_ms else "",
            number(1e3 * self.images / self.median) if self.images else "",
            f"{self.error:.0e}" if self.error is not None else "",
        ]


def interleaved(
    cases: Mapping[str, Callable[[], float]], repeats: int, rest: float = 0.02
) -> dict[str, tuple[float, ...]]:
    """Return what each case says of each round, a short one the second time of two.

    After a rest threads and processors take milliseconds to wake, which are not the case's.

    Parameters
    ----------
    cases : mapping
        Functions by name that run a case, warm already, and return its seconds.
    repeats : int
        Rounds, at least 1.
    rest : float
        Seconds before each, after which the threads of the one before no longer spin.
    """
    names = list(cases)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(rest)
            seconds = cases[name]()
            taken[name].append(cases[name]() if seconds < _SHORT else seconds)
    return {name: tuple(each) for name, each in taken.items()}


def measure_row(
    name: str,
    cases: Iterable[Case],
    rounds: int,
    rates: Rates,
    end_workers: Callable[[], None] | None = None,
) -> list[Result]:
    """Return the lines of one row.

    The cases are measured in turns. With `end_workers` one is measured after the other, and only
    its processes are there: a GPU's memory does not hold those of all.
    """
    lines: list[Result] = []
    first: tuple[tuple[float, ...], Any] | None = None
    unit = 1.0 if "MiB" in ROWS[name].title else 1e3
    for group in [list(cases)] if end_workers is None else ([case] for case in cases):
        taken = interleaved({case.name: case.run for case in group}, rounds)
        for case in group:
            seconds, output = taken[case.name], case.result()
            plain_seconds, plain = first = first or (seconds, output)
            lines.append(
                Result(
                    name,
                    case.name,
                    tuple(unit * each for each in seconds),
                    float(np.median(np.divide(seconds, plain_seconds))),
                    1e3 * sum(rates.seconds(part, case.dtype) for part in case.work) or None,
                    case.images,
                    relative_error(output, plain) if output is not plain else None,
                )
            )
        if end_workers:
            end_workers()
    return lines


def relative_error(result: Any, plain: Any) -> float | None:
    """Return the norm of the difference of two tensors over that of the second, or None."""
    if not isinstance(result, Tensor):
        return None
    exact = plain.double().cpu()
    return float((result.double().cpu() - exact).norm() / exact.norm())


def number(value: float) -> str:
    """Write a number with three digits, small ones with two."""
    if value == 0 or 0.01 <= abs(value) < 1000:
        digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
        return f"{value:.{digits + (abs(value) < 1)}f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2g}"


def table(results: Sequence[Result]) -> str:
    """Return one line for each result; columns that stay empty are left out."""
    rows: list[Sequence[str]] = [COLUMNS]
    for before, result in zip([None, *results], results, strict=False):
        title = "" if before and before.row == result.row else ROWS[result.row].title
        rows.append([title, result.variant, *result.cells()])
    return aligned(rows, left=2)


def describe(device: torch.device) -> dict[str, Any]:
    """Return what the machine is that this process runs on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    names = re.findall(r"model name\s*: (.+)", text) or [platform.machine()]
    return {
        "processor": names[0],
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "PyTorch": torch.__version__,
        "system": platform.platform(),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line; `--help` lists every option."""
    cli.run(Order, PROGRAM, _benchmark, words)


def _benchmark(order: Order) -> None:
    for name in order.rows:
        check_choice("each of rows", name, ROWS)
    if order.repeats is not None:
        check_whole("repeats", order.repeats, 1)
    if order.out and order.out.is_dir():
        raise ValueError(f"out must be a file, got the folder {order.out}; add a name")
    if order.out:
        check_writable(order.out.parent)
    device = choose_device(order.device)
    rates, results, not_run, failed = measure_rates(device), [], {}, False
    with closing(Bench(device)) as bench:
        for name in order.rows or ROWS:
            row = ROWS[name]
            if row.needs_gpu and device.type != "cuda":
                command = f"{PROGRAM} --device cuda --rows {name}"
                not_run[row.title] = f"there is no GPU here; {command}"
                continue
            print(f"{row.title} ...", file=sys.stderr, flush=True)
            alone = bench.end_workers if device.type == "cuda" else None
            rounds = order.repeats or row.repeats
            try:
                results += measure_row(name, row.cases(bench), rounds, rates, alone)
            except WorkerError as error:
                bench.end_workers()
                not_run[row.title] = str(error)
                failed = True
    machine = describe(device)
    print(
        "; ".join(f"{name} {value}" for name, value in machine.items()),
        f"matrix products at best {rates.float32 / 1e9:,.0f} GFLOP/s in float32 and "
        f"{rates.bfloat16 / 1e9:,.0f} in bfloat16; a copy moves {rates.copy / 1e9:,.1f} GB/s",
        *([table(results)] if results else []),
        LEGEND,
        *(f"not run: {title}: {reason}" for title, reason in not_run.items()),
        sep="\n\n",
    )
    if order.out:
        lines = [{**asdict(each), "median": each.median} for each in results]
        found = {"machine": machine, "rates": asdict(rates), "results": lines, "not_run": not_run}
        with replacing(order.out) as beside:
            beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
