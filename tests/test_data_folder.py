from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deco_lab.data import Pictures, read_folder


def add(path: Path, value: int = 0, size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


def names(pictures: Pictures) -> list[str]:
    return [pictures.names[index] for index in range(len(pictures))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 30 and 20 pictures."""
    for index in range(30):
        add(tmp_path / "photos" / "cats" / f"{index}.png", index)
    for index in range(20):
        add(tmp_path / "photos" / "birds" / "far" / f"{index}.bmp", 100 + index)
    return tmp_path / "photos"


def test_read_folder_takes_classes_from_sub_folders(folder: Path):
    found = read_folder(folder)
    assert found.unreadable == ()
    for pictures in (found.training, found.held_out):
        assert pictures.class_names == ("birds", "cats")
        for index, name in enumerate(names(pictures)):
            label = int(pictures.labels[index])
            value = int(Path(name).stem) + (100 if label == 0 else 0)
            assert name.startswith(("birds/far/", "cats/")[label])
            assert pictures.open(index).getpixel((0, 0)) == (value, 0, 0)
    assert len(found.training) + len(found.held_out) == 50
    assert set(found.training.labels) == set(found.held_out.labels) == {0, 1}


def test_read_folder_shares_are_disjoint_and_stay(folder: Path):
    found = read_folder(folder)
    training, held_out = set(names(found.training)), set(names(found.held_out))
    assert training.isdisjoint(held_out)
    assert names(read_folder(str(folder)).held_out) == names(found.held_out)
    add(folder / "cats" / "new.png")
    add(folder / "apes" / "0.png")
    again = read_folder(folder)
    assert training <= set(names(again.training))
    assert held_out <= set(names(again.held_out))
    (folder / "cats").rename(folder / "tigers")
    renamed = {name.replace("tigers", "cats") for name in names(read_folder(folder).held_out)}
    assert renamed == set(names(again.held_out))


def test_read_folder_holds_out_as_much_as_asked(folder: Path):
    assert len(read_folder(folder, held_out=0).held_out) == 0
    half = read_folder(folder, held_out=0.5)
    assert 14 <= len(half.held_out) <= 36
    with pytest.raises(ValueError, match=r"held_out must be a share in \[0, 1\), got 1"):
        read_folder(folder, held_out=1)


def test_read_folder_keeps_a_single_picture_for_training(tmp_path: Path):
    add(tmp_path / "one" / "a.png")
    add(tmp_path / "two" / "a.png")
    add(tmp_path / "two" / "b.png")
    found = read_folder(tmp_path)
    assert found.training.labels.tolist() == [0, 1]
    assert found.held_out.labels.tolist() == [1]


def test_read_folder_passes_over_what_is_no_picture(tmp_path: Path):
    add(tmp_path / "a" / "x.PNG")
    add(tmp_path / "a" / ".hidden.png")
    add(tmp_path / "a" / ".cache" / "y.png")
    add(tmp_path / ".ipynb_checkpoints" / "z.png")
    add(tmp_path / "loose.png")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "a" / "notes.txt").write_text("words")
    (tmp_path / "a" / "paper.pdf").write_text("words")
    (tmp_path / "a" / "drawing.eps").write_text("words")
    (tmp_path / "a" / "folder.png").mkdir()
    found = read_folder(tmp_path)
    assert names(found.training) == ["a/x.PNG"]
    assert found.training.class_names == ("a",)
    assert found.unreadable == ()


def test_read_folder_names_what_cannot_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    for index in range(5):
        add(tmp_path / "a" / f"{index}.png", index)
    (tmp_path / "a" / "1.jpg").touch()
    add(tmp_path / "b" / "200.png", 200)
    whole = add(tmp_path / "a" / "cut.jpg", size=(60, 60)).read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "a" / "empty.jpg").touch()
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "deep" / "words.webp").write_text("words")
    add(tmp_path / "a" / "bomb.png", size=(100, 100))
    add(tmp_path / "a" / "huge.png", size=(100, 101))
    found = read_folder(tmp_path)
    assert found.unreadable == (
        "a/1.jpg", "a/bomb.png", "a/cut.jpg", "a/deep/words.webp", "a/empty.jpg", "a/huge.png",
    )  # fmt: skip
    assert len(found.training) + len(found.held_out) == 6
    for pictures in (found.training, found.held_out):
        for index, name in enumerate(names(pictures)):
            assert pictures.open(index).getpixel((0, 0)) == (int(Path(name).stem), 0, 0)
            assert name.startswith(("a/", "b/")[pictures.labels[index]])
    assert "checking pictures: 100%" in capsys.readouterr().err


def test_read_folder_refuses_a_class_without_pictures(tmp_path: Path):
    add(tmp_path / "full" / "x.png")
    (tmp_path / "nothing").mkdir()
    match = "class nothing has no picture that can be read, of 0 in .*; add some, or remove"
    with pytest.raises(ValueError, match=match):
        read_folder(tmp_path)
    (tmp_path / "nothing" / "empty.jpg").touch()
    with pytest.raises(ValueError, match="class nothing has no picture that can be read, of 1"):
        read_folder(tmp_path)


def test_read_folder_refuses_what_is_no_folder_of_classes(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no sub-folders; put the pictures of each class"):
        read_folder(tmp_path)
    file = add(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"has no sub-folders; put the pictures of each class"):
        read_folder(tmp_path)
    with pytest.raises(ValueError, match=r"x.png is a file; name a folder with"):
        read_folder(file)
    with pytest.raises(ValueError, match=r"missing does not exist; name a folder with"):
        read_folder(tmp_path / "missing")


def test_read_folder_pictures_open_in_many_threads(folder: Path):
    from concurrent.futures import ThreadPoolExecutor

    pictures = read_folder(folder).training
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(pictures.open, list(range(len(pictures))) * 4))
    alone = [np.array(pictures.open(index)) for index in range(len(pictures))] * 4
    assert all((np.array(a) == b).all() for a, b in zip(many, alone, strict=True))
