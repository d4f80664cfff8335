import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from deco_lab.spectra.analysis import Analysis, load_analysis, weights_hash


@dataclass(frozen=True, kw_only=True)
class Curve(Analysis):
    frequency: np.ndarray
    power: np.ndarray
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Other(Analysis):
    value: float


def test_save_and_load_give_the_same_analysis(tmp_path: Path):
    recipe = {"seed": 3, "tap": "tokens", "edges": [0.1, 0.2]}
    power = np.array([[1.5, np.nan], [np.inf, -2]], dtype=np.float32)
    curve = Curve(frequency=np.arange(3) / 7, power=power, names=("a", "b"), recipe=recipe)
    path = tmp_path / "new" / "curve.npz"
    curve.save(path)
    again = load_analysis(path)
    assert isinstance(again, Curve)
    assert np.array_equal(again.frequency, curve.frequency)
    assert np.array_equal(again.power, power, equal_nan=True)
    assert again.power.dtype == np.float32
    assert again.names == ("a", "b")
    assert again.recipe == recipe
    assert [p.name for p in path.parent.iterdir()] == ["curve.npz"]
    Other(value=0.1).save(path)
    assert Other.load(path) == Other(value=0.1)


def test_load_refuses_what_is_no_analysis(tmp_path: Path):
    path = tmp_path / "x.npz"
    with pytest.raises(FileNotFoundError):
        load_analysis(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x\.npz holds no analysis of this version"):
        load_analysis(path)
    np.savez(path, values=np.arange(3))
    with pytest.raises(ValueError, match="holds no analysis"):
        load_analysis(path)
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
    with pytest.raises(ValueError, match="holds no analysis"):
        load_analysis(path)


def test_weights_hash_tells_weights_apart():
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    first, second = map(weights_hash, layers)
    assert first != second == weights_hash(layers[1])
    layers[0].load_state_dict(layers[1].state_dict())
    assert weights_hash(layers[0]) == second
    assert weights_hash(layers[0].to(torch.bfloat16)) != second
    assert weights_hash(object()) == ""
