"""What a model is made of: frozen configurations and the table of presets.

A configuration says everything that is needed to build a model; a checkpoint stores it as JSON.
`DiTConfig` describes the single-DiT baseline, `DeCoConfig` adds the pixel decoder.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from deco_lab.setting import check_choice, check_whole

PREDICTIONS = ("velocity", "image")
"""What a network's output may be."""


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Shape of a diffusion transformer on P x P patches (the single-DiT baseline).

    Raises
    ------
    ValueError
        Where a field breaks one of the rules below; the message names the field and the remedy.
    """

    kind: ClassVar[str] = "DiT"
    """Name of this kind of model, in files and in `deco_lab.models.zoo`."""

    image_size: int = 256
    """Side of the square images the model was trained on, in pixels; a multiple of patch_size."""
    patch_size: int = 16
    """Side P of a patch, in pixels: one token for each patch."""
    num_classes: int = 1000
    """Number of labels; the null label, which stands for "no class", is num_classes."""
    class_names: tuple[str, ...] = ()
    """One name for each class, or none at all."""
    hidden_size: int = 1024
    """Width D of a token; a multiple of 4 * num_heads, so that each head rotates x and y pairs."""
    num_heads: int = 16
    """Attention heads of a block."""
    depth: int = 24
    """Number of transformer blocks."""
    predicts: str = "velocity"
    """What the network's output is: "velocity", or "image", from which the velocity follows by
    `deco_lab.flow.velocity_towards` (JiT, arXiv 2511.13720); a pixel decoder's is the velocity."""
    image_size_assumed: bool = field(default=False, compare=False)
    """Whether image_size is a guess, since the file the model came from does not say."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for each in fields(self):
            if each.type is int:
                whole = check_whole(each.name, getattr(self, each.name), 1)
                object.__setattr__(self, each.name, whole)
        check_choice("predicts", self.predicts, PREDICTIONS)
        if self.image_size % self.patch_size:
            nearest = -(-self.image_size // self.patch_size) * self.patch_size
            raise ValueError(
                f"image_size must be divisible by patch_size={self.patch_size}, "
                f"got {self.image_size}; use {nearest}"
            )
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 4 * num_heads={4 * self.num_heads}, so that "
                f"every head can rotate pairs along x and y, got {self.hidden_size}"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names must hold num_classes={self.num_classes} names or none, "
                f"got {len(self.class_names)}"
            )

    @property
    def null_class(self) -> int:
        """The label that stands for "no class"."""
        return self.num_classes

    @property
    def mlp_width(self) -> int:
        """Inner width of a block's SwiGLU, int(2/3 * 4D)."""
        return int(2 / 3 * 4 * self.hidden_size)


DECODER_CONDITIONINGS = ("adaln", "add")
"""Ways to steer the pixel decoder: the published one, and the one that Table 4 compares it with."""


@dataclass(frozen=True, kw_only=True)
class DeCoConfig(DiTConfig):
    """Shape of a frequency-decoupled model: a DiT and a pixel decoder."""

    kind: ClassVar[str] = "DeCo"

    decoder_depth: int = 3
    """Number of the pixel decoder's residual blocks."""
    decoder_width: int = 32
    """Width d of the vector that the decoder carries for each pixel, or unit of pixels."""
    decoder_patch: int = 1
    """Side q of the units that the decoder works on, in pixels; a divisor of patch_size."""
    decoder_conditioning: str = "adaln"
    """How the condition steers the decoder: "adaln", as published, or "add"."""
    decoder_sees_pixels: bool = True
    """Whether the decoder is given the noisy pixels; without them it knows only the condition."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predicts != "velocity":
            raise ValueError(
                f"predicts must be velocity for a DeCo, whose pixel decoder is not told the time, "
                f"got {self.predicts!r}; a single DiT can predict the image"
            )
        if self.patch_size % self.decoder_patch:
            divisors = [q for q in range(1, self.patch_size + 1) if self.patch_size % q == 0]
            raise ValueError(
                f"decoder_patch must divide patch_size={self.patch_size}, "
                f"got {self.decoder_patch}; use one of {', '.join(map(str, divisors))}"
            )
        check_choice("decoder_conditioning", self.decoder_conditioning, DECODER_CONDITIONINGS)


ModelConfig = DiTConfig
"""Any model's configuration."""


_LEFT_OUT_BY_DEFAULT = {"image_size_assumed", "predicts", "decoder_sees_pixels"}

OPTIONAL_FIELDS = {"class_names", "decoder_patch", "decoder_conditioning", *_LEFT_OUT_BY_DEFAULT}
"""Fields that a stored configuration may lack; one that is added later belongs here."""


def config_to_dict(config: ModelConfig) -> dict[str, object]:
    """Return `config` as a JSON-ready dictionary that `config_from_dict` reads back."""
    values = {"model": config.kind, **asdict(config)}
    for each in fields(config):  # as most are, and as files were before there was the field
        if each.name in _LEFT_OUT_BY_DEFAULT and values[each.name] == each.default:
            del values[each.name]
    return values


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """Return the configuration that `config_to_dict` wrote.

    An optional field that is missing takes its default, so that files outlive new fields.

    Raises
    ------
    ValueError
        For an unknown kind of model, an unknown or missing field, or a value out of range.
    """
    kinds = {each.kind: each for each in (*DiTConfig.__subclasses__(), DiTConfig)}
    kind = check_choice("model", values.get("model"), kinds)
    known = {each.name for each in fields(kinds[kind])} | {"model"}
    unknown, missing = values.keys() - known, known - values.keys() - OPTIONAL_FIELDS
    if unknown or missing:
        raise ValueError(
            f"a {kind} configuration has the fields {', '.join(sorted(known))}; "
            f"missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    return kinds[kind](**{name: value for name, value in values.items() if name != "model"})


PHOTOGRAPHS = (
    "astronaut", "brick", "chelsea", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "ihc", "moon", "motorcycle_left", "retina", "rocket", "text",
    "china", "flower", "grace_hopper",
)  # fmt: skip
"""Names of the bundled photographs, one class each, in label order."""

FIELDS = ("gaussian 1/f", "gaussian 1/f2", "gaussian 1/f3", "leaves", "leaves, phases shuffled")
"""Names of the fields of `deco_lab.data.FieldSampler`, one class each, in label order."""

_TINY = {"image_size": 64, "patch_size": 8, "num_classes": 17, "class_names": PHOTOGRAPHS}

_FIELDS = {"image_size": 32, "patch_size": 8, "num_classes": 5, "class_names": FIELDS}

PRESETS: dict[str, ModelConfig] = {
    # Bundled toys: seventeen photographs. Tokens are narrower than a patch, which has 192 values.
    # The baseline has a block more, as the paper's, so that parameters are within 3%; it predicts
    # the image, since no velocity, which holds the noise, fits through tokens so narrow.
    "tiny": DeCoConfig(**_TINY, hidden_size=128, num_heads=4, depth=8, decoder_depth=2),
    "tiny-dit": DiTConfig(**_TINY, hidden_size=128, num_heads=4, depth=9, predicts="image"),
    # Bundled toys of fields: fewer channels a token (64 and 80) than a patch has values, 192, so
    # that no token can carry all of its pixels; parameters within 1% of each other.
    "fields": DeCoConfig(
        **_FIELDS, hidden_size=64, num_heads=4, depth=3, decoder_depth=2, decoder_width=36
    ),
    "fields-dit": DiTConfig(**_FIELDS, hidden_size=80, num_heads=5, depth=3),
    # Published, ImageNet (arXiv 2511.19365). FID at 256: XL 1.62 after 800 epochs; L after 200k
    # iterations without guidance 31.35 (Table 1), its baseline DiT-L 61.1.
    "DeCo-L/16": DeCoConfig(hidden_size=1024, num_heads=16, depth=22),
    "DeCo-XL/16": DeCoConfig(hidden_size=1152, num_heads=16, depth=28),
    "DiT-L/16": DiTConfig(hidden_size=1024, num_heads=16, depth=24),
}
"""Shapes by name; parameter counts stand in the README and are tested."""
