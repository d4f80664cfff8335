"""Studies of bundled models: the analyses' own results, a figure and an archive of both."""

import io
import zipfile
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import deco_lab
from deco_lab.config import FIELDS, PHOTOGRAPHS
from deco_lab.result import Estimate
from deco_lab.spectra import Crops, band_effects, excess_error, load_result
from deco_lab.studies import STUDIES, crops_for, study
from deco_lab.studies.__main__ import main


@pytest.fixture(scope="module")
def fields() -> Any:
    return deco_lab.load("fields", device="cpu")


@pytest.mark.parametrize("name", STUDIES)
def test_study_has_results_figure_and_an_archive_that_holds_both(fields: Any, name, tmp_path):
    found = study(name, fields, crops_for(fields, 10, (0.3, 0.5)))
    assert all(result.recipe for result in found.results if hasattr(result, "times"))
    found.save(tmp_path / "kept.zip")
    with zipfile.ZipFile(tmp_path / "kept.zip") as archive:
        figure, *numbers = archive.namelist()
        assert figure == f"{name}.svg"
        assert ElementTree.fromstring(archive.read(figure)).tag.endswith("svg")
        assert len(numbers) == len(found.results)
        archive.extractall(tmp_path)
    for stored, result in zip(numbers, found.results, strict=True):
        again = load_result(tmp_path / stored)
        assert type(again) is type(result)
        for field, value in vars(result).items():
            kept = getattr(again, field)
            ends = (value.ends, kept.ends) if isinstance(value, Estimate) else ([value], [kept])
            for one, other in zip(*ends, strict=True):
                np.testing.assert_array_equal(other, one)


def test_study_is_the_analysis_of_the_same_images(fields: Any):
    crops = crops_for(fields, 10, (0.5,), seed=3)
    (parts,) = study("parts", fields, crops).results
    np.testing.assert_array_equal(
        parts.predicted.value,  # type: ignore[attr-defined]
        band_effects(fields, crops).predicted.value,
    )
    found = study("excess", fields, crops)
    assert len(found.results) == len(FIELDS)
    own = crops.labels_for().values == 2
    alone = Crops(crops.images[own], [2, 2], (0.5,), seed=3)
    power = deco_lab.data.field_power(2, 32)
    np.testing.assert_array_equal(
        found.results[2].excess.value,  # type: ignore[attr-defined]
        excess_error(fields, alone, power).excess.value,
    )
    assert all(name in found.svg().decode() for name in FIELDS)


def test_a_single_dit_has_two_measures_and_no_parts():
    model = deco_lab.load("fields-dit", device="cpu")
    crops = crops_for(model, 10, (0.5,))
    assert len(study("measures", model, crops).results) == 2
    with pytest.raises(ValueError, match=r"condition and decode.*pass a DeCo"):
        study("parts", model, crops)
    with pytest.raises(ValueError, match=r"study must be one of measures, .*got 'all'"):
        study("all", model, crops)


def like(num_classes: int, class_names: tuple[str, ...]) -> SimpleNamespace:
    config = SimpleNamespace(image_size=16, num_classes=num_classes, class_names=class_names)
    return SimpleNamespace(config=config)


def test_crops_are_of_each_class_in_turn_and_grouped_by_photograph():
    crops = crops_for(like(17, PHOTOGRAPHS), 19, (0.5,))
    assert crops.labels_for().values.tolist() == [*range(17), 0, 1]
    assert crops.groups.tolist() == crops.labels_for().values.tolist()
    assert torch.equal(crops.images, crops_for(like(17, PHOTOGRAPHS), 19, (0.1,)).images)
    assert not torch.equal(crops.images, crops_for(like(17, PHOTOGRAPHS), 19, seed=1).images)
    other = crops_for(like(1000, ()), 19)
    assert other.labels_for().values.tolist() == [1000] * 19
    assert torch.equal(other.images, crops.images)
    assert other.groups.tolist() == crops.groups.tolist()
    fields = crops_for(like(5, FIELDS), 6)
    assert fields.labels_for().values.tolist() == [0, 1, 2, 3, 4, 0]
    assert len(np.unique(fields.groups)) == 6
    with pytest.raises(ValueError, match="count must be"):
        crops_for(like(5, FIELDS), 0)


def test_excess_of_photographs_is_refused_by_name():
    with pytest.raises(ValueError, match=r"least error.*fields"):
        study("excess", like(17, PHOTOGRAPHS), crops_for(like(17, PHOTOGRAPHS), 2))


def test_command_line_writes_the_archive_it_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["taps", "fields", "--count", "5", "--times", "0.5", "--device", "cpu"])
    said = capsys.readouterr()
    assert said.out.endswith("written: taps-fields.zip\n")
    assert "energy of each fall" in said.err
    assert zipfile.ZipFile("taps-fields.zip").namelist()[0] == "taps.svg"
    for words, sentence in [
        (["taps", "fields", "--out", "taps.png"], "out must be a .zip file"),
        (["all", "fields"], "study must be one of"),
        (["taps", "fields", "--times", "2"], "each of times must be"),
    ]:
        with pytest.raises(SystemExit):
            main(words)
        assert sentence in capsys.readouterr().err


def test_archive_is_the_same_each_time(fields: Any):
    crops = crops_for(fields, 5, (0.5,))
    first, second = (study("taps", fields, crops) for _ in range(2))
    one, other = (zipfile.ZipFile(io.BytesIO(found.zipped())) for found in (first, second))
    assert one.read("taps-0-TapSpectrum.npz") == other.read("taps-0-TapSpectrum.npz")
