"""Which models can draw: names, what may be read, what stays loaded, and memory that ends."""

import json
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

import deco_lab
from deco_lab.checkpoints import save
from deco_lab.config import DeCoConfig, DiTConfig
from deco_lab.models import build
from deco_lab.models.native import NativeBlocks
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
        return str(write(tmp_path / filename))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = library.load(PUBLISHED_NAME)
    assert asked == [("zehongma/DeCo", "imagenet256_epoch320.ckpt")]
    assert library.get(PUBLISHED_NAME) is model
    assert library.facts(PUBLISHED_NAME).trained_on == PUBLISHED[PUBLISHED_NAME]
    monkeypatch.setattr(library_module, "_free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match=r"^[^ ]*epoch600.ckpt needs about"):
        library.load(list(PUBLISHED)[1])
    assert len(asked) == 1  # refused before it was fetched
    assert library.get(PUBLISHED_NAME) is model


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


def test_fast_library_loads_every_model_so(folder):
    library = Library("tiny", device="cpu", folder=folder, fast=True)
    for name in ("tiny", "tiny-dit"):
        assert isinstance(library.get(name).trunk.run_blocks, NativeBlocks)
    assert not isinstance(Library("tiny", device="cpu").get("tiny").trunk.run_blocks, NativeBlocks)
