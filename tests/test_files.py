"""Files are whole at any moment: the old one until the new one is."""

import errno
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from deco_lab.files import check_writable, remove_leftovers, replacing


def test_replacing_keeps_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    with replacing(path) as first, replacing(path) as second:
        assert first != second  # each writer has one of its own
        first.write_text("first")
        second.write_text("second")
        assert not path.exists()
    assert path.read_text() == "first"  # the outer block ends last
    with pytest.raises(OSError, match="disk full"), replacing(path) as beside:
        _write_half(beside)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def _write_half(path: Path) -> None:
    path.write_text("half")
    raise OSError("disk full")


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x", "w") as member:
        for _ in range(100):
            member.write(bytes(1000))


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("x" * 20_000, encoding="utf-8"),
    "array": lambda path: path.write_bytes(np.zeros(10_000).tobytes()),
    "archive": _archive,
    "picture": lambda path: Image.effect_noise((300, 300), 90).save(path, format="PNG"),
    "safetensors": lambda path: save_file({"a": torch.zeros(10_000)}, path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_replacing_names_the_file_that_a_full_disk_cuts(write, tmp_path, full_disk):
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")
    sentence = rf"^{path} cannot be written \(.+\); make room for it or choose another"
    with full_disk(10_000), pytest.raises(OSError, match=sentence), replacing(path) as beside:
        write(beside)
    assert [(p, p.read_text(encoding="utf-8")) for p in tmp_path.iterdir()] == [(path, "old")]


def test_replacing_names_the_file_whose_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "table.csv"
    sentence = rf"^{path} cannot be written \(File exists\); make"
    with pytest.raises(OSError, match=sentence), replacing(path):
        pass


def test_check_writable_refuses_what_cannot_be_a_folder_and_leaves_no_trace(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    for name in ("file", "file/new", "/proc/new", "link", "x" * 300):
        with pytest.raises(ValueError, match="out must be in a folder that can be written to"):
            check_writable(tmp_path / name)
    check_writable(tmp_path / "new" / "folder")
    check_writable(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_check_writable_refuses_a_read_only_folder(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path))

    monkeypatch.setattr("tempfile._os.open", refuse)
    with pytest.raises(ValueError, match=rf"got {tmp_path} \(Read-only file system\); give anothe"):
        check_writable(tmp_path)


def test_remove_leftovers_removes_the_parts_of_that_file_or_pattern_alone(tmp_path):
    parts = [".a.png.0a1b2c3d.tmp", ".b.png.0a1b2c3d.tmp", ".a.npy.0a1b2c3d.tmp"]
    for name in (*parts, "a.png", "a.tmp"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "a.npy")
    assert {path.name for path in tmp_path.iterdir()} == {*parts[:2], "a.png", "a.tmp"}
    remove_leftovers(tmp_path / "*.png")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.tmp"}
