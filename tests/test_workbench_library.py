"""Which models can draw: names, what may be read, what stays loaded, and memory that ends."""

import json
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

import deco_lab
from deco_lab.checkpoints import save
from deco_lab.checkpoints.store import PUBLISHED_SIZES
from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.fast import graphs
from deco_lab.fast.native import NativeBlocks
from deco_lab.models import build
from deco_lab.spectra import weights_hash
from deco_lab.workbench import library as library_module
from deco_lab.workbench.library import (
    BUNDLED,
    PUBLISHED,
    Library,
    ModelError,
    out_of_memory_as_sentence,
)

SHAPE: Any = {"image_size": 16, "patch_size": 2, "num_classes": 3, "hidden_size": 16}
DIT = DiTConfig(**SHAPE, num_heads=2, depth=1)
DECO = DeCoConfig(
    **SHAPE, num_heads=2, depth=1, decoder_depth=1, decoder_width=8, class_names=("a", "b", "<c>")
)
PUBLISHED_NAME = next(iter(PUBLISHED))


def write(path: Path, config: Any = DECO, **options: Any) -> Path:
    model = build(config)
    generator = torch.Generator().manual_seed(len(path.name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    save(model, path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write(folder / "one.safetensors", training={"steps": 20, "step": 9, "data": {"name": "shells"}})
    write(folder / "deep" / "two.safetensors", DIT)
    (folder / "broken.ckpt").write_bytes(b"PK\3\4 no archive")
    (folder / "notes.txt").write_text("no model")
    (folder / "folder.ckpt").mkdir()
    return folder


@pytest.fixture
def library(folder: Path) -> Library:
    return Library("tiny", device="cpu", folder=folder)


@pytest.fixture
def no_hub(monkeypatch):
    def download(**options: Any) -> str:
        pytest.fail(f"the hub was asked for {options}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


def test_library_names_what_can_draw_at_once(library: Library):
    assert library.names()[0] == "tiny"
    assert set(library.names()) == set(BUNDLED)
    library.get("one.safetensors")
    assert set(library.names()) == {*BUNDLED, "one.safetensors"}


def test_bundled_are_the_models_of_the_package():
    weights = Path(deco_lab.__file__).parent / "weights"
    assert set(BUNDLED) == {path.stem for path in weights.glob("*.safetensors")}


def test_get_gives_the_models_that_load_gives(library: Library, folder: Path):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t, class_ids = torch.tensor([0.2, 0.7]), torch.tensor([0, 2])
    for name in ("one.safetensors", "deep/two.safetensors"):
        expected = deco_lab.load(folder / name, device="cpu")(x, t, class_ids)
        assert torch.equal(library.get(name)(x, t, class_ids), expected)
    assert library.get("tiny") is library.get("tiny")


def test_facts_say_what_a_bundled_model_is(library: Library):
    facts = library.facts("tiny")
    model = deco_lab.load("tiny", device="cpu")
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert facts.weights == weights_hash(model)
    assert facts.class_names == model.config.class_names
    assert (facts.kind, facts.image_size, facts.patch_size) == ("DeCo", 64, 8)
    assert (facts.num_heads, facts.depth, facts.hidden_size) == (4, 6, 192)
    assert (facts.device, facts.dtype, facts.steps) == ("cpu", "float32", 10000)
    assert "toy" in facts.trained_on
    assert "fourteen photographs" in facts.trained_on
    assert json.loads(json.dumps(asdict(facts)))["class_names"] == list(facts.class_names)


def test_facts_say_what_a_file_says(library: Library):
    facts = library.facts("one.safetensors")
    assert (facts.name, facts.trained_on, facts.steps) == ("one.safetensors", "shells", 9)
    assert facts.decoder == "1 blocks of width 8"
    facts = library.facts("deep/two.safetensors")
    assert (facts.kind, facts.decoder, facts.steps) == ("DiT", "none", None)
    assert facts.trained_on == "its file does not say on what"


def test_found_lists_the_checkpoints_of_the_folder(library: Library, folder: Path, tmp_path: Path):
    write(tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert library.found() == ["broken.ckpt", "deep/two.safetensors", "one.safetensors"]
    assert Library("tiny", device="cpu").found() == []


def encodes(values: Any) -> bool:
    """Return whether values can be sent: Gradio's JSON is UTF-8, and no lone surrogate is."""
    return bool(json.dumps(values, ensure_ascii=False).encode())


OTHER = os.fsdecode(b"caf\xe9")  # as Latin-1 has it
OTHER_CONFIG = DeCoConfig(
    **SHAPE, num_heads=2, depth=1, decoder_depth=1, decoder_width=8, class_names=("a", OTHER, "c")
)


def test_files_whose_names_are_no_utf8_are_shown_and_loaded(
    library: Library, folder: Path, monkeypatch
):
    for name in (f"{OTHER}.safetensors", f"{OTHER}/one.ckpt"):
        write(folder / name)
    assert encodes(library.found())
    names = [r"caf\xe9.safetensors", r"caf\xe9/one.ckpt"]
    assert {name for name in library.found() if "caf" in name} == set(names)
    with pytest.raises(ModelError, match=r"^caf\\xe9.safetensors must have a path in UTF-8"):
        library.get(names[0])
    read = []
    monkeypatch.setattr(library_module, "load", lambda path, **_: read.append(path) or build(DECO))
    assert encodes(asdict(library.facts(names[1])))
    assert read == [folder / OTHER / "one.ckpt"]
    first = Library(str(folder / OTHER / "one.ckpt"), device="cpu")
    assert encodes([first.names(), asdict(first.facts(first.names()[0]))])


def test_classes_whose_names_are_no_utf8_are_shown(library: Library, folder: Path):
    write(folder / "other.safetensors", OTHER_CONFIG)
    model, facts = library.entry("other.safetensors")
    assert model.config.class_names == facts.class_names == ("a", r"caf\xe9", "c")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "deep/../../outside.safetensors",
        "{tmp}/outside.safetensors",
        "link.safetensors",
        "elsewhere/outside.safetensors",
        "disguised.safetensors",
        "notes.txt",
        "folder.ckpt",
        "missing.ckpt",
        "/etc/passwd",
        "",
        ".",
        "a\0b.ckpt",
        "x" * 5000 + ".ckpt",
        "\ud800.ckpt",
        "hf://",
        "hf://owner/repo",
        "hf://owner/repo/../../../etc/passwd",
        "hf://../repo/file.ckpt",
        "https://example.org/model.ckpt",
    ],
)
def test_no_name_reaches_outside_the_folder(
    name: str, library: Library, folder: Path, tmp_path: Path, no_hub
):
    write(tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "disguised.safetensors").symlink_to(folder / "notes.txt")
    for ask in (library.get, library.load, library.facts, library.size):
        with pytest.raises(ModelError, match="must be one of tiny, ") as caught:
            ask(name.format(tmp=tmp_path))
        assert len(str(caught.value)) < 300


def test_all_facts_are_of_what_can_draw_and_load_nothing_again(library: Library, folder: Path):
    library.get("one.safetensors")
    (folder / "one.safetensors").unlink()
    found = library.all_facts()
    assert [facts.name for facts in found] == library.names()
    assert {facts.name for facts in found} == {*BUNDLED, "one.safetensors"}


@pytest.mark.parametrize("name", [None, 3, True, ["tiny"], {"tiny": 1}])
def test_a_name_that_is_no_text_is_refused(name: Any, library: Library):
    for ask in (library.get, library.load, library.facts, library.size):
        with pytest.raises(ModelError, match="model must be the name of a model, got"):
            ask(name)


def test_get_without_a_folder_gives_no_file(folder: Path):
    with pytest.raises(ModelError, match="must be one of tiny, "):
        Library("tiny", device="cpu").get(str(folder / "one.safetensors"))


def test_library_first_may_lie_anywhere(folder: Path):
    first = str(folder / "one.safetensors")
    library = Library(first, device="cpu")
    assert library.names()[0] == first
    assert library.facts(first).trained_on == "shells"
    assert library.size(first) is None


@pytest.mark.parametrize("first", ["nowhere.ckpt", "no-such-model"])
def test_library_of_a_missing_first_says_so(first: str):
    with pytest.raises((ValueError, OSError), match=first):
        Library(first, device="cpu")


def test_library_keeps_one_beside_the_first_and_the_bundled(folder: Path):
    first = str(folder / "deep" / "two.safetensors")
    library = Library(first, device="cpu", folder=folder)
    write(folder / "three.safetensors")
    tiny, one = library.get("tiny"), weakref.ref(library.get("one.safetensors"))
    library.get("three.safetensors")
    assert set(library.names()) == {first, "three.safetensors", *BUNDLED}
    assert one() is None
    assert library.get("tiny") is tiny


def test_get_of_a_broken_file_keeps_the_model_before(library: Library, folder: Path):
    before = library.get("one.safetensors")
    with pytest.raises(ModelError, match=r"broken\.ckpt .* download it again") as caught:
        library.get("broken.ckpt")
    assert str(folder) not in str(caught.value)
    assert library.get("one.safetensors") is before


def test_fast_models_need_room_for_a_copy_of_their_weights(folder: Path, monkeypatch):
    size = (folder / "one.safetensors").stat().st_size
    monkeypatch.setattr(library_module, "_free_memory", lambda device: 2 * size)
    with pytest.raises(ModelError, match=r"one.safetensors needs about"):
        Library("tiny", device="cpu", folder=folder, fast=True).get("one.safetensors")
    Library("tiny", device="cpu", folder=folder).get("one.safetensors")


def test_get_says_where_memory_would_not_suffice(library: Library, monkeypatch):
    before = library.get("one.safetensors")
    monkeypatch.setattr(library_module, "load", lambda *a, **k: pytest.fail("it was read"))
    monkeypatch.setattr(library_module, "_free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match=r"two.safetensors needs about .* GiB.*smaller model"):
        library.get("deep/two.safetensors")
    assert library.get("one.safetensors") is before


def raise_memory_error(*args: Any, **options: Any) -> Any:
    raise MemoryError


def raise_cuda_error(*args: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")


def allocate_too_much(*args: Any, **options: Any) -> Any:
    torch.empty(1 << 60, dtype=torch.uint8)  # what PyTorch itself raises on the CPU


ENDINGS = [raise_memory_error, raise_cuda_error, allocate_too_much]


@pytest.mark.parametrize("load", ENDINGS)
def test_get_says_where_memory_ended(load: Callable, library: Library, monkeypatch):
    before = library.get("one.safetensors")
    monkeypatch.setattr(library_module, "load", load)
    with pytest.raises(ModelError, match=r"two.safetensors must fit into the memory of cpu"):
        library.get("deep/two.safetensors")
    assert library.get("one.safetensors") is before
    monkeypatch.undo()
    assert library.get("deep/two.safetensors").config == DIT


def test_get_loads_once_and_one_at_a_time(library: Library, folder: Path, monkeypatch):
    write(folder / "three.safetensors")
    calls, busy, load, failed = [], threading.Lock(), library_module.load, []

    def slow(path: Any, **options: Any) -> Any:
        calls.append(Path(path).name)
        assert busy.acquire(blocking=False), "two models are loaded at once"
        time.sleep(0.05)
        try:
            return load(path, **options)
        finally:
            busy.release()

    def get(name: str) -> None:
        try:
            library.get(name)
        except BaseException as error:
            failed.append(error)

    monkeypatch.setattr(library_module, "load", slow)
    names = ["tiny-fm", "tiny-dit", "one.safetensors"]
    threads = [threading.Thread(target=get, args=(name,)) for name in names * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failed
    assert sorted(calls) == ["one.safetensors", "tiny-dit.safetensors", "tiny-fm.safetensors"]


def test_get_gives_what_is_loaded_while_another_loads(library: Library, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    load = library_module.load

    def slow(path: Any, **options: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return load(path, **options)

    monkeypatch.setattr(library_module, "load", slow)
    thread = threading.Thread(target=lambda: library.get("one.safetensors"))
    thread.start()
    assert begun.wait(10)
    assert library.get("tiny").config.image_size == 64
    assert "one.safetensors" not in library.names()
    go_on.set()
    thread.join(10)
    assert "one.safetensors" in library.names()


def test_get_fetches_nothing(library: Library, no_hub):
    for name in PUBLISHED:
        with pytest.raises(ModelError, match="must be loaded before it draws"):
            library.get(name)
        with pytest.raises(ModelError, match="must be loaded before it draws"):
            library.facts(name)
        assert library.size(name) is None


def test_load_fetches_a_published_checkpoint(library: Library, tmp_path: Path, monkeypatch):
    asked = []

    def download(repo_id: str, filename: str, dry_run: bool = False) -> Any:
        if dry_run:
            return SimpleNamespace(file_size=1000, will_download=True)
        asked.append((repo_id, filename))
        return str(write(tmp_path / filename, replace(DECO, image_size=256)))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model, _ = library.load(PUBLISHED_NAME)
    assert asked == [("zehongma/DeCo", "imagenet256_epoch320.ckpt")]
    assert library.get(PUBLISHED_NAME) is model
    assert library.facts(PUBLISHED_NAME).trained_on == PUBLISHED[PUBLISHED_NAME]
    monkeypatch.setattr(library_module, "_free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match=r"^[^ ]*epoch600.ckpt needs about"):
        library.load(list(PUBLISHED)[1])
    assert len(asked) == 1  # refused before it was fetched
    assert library.get(PUBLISHED_NAME) is model


def test_published_are_those_whose_size_is_known():
    assert set(PUBLISHED) == set(PUBLISHED_SIZES)
    for address, text in PUBLISHED.items():
        assert f"{PUBLISHED_SIZES[address]} x {PUBLISHED_SIZES[address]}" in text


@pytest.mark.filterwarnings("ignore:.* does not say the size of its images")
def test_load_with_a_size_reads_the_file_again_and_keeps_to_it(library: Library, folder: Path):
    name = "ImageNet32.safetensors"
    save_file(deco_lab.load(folder / "one.safetensors", device="cpu").state_dict(), folder / name)
    guess = library.get(name)
    assert (library.facts(name).image_size, library.facts(name).image_size_assumed) == (16, True)
    with pytest.raises(ModelError, match="image_size must be divisible by patch_size=2, got 33"):
        library.load(name, 33)
    for size in (65536, 10**30, "512", 0):
        with pytest.raises(ValueError, match="image_size must be a whole number from 1 to 1448"):
            library.load(name, size)  # type: ignore[arg-type]
    assert library.get(name) is guess
    for _ in range(2):
        model, _ = library.load(name, 32)
        assert library.get(name) is model
        facts = library.facts(name)
        assert (model.config.image_size, facts.image_size_assumed) == (32, False)
        library.get("one.safetensors")  # in its place
        assert library.get(name).config.image_size == 32
    with pytest.raises(ModelError, match=r"must be 16, as one.safetensors says, got 32"):
        library.load("one.safetensors", 32)


@pytest.mark.filterwarnings("ignore:.* does not say the size of its images")
def test_library_of_a_first_without_a_size_takes_it(folder: Path):
    first = str(folder / "first.safetensors")
    save_file(deco_lab.load(folder / "one.safetensors", device="cpu").state_dict(), first)
    assert Library(first, device="cpu").facts(first).image_size_assumed
    library = Library(first, device="cpu", image_size=32)
    assert (library.facts(first).image_size, library.facts(first).image_size_assumed) == (32, False)
    assert library.load(first, 64)[0].config.image_size == 64  # told again, in the Models tab


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("offline"),
        errors.OfflineModeIsEnabled("offline"),
        OSError("no space left on device"),
        ValueError("Invalid pointer path"),
    ],
)
def test_load_without_the_hub_says_so(error: Exception, library: Library, monkeypatch):
    def download(**options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ModelError, match=r"cannot be reached|no space left|Invalid pointer"):
        library.load(PUBLISHED_NAME)
    assert set(library.names()) == set(BUNDLED)


@pytest.mark.parametrize("run", ENDINGS)
def test_out_of_memory_becomes_a_sentence_with_a_remedy(run: Callable):
    said = "must fit into memory, and did not; take fewer images"
    with pytest.raises(ValueError, match=said), out_of_memory_as_sentence():
        run()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("t"), KeyError("k")])
def test_out_of_memory_lets_other_errors_pass(error: Exception):
    with pytest.raises(type(error)) as caught, out_of_memory_as_sentence():
        raise error
    assert caught.value is error


def test_out_of_memory_frees_what_the_run_held():
    held = []

    def run() -> None:
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        raise_cuda_error()

    with pytest.raises(ValueError, match="must fit") as caught, out_of_memory_as_sentence():
        run()
    assert held[0]() is None
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_free_memory_of_a_gpu_counts_what_pytorch_keeps_free(monkeypatch):
    for name, answer in {
        "mem_get_info": (100, 1000), "memory_reserved": 700, "memory_allocated": 300,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert library_module._free_memory(torch.device("cuda")) == 100 + 700 - 300


def test_memory_is_given_back_while_no_graph_is_recorded(monkeypatch):
    given_back = threading.Event()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", given_back.set)
    giving = threading.Thread(target=library_module._free)
    with graphs._ONE_AT_A_TIME:  # as while one is recorded
        giving.start()
        assert not given_back.wait(0.2)
    assert given_back.wait(10)
    giving.join()


def test_fast_library_loads_every_model_so(folder):
    library = Library("tiny", device="cpu", folder=folder, fast=True)
    for name in ("tiny", "tiny-dit"):
        assert isinstance(library.get(name).backbone.run_blocks, NativeBlocks)
    assert not isinstance(
        Library("tiny", device="cpu").get("tiny").backbone.run_blocks, NativeBlocks
    )
