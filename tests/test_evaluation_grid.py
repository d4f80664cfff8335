"""The patch grid meter: what it says of pictures with and without a grid, and of bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_seams import cut, planted, randn
from torch import Tensor

from deco_lab.data import to_picture
from deco_lab.evaluation.grid import main
from deco_lab.sampling.image_files import write_npz, write_pngs
from deco_lab.spectra import find_seams


def keep(folder: Path, images: Tensor, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        to_picture(image[None]).save(folder / f"{i}{suffix}")
    return folder


def test_main_tells_pictures_with_a_grid_from_those_without(tmp_path: Path, capsys):
    plain = cut(10, 96)
    keep(tmp_path / "plain", plain)
    keep(tmp_path / "meshed", planted(plain, "mesh", 4, 8))
    folders = [str(tmp_path / name) for name in ("plain", "meshed")]
    main([*folders, "--patch", "8", "--out", str(tmp_path / "found")])
    said = capsys.readouterr().out
    assert "plain does not show the grid of 8 x 8 patches" in said
    assert "meshed shows the grid of 8 x 8 patches: a pattern that repeats" in said
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["sets"]
    own, *others = (place["value"] for place in found["meshed"]["ratio_by_place"])
    assert min(own, others[0]) > 1.05 > max(others[1:])  # a line has steps on both sides
    expected = find_seams(planted(plain, "mesh", 4, 8), 8)
    assert own == pytest.approx(expected.ratios()[0].value, rel=0.02)  # files hold 8 bits
    level = found["meshed"]["lines_db"][0]
    assert level["value"] == pytest.approx(expected.line_levels()[0].value, abs=0.3)
    assert level["low"] > 0
    assert np.array(found["plain"]["edge_ratios"]).shape == (12, 12)
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width > 600


def test_main_says_of_one_picture_that_it_has_no_interval(tmp_path: Path, capsys):
    """Not square, no multiple of P, with transparency; P = 14."""
    image = np.array(to_picture(planted(cut(1, 96), "steps", 40, 14)))
    image = np.dstack([image[:90], np.full((90, 96), 255, np.uint8)])
    Image.fromarray(image).save(tmp_path / "one.png")
    main([str(tmp_path / "one.png"), "--patch", "14", "--out", str(tmp_path / "found")])
    said = capsys.readouterr().out
    assert "one.png shows the grid of 14 x 14 patches: steps at the edges" in said
    assert "[" not in said.split("written")[0]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["sets"]
    assert found["one.png"]["ratio_by_place"][0]["low"] is None


def test_main_cannot_tell_of_small_patches_from_one_picture(tmp_path: Path, capsys):
    keep(tmp_path, planted(cut(1, 96), "steps", 40, 4))
    main([str(tmp_path / "0.png"), "--patch", "4"])
    assert "one picture cannot tell of patches below 8 pixels" in capsys.readouterr().out


def test_main_names_what_it_leaves_out_and_goes_on(tmp_path: Path, capsys):
    folder = tmp_path / ".cache" / "in"  # hidden are only files and folders in what is named
    keep(folder / "deep", cut(2, 96))
    keep(folder / ".thumbnails", cut(1, 96))
    Image.new("L", (64, 40)).save(folder / "grey.png")
    Image.new("RGB", (20, 90)).save(folder / "narrow.png")
    (folder / "bad.png").write_bytes(b"\x89PNG, cut short")
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    main([str(folder), "--patch", "8"])
    said = capsys.readouterr()
    assert re.search(r"^pictures +3$", said.out, re.MULTILINE)
    assert re.search(r"left out: \S*bad.png: it is no picture", said.err)
    assert "narrow.png: 20 x 90 pixels are less than 3 x 3 patches of 8" in said.err
    assert said.err.count("left out") == 2


def test_main_warns_of_the_blocks_of_jpeg_files(tmp_path: Path, capsys):
    keep(tmp_path, cut(2, 96), ".jpg")
    main([str(tmp_path / "0.jpg"), str(tmp_path / "1.jpg"), "--patch", "16"])
    assert "2 of 2 pictures of 2 files are JPEG, whose own blocks" in capsys.readouterr().err
    main([str(tmp_path / "0.jpg"), "--patch", "14"])
    assert "JPEG" not in capsys.readouterr().err


def test_main_takes_samples_as_sampling_writes_them(tmp_path: Path, capsys):
    images = planted(cut(4, 96), "mesh", 8, 8)
    write_pngs(tmp_path, 0, images)
    write_npz(tmp_path, 96, [0, 1, 2, 3])
    main(
        [str(tmp_path / "samples_4x96x96x3.npz"), "--patch", "8", "--out", str(tmp_path / "found")]
    )
    assert "shows the grid" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["sets"]
    pixels = np.stack([np.asarray(to_picture(each[None])) for each in images])
    (name,) = found
    ratio = find_seams(pixels.transpose(0, 3, 1, 2).astype(float), 8).ratios()[0]
    assert found[name]["ratio_by_place"][0]["value"] == pytest.approx(ratio.value)


@pytest.mark.slow
def test_main_reproduces_the_ratios_of_the_bundled_pair(tmp_path: Path):
    main(["tiny", "tiny-dit", "--out", str(tmp_path / "pair")])
    found = json.loads((tmp_path / "pair.json").read_text(encoding="utf-8"))["sets"]
    ratio = {name: found[name]["ratio_by_place"][0] for name in ("tiny", "tiny-dit")}
    assert 1.2 < ratio["tiny"]["value"] < 1.35
    assert 1.3 < ratio["tiny-dit"]["value"] < 1.5
    assert ratio["tiny"]["value"] < ratio["tiny-dit"]["value"]
    assert all("steps" in found[name]["verdict"] for name in ratio)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--patch", "8"], "pictures must be given"),
        (["tiny", "--count", "0"], "count must be a whole number of at least 1, got 0"),
        (["{0}/none.png", "--patch", "8"], "none.png: images must hold at least one image"),
        (["{0}/empty", "--patch", "8"], "empty: images must hold at least one image, got none"),
        (["{0}/empty"], "--patch must be given for pictures"),
        (["{0}/bad.npz", "--patch", "8"], "must be an NPZ of images .* got something else"),
        (["{0}/labels.npz", "--patch", "8"], "must be an NPZ of images .* array is .5,. of int64"),
        (["no-model", "--patch", "8"], "no-model"),
        (["{0}/empty", "{0}/empty", "--patch", "8"], "must have different names"),
        (["{0}/empty", "--patch", "2"], "patch_size must be at least 3, got 2"),
        (["tiny", "--out", "{0}/bad"], "out must be new or an earlier evaluation's"),
    ],
)
def test_main_refuses_in_one_sentence(tmp_path: Path, capsys, arguments: list[str], match: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    np.savez(tmp_path / "labels.npz", arr_0=np.arange(5))
    with pytest.raises(SystemExit, match="2"):
        main([argument.format(tmp_path) for argument in arguments])
    *before, said = capsys.readouterr().err.splitlines()
    assert re.search(f": error: .*{match}", said)
    assert all(line.startswith("left out") for line in before)


def test_edge_ratios_are_of_the_patches_with_a_grid(tmp_path: Path):
    """Half of the picture has steps at its edges, and the map says which."""
    image = randn(1, 3, 48, 96, seed=5) * 0.05
    image[..., 48:] = planted(image[..., 48:], "steps", 60, 8)
    keep(tmp_path, image)
    main([str(tmp_path / "0.png"), "--patch", "8", "--out", str(tmp_path / "found")])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["sets"]
    ratios = np.array(found["0.png"]["edge_ratios"])
    assert ratios[:, :5].max() < 1.3 < 1.5 < np.median(ratios[:, 7:])
