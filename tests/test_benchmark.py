import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import deco_lab
from deco_lab.benchmark.__main__ import main, measure_row, with_floor
from deco_lab.benchmark.bench import Bench, config_of, randomize
from deco_lab.benchmark.floor import (
    Rates,
    Work,
    backbone_work,
    decoder_work,
    forward_work,
    measure_rates,
)
from deco_lab.benchmark.live import WAYS
from deco_lab.benchmark.measure import Timed, Timing, interleaved, ratio
from deco_lab.benchmark.plain import PlainDeCo, plain_sample
from deco_lab.benchmark.report import Result, errors_of, number, table
from deco_lab.benchmark.rows import (
    ROWS,
    Case,
    live_cases,
    memory_cases,
    sampling_cases,
    velocity_cases,
)
from deco_lab.benchmark.runner import Runner
from deco_lab.benchmark.variants import GUIDANCE, Variant, variants_for
from deco_lab.benchmark.workers import Worker, WorkerError
from deco_lab.config import PRESETS, DeCoConfig
from deco_lab.flow import seeded_noise
from deco_lab.models import build

CPU = torch.device("cpu")
VARIANTS = {variant.name: variant for variant in variants_for(CPU)}
only_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only glibc has mallopt; run it on Linux"
)


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


@torch.no_grad()
def test_plain_equals_the_library(tiny, plain_tiny):
    x, t = seeded_noise(3, (3, 64, 40), 0), torch.tensor([0.0, 0.3, 0.9])
    class_ids = torch.tensor([2, 14, 7])
    assert_same(plain_tiny(x, t, class_ids), tiny(x, t, class_ids))
    condition = tiny.condition(x, t, class_ids)
    assert_same(plain_tiny.condition(x, t, class_ids), condition)
    assert_same(plain_tiny.decode(x, condition), tiny.decode(x, condition))


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


@pytest.mark.parametrize(
    "config",
    [PRESETS["tiny-dit"], replace(PRESETS["tiny"], decoder_patch=2),
     replace(PRESETS["tiny"], decoder_conditioning="add")],
    ids=["dit", "units", "add"],
)  # fmt: skip
def test_plain_refuses_other_models(config):
    with pytest.raises(ValueError, match="config must be a DeCoConfig with decoder_patch=1"):
        PlainDeCo(config, {})


@pytest.fixture(scope="module")
def wide_config() -> DeCoConfig:
    return DeCoConfig(
        image_size=32, patch_size=8, num_classes=5, hidden_size=48, num_heads=3, depth=2,
        decoder_depth=3, decoder_width=12,
    )  # fmt: skip


@pytest.mark.parametrize("as_stated", [False, True], ids=["library", "plain"])
@torch.no_grad()
def test_forward_work_counts_the_flops_of_pytorchs_counter(wide_config, as_stated):
    model: Any = build(wide_config)
    P, d = wide_config.patch_size, wide_config.decoder_width
    # Of weights alone, and so no part of the floor: two layers multiplied, and the table of places.
    once = 2 * d * d * (3 + 64) + 2 * P * P * 64 * d
    if as_stated:
        model, once = PlainDeCo(wide_config, model.state_dict()), 0
    x, t, class_ids = torch.zeros(3, 3, 32, 48), torch.zeros(3), torch.zeros(3, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(x, t, class_ids)
    work = forward_work(wide_config, 3, 32, 48, as_stated=as_stated)
    assert counter.get_total_flops() == work.flops + once


def test_forward_work_reads_every_weight_once(wide_config):
    model = build(wide_config)
    unread = (wide_config.num_classes + 1 - 2) * wide_config.hidden_size  # labels of other classes
    expected = sum(parameter.numel() for parameter in model.parameters()) - unread
    assert forward_work(wide_config, 2, 32, 32).weights == expected


def test_forward_work_is_that_of_its_parts(wide_config):
    parts = backbone_work(wide_config, 2, 24).plus(decoder_work(wide_config, 2, 24))
    assert forward_work(wide_config, 2, 32, 48) == parts


def test_rates_give_the_slower_of_products_and_copies():
    rates = Rates(float32=100.0, bfloat16=200.0, copy=40.0)
    assert rates.seconds(Work(1000, 10, 5), torch.float32) == 10  # 60 bytes take 1.5 s
    assert rates.seconds(Work(1000, 10, 5), torch.bfloat16) == 5
    assert rates.seconds(Work(100, 150, 50), torch.float32) == 20
    assert rates.seconds(Work(100, 150, 50), torch.bfloat16) == 10
    assert rates.best(Rates(50.0, 300.0, 30.0)) == Rates(100.0, 300.0, 40.0)


def test_measure_rates_counts_work_over_time(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    rates = measure_rates(CPU, lambda: None, side=16, repeats=1)  # every call takes a second
    assert rates == Rates(2 * 16**3, 2 * 16**3, 2 * 16 * 16**2 * 4)


def test_with_floor_adds_the_parts_of_a_work():
    result = Result("sample-1", "", "", median_ms=6000.0)
    works = [Work(100, 0, 0), Work(200, 0, 0)]
    found = with_floor(result, works, torch.float32, Rates(100.0, 1.0, 1.0))
    assert found.times_floor == pytest.approx(2)
    assert with_floor(result, [], torch.float32, Rates(1.0, 1.0, 1.0)).times_floor is None


def test_interleaved_runs_every_variant_once_a_round_in_turning_order():
    calls = []
    variants = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    timings = interleaved(variants, 4, rest=0)
    assert "".join(calls) == "abcbcacababc"
    assert timings["a"] == Timing((1, 6, 8, 10))


def test_timed_counts_between_synchronisations_and_keeps_the_result(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))

    def wait() -> None:
        next(clock)

    timed = Timed(lambda: next(clock), wait)
    assert timed() == 3  # 0 waits, 1 starts, 2 runs, 3 waits, 4 ends
    assert timed.result == 2


def test_ratio_is_of_one_rounds_times():
    slow_moment = (1.0, 10.0, 1.0)
    assert ratio(Timing((2.0, 20.0, 2.0)), Timing(slow_moment)) == 2
    with pytest.raises(ValueError, match="zip"):
        ratio(Timing((1.0,)), Timing(slow_moment))


def test_timing_quartiles_lie_within_the_rounds():
    timing = Timing((5.0, 1.0, 3.0, 2.0, 4.0))
    assert (timing.median, timing.quartiles) == (3, (2, 4))
    assert Timing((7.0,)).quartiles == (7, 7)


def test_errors_of_a_stronger_image_are_the_same_in_every_band():
    plain = seeded_noise(2, (3, 16, 16), 0)
    errors = errors_of(1.1 * plain, plain)
    assert errors.whole == pytest.approx(0.1, rel=1e-5)
    assert errors.bands == pytest.approx([0.1] * 4, rel=1e-5)
    assert errors.power == pytest.approx([0.21] * 4, rel=1e-5)
    assert errors_of(plain[0], plain[0]).bands == ()


def test_randomize_leaves_a_velocity_that_is_not_zero(wide_config):
    model: Any = build(wide_config)
    randomize(model)
    assert [name for name, p in model.named_parameters() if not p.any()] == []
    x = seeded_noise(1, (3, 32, 32), 0)
    velocity = model(x, torch.tensor([0.5]), torch.tensor([0]))
    assert velocity.isfinite().all()
    assert velocity.std() > 0.1


@pytest.mark.parametrize(
    ("device", "first"), [("cpu", "plain float32"), ("cuda", "plain, bf16 autocast")]
)
def test_variants_are_compared_with_the_plain_path(device, first):
    variants = variants_for(torch.device(device))
    assert variants[0].name == first
    assert variants[0].plain
    assert not variants[0].load
    assert len({variant.name for variant in variants}) == len(variants)
    assert any(variant.keep_freed_memory for variant in variants) == (
        device == "cpu" and sys.platform == "linux"
    )


def test_bench_leaves_out_variants_that_a_row_cannot_tell_apart():
    bench = Bench(CPU)
    of_large = bench.variants("DeCo-XL/16", drawing=True)
    assert not any(variant.keep_freed_memory for variant in of_large)
    assert [v for v in of_large if not v.sampling] == bench.variants("DeCo-XL/16")
    assert bench.variants("tiny", drawing=True) == list(VARIANTS.values())


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A bench of three variants, whose processes for `tiny` are started once."""
    names = ("plain float32", "library fast", "plain float32, freed memory kept")
    with closing(Bench(CPU, [VARIANTS[name] for name in names])) as bench:
        yield bench


@pytest.mark.parametrize("name", ["plain float32", "library fast"])
def test_worker_draws_what_the_library_draws(tiny, bench, name):
    worker = bench.runner("tiny", VARIANTS[name])
    assert worker.ask(Runner.make_sample, [0, 3], 4, 2) == torch.float32
    assert 0 < worker.ask(Runner.run) < 60
    assert_same(worker.ask(Runner.result), deco_lab.sample(tiny, [0, 3], num_steps=4, **GUIDANCE))
    assert bench.runner("tiny", VARIANTS[name]) is worker


def test_variants_take_no_more_steps_than_they_say():
    model = deco_lab.load("tiny", device=CPU)
    variant = VARIANTS["library fast, 25 of adams2"]
    for asked, taken in ((50, 25), (11, 11)):
        expected = deco_lab.sample(model, [3], num_steps=taken, solver="adams2", **GUIDANCE)
        assert torch.equal(variant.draw(model, [3], asked), expected)


@pytest.mark.slow
@only_linux
def test_only_workers_that_are_asked_to_keep_freed_memory(bench):
    def faults(name: str) -> list[int]:
        worker = bench.runner("tiny", VARIANTS[name])
        x = seeded_noise(8, (3, 64, 64), 0)
        worker.ask(Runner.make_velocity, x, [0] * 8)
        counts = []
        for _ in range(6):
            stat = Path(f"/proc/{worker.process.pid}/stat").read_text()
            counts.append(int(stat.rpartition(")")[2].split()[7]))  # minflt
            worker.ask(Runner.run)
        return [after - before for before, after in pairwise(counts)]

    # Of those that keep it the fewest of a run, since the first ones may find no hole large enough;
    # of the other the most, since by chance it keeps some too.
    most = max(faults("plain float32"))
    for name in ("plain float32, freed memory kept", "library fast"):
        assert min(faults(name)) < most / 10


def test_worker_that_ends_says_so_in_a_sentence():
    with closing(Bench(CPU)) as bench:
        worker = bench.worker("tiny", "library", list)
        os.kill(worker.process.pid, signal.SIGKILL)
        sentence = (
            r"^the process of library \(tiny\) has ended with exit status -9: signal 9 ended it"
        )
        for _ in range(2):
            with pytest.raises(WorkerError, match=sentence):
                worker.ask(len)


def test_worker_that_fails_says_so_in_a_sentence(capfd):
    with pytest.raises(WorkerError, match="the process of two has ended with exit status 1: what"):
        Worker("two", Runner, "no-such-model", Variant("library"), CPU)
    assert "no-such-model" in capfd.readouterr().err


def test_bench_ends_the_workers_of_another_preset_where_their_input_ends():
    with closing(Bench(CPU)) as bench:
        first = bench.worker("a", "list", list, "abc")
        assert bench.worker("a", "list", list) is first
        assert first.ask(len) == 3
        assert bench.worker("b", "list", list) is not first
        assert first.process.returncode == 0


def test_velocity_cases_give_the_decoder_one_condition(bench):
    cases = list(velocity_cases(bench, "tiny", 2, decoder=True))
    for case in cases:
        assert case.run is not None
        assert case.run() > 0
        assert case.work == [decoder_work(config_of("tiny"), 2, 64)]
        assert_same(case.result(), cases[0].result())
    assert len(cases) == 3


def test_measure_row_on_a_gpu_has_one_process_at_a_time():
    variants = [VARIANTS["plain float32"], VARIANTS["library float32"]]
    with closing(Bench(CPU, variants)) as bench:
        there = []

        def cases() -> Iterator[Case]:
            for case in velocity_cases(bench, "tiny", 1):
                there.append(len(bench._workers))
                yield case

        (plain, _), (library, _) = measure_row("forward-1", cases(), 1, bench.end_workers)
        assert there == [1, 1]
        assert not bench._workers
    assert (plain.variant, library.variant) == ("plain float32", "library float32")
    assert plain.errors is None
    assert library.errors is not None
    assert library.errors.whole < 1e-5


def test_sampling_cases_count_the_passes_that_guidance_needs(bench):
    case = next(sampling_cases(bench, "tiny", 2))
    one, pair = (forward_work(config_of("tiny"), n, 64, 64) for n in (2, 4))
    assert (case.work.count(one), case.work.count(pair)) == (6, 44)  # t = 0, .02, ... .1 are alone


def test_live_cases_draw_the_same_image():
    with closing(Bench(CPU)) as bench:
        alone, *watched = live_cases(bench)
        images = [case.result() for case in (alone, *watched)]
    assert [case.name for case in (alone, *watched)] == list(WAYS)
    assert images[0].shape == (1, 3, 64, 64)
    assert all(torch.equal(image, images[0]) for image in images[1:])


@pytest.mark.slow
def test_main_prints_the_numbers_that_it_writes(tmp_path, capsys, monkeypatch):
    quick = partial(measure_rates, side=256)
    monkeypatch.setattr("deco_lab.benchmark.__main__.measure_rates", quick)
    out = tmp_path / "found" / "speed.json"
    rows = ["forward-1", "dct", "xl-sample-1"]
    main(["--device", "cpu", "--repeats", "2", "--out", str(out), "--rows", *rows])
    printed, found = capsys.readouterr().out, json.loads(out.read_text())
    lines = [re.split(r"\s{2,}", line) for line in printed.splitlines()]
    assert {result["row"] for result in found["results"]} == {"forward-1", "dct"}
    for result in found["results"]:
        times = (result["median_ms"], result["times_plain"], result["times_floor"])
        (line,) = [cells for cells in lines if result["variant"] in cells and len(cells) >= 5
                   and number(times[0]) in cells]  # fmt: skip
        assert set(map(number, times)) <= set(line)
        assert result["median_ms"] == pytest.approx(500 * sum(result["seconds"]))
        assert result["times_floor"] > 0
    by_variant = {r["variant"]: r for r in found["results"] if r["row"] == "forward-1"}
    assert by_variant.keys() == {name for name, v in VARIANTS.items() if not v.sampling}
    assert by_variant["plain float32"]["errors"] is None
    assert by_variant["library float32"]["errors"]["whole"] < 1e-5
    assert 1e-4 < by_variant["library bfloat16"]["errors"]["whole"] < 0.03
    assert len(by_variant["library bfloat16"]["errors"]["bands"]) == len(found["bands"]) == 4
    assert found["machine"]["torch"] == torch.__version__ in printed
    assert "python -m deco_lab.benchmark --device cuda --rows xl-sample-1" in printed
    assert list(found["not_run"]) == [ROWS["xl-sample-1"].title]
    assert "each variant runs in a process of its own" in printed


def test_main_goes_on_after_a_row_whose_worker_ended(tmp_path, capsys, monkeypatch):
    quick = partial(measure_rates, side=256)
    monkeypatch.setattr("deco_lab.benchmark.__main__.measure_rates", quick)
    ends = Variant("library", {"dtype": torch.int8})
    monkeypatch.setattr("deco_lab.benchmark.bench.variants_for", lambda device: [ends])
    with pytest.raises(SystemExit, match="1"):
        main(["--device", "cpu", "--repeats", "1", "--rows", "forward-1", "dct"])
    printed = capsys.readouterr().out
    assert "batch 1: the process of library (tiny) has ended with exit status 1" in printed
    assert "a copy" in printed


def test_main_names_the_file_that_a_full_disk_cuts(tmp_path, capsys, monkeypatch, full_disk):
    quick = partial(measure_rates, side=256)
    monkeypatch.setattr("deco_lab.benchmark.__main__.measure_rates", quick)
    out = tmp_path / "speed.json"
    with full_disk(500), pytest.raises(SystemExit) as stop:
        main(["--device", "cpu", "--repeats", "1", "--out", str(out), "--rows", "dct"])
    assert f"error: {out} cannot be written (File too large)" in str(stop.value)
    assert "a copy" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "fast"], "invalid choice: 'fast'"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--device", "tpu"], "device must be one of"),
        (["--out", "/tmp"], "--out must be a file, got the folder /tmp; add a name"),
        (
            ["--out", "/proc/none/x.json"],
            "out must be in a folder that can be written to, got /pro",
        ),
    ],
)
def test_main_says_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_memory_counts_what_a_process_that_draws_takes():
    bench = Bench(CPU, [VARIANTS["plain float32"]])
    imports, plain = (case.peak() for case in memory_cases(bench, "tiny", 1) if case.peak)
    assert imports > 100  # MiB: PyTorch
    assert plain > imports + 4.5e6 * 4 / 2**20  # the weights


def test_table_leaves_out_empty_columns():
    lines = table([Result("dct", "block DCT", "a copy", median_ms=2.0, times_plain=0.0042)])
    header, _, line = (re.split(r"\s{2,}", part) for part in lines.splitlines())
    assert header == ["row", "variant", "median ms", "quartiles ms", "x plain"]
    assert line == ["block DCT", "a copy", "2.00", "-", "0.0042"]
