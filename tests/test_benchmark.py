import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import deco_lab
from deco_lab.benchmark import rows
from deco_lab.benchmark.__main__ import interleaved, main, measure_row, number
from deco_lab.benchmark.floor import Rates, Work, decoder_work, forward_work, measure_rates
from deco_lab.benchmark.plain import PlainDeCo, plain_sample
from deco_lab.benchmark.rows import ROWS, Bench, Case, config_of
from deco_lab.benchmark.variants import GUIDANCE, Runner, Variant, variants_for
from deco_lab.benchmark.worker import Worker, WorkerError
from deco_lab.config import DeCoConfig
from deco_lab.flow import seeded_noise
from deco_lab.models import build

CPU = torch.device("cpu")
VARIANTS = {variant.name: variant for variant in variants_for(CPU)}


def assert_same(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= tolerance * expected.norm()
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(scope="module")
def tiny() -> Any:
    return deco_lab.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def plain_tiny(tiny):
    return PlainDeCo(tiny.config, tiny.state_dict())


@pytest.mark.parametrize("case", ["io0", "io1"], ids=["square", "wide"])
@torch.no_grad()
def test_plain_matches_recorded_outputs(golden, golden_deco, case):
    recorded = load_file(golden / "deco_c2i.safetensors")
    plain = PlainDeCo(golden_deco.config, golden_deco.state_dict())
    inputs = (recorded[f"{case}.{name}"] for name in "xty")
    assert_same(plain(*inputs), recorded[f"{case}.velocity"])


@pytest.mark.parametrize("interval", [(0.1, 1.0), (0.3, 0.7)])
def test_plain_sample_equals_sample(tiny, plain_tiny, interval):
    guided: Any = {"num_steps": 10, "guidance_scale": 2.0, "guidance_interval": interval}
    drawn = plain_sample(plain_tiny, [0, 3], seeded_noise(2, (3, 64, 64), 5), **guided)
    assert_same(drawn, deco_lab.sample(tiny, [0, 3], seed=5, **guided), 1e-4)


@torch.no_grad()
def test_plain_multiplies_in_bfloat16_under_autocast(tiny, plain_tiny):
    x, t = seeded_noise(3, (3, 64, 64), 0), torch.tensor([0.0, 0.3, 0.9])
    class_ids = torch.tensor([2, 14, 7])
    expected = plain_tiny(x, t, class_ids)
    with torch.autocast("cpu", torch.bfloat16):
        velocity = plain_tiny(x, t, class_ids)
        assert plain_tiny.condition(x, t, class_ids).dtype == torch.bfloat16
    assert velocity.dtype == torch.float32
    assert 1e-4 < (velocity - expected).norm() / expected.norm() < 0.02


def test_plain_sample_passes_a_pair_at_every_step(plain_tiny):
    sizes = []

    class Counted(PlainDeCo):
        def __call__(self, x, t, class_ids):
            sizes.append(len(x))
            return x

    counted = Counted(plain_tiny.config, plain_tiny.state)
    plain_sample(counted, [0], torch.zeros(1, 3, 8, 8), num_steps=4, guidance_interval=(0.5, 1.0))
    assert sizes == [2, 2, 2, 2]


WIDE = DeCoConfig(
    image_size=32, patch_size=8, num_classes=5, hidden_size=48, num_heads=3, depth=2,
    decoder_depth=3, decoder_width=12,
)  # fmt: skip


@torch.no_grad()
def test_forward_work_counts_the_flops_of_pytorchs_counter():
    P, d = WIDE.patch_size, WIDE.decoder_width
    # Of weights alone, and so no part of the floor: two layers multiplied, and the table of places.
    once = 2 * d * d * (3 + 64) + 2 * P * P * 64 * d
    x, t, class_ids = torch.zeros(3, 3, 32, 48), torch.zeros(3), torch.zeros(3, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        build(WIDE)(x, t, class_ids)
    assert counter.get_total_flops() == forward_work(WIDE, 3, 32, 48).flops + once


def test_forward_work_reads_every_weight_once():
    model = build(WIDE)
    unread = (WIDE.num_classes + 1 - 2) * WIDE.hidden_size  # labels of other classes
    expected = sum(parameter.numel() for parameter in model.parameters()) - unread
    assert forward_work(WIDE, 2, 32, 32).weights == expected


@pytest.mark.parametrize(("work", "single"), [(Work(1000, 10, 5), 10), (Work(100, 150, 50), 20)])
def test_rates_give_the_slower_of_products_and_copies(work, single):
    rates = Rates(float32=100.0, bfloat16=200.0, copy=40.0)
    assert rates.seconds(work, torch.float32) == single
    assert rates.seconds(work, torch.bfloat16) == single / 2


def test_interleaved_runs_every_case_once_a_round_in_turning_order():
    calls = []
    cases = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    assert interleaved(cases, 4, rest=0)["a"] == (1, 6, 8, 10)
    assert "".join(calls) == "abcbcacababc"


def test_measure_row_takes_ratios_within_rounds_and_adds_the_floor_of_parts():
    work = [Work(100, 0, 0), Work(200, 0, 0)]
    cases = [
        Case(str(times), partial(next, iter([times, 10.0 * times, times])), lambda o=o: o, work)
        for times, o in ((1, torch.ones(2)), (2, torch.full((2,), 1.1)))
    ]
    cases[1] = replace(cases[1], images=4)
    first, second = measure_row("sample-1", cases, 3, Rates(100.0, 1.0, 1.0))
    assert (first.times_plain, second.times_plain) == (1, 2)
    assert second.rounds == (2000, 20000, 2000)
    assert first.floor_ms == second.floor_ms == pytest.approx(3000)
    assert first.error is None
    assert second.error == pytest.approx(0.1, rel=1e-5)
    assert second.cells()[3:5] == ["0.667", "2.00"]  # of the floor; images a second


@pytest.mark.parametrize(
    ("device", "first"), [("cpu", "plain float32"), ("cuda", "plain, bf16 autocast")]
)
def test_variants_are_compared_with_the_plain_path(device, first):
    variant, *others = variants_for(torch.device(device))
    assert (variant.name, variant.plain, variant.load) == (first, True, {})
    assert len({other.name for other in others} - {first}) == len(others)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A bench of three variants, whose processes for `tiny` are started once."""
    names = ("plain float32", "library fast", "plain float32, freed memory kept")
    with closing(Bench(CPU, [VARIANTS[name] for name in names])) as bench:
        yield bench


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain float32", "library fast"])
def test_worker_draws_what_the_library_draws(tiny, bench, name):
    worker = bench.runner("tiny", VARIANTS[name])
    assert worker.ask(Runner.multiplies_in) == torch.float32
    assert 0 < worker.ask(Runner.run, Runner.draw, [0, 3], 4) < 60
    assert_same(worker.ask(Runner.result), deco_lab.sample(tiny, [0, 3], num_steps=4, **GUIDANCE))
    assert bench.runner("tiny", VARIANTS[name]) is worker


def test_runner_takes_no_more_steps_than_its_variant_says():
    runner = Runner("tiny", replace(VARIANTS["library fast, 25 of adams2"], load={}), CPU)
    for asked, taken in ((50, 25), (11, 11)):
        expected = deco_lab.sample(runner.model, [3], num_steps=taken, solver="adams2", **GUIDANCE)
        assert torch.equal(runner.draw([3], asked), expected)


def test_worker_that_ends_says_so_in_a_sentence():
    with closing(Worker("library (tiny)", list)) as worker:
        worker.process.kill()
        for _ in range(2):
            with pytest.raises(WorkerError, match=r"^the process of library \(tiny\) .* signal 9"):
                worker.ask(len)


@pytest.mark.slow
def test_worker_that_fails_says_so_in_a_sentence(capfd):
    with pytest.raises(WorkerError, match="the process of two has ended with exit status 1: what"):
        Worker("two", Runner, "no-such-model", Variant("library"), CPU)
    assert "no-such-model" in capfd.readouterr().err


def test_bench_ends_the_workers_of_another_group():
    with closing(Bench(CPU)) as bench:
        first = bench.worker("a", "list", list, "abc")
        assert bench.worker("a", "list", list) is first
        assert first.ask(len) == 3
        assert bench.worker("b", "list", list) is not first
        assert first.process.exitcode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; run it on Linux")
def test_workers_end_with_who_started_them():
    code = """
import os
from deco_lab.benchmark.worker import Worker
print(Worker("list", list).process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    status = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 10
    while status.exists() and " Z " not in status.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_velocity_cases_give_the_decoder_one_condition(bench):
    cases = list(rows.velocity_cases(bench, "tiny", 2, decoder=True))
    for case in cases:
        assert case.run() > 0
        assert case.work == [decoder_work(config_of("tiny"), 2, 64)]
        assert_same(case.result(), cases[0].result())
    assert len(cases) == 3


@pytest.mark.slow
def test_measure_row_on_a_gpu_has_one_process_at_a_time():
    variants = [VARIANTS["plain float32"], VARIANTS["library float32"]]
    with closing(Bench(CPU, variants)) as bench:
        there = []

        def cases() -> Iterator[Case]:
            for case in rows.velocity_cases(bench, "tiny", 1):
                there.append(len(bench._workers))
                yield case

        rates = Rates(1.0, 1.0, 1.0)
        plain, library = measure_row("forward-1", cases(), 1, rates, bench.end_workers)
        assert there == [1, 1]
        assert not bench._workers
    assert (plain.variant, library.variant) == ("plain float32", "library float32")
    assert plain.error is None
    assert library.error is not None
    assert library.error < 1e-5


def test_sampling_cases_count_the_passes_that_guidance_needs(bench):
    case = next(rows.sampling_cases(bench, "tiny", 2))
    one, pair = (forward_work(config_of("tiny"), n, 64, 64) for n in (2, 4))
    assert (case.work.count(one), case.work.count(pair)) == (6, 44)  # t = 0, .02, ... .1 are alone


@pytest.mark.slow
def test_live_cases_draw_the_same_image():
    with closing(Bench(CPU)) as bench:
        alone, *watched = rows.live_cases(bench)
        images = [case.result() for case in (alone, *watched)]
    assert len(watched) == 2
    assert images[0].shape == (1, 3, 64, 64)
    assert all(torch.equal(image, images[0]) for image in images[1:])


@pytest.fixture
def quick(monkeypatch) -> None:
    rates = measure_rates(CPU, side=256, seconds=0.01)
    monkeypatch.setattr("deco_lab.benchmark.__main__.measure_rates", lambda device: rates)


@pytest.mark.slow
def test_main_prints_the_numbers_that_it_writes(tmp_path, capsys, quick):
    out = tmp_path / "found" / "speed.json"
    asked = ["forward-1", "dct", "xl-sample-1"]
    main(["--device", "cpu", "--repeats", "2", "--out", str(out), "--rows", *asked])
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    lines = [re.split(r"\s{2,}", line) for line in printed.splitlines()]
    assert {result["row"] for result in found["results"]} == {"forward-1", "dct"}
    for result in found["results"]:
        floor = result["median"] / result["floor_ms"]
        numbers = set(map(number, (result["median"], result["times_plain"], floor)))
        assert [cells for cells in lines if result["variant"] in cells and numbers <= set(cells)]
        assert result["median"] == pytest.approx(sum(result["rounds"]) / 2)
    by_variant = {r["variant"]: r for r in found["results"] if r["row"] == "forward-1"}
    assert by_variant.keys() == {name for name, v in VARIANTS.items() if not v.sampling}
    assert by_variant["plain float32"]["error"] is None
    assert by_variant["library float32"]["error"] < 1e-5
    assert 1e-4 < by_variant["library bfloat16"]["error"] < 0.03
    assert found["machine"]["PyTorch"] == torch.__version__ in printed
    assert "python -m deco_lab.benchmark --device cuda --rows xl-sample-1" in printed
    assert list(found["not_run"]) == [ROWS["xl-sample-1"].title]


@pytest.mark.slow
def test_main_goes_on_after_a_row_whose_worker_ended(capsys, monkeypatch, quick):
    ends = Variant("library", {"dtype": torch.int8})
    monkeypatch.setattr("deco_lab.benchmark.rows.variants_for", lambda device: [ends])
    with pytest.raises(SystemExit, match="1"):
        main(["--device", "cpu", "--repeats", "1", "--rows", "forward-1", "dct"])
    printed = capsys.readouterr().out
    assert "batch 1: the process of library (tiny) has ended with exit status 1" in printed
    assert "a copy" in printed


def test_main_names_the_file_that_a_full_disk_cuts(tmp_path, capsys, quick, full_disk):
    out = tmp_path / "speed.json"
    with full_disk(500), pytest.raises(SystemExit) as stop:
        main(["--device", "cpu", "--repeats", "1", "--out", str(out), "--rows", "dct"])
    assert f"error: {out} cannot be written (File too large)" in str(stop.value)
    assert "a copy" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "fast"], "each of rows must be one of forward-1, .*, got 'fast'"),
        (["--repeats", "0"], "repeats must be a whole number of at least 1, got 0"),
        (["--device", "tpu"], "device must be one of"),
        (["--out", "/tmp"], "out must be a file, got the folder /tmp; add a name"),
        (["--out", "/proc/none/x.json"], "a folder that can be written to, got /pro"),
    ],
)
def test_main_says_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_memory_counts_what_a_process_that_draws_takes():
    with closing(Bench(CPU, [VARIANTS["plain float32"]])) as bench:
        imports, plain = (case.run() for case in rows.memory_cases(bench, "tiny", 1))
    assert imports > 100  # MiB: PyTorch
    assert plain > imports + 4.5e6 * 4 / 2**20  # the weights
