import json
from dataclasses import FrozenInstanceError

import pytest

from deco_lab.config import (
    OPTIONAL_FIELDS,
    PHOTOGRAPHS,
    PRESETS,
    DeCoConfig,
    DiTConfig,
    config_from_dict,
    config_to_dict,
)

CONFIGS = {
    **PRESETS,
    "ablation": DeCoConfig(decoder_patch=4, decoder_conditioning="add", decoder_sees_pixels=False),
    "image": DiTConfig(predicts="image", image_size_assumed=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_config_survives_json(config):
    restored = config_from_dict(json.loads(json.dumps(config_to_dict(config))))
    assert restored == config
    assert type(restored) is type(config)
    assert restored.class_names == config.class_names  # a tuple again, not a list


def test_presets_are_the_published_shapes():
    xl = PRESETS["DeCo-XL/16"]
    assert isinstance(xl, DeCoConfig)
    assert (xl.patch_size, xl.hidden_size, xl.num_heads, xl.depth) == (16, 1152, 16, 28)
    assert (xl.decoder_depth, xl.decoder_width, xl.num_classes) == (3, 32, 1000)
    # The pixel decoder stands in for the baseline's last two blocks.
    assert PRESETS["DiT-L/16"].depth == PRESETS["DeCo-L/16"].depth + 2


def test_tiny_presets_are_the_photographs_alike():
    for preset in ("tiny", "tiny-dit"):
        config = PRESETS[preset]
        assert config.class_names == PHOTOGRAPHS
        assert config.num_classes == config.null_class == len(set(PHOTOGRAPHS)) == 17
        assert config.image_size // config.patch_size == 8  # the token grid is one DCT block


@pytest.mark.parametrize(("hidden_size", "expected"), [(1024, 2730), (1152, 3072), (64, 170)])
def test_config_mlp_width_is_two_thirds_of_four(hidden_size, expected):
    assert DiTConfig(hidden_size=hidden_size, num_heads=4).mlp_width == expected


def test_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        DiTConfig().depth = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"depth": 2.0}, r"depth must be a whole number of at least 1, got 2\.0"),
        ({"depth": True}, "depth must be a whole number of at least 1, got True"),
        ({"decoder_width": -1}, "decoder_width must be a whole number of at least 1, got -1"),
        ({"image_size": 250}, "image_size must be divisible by patch_size=16, got 250; use 256"),
        ({"hidden_size": 1000}, r"hidden_size must be a multiple of 4 \* num_heads=64, .*got 1000"),
        ({"class_names": ["a", "b"]}, "class_names must hold num_classes=1000 names .*, got 2"),
        ({"decoder_patch": 3}, "decoder_patch must divide patch_size=16, got 3; .* 1, 2, 4, 8, 16"),
        ({"decoder_patch": 32}, "decoder_patch must divide patch_size=16, got 32"),
        ({"decoder_conditioning": "concat"}, "decoder_conditioning must be one of adaln, add, got"),
        ({"decoder_conditioning": None}, "decoder_conditioning must be one of .*, got None"),
        ({"predicts": "noise"}, "predicts must be one of velocity, image, got 'noise'"),
        ({"predicts": "image"}, "predicts must be velocity for a DeCo, .*a single DiT can"),
    ],
)
def test_config_says_what_is_wrong(values, match):
    with pytest.raises(ValueError, match=match):
        DeCoConfig(**values)


def test_config_from_dict_says_what_is_wrong():
    values = config_to_dict(PRESETS["tiny"])
    with pytest.raises(ValueError, match=r"model must be one of DeCo, .*DiT, got 'UNet'"):
        config_from_dict({**values, "model": "UNet"})
    with pytest.raises(ValueError, match=r"missing \[\], unknown \['dropout'\]"):
        config_from_dict({**values, "dropout": 0.1})
    del values["depth"]
    with pytest.raises(ValueError, match=r"missing \['depth'\], unknown \[\]"):
        config_from_dict(values)


def test_config_from_dict_takes_files_without_the_optional_fields():
    values = config_to_dict(PRESETS["DeCo-XL/16"])
    assert not {"predicts", "decoder_sees_pixels"} & values.keys()  # as most models are
    required = {name: value for name, value in values.items() if name not in OPTIONAL_FIELDS}
    assert config_from_dict(required) == PRESETS["DeCo-XL/16"]
