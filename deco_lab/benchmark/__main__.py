"""`python -m deco_lab.benchmark`: one table, measured in one run."""

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deco_lab.benchmark import report
from deco_lab.benchmark.bench import Bench
from deco_lab.benchmark.floor import Rates, Work, measure_rates
from deco_lab.benchmark.measure import interleaved, ratio, synchronizer
from deco_lab.benchmark.report import Result
from deco_lab.benchmark.rows import ROWS, Case
from deco_lab.benchmark.workers import WorkerError
from deco_lab.checkpoints import choose_device
from deco_lab.files import check_writable
from deco_lab.terminal import print_any_text


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deco_lab.benchmark",
        description="Measure how fast the library is, beside the straightforward way to compute "
        "the same and the least time that this machine could take; about ten minutes on two cores.",
    )
    add = parser.add_argument
    add("--device", help="cpu, cuda, mps; the best there is when not given")
    add("--out", type=Path, help="write the same as JSON to this file")
    add("--repeats", type=int, help="rounds of every row; each row's own number when not given")
    add("--rows", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    return parser


def measure_row(name: str, cases: Sequence[Case], rounds: int) -> list[Result]:
    """Return the lines of one row, its cases measured in turns; the floor is not known yet."""
    title, first = ROWS[name].title, cases[0]
    if peaks := {case.name: case.peak for case in cases if case.peak}:
        found = {variant: [peak() for _ in range(rounds)] for variant, peak in peaks.items()}
        return [
            Result(name, title, variant, peak_mib=statistics.median(values))
            for variant, values in found.items()
        ]
    timings = interleaved({case.name: case.run for case in cases if case.run}, rounds)
    plain = first.result()
    results = []
    for case in cases:
        timing = timings[case.name]
        low, high = timing.quartiles
        output = None if case is first else case.result()
        results.append(
            Result(
                name,
                title,
                case.name,
                timing.seconds,
                1e3 * timing.median,
                1e3 * low,
                1e3 * high,
                ratio(timing, timings[first.name]),
                images_per_second=case.images / timing.median if case.images else None,
                errors=report.errors_of(output, plain) if isinstance(output, Tensor) else None,
            )
        )
    return results


def with_floor(result: Result, work: Sequence[Work], dtype: torch.dtype, rates: Rates) -> Result:
    """Return a line with the ratio to the least time of its work, where it has any."""
    floor = sum(rates.seconds(part, dtype) for part in work)
    if not floor or result.median_ms is None:
        return result
    return replace(result, times_floor=result.median_ms / (1e3 * floor))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; `--help` lists every option."""
    print_any_text()
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.out and given.out.is_dir():
        parser.error(f"--out must be a file, got the folder {given.out}; add a name")
    if given.repeats is not None and given.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {given.repeats}")
    try:
        if given.out:
            check_writable(given.out.parent)
        device = choose_device(given.device)
    except ValueError as error:
        parser.error(str(error))
    machine = report.describe(device)
    rates = measure_rates(device, synchronizer(device))
    measured: list[tuple[Result, Sequence[Work], torch.dtype]] = []
    not_run: dict[str, str] = {}
    failed = False
    with closing(Bench(device)) as bench:
        for name in given.rows or ROWS:
            row = ROWS[name]
            if row.needs_gpu and device.type != "cuda":
                command = f"{parser.prog} --device cuda --rows {name}"
                not_run[row.title] = f"there is no GPU here; {command}"
                continue
            print(f"{row.title} ...", file=sys.stderr, flush=True)
            try:
                cases = row.cases(bench)
                lines = measure_row(name, cases, given.repeats or row.repeats)
            except WorkerError as error:
                bench.end_workers()
                not_run[row.title] = str(error)
                failed = True
                continue
            works = [(case.work, case.dtype) for case in cases]
            measured += [(line, *work) for line, work in zip(lines, works, strict=True)]
            # Again, and the better: a machine that was disturbed before has no lower floor.
            rates = rates.best(measure_rates(device, synchronizer(device), repeats=2))
    results = [with_floor(*line, rates) for line in measured]
    print(report.text(machine, rates, results, not_run))
    if given.out:
        try:
            report.write_json(given.out, machine, rates, results, not_run)
        except OSError as error:
            sys.exit(f"{parser.prog}: error: {error}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
