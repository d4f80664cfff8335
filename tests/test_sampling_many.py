"""A job of many images leaves the same files, however it is stopped, shared and resumed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import alone, run_to_its_end, started
from PIL import Image
from safetensors.torch import save_file

import deco_lab
from deco_lab import checkpoints
from deco_lab.config import DeCoConfig
from deco_lab.data import to_picture
from deco_lab.models import build
from deco_lab.sampling.__main__ import FORMATS, main
from deco_lab.sampling.image_files import present, write_npz, write_pngs
from deco_lab.sampling.many import SamplingConfig, sample_many
from deco_lab.sampling.processes import Processes, processes_here

TINY = DeCoConfig(
    image_size=16, patch_size=8, num_classes=3, hidden_size=32, num_heads=2, depth=1,
    decoder_depth=1, decoder_width=8,
)  # fmt: skip


def saved_model(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    model = build(TINY)
    for parameter in model.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoints.save(model, path)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_model(tmp_path_factory.mktemp("model") / "small.safetensors", seed=0)


@pytest.fixture
def options(model: str) -> list[str]:
    return ["--model", model, "--num-steps", "4", "--device", "cpu"]


def pixels(images: torch.Tensor) -> np.ndarray:
    return np.stack([np.asarray(to_picture(image[None])) for image in images])


def pngs(out: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))])


def npz(out: Path, count: int) -> np.ndarray:
    with np.load(out / f"samples_{count}x16x16x3.npz", allow_pickle=False) as stored:
        return stored["arr_0"]


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def assert_near(got: np.ndarray, expected: np.ndarray) -> None:
    """Batches of another size may round the other way, and nothing more."""
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_main_draws_the_images_of_sample(model: str, options, tmp_path: Path, capsys):
    main([*options, "--count", "7", "--seed", "5", "--solver", "heun", "--out", str(tmp_path)])
    loaded = deco_lab.load(model, device="cpu")
    class_ids = [0, 1, 2, 0, 1, 2, 0]
    images = deco_lab.sample(loaded, class_ids, num_steps=4, seed=5, solver="heun")
    assert np.array_equal(pngs(tmp_path), pixels(images))
    assert len(np.unique(pngs(tmp_path))) > 100
    names = [f"{index:06d}.png" for index in range(7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "sampling.json"]
    *_, last = deco_lab.sample_steps(loaded, [0], num_steps=4, solver="heun")
    shown = capsys.readouterr()
    assert re.search(rf"7 drawn in [\d.]+ s, .* {last.nfe} network passes per image", shown.out)
    assert "7/7" in shown.err


def test_main_draws_images_of_the_size_that_it_is_told(model: str, tmp_path: Path):
    foreign = tmp_path / "ImageNet512.safetensors"
    save_file(deco_lab.load(model, device="cpu").state_dict(), foreign)  # without a configuration
    arguments = ["--model", str(foreign), "--count", "2", "--num-steps", "1", "--device", "cpu"]
    with pytest.warns(UserWarning, match=r"ImageNet512.safetensors does not say .*=64 is assumed"):
        main([*arguments, "--out", str(tmp_path / "assumed")])
    main([*arguments, "--image-size", "16", "--out", str(tmp_path / "told")])
    sizes = {name: pngs(tmp_path / name).shape[1] for name in ("assumed", "told")}
    assert sizes == {"assumed": 64, "told": 16}


def test_main_draws_chosen_classes_in_turn_and_in_any_batches(model: str, options, tmp_path: Path):
    options = [*options, "--class-ids", "2", "0", "--count", "9", "--guidance-scale", "1"]
    main([*options, "--out", str(tmp_path / "one")])
    main([*options, "--out", str(tmp_path / "many"), "--batch-size", "2"])
    ids = [2, 0, 2, 0, 2, 0, 2, 0, 2]
    loaded = deco_lab.load(model, device="cpu")
    images = deco_lab.sample(loaded, ids, num_steps=4, guidance_scale=1)
    assert np.array_equal(pngs(tmp_path / "one"), pixels(images))
    assert_near(pngs(tmp_path / "many"), pixels(images))


def test_npz_holds_what_the_pngs_show_as_the_evaluator_of_adm_reads_it(options, tmp_path: Path):
    """It takes the header of a version 1 or 2 array, then bytes for a batch at a time."""
    main([*options, "--count", "5", "--out", str(tmp_path), "--format", "npz"])
    with np.load(tmp_path / "samples_5x16x16x3.npz", allow_pickle=False) as stored:
        assert stored.files == ["arr_0", "arr_1"]
        assert np.array_equal(stored["arr_0"], pngs(tmp_path))
        assert stored["arr_1"].dtype == np.int64
        assert stored["arr_1"].tolist() == [0, 1, 2, 0, 1]
    with (
        zipfile.ZipFile(tmp_path / "samples_5x16x16x3.npz") as archive,
        archive.open("arr_0.npy") as member,
    ):
        assert np.lib.format.read_magic(member) == (1, 0)
        header = np.lib.format.read_array_header_1_0(member)
        assert header == ((5, 16, 16, 3), False, np.dtype(np.uint8))
        assert len(member.read()) == 5 * 16 * 16 * 3


def test_write_npz_holds_few_images_in_memory(tmp_path: Path):
    image = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    write_pngs(tmp_path, 0, image.expand(300, -1, -1, -1))
    tracemalloc.start()
    try:
        write_npz(tmp_path, 64, [0] * 300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "samples_300x64x64x3.npz").stat().st_size > 3_600_000
    assert peak < 1_000_000


def assert_whole(out: Path) -> None:
    """Every file that has its own name can be read to its end."""
    for path in out.glob("[!.]*"):
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".npz":
            assert len(np.load(path, allow_pickle=False)["arr_0"]) > 0
        else:
            json.loads(path.read_text())


@pytest.mark.slow
def test_killed_and_resumed_job_leaves_the_same_files(model: str, tmp_path: Path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = [
        "--model", model, "--count", "64", "--batch-size", "4", "--num-steps", "30",
        "--device", "cpu", "--format", "npz", "--out",
    ]  # fmt: skip
    run_to_its_end(main, [*options, str(straight)])
    chance = random.Random(0)

    def written() -> int:
        return int(present(killed, 64).sum())

    seen: list[int] = []
    for wanted in (1, 9, 18, 30, 45, 60):
        process = started(alone, main, [*options, str(killed)])
        deadline = time.monotonic() + 60
        while written() < wanted:
            assert process.is_alive(), "the job ended before it was killed; give it more steps"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join(60)
        assert_whole(killed)
        assert written() >= wanted
        seen.append(written())
    assert sum(wanted < 64 for wanted in seen) >= 3, seen
    run_to_its_end(main, [*options, str(killed)])
    assert contents(killed) == contents(straight)


def _main_killed_at(rename: int, arguments: list[str]) -> None:
    """Run the program, and die at the given rename, counted from 1: the file is still hidden."""
    renames, replace = 0, Path.replace

    def counted(self: Path, target: Any) -> Path:
        nonlocal renames
        renames += 1
        if renames == rename:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign]
    alone(main, arguments)


@pytest.mark.slow
def test_job_killed_before_a_file_has_its_name_goes_on(options, tmp_path: Path):
    """The recipe's file, the first images' and the NPZ's, among others."""
    options = [*options, "--count", "16", "--batch-size", "4", "--format", "npz", "--out"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    run_to_its_end(main, [*options, str(straight)])
    for rename in (1, 2, 5, 8, 6):
        process = started(_main_killed_at, rename, [*options, str(killed)])
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert len(list(killed.glob(".*.tmp"))) == 1
        assert_whole(killed)
    run_to_its_end(main, [*options, str(killed)])
    assert contents(killed) == contents(straight)


@pytest.mark.slow
def test_two_processes_go_on_and_leave_the_files_of_one(options, tmp_path: Path):
    pytest.importorskip("accelerate", reason="needs accelerate; pip install accelerate")
    options = [*options, "--batch-size", "4", "--format", "npz", "--out"]
    one, two = tmp_path / "one", tmp_path / "two"
    for out, count in ((one, "8"), (two, "8"), (one, "19")):
        main([*options, str(out), "--count", count])
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "--main_process_port", "0", "-m", "deco_lab.sampling",
         *options, str(two), "--count", "19"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("19 images in") == 1
    assert "11 drawn in" in done.stdout
    assert "19/19" in done.stderr
    assert contents(two).keys() == contents(one).keys()
    assert_near(pngs(two), pngs(one))
    assert_near(npz(two, 19), npz(one, 19))


class _Share(Processes):
    """One of two processes, as if each ran by itself after the main one's start."""

    told: Any = None

    def from_main(self, value: Any) -> Any:
        if self.is_main:
            _Share.told = value
        return _Share.told


def test_every_process_refuses_what_the_main_one_refuses(model: str, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    loaded = deco_lab.load(model, device="cpu")
    config = SamplingConfig(model="", weights="", class_ids=(0,))
    for index in (0, 1):
        share = _Share(torch.device("cpu"), index, 2)
        with pytest.raises(ValueError, match="holds other files; give another"):
            sample_many(loaded, config, tmp_path, 4, processes=share)
    _Share.told = ("", [0])
    with pytest.raises(ValueError, match="must be seen by every process; put it on a shared"):
        sample_many(loaded, config, tmp_path / "mine", 4, processes=share)


def test_processes_here_is_one_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert processes_here("cpu") == Processes(torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes need accelerate, which is not inst"):
        processes_here("cpu")


def test_larger_and_smaller_counts_use_what_is_there(options, tmp_path: Path, capsys):
    options = [*options, "--batch-size", "4", "--out"]
    main([*options, str(tmp_path / "all"), "--count", "21"])
    out = tmp_path / "grown"
    main([*options, str(out), "--count", "10"])
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    main([*options, str(out), "--count", "21"])
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.iterdir()}.items()
    assert contents(out).keys() == contents(tmp_path / "all").keys()
    assert_near(pngs(out), pngs(tmp_path / "all"))
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    main([*options, str(out), "--count", "21", "--batch-size", "5"])
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    main([*options, str(out), "--count", "15", "--format", "npz"])
    assert "all were there, none is drawn again" in capsys.readouterr().out
    assert np.array_equal(npz(out, 15), pngs(out)[:15])


def refusal(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown[shown.index("error: ") :].strip()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--seed", "1"], "seed 0, not 1"),
        (["--guidance-interval", "0", "1"], "guidance_interval [0.1, 1.0], not [0.0, 1.0]"),
        (["--precision", "bf16"], "precision 'float32', not 'bf16'"),
        (["--class-ids", "0", "1"], "class_ids [0, 1, 2], not [0, 1]"),
        (["--seed", "1", "--solver", "heun"], "solver 'euler', not 'heun' and seed 0, not 1"),
    ],
)
def test_main_refuses_a_folder_of_other_settings(
    changed: list[str], message: str, options, tmp_path: Path, capsys
):
    options = [*options, "--count", "2", "--out", str(tmp_path)]
    main(options)
    before = contents(tmp_path)
    shown = refusal([*options, *changed], capsys)
    assert f"and {tmp_path} holds one with {message}; ask for the same, or" in shown
    assert contents(tmp_path) == before


def test_main_compares_weights_and_not_the_name_of_their_file(model: str, tmp_path: Path, capsys):
    options = ["--num-steps", "2", "--device", "cpu", "--out", str(tmp_path / "out"), "--model"]
    main([*options, model, "--count", "2"])
    same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
    same.write_bytes(Path(model).read_bytes())
    main([*options, str(same), "--count", "3"])
    assert len(pngs(tmp_path / "out")) == 3
    saved_model(other, seed=1)
    assert "holds one with weights" in refusal([*options, str(other), "--count", "3"], capsys)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_main_refuses_a_damaged_recipe(text: str, options, tmp_path: Path, capsys):
    (tmp_path / "sampling.json").write_text(text)
    shown = refusal([*options, "--count", "2", "--out", str(tmp_path)], capsys)
    assert "sampling.json is damaged, so its images may be others; give another out" in shown


def test_main_refuses_a_folder_with_other_files_and_a_file(options, tmp_path: Path, capsys):
    (tmp_path / "000000.png").write_bytes(b"mine")
    shown = refusal([*options, "--count", "2", "--out", str(tmp_path)], capsys)
    assert "out must be a new or empty folder, or one with a sampling.json, got" in shown
    shown = refusal([*options, "--count", "2", "--out", str(tmp_path / "000000.png")], capsys)
    assert f"can be written to, got {tmp_path / '000000.png'}" in shown
    assert contents(tmp_path) == {"000000.png": b"mine"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--count", "0"], "count must be a whole number from 1 to 1000000, got 0; names have"),
        (["--count", "1000001"], "count must be a whole number from 1 to 1000000, got 1000001"),
        (["--batch-size", "0"], "batch_size must be a whole number of at least 1, got 0"),
        (["--class-ids", "1", "0", "3"], "class_ids must be at most 2, since the model knows 3"),
        (["--precision", "x"], "precision must be one of float32, bf16, got 'x'"),
        (["--format", "x"], "format must be one of png, npz, got 'x'"),
        (["--num-steps", "0"], "num_steps must be a whole number of at least 1, got 0"),
        (["--guidance-interval", "1", "0"], "guidance_interval must be two times (low, high)"),
        (["--seed", "4294967295"], "seed must be below 2**32 for every image, got 4294967295"),
        (["--device", "abacus"], "device must be one of"),
        (["--model", "nothing"], "must be a bundled model"),
        (["--model", "no/such.safetensors"], "does not exist; check the path"),
        (["--model", "nothing", "--out", "/proc/new"], "can be written to, got /proc/new"),
    ],
)
def test_main_says_in_a_sentence_what_is_wrong(
    changed: list[str], message: str, options, tmp_path: Path, capsys
):
    out = tmp_path / "out"
    shown = refusal([*options, "--count", "2", "--out", str(out), *changed], capsys)
    assert message in shown
    assert "\n" not in shown
    assert not out.exists()


def test_sample_many_refuses_weights_of_another_precision(model: str, tmp_path: Path):
    config = SamplingConfig(model="", weights="", class_ids=(0,), precision="bf16")
    with pytest.raises(ValueError, match=r"got bf16 for torch.float32; load the model with dtype"):
        sample_many(checkpoints.load(model, device="cpu"), config, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "most"), [(["--plain"], 0.01), (["--precision", "bf16"], 2)])
def test_main_draws_about_the_same_images_in_other_ways(option, most, options, tmp_path: Path):
    options = [*options, "--count", "6", "--out"]
    main([*options, str(tmp_path / "default")])
    main([*options, str(tmp_path / "other"), *option])
    difference = np.abs(pngs(tmp_path / "other").astype(int) - pngs(tmp_path / "default"))
    assert difference.mean() < most


def test_main_stops_at_images_that_are_not_finite(options, tmp_path: Path):
    changed = ["--guidance-scale", "1e38", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main([*options, "--count", "2", *changed])
    assert "one of the images 0 to 1 holds NaN or infinite values; lower" in str(stop.value.code)
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (torch.OutOfMemoryError("CUDA"), "do not fit into memory; give a smaller --batch-size tha"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (KeyboardInterrupt(), "stopped; the same command goes on"),
    ],
)
def test_main_ends_without_a_traceback(
    raised: BaseException, message: str, options, tmp_path: Path, monkeypatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("deco_lab.sampling.many.write_pngs", fail)
    with pytest.raises(SystemExit) as stop:
        main([*options, "--count", "2", "--out", str(tmp_path)])
    assert message in str(stop.value.code)


@pytest.mark.parametrize("form", FORMATS)
def test_main_names_the_file_that_a_full_disk_cuts_and_goes_on(
    form: str, options, tmp_path: Path, full_disk
):
    options = [*options, "--count", "6", "--batch-size", "2", "--format", form, "--out"]
    main([*options, str(tmp_path / "straight")])
    out = tmp_path / "out"
    named = {"png": (600, "000000.png"), "npz": (2000, "samples_6x16x16x3.npz")}[form]
    with full_disk(named[0]), pytest.raises(SystemExit) as stop:
        main([*options, str(out)])
    assert f"error: {out / named[1]} cannot be written (" in str(stop.value.code)
    main([*options, str(out)])
    assert contents(out) == contents(tmp_path / "straight")


def test_job_of_an_older_version_goes_on(options, tmp_path: Path, capsys):
    options = [*options, "--out", str(tmp_path), "--count"]
    main([*options, "2"])
    recipe = json.loads((tmp_path / "sampling.json").read_text())
    for name in ("guidance", "band_scales", "condition_reuse"):  # settings that there were not
        del recipe[name]
    (tmp_path / "sampling.json").write_text(json.dumps({**recipe, "format": "png"}))
    main([*options, "3"])
    assert len(pngs(tmp_path)) == 3
    assert "condition_reuse 1, not 2" in refusal([*options, "3", "--condition-reuse", "2"], capsys)
