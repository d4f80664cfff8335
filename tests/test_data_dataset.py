import json
import socket
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deco_lab.config import DiTConfig
from deco_lab.data import (
    PictureCrops,
    PictureDataset,
    SourceConfig,
    UnreadablePictureError,
    open_source,
    read_dataset,
)
from deco_lab.evaluation.__main__ import source_of

datasets = pytest.importorskip("datasets", reason='needs datasets: pip install -e ".[train]"')

CLASSES = datasets.ClassLabel(names=["a", "b", "c", "d"])
NUMBER, TEXT, SHARE = (datasets.Value(kind) for kind in ("int64", "string", "float32"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fail where a connection is tried, even if the failure is caught; keep caches apart."""
    tried = []

    def refuse(self: Any, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: refuse(None, a))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    assert tried == []


def png(value: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (6, 5), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def red(pictures: PictureDataset, index: int) -> int:
    pixel = pictures.open(index).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def write(path: Path, labels: list[Any], features: dict[str, Any], **columns: list[Any]) -> Path:
    """Write a shard whose row i shows a picture of red i, unless told otherwise."""
    images = [{"bytes": png(row), "path": None} for row in range(len(labels))]
    rows = {"image": images, "label": labels, **columns}
    features = {"image": datasets.Image(), **features}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    table.to_parquet(path)
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Sixty rows of three classes."""
    names = datasets.ClassLabel(names=["cat", "dog", "owl"])
    return write(tmp_path / "part-0.parquet", [row % 3 for row in range(60)], {"label": names})


def test_read_dataset_takes_columns_by_their_types(shard: Path):
    found = read_dataset(str(shard))
    assert found.unreadable == {}
    seen = []
    for pictures in (found.training, found.held_out):
        assert pictures.class_names == ("cat", "dog", "owl")
        assert set(pictures.labels) == {0, 1, 2}
        for index in range(len(pictures)):
            row = red(pictures, index)
            assert pictures.labels[index] == row % 3
            assert pictures.name(index) == f"row {row} of {shard} (train)"
            seen.append(row)
    assert sorted(seen) == list(range(60))
    assert (found.held_out.labels == read_dataset(str(shard)).held_out.labels).all()
    assert 3 <= len(found.held_out) < 25


def test_read_dataset_takes_patterns_folders_and_parts(shard: Path):
    names = datasets.ClassLabel(names=["cat", "dog", "owl"])  # as the other shard's
    write(shard.parent / "part-1.parquet", [0, 1, 2], {"label": names})
    for name in (str(shard.parent / "part-*.parquet"), str(shard.parent)):
        assert len(read_dataset(name, held_out=0).training) == 63
    assert len(read_dataset(str(shard), split="train[:50%]", held_out=0).training) == 30


def test_source_of_reads_the_rows_that_were_trained_on(shard: Path):
    """The record keeps split and columns, so what is held out stays so when it is measured."""
    options = SourceConfig(
        dataset=str(shard), split="train[:50%]", image_column="image", label_column="label"
    )
    source = open_source(options, 8, torch.device("cpu"))
    config = DiTConfig(
        image_size=8, patch_size=4, num_classes=3, class_names=("cat", "dog", "owl"),
        hidden_size=16, num_heads=2, depth=1,
    )  # fmt: skip
    record = json.loads(json.dumps(source.record))
    again = source_of(config, record, "", str(shard), torch.device("cpu"))
    assert again.record == source.record
    assert sum(record["pictures_by_class"]) + record["held_out"] == 30
    first, second = source.fresh, again.fresh
    assert isinstance(first, PictureCrops)
    assert isinstance(second, PictureCrops)
    names = [[p.name(i) for i in range(len(p))] for p in (first.pictures, second.pictures)]
    assert names[0] == names[1]


def test_read_dataset_says_that_scripts_are_not_run(tmp_path: Path, monkeypatch):
    def refuse(*arguments: Any, **options: Any):
        raise RuntimeError("Dataset scripts are no longer supported, but found old.py")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match=r"owner/old \(train\) could not be read \(Dataset scr"):
        read_dataset("owner/old")


@pytest.mark.parametrize(
    ("kind", "labels", "names", "ids"),
    [
        (CLASSES, [3, 0, 3], ("a", "d"), [1, 0, 1]),  # those that have rows
        (TEXT, ["owl", "cat", "owl", "ant"], ("ant", "cat", "owl"), [2, 1, 2, 0]),
        (NUMBER, [9, 3, 9, 10], ("3", "9", "10"), [1, 0, 1, 2]),
    ],
    ids=["classes", "text", "numbers"],
)
def test_read_dataset_counts_and_names_labels(tmp_path: Path, kind, labels, names, ids):
    shard = write(tmp_path / "x.parquet", labels, {"label": kind})
    training = read_dataset(str(shard), held_out=0).training
    assert training.class_names == names
    assert training.labels.tolist() == ids


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, -1, 1, -1], CLASSES, "got 2 of 4 without one in label; take another split"),
        ([0, None, 1], NUMBER, "got 1 of 3 without one in label; take another split"),
        ([0.5], SHARE, r"whole numbers or strings, got label \(float32\)"),
    ],
)
def test_read_dataset_refuses_labels(tmp_path: Path, labels, kind, message: str):
    shard = write(tmp_path / "x.parquet", labels, {"label": kind})
    with pytest.raises(ValueError, match=message):
        read_dataset(str(shard))


def test_read_dataset_takes_pictures_of_a_column_of_bytes_and_of_no_other(tmp_path: Path):
    pictures = [{"bytes": png(1), "path": None}] * 2
    features = {
        "label": NUMBER,
        "raw": datasets.Value("binary"),
        "images": datasets.Sequence(datasets.Image()),
        "count": NUMBER,
    }
    columns = {"raw": [png(50), png(60)], "images": [pictures, pictures[:1]], "count": [1, 2]}
    shard = str(write(tmp_path / "x.parquet", [0, 0], features, **columns))
    training = read_dataset(shard, image_column="raw", held_out=0).training
    assert [red(training, index) for index in range(2)] == [50, 60]
    for name in ("images", "count"):
        with pytest.raises(ValueError, match=f"must hold a picture in each row, got {name}"):
            read_dataset(shard, image_column=name)
    table = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    table.to_parquet(tmp_path / "y.parquet")
    listed = r"text \((large_)?string\), label \(int64\)"
    with pytest.raises(ValueError, match=f"no columns are of type Image; name the .* {listed}"):
        read_dataset(str(tmp_path / "y.parquet"))


def test_read_dataset_takes_the_columns_named(tmp_path: Path):
    masks = [{"bytes": png(100 + row), "path": None} for row in range(4)]
    features = {"label": CLASSES, "mask": datasets.Image(), "kind": TEXT}
    columns: dict[str, Any] = {"mask": masks, "kind": ["u", "u", "v", "w"]}
    shard = str(write(tmp_path / "x.parquet", [0, 1, 0, 1], features, **columns))
    named = read_dataset(shard, image_column="mask", label_column="kind", held_out=0).training
    assert named.class_names == ("u", "v", "w")
    assert [red(named, index) for index in range(4)] == [100, 101, 102, 103]
    listed = r"image \(PIL.*\), label \(int64\), mask .*, kind \(string\), got 'picture'"
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "2 columns are of type Image; name the image_column, "),
        ({"image_column": "picture"}, f"image_column must be one of the columns {listed}"),
        ({"image_column": "mask", "label_column": "image"},
         "label_column must hold whole numbers or strings, got im"),
    ]  # fmt: skip
    for given, rule in cases:
        with pytest.raises(ValueError, match=rule):
            read_dataset(shard, **given)


def test_read_dataset_reads_arrow(tmp_path: Path):
    images = [Image.new("RGB", (4, 4), (row, 0, 0)) for row in range(3)]
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features=features)
    table.save_to_disk(tmp_path / "saved")
    training = read_dataset(str(tmp_path / "saved"), held_out=0).training
    assert training.class_names == ("a", "b")
    assert [red(training, index) for index in range(3)] == [0, 1, 2]


def write_tar(path: Path, rows: int = 4) -> Path:
    """Write a webdataset shard whose row i shows a picture of red i."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row in range(rows):
            parts = {"png": png(row), "cls": str(row % 2).encode(), "json": json.dumps({}).encode()}
            for suffix, data in parts.items():
                entry = tarfile.TarInfo(f"{row:04}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
    return path


def test_read_dataset_reads_webdataset(tmp_path: Path):
    training = read_dataset(str(write_tar(tmp_path / "x.tar")), held_out=0).training
    assert training.class_names == ("0", "1")
    assert training.labels.tolist() == [0, 1, 0, 1]
    assert [red(training, index) for index in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("length", [0, 100, 1024, 512 * 24, 512 * 25, 512 * 26 + 9])
def test_read_dataset_names_the_tar_that_is_cut_short(tmp_path: Path, length: int):
    write_tar(tmp_path / "shards" / "a.tar")
    cut = write_tar(tmp_path / "shards" / "b.tar", 30)
    cut.write_bytes(cut.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"b.tar is no tar file, cut short or empty; fetch"):
        read_dataset(str(tmp_path / "shards"))


@pytest.mark.parametrize("name", ["[1]", "[v2]", "x[", "a*b", "q?", "[!a]", "[[]1]"])
def test_read_dataset_takes_folders_of_any_name(tmp_path: Path, name: str):
    for shard in (tmp_path / name / "x.tar", tmp_path / name / "deep" / "x.parquet"):
        shard.parent.mkdir(parents=True, exist_ok=True)
        if shard.suffix == ".tar":
            write_tar(shard)
        else:
            write(shard, [0, 1, 0, 1], {"label": NUMBER})
        for given in (shard, shard.parent, shard.with_name(f"*{shard.suffix}")):
            assert len(read_dataset(str(given), held_out=0).training) == 4


def test_read_dataset_rows_that_cannot_be_read_are_replaced_in_training(tmp_path: Path):
    images = [{"bytes": png(row), "path": None} for row in range(6)]
    images[1]["bytes"], images[3]["bytes"] = images[1]["bytes"][:40], b""
    images[4] = None  # type: ignore[call-overload]
    shard = write(tmp_path / "x.parquet", [0, 0, 0, 1, 1, 1], {"label": NUMBER}, image=images)
    training = read_dataset(str(shard), held_out=0).training
    for index in (1, 3, 4):
        with pytest.raises(UnreadablePictureError):
            training.open(index)
    crops = PictureCrops(training, 4)
    images, class_ids = crops.sample(100, torch.Generator().manual_seed(0))
    values = ((images + 1) * 127.5).round().int()[:, 0, 0, 0]
    assert set(values[class_ids == 0].tolist()) == {0, 2}
    assert set(values[class_ids == 1].tolist()) == {5}
    assert crops.skipped == 3


def test_read_dataset_refuses_names_that_stand_for_nothing(shard: Path, tmp_path: Path):
    for name, content in (("other.arrow", b""), ("bad.parquet", b"words"),
                          ("x.tar", b"<html>" + bytes(2048))):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    for name, split, rule in (
        ("missing.parquet", "train", r"missing.parquet must stand for shards of one kind.*no file"),
        ("missing", "train", "does not exist, and is no owner/name at Hugging Face"),
        (".", "train", "shards of one kind.*got .arrow, .parquet, .tar; a folder of"),
        (shard.name, "test", r"\(test\) could not be read \(Unknown split"),
        ("bad.parquet", "train", r"bad.parquet \(train\) could not be read \(Parquet file size"),
        ("x.tar", "train", r"x.tar \(train\) could not be read \("),
    ):
        with pytest.raises(ValueError, match=rule):
            read_dataset(str(tmp_path / name), split=split)


def test_read_dataset_says_that_a_hub_name_cannot_be_reached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nobody/nothing \(train\) could not be read .*network"):
        read_dataset("nobody/nothing")


def test_read_dataset_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'pip install "deco-lab\[train\]"'):
        read_dataset("uoft-cs/cifar10")
