"""Files are whole at any moment: the old one until the new one is."""

import pytest

from deco_lab.files import remove_leftovers, replacing


def test_replacing_keeps_the_old_file_until_the_block_ends(tmp_path):
    path = tmp_path / "folder" / "table.csv"
    with replacing(path) as beside:
        beside.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_replacing_keeps_the_old_file_where_the_block_raises(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write_half():
        with replacing(path) as beside:
            beside.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_gives_each_writer_a_file_of_its_own(tmp_path):
    path = tmp_path / "table.csv"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last


def test_remove_leftovers_removes_the_parts_of_that_file_alone(tmp_path):
    part, others = ".table.csv.0a1b2c3d.tmp", [".other.csv.0a1b2c3d.tmp", "table.csv", "a.tmp"]
    for name in (part, *others):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "table.csv")
    assert {path.name for path in tmp_path.iterdir()} == set(others)


def test_remove_leftovers_removes_the_parts_of_all_files_of_a_pattern(tmp_path):
    for name in (".a.png.0a1b2c3d.tmp", ".b.png.0a1b2c3d.tmp", ".a.npy.0a1b2c3d.tmp", "a.png"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "*.png")
    assert {path.name for path in tmp_path.iterdir()} == {".a.npy.0a1b2c3d.tmp", "a.png"}
