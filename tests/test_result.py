import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from deco_lab.result import Estimate, Result, load_result, weights_hash


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve(Result):
    frequency: np.ndarray
    power: np.ndarray
    height: Estimate
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Other(Result):
    value: float


def test_save_and_load_give_the_same_result(tmp_path: Path):
    recipe = {"seed": 3, "tap": "tokens", "edges": [0.1, 0.2]}
    power = np.array([[1.5, np.nan], [np.inf, -2]], dtype=np.float32)
    height = Estimate(power, power - 1, power + 1, count=7)
    curve = Curve(
        frequency=np.arange(3) / 7, power=power, height=height, names=("a", "b"), recipe=recipe
    )
    path = tmp_path / "new" / "curve.npz"
    curve.save(path)
    again = load_result(path)
    assert isinstance(again, Curve)
    assert np.array_equal(again.frequency, curve.frequency)
    assert np.array_equal(again.power, power, equal_nan=True)
    assert again.power.dtype == np.float32
    assert again.height.count == 7
    for end, stored in zip(again.height.ends, height.ends, strict=True):
        np.testing.assert_array_equal(end, stored)
    assert again.names == ("a", "b")
    assert again.recipe == recipe
    assert [p.name for p in path.parent.iterdir()] == ["curve.npz"]
    Other(value=0.1).save(path)
    assert Other.load(path).value == 0.1


def test_load_refuses_what_is_no_result(tmp_path: Path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError):
        load_result(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x\.npz holds no result of this version"):
        load_result(path)
    np.savez(path, values=np.arange(3))
    with pytest.raises(ValueError, match="holds no result"):
        load_result(path)
    Other(value=1.0).save(path)
    with pytest.raises(ValueError, match=r"must hold a Curve, got a Other; use Other\.load"):
        Curve.load(path)


def test_load_runs_no_pickled_code(tmp_path: Path):
    path = tmp_path / "x.npz"
    np.savez(path, values=np.array([object()], dtype=object))
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("values.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("analysis.json.npy", pickled)
    with pytest.raises(ValueError, match="holds no result"):
        load_result(path)


def test_weights_hash_tells_weights_apart():
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    first, second = map(weights_hash, layers)
    assert first != second == weights_hash(layers[1])
    layers[0].load_state_dict(layers[1].state_dict())
    assert weights_hash(layers[0]) == second
    assert weights_hash(layers[0].to(torch.bfloat16)) != second
    assert weights_hash(object()) == ""


def test_estimate_is_taken_apart_and_written_with_its_ends():
    values = np.arange(6.0).reshape(2, 3)
    found = Estimate(values, values - 0.25, values + 0.5, count=9)
    assert f"{found[1, 0]:.2f}" == "3.00 [2.75, 3.50]"
    assert f"{Estimate(-0.001, -0.002, 0.2):.2f}" == "0.00 [0.00, 0.20]"
    assert [f"{each:.0%}" for each in found[0, :1]] == ["0% [-25%, 50%]"]
    assert found[:, 1:].value.tolist() == [[1, 2], [4, 5]]
    assert (len(found), found[0].count) == (2, 9)
    for end, of_row in zip(found.ends, found[1].ends, strict=True):
        np.testing.assert_array_equal(end[1], of_row)
