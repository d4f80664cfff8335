"""The kinds of model, one entry each: all that is known of a kind beside its own module.

To add a kind, write its configuration and its class, and their entry here; building, loading,
saving and the faster ways follow from it.

References
----------
[1] Ma et al., "DeCo: Frequency-Decoupled Pixel Diffusion for End-to-End Image Generation",
    arXiv 2511.19365; weights at https://huggingface.co/zehongma/DeCo.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deco_lab.config import DeCoConfig, DiTConfig, ModelConfig
from deco_lab.models.deco import DeCo
from deco_lab.models.decoder import NUM_POSITION_FEATURES, PixelDecoder
from deco_lab.models.dit import DiT

Model = DeCo | DiT
"""Any model of this package."""

Shapes = Mapping[str, tuple[int, ...]]
"""Our name of each tensor, and its shape."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of model."""

    config: type[DiTConfig]
    """Class of its configurations; `config.kind` is its name in files."""
    model: Callable[[Any], Model]
    """Makes an untrained model of a configuration."""
    names: Mapping[str, str]
    """Our layers' names and those of the published checkpoints; {i} counts blocks. The last part of
    a tensor's name, `weight` or `bias`, is the same."""
    marks: tuple[str, ...]
    """How names of tensors begin, ours or the published ones, that only this kind has."""
    fields: Callable[[Shapes], dict[str, Any]]
    """Returns what shapes of tensors tell of the configuration."""


def kind_of(names: Iterable[str]) -> str:
    """Return the kind of model that has tensors of these names, ours or the published ones."""
    names = list(names)
    marked = (
        kind for kind, entry in KINDS.items() if any(n.startswith(entry.marks) for n in names)
    )
    return next(marked, DiTConfig.kind)


def build(config: ModelConfig) -> Model:
    """Return an untrained model of the shape that `config` describes."""
    return KINDS[config.kind].model(config)


def decoder_of(model: Model) -> PixelDecoder | None:
    """Return a model's pixel decoder, if it has one."""
    return getattr(model, "decoder", None)


def published_name(name: str, kind: str) -> str | None:
    """Return the published name of our tensor `name` in a model of `kind`.

    None where there is no such tensor. Undone by `our_name`.
    """
    return _translate(name, KINDS[kind].names)


def our_name(name: str, kind: str) -> str | None:
    """Return our name of the published tensor `name` in a model of `kind`.

    None where there is no such tensor. Undone by `published_name`.
    """
    return _translate(name, {theirs: ours for ours, theirs in KINDS[kind].names.items()})


def _translate(name: str, names: Mapping[str, str]) -> str | None:
    layer, _, tensor = name.rpartition(".")
    number = re.search(r"(?<=blocks\.)\d+", layer)
    pattern = re.sub(r"(?<=blocks\.)\d+", "{i}", layer)
    if pattern not in names:
        return None
    return f"{names[pattern]}.{tensor}".replace("{i}", number[0] if number else "")


def config_from_shapes(shapes: Shapes, kind: str) -> ModelConfig:
    """Return the configuration of the model of `kind` whose tensors have these shapes.

    The number of heads follows from the width of the queries' norm, the side q of the decoder's
    units from its embedding of 3 q^2 values and their place, and a decoder without modulation adds
    its condition. Shapes do not tell the names of the classes, which are left out, nor the size of
    the images: 256 pixels are assumed for patches of 16, as published, otherwise eight patches.

    Raises
    ------
    KeyError
        With the name, in our names, of a tensor that is needed and missing.
    ValueError
        Where the shapes give no valid model.
    """
    return KINDS[kind].config(**KINDS[kind].fields(shapes))


def _sizes(shapes: Shapes, name: str, ndim: int) -> tuple[int, ...]:
    shape = shapes[name]
    if len(shape) != ndim or 0 in shape:
        raise ValueError(f"{name} must have {ndim} axes of at least 1, got shape {shape}")
    return shape


def _count_blocks(names: Iterable[str], prefix: str) -> int:
    return len({n.removeprefix(prefix).split(".")[0] for n in names if n.startswith(prefix)})


def _backbone_fields(shapes: Shapes) -> dict[str, Any]:
    num_labels, hidden_size = _sizes(shapes, "trunk.label_embedding.weight", 2)
    (head_width,) = _sizes(shapes, "trunk.blocks.0.attention.query_norm.weight", 1)
    patch_size = math.isqrt(_sizes(shapes, "trunk.patch_embedding.weight", 2)[1] // 3)
    return {
        "image_size": 256 if patch_size == 16 else 8 * patch_size,
        "image_size_assumed": True,
        "patch_size": patch_size,
        "num_classes": num_labels - 1,
        "hidden_size": hidden_size,
        "num_heads": hidden_size // head_width,
        "depth": _count_blocks(shapes, "trunk.blocks."),
    }


def _deco_fields(shapes: Shapes) -> dict[str, Any]:
    fields = _backbone_fields(shapes)
    decoder_width, inputs = _sizes(shapes, "decoder.pixel_embedding.weight", 2)
    modulated = any(re.match(r"decoder\.blocks\.\d+\.modulation\.", name) for name in shapes)
    return fields | {
        "decoder_depth": _count_blocks(shapes, "decoder.blocks."),
        "decoder_width": decoder_width,
        "decoder_patch": math.isqrt(max(0, inputs - NUM_POSITION_FEATURES) // 3),
        "decoder_conditioning": "adaln" if modulated else "add",
    }


_BACKBONE_NAMES = {
    "trunk.time_embedding.mlp.0": "t_embedder.mlp.0",
    "trunk.time_embedding.mlp.2": "t_embedder.mlp.2",
    "trunk.label_embedding": "y_embedder.embedding_table",
    "trunk.blocks.{i}.attention_norm": "blocks.{i}.norm1",
    "trunk.blocks.{i}.attention.qkv": "blocks.{i}.attn.qkv",
    "trunk.blocks.{i}.attention.query_norm": "blocks.{i}.attn.q_norm",
    "trunk.blocks.{i}.attention.key_norm": "blocks.{i}.attn.k_norm",
    "trunk.blocks.{i}.attention.output": "blocks.{i}.attn.proj",
    "trunk.blocks.{i}.mlp_norm": "blocks.{i}.norm2",
    "trunk.blocks.{i}.mlp.gate": "blocks.{i}.mlp.w1",
    "trunk.blocks.{i}.mlp.value": "blocks.{i}.mlp.w3",
    "trunk.blocks.{i}.mlp.output": "blocks.{i}.mlp.w2",
    "trunk.blocks.{i}.modulation": "blocks.{i}.adaLN_modulation.0",
}

KINDS = {
    entry.config.kind: entry
    for entry in (
        Kind(
            config=DeCoConfig,
            model=DeCo,
            names={
                **_BACKBONE_NAMES,
                "trunk.patch_embedding": "s_embedder.proj",
                "decoder.pixel_embedding": "x_embedder.embedder.0",
                "decoder.input_projection": "dec_net.input_proj",
                "decoder.condition_projection": "dec_net.cond_embed",
                "decoder.blocks.{i}.norm": "dec_net.res_blocks.{i}.in_ln",
                "decoder.blocks.{i}.mlp.0": "dec_net.res_blocks.{i}.mlp.0",
                "decoder.blocks.{i}.mlp.2": "dec_net.res_blocks.{i}.mlp.2",
                "decoder.blocks.{i}.modulation": "dec_net.res_blocks.{i}.adaLN_modulation.1",
                "decoder.head": "dec_net.final_layer.linear",
            },
            marks=("decoder.", "dec_net."),
            fields=_deco_fields,
        ),
        Kind(
            config=DiTConfig,
            model=DiT,
            names={
                **_BACKBONE_NAMES,
                "trunk.patch_embedding": "x_embedder.proj",
                "final_modulation": "final_layer.adaLN_modulation.0",
                "head": "final_layer.linear",
            },
            marks=(),
            fields=_backbone_fields,
        ),
    )
}
"""By `config.kind`; tensors without another kind's marks are a DiT's."""
