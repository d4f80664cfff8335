"""Which models can draw: names, what may be read, what stays loaded, and memory that ends."""

import json
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from test_workbench_watching import DECO, DIT, random_model

import deco_lab
from deco_lab.checkpoints import save
from deco_lab.fast import graphs
from deco_lab.fast.native import NativeBlocks
from deco_lab.spectra import weights_hash
from deco_lab.workbench import library as library_module
from deco_lab.workbench.library import BUNDLED, PUBLISHED, Library, out_of_memory_as_sentence

PUBLISHED_NAME = next(iter(PUBLISHED))


def write(path: Path, config: Any = DECO, **options: Any) -> Path:
    save(random_model(config, seed=len(path.name)), path, **options)
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
    assert (facts.num_heads, facts.depth, facts.hidden_size) == (4, 8, 128)
    assert (facts.device, facts.dtype, facts.steps) == ("cpu", "float32", 14000)
    assert "toy" in facts.trained_on
    assert "seventeen photographs" in facts.trained_on
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
    assert list(library.found()) == ["broken.ckpt", "deep/two.safetensors", "one.safetensors"]
    assert not Library("tiny", device="cpu").found()


def encodes(values: Any) -> bool:
    """Return whether values can be sent: Gradio's JSON is UTF-8, and no lone surrogate is."""
    return bool(json.dumps(values, ensure_ascii=False).encode())


OTHER = os.fsdecode(b"caf\xe9")  # as Latin-1 has it


def test_files_whose_names_are_no_utf8_are_shown_and_loaded(
    library: Library, folder: Path, monkeypatch
):
    for name in (f"{OTHER}.safetensors", f"{OTHER}/one.ckpt"):
        write(folder / name)
    assert encodes(list(library.found()))
    names = [r"caf\xe9.safetensors", r"caf\xe9/one.ckpt"]
    assert {name for name in library.found() if "caf" in name} == set(names)
    with pytest.raises(ValueError, match=r"^caf\\xe9.safetensors must have a path in UTF-8"):
        library.get(names[0])
    read = []
    other = random_model(replace(DECO, class_names=("a", OTHER, "c")))
    monkeypatch.setattr(library_module, "load", lambda path, **_: read.append(path) or other)
    model, facts = library.entry(names[1])
    assert encodes(asdict(facts))
    assert model.config.class_names == facts.class_names == ("a", r"caf\xe9", "c")
    assert read == [folder / OTHER / "one.ckpt"]
    first = Library(str(folder / OTHER / "one.ckpt"), device="cpu")
    assert encodes([first.names(), asdict(first.facts(first.names()[0]))])


def test_get_of_a_broken_file_keeps_the_model_before(library: Library, folder: Path):
    before = library.get("one.safetensors")
    with pytest.raises(ValueError, match=r"broken\.ckpt .* download it again") as caught:
        library.get("broken.ckpt")
    assert str(folder) not in str(caught.value)
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
    with pytest.raises(ValueError, match=r"two.safetensors must fit into the memory of cpu"):
        library.get("deep/two.safetensors")
    assert library.get("one.safetensors") is before
    monkeypatch.undo()
    assert library.get("deep/two.safetensors").config == DIT


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
    with pytest.raises(ValueError, match=r"^[^ ]*epoch600.ckpt needs about"):
        library.load(list(PUBLISHED)[1])
    assert len(asked) == 1  # refused before it was fetched
    assert library.get(PUBLISHED_NAME) is model


@pytest.mark.filterwarnings("ignore:.* does not say the size of its images")
def test_load_with_a_size_reads_the_file_again_and_keeps_to_it(library: Library, folder: Path):
    name = "ImageNet32.safetensors"
    save_file(deco_lab.load(folder / "one.safetensors", device="cpu").state_dict(), folder / name)
    guess = library.get(name)
    assert (library.facts(name).image_size, library.facts(name).image_size_assumed) == (16, True)
    with pytest.raises(ValueError, match="image_size must be divisible by patch_size=2, got 33"):
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
    with pytest.raises(ValueError, match=r"must be 16, as one.safetensors says, got 32"):
        library.load("one.safetensors", 32)


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
    with pytest.raises(ValueError, match=r"cannot be reached|no space left|Invalid pointer"):
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


def test_free_memory_of_a_gpu_counts_what_pytorch_keeps_free(monkeypatch):
    for name, answer in {
        "mem_get_info": (100, 1000), "memory_reserved": 700, "memory_allocated": 300,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert library_module._free_memory(torch.device("cuda")) == 100 + 700 - 300


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors", "deep/../../outside.safetensors", "{tmp}/outside.safetensors",
        "link.safetensors", "elsewhere/outside.safetensors", "disguised.safetensors", "notes.txt",
        "folder.ckpt", "missing.ckpt", "/etc/passwd", "", ".", "a\0b.ckpt", "x" * 5000 + ".ckpt",
        "\ud800.ckpt", "hf://", "hf://owner/repo", "hf://owner/repo/../../../etc/passwd",
        "hf://../repo/file.ckpt", "https://example.org/model.ckpt",
    ],
)  # fmt: skip
def test_no_name_reaches_outside_the_folder(
    name: str, library: Library, folder: Path, tmp_path: Path, no_hub
):
    write(tmp_path / "outside.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "disguised.safetensors").symlink_to(folder / "notes.txt")
    for ask in (library.entry, library.load):
        with pytest.raises(ValueError, match="must be one of tiny, ") as caught:
            ask(name.format(tmp=tmp_path))
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", [None, 3, True, ["tiny"], {"tiny": 1}])
def test_a_name_that_is_no_text_is_refused(name: Any, library: Library):
    for ask in (library.entry, library.load):
        with pytest.raises(ValueError, match="model must be the name of a model, got"):
            ask(name)


def test_library_keeps_one_beside_the_first_and_the_bundled(folder: Path):
    weights = Path(deco_lab.__file__).parent / "weights"
    assert set(BUNDLED) == {path.stem for path in weights.glob("*.safetensors")}
    first = str(folder / "deep" / "two.safetensors")  # may lie anywhere
    library = Library(first, device="cpu", folder=folder)
    assert library.names() == [first, *BUNDLED]
    write(folder / "three.safetensors")
    tiny, one = library.get("tiny"), weakref.ref(library.get("one.safetensors"))
    library.get("three.safetensors")
    (folder / "three.safetensors").unlink()
    assert set(library.names()) == {first, "three.safetensors", *BUNDLED}
    assert [facts.name for facts in library.all_facts()] == library.names()
    assert one() is None
    assert library.get("tiny") is tiny
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        Library("nowhere.ckpt", device="cpu")


@pytest.mark.parametrize(("fast", "room"), [(False, 1), (True, 2)])
def test_get_refuses_what_would_not_fit_before_it_is_read(fast, room, folder: Path, monkeypatch):
    library = Library("tiny", device="cpu", folder=folder, fast=fast)
    assert isinstance(library.get("tiny").backbone.run_blocks, NativeBlocks) == fast
    size = (folder / "one.safetensors").stat().st_size
    monkeypatch.setattr(library_module, "_free_memory", lambda device: 1 + room * size)
    with monkeypatch.context() as patch:
        patch.setattr(library_module, "load", lambda *a, **k: pytest.fail("it was read"))
        with pytest.raises(ValueError, match=r"one.safetensors needs about .* GiB.*smaller model"):
            library.get("one.safetensors")
    monkeypatch.setattr(library_module, "_free_memory", lambda device: (room + 1) * size)
    library.get("one.safetensors")


def test_get_loads_one_at_a_time_once_and_gives_what_is_loaded_meanwhile(
    library: Library, monkeypatch
):
    calls, busy, load = [], threading.Lock(), library_module.load
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Any, **options: Any) -> Any:
        calls.append(Path(path).stem)
        assert busy.acquire(blocking=False), "two models are loaded at once"
        begun.set()
        assert go_on.wait(10)
        try:
            return load(path, **options)
        finally:
            busy.release()

    monkeypatch.setattr(library_module, "load", slow)
    with ThreadPoolExecutor(12) as pool:
        names = ["tiny-fm", "tiny-dit", "one.safetensors"]
        loading = [pool.submit(library.get, name) for name in names * 4]
        assert begun.wait(10)
        assert library.get("tiny").config.image_size == 64
        assert library.names() == list(BUNDLED)
        go_on.set()
        for each in loading:
            each.result()
    assert sorted(calls) == ["one", "tiny-dit", "tiny-fm"]


def test_get_fetches_nothing(library: Library, no_hub):
    for name in PUBLISHED:
        with pytest.raises(ValueError, match="must be loaded before it draws"):
            library.get(name)


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
