"""Settings: each rule in a sentence, and the same settings back from a link."""

from dataclasses import fields
from urllib.parse import parse_qs

import pytest

from deco_lab.setting import RuleError
from deco_lab.workbench.settings import (
    Settings,
    check_pixels,
    from_query,
    holds_settings,
    origin_of,
    settings_from,
    to_query,
)

CHANGED = Settings(
    model="runs/a b&c.safetensors",
    class_ids=(3, 1),
    num_images=5,
    seed=2**31,
    num_steps=7,
    solver="adams2",
    time_shift=1.5,
    guidance="by band",
    guidance_scale=2.25,
    guidance_interval=(0.0, 0.7),
    band_scales=(1, 2.5, 0, 4),
    dit_gains=(1, 0, -1, 0.1),
    decoder_gains=(0.3, 1, 1, 2),
    guidance_curve=(0, 1, 0.5),
    band_curves=(0, 1) * 4,
    dit_curves=(1, 1, -2) * 4,
    decoder_curves=(1, 0.3) * 4,
    condition_reuse=2,
    start_from="earlier run",
    origin=origin_of(Settings(num_images=5, start_from="own picture"), 7),
    mask="8.DC6BB",
    start_t=0.3,
    decompose=False,
)


def as_parameters(query):
    return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}


def test_to_query_comes_back_as_the_same_settings():
    assert len(CHANGED.changed()) == len(fields(Settings))
    assert from_query(as_parameters(to_query(CHANGED)) | {"__theme": "dark"}) == CHANGED


def test_to_query_says_defaults_too():
    query = as_parameters(to_query(Settings()))
    assert query.keys() == {field.name for field in fields(Settings)}
    assert query["guidance_scale"] == "3.0"
    assert holds_settings({"seed": "4", "__theme": "dark"})
    assert not holds_settings({"__theme": "dark"})


def test_guided_from_is_where_guidance_begins_and_none_where_it_is_off():
    assert Settings(guidance_interval=(0.3, 0.9)).guided_from == 0.3
    assert Settings(guidance_scale=1.0).guided_from is None
    assert Settings(guidance="by band", band_scales=(1.0,) * 4).guided_from is None
    assert Settings(guidance="by band", band_scales=(1.0, 1.0, 1.0, 2.0)).guided_from == 0.1


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "nan of", ""])
def test_from_query_refuses_what_is_not_json(text):
    with pytest.raises(ValueError, match=r"^seed in the link must be JSON, got .{1,80}$"):
        from_query({"seed": text})


def test_settings_from_reads_those_of_older_links_and_pictures():
    expected = Settings(guidance_interval=(0.1, 0.7), seed=2)
    assert settings_from({"guidance_high": 0.7, "seed": 2}) == expected
    assert from_query({"guidance_low": "0.1", "guidance_high": "0.7", "seed": "2"}) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number from 1 to 1000, got 0"),
        ({"num_steps": 1001}, "from 1 to 1000, got 1001"),
        ({"num_steps": 2.5}, "from 1 to 1000, got 2.5"),
        ({"num_steps": True}, "from 1 to 1000, got True"),
        ({"num_images": 17}, "num_images must be a whole number from 1 to 16, got 17"),
        ({"num_images": None}, "from 1 to 16, got None"),
        ({"class_ids": 3}, "class_ids must be a list of numbers, got 3"),
        ({"class_ids": []}, "class_ids must be 1 to 16 labels, got 0"),
        ({"class_ids": ["cat"]}, "each of class_ids must be a whole number"),
        ({"class_ids": [-1]}, "each of class_ids must be a whole number"),
        ({"guidance_scale": "much"}, "guidance_scale must be a number from 0 to 100, got 'much'"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from 0 to 100"),
        ({"guidance_interval": (1.0, 1.0)}, r"0 <= low < high <= 1, got \(1.0, 1.0\)"),
        ({"guidance_interval": 0.5}, "guidance_interval must be two times .* got 0.5"),
        ({"guidance_interval": {0.1: 0, 0.5: 0}}, "guidance_interval must be two times .* got {"),
        ({"solver": "rk4"}, r"solver must be one of euler, .*, got 'rk4'"),
        ({"solver": ["euler"]}, "solver must be one of euler, "),
        ({"guidance": "more"}, "guidance must be one of plain, by band, "),
        ({"time_shift": 0}, "time_shift must be a number from 0.01 to 100, got 0"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": "x" * 10_000}, "seed must be a whole number"),
        ({"seed": 2**32 - 3}, r"seed must be below 2\*\*32 for every image, got 4294967293"),
        ({"band_scales": [1, 2]}, "band_scales must be 4 numbers, one a band, lowest first, got 2"),
        ({"band_scales": [1, 2, 3, -1]}, "each of band_scales must be a number from 0 to 100"),
        ({"dit_gains": [1, 2, 3, 11]}, "each of dit_gains must be a number from -10 to 10, got 11"),
        ({"decoder_gains": "1111"}, "decoder_gains must be a list of numbers, got '1111'"),
        ({"decompose": 1}, "decompose must be true or false, got 1"),
        ({"model": ""}, "model must be the name of a loaded model, got ''"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_settings_refuse_in_a_sentence(values, message):
    with pytest.raises(ValueError, match=message) as refused:
        Settings(**values)
    assert len(str(refused.value)) < 150  # little of what was sent is quoted


def test_labels_take_the_classes_in_turn():
    assert Settings(class_ids=(5, 2), num_images=5).labels == [5, 2, 5, 2, 5]


def test_check_pixels_bounds_those_of_all_images_together():
    check_pixels(Settings(num_images=2), 1024)
    with pytest.raises(ValueError, match="num_images must be at most 2 for images of 1024 x 1024"):
        check_pixels(Settings(num_images=3), 1024)


@pytest.mark.parametrize(
    ("changed", "names", "place", "rule"),
    [
        ({"num_steps": 0}, ("num_steps",), None, "must be a whole number from 1 to 1000, got 0"),
        ({"class_ids": []}, ("class_ids",), None, "must be 1 to 16 labels, got 0"),
        (
            {"dit_gains": (1, 1, 11, 1)}, ("dit_gains",), 2,
            "must be a number from -10 to 10, got 11",
        ),
        (
            {"guidance_interval": (0.5, 0.5)}, ("guidance_interval",), 0,
            "must be before guided to t, got 0.5 and 0.5",
        ),
        (
            {"guidance_interval": (0.5, 2)}, ("guidance_interval",), 1,
            "must be a number from 0 to 1, got 2",
        ),
    ],
)  # fmt: skip
def test_refusals_tell_a_form_what_to_mark_and_what_to_say(changed, names, place, rule):
    with pytest.raises(RuleError) as caught:
        Settings(**changed)
    assert (caught.value.names, caught.value.place, caught.value.rule) == (names, place, rule)
