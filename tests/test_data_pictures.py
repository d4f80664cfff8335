from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deco_lab.data import PictureDataset, read_folder
from deco_lab.data.pictures import hold_out


def add(path: Path, value: int = 0, size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)
    return path


def names(pictures: PictureDataset) -> list[str]:
    return [pictures.name(index) for index in range(len(pictures))]


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
    assert found.unreadable == {}
    assert found.passed_over == {}
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
    assert len(read_folder(folder, held_out=0).held_out) == 0
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


def test_read_folder_counts_what_is_no_picture_by_kind(tmp_path: Path):
    add(tmp_path / "a" / "x.PNG")
    add(tmp_path / "a" / ".hidden.png")
    add(tmp_path / "a" / ".cache" / "y.png")
    add(tmp_path / ".ipynb_checkpoints" / "z.png")
    add(tmp_path / "loose.png")
    for name in ("IMG_1.HEIC", "deep/IMG_2.heic", "b.jpg_large", "notes.txt", "n.pdf", "n.eps"):
        file = tmp_path / "a" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("words")
    for name in ("one", "two", "caf\udce9"):
        add(tmp_path / "a" / "x.png").rename(tmp_path / "a" / name)
    (tmp_path / "a" / "folder.png").mkdir()
    found = read_folder(tmp_path)
    assert names(found.training) == ["a/x.PNG"]
    assert found.training.class_names == ("a",)
    assert found.unreadable == {}
    assert found.passed_over == {
        "hidden": 2, "outside of the class folders": 2, "without suffix": 3,
        ".heic": 2, ".jpg_large": 1, ".txt": 1, ".pdf": 1, ".eps": 1,
    }  # fmt: skip


def test_read_folder_follows_links_but_reads_no_folder_twice(tmp_path: Path):
    photos, outside, store = tmp_path / "photos", tmp_path / "outside", tmp_path / "store"
    add(photos / "cats" / "0.png")
    add(photos / "dogs" / "1.png")
    add(outside / "more" / "2.png")
    add(outside / "3.png")
    add(photos / "cats" / ".hidden" / "inner" / "4.png")
    add(photos / "dogs" / "young" / "5.png")
    add(store / "eels" / "young" / "6.png")
    for place, target in {
        photos / "birds": outside / "more",  # a class
        photos / "cats" / "more": outside,  # would hold a class's folder again
        photos / "cats" / "loop": photos,
        photos / "cats" / "above": tmp_path,
        photos / "cats" / "dogs": photos / "dogs",
        photos / "cats" / "young": photos / "dogs" / "young",  # are dogs, which are met later
        photos / "eels": store / "eels",
        photos / "birds" / "fish": store / "eels" / "young",
        photos / "dogs" / "hidden": photos / "cats" / ".hidden" / "inner",
        outside / "back": photos,
        outside / "self": outside,
        outside / "nowhere": tmp_path / "nothing",
    }.items():
        place.symlink_to(target, target_is_directory=True)
    found = read_folder(photos, held_out=0)
    assert names(found.training) == [
        "birds/2.png", "cats/0.png", "cats/more/3.png", "dogs/1.png", "dogs/hidden/4.png",
        "dogs/young/5.png", "eels/young/6.png",
    ]  # fmt: skip
    assert found.passed_over == {
        "folders met again by a link": 8, "hidden": 1, "without suffix": 1
    }  # fmt: skip


def test_read_folder_counts_folders_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add(tmp_path / "a" / "x.png")
    add(tmp_path / "a" / "locked" / "y.png")
    add(tmp_path / "a" / "veiled" / "z.png")  # may be listed, but not looked into

    def refuse(name: str, method: Callable[[Path], Any], where: Callable[[Path], Path]) -> None:
        def refusing(place: Path):
            if where(place).name == name:
                raise PermissionError(13, "Permission denied", place)
            return method(place)

        monkeypatch.setattr(Path, method.__name__, refusing)

    refuse("locked", Path.iterdir, lambda place: place)
    refuse("veiled", Path.is_dir, lambda place: place.parent)
    found = read_folder(tmp_path)
    assert names(found.training) == ["a/x.png"]
    assert found.passed_over == {"folders that cannot be listed": 2}
    with pytest.raises(ValueError, match=r"veiled cannot be listed \(Permission denied\); name"):
        read_folder(tmp_path / "a" / "veiled")


def test_read_folder_says_that_splits_are_no_classes(tmp_path: Path):
    for split in ("Train", "test", "validation"):
        add(tmp_path / split / "cats" / "x.png")
    rule = "holds Train, test, validation, which are splits and no classes; give the one to train"
    with pytest.raises(ValueError, match=rule):
        read_folder(tmp_path)
    add(tmp_path / "car" / "y.png")  # now train is a class like another
    assert len(read_folder(tmp_path).training.class_names) == 4
    add(tmp_path / "trains" / "train" / "x.png")
    assert read_folder(tmp_path / "trains").training.class_names == ("train",)


def test_read_folder_names_what_cannot_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    for index in range(5):
        add(tmp_path / "a" / f"{index}.png", index)
    add(tmp_path / "two\nlines" / "200.png", 200)
    whole = add(tmp_path / "a" / "cut.jpg", size=(60, 60)).read_bytes()
    (tmp_path / "a" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "a" / "deep").mkdir()
    (tmp_path / "a" / "deep" / "words\udcff.webp").write_text("words")
    add(tmp_path / "a" / "huge.png", size=(100, 101))
    found = read_folder(tmp_path)
    reasons = {
        "a/cut.jpg": "runcated", "a/deep/words\\xff.webp": "no picture of a known format",
        "a/huge.png": "limit of 10000",
    }  # fmt: skip
    assert list(found.unreadable) == list(reasons)
    for name, reason in reasons.items():
        assert reason in found.unreadable[name]
    assert found.training.class_names == ("a", "two\\nlines")
    read = names(found.training) + names(found.held_out)
    assert sorted(read) == [*(f"a/{i}.png" for i in range(5)), "two\\nlines/200.png"]
    assert "checking pictures: 100%" in capsys.readouterr().err


def test_read_folder_refuses_a_class_without_pictures(tmp_path: Path):
    add(tmp_path / "full" / "x.png")
    (tmp_path / "phone").mkdir()
    rule = r"class phone has no picture that can be read, of {} in .*phone \({}.*\); add some"
    with pytest.raises(ValueError, match=rule.format(0, "passed over: nothing")):
        read_folder(tmp_path)
    for index in range(20):
        (tmp_path / "phone" / f"IMG_{index}.HEIC").touch()
        (tmp_path / "phone" / f"x.{index:02}").touch()
    said = r"passed over: 20 .heic(, 1 .\d\d){11}, 9 of other kinds; .*pip install pillow-heif"
    with pytest.raises(ValueError, match=rule.format(0, said)):
        read_folder(tmp_path)
    (tmp_path / "phone" / "empty.jpg").touch()
    with pytest.raises(ValueError, match=rule.format(1, "phone/empty.jpg: it is no picture")):
        read_folder(tmp_path)


def test_read_folder_refuses_what_is_no_folder_of_classes(tmp_path: Path):
    file = add(tmp_path / "x.png")
    for path, rule in (
        (tmp_path, r"has no sub-folders; put the pictures of each class"),
        (file, r"x.png cannot be listed \(Not a directory\); name a folder with"),
        (tmp_path / "missing", r"missing cannot be listed \(No such file .*\); name a folder with"),
    ):
        with pytest.raises(ValueError, match=rule):
            read_folder(path)


def test_hold_out_takes_its_share_and_both_sides_of_every_class():
    sizes = [1, 2, 3, 10, 2000]
    labels = np.repeat(np.arange(5), sizes)
    chosen = hold_out(labels, [str(index) for index in range(len(labels))], 0.1)
    counts = [int(chosen[labels == label].sum()) for label in range(5)]
    assert counts[0] == 0
    assert counts[1] == 1
    assert all(1 <= count < size for count, size in zip(counts[2:], sizes[2:], strict=True))
    assert abs(counts[4] - 200) < 4 * np.sqrt(2000 * 0.1 * 0.9)
    most = hold_out(labels, [str(index) for index in range(len(labels))], 0.999)
    assert [int((~most[labels == label]).sum()) for label in range(4)] == [1, 1, 1, 1]


def test_hold_out_leaves_pictures_where_they_are_when_others_come():
    keys = [f"{index}.png" for index in range(300)]
    few = hold_out(np.zeros(300, np.int64), keys, 0.1)
    more = hold_out(np.zeros(900, np.int64), keys + [f"new{i}.png" for i in range(600)], 0.1)
    assert (few == more[:300]).all()
    order = np.random.default_rng(0).permutation(300)
    assert (hold_out(np.zeros(300, np.int64), [keys[i] for i in order], 0.1) == few[order]).all()


def test_hold_out_of_nothing_and_of_too_much():
    assert not hold_out(np.zeros(50, np.int64), [str(i) for i in range(50)], 0).any()
    for share in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"held_out must be a share in \[0, 1\)"):
            hold_out(np.zeros(2, np.int64), ["a", "b"], share)
