"""What a person chooses before a run, as plain values that go into a file, a link or a script.

`Settings` is JSON-ready and holds nothing of the model but its name, so that the same settings
with the same model draw the same images. It is checked as a whole, at once, in sentences.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from deco_lab.sampling import (
    SOLVERS,
    BandGuidance,
    GuidanceRule,
    PlainGuidance,
    ProjectedGuidance,
    RescaledGuidance,
    ZeroStarGuidance,
)
from deco_lab.spectra import OCTAVES

MAX_STEPS = 1000
"""Most solver steps of one run."""
MAX_IMAGES = 16
"""Most images of one run."""
MAX_PIXELS = 2**21
"""Most pixels of one run's images together: two of 1024 x 1024."""
MAX_REUSE = 16
"""Most evaluations for which one condition serves."""
MAX_GAIN = 10.0
"""Greatest gain of a part in a band, and, with a minus, the least."""
MAX_SCALE = 100.0
"""Greatest guidance scale, and greatest time shift."""

GUIDANCE_RULES = ("plain", "by band", "rescaled", "projected", "zero-star")
"""Names of the rules of `deco_lab.sampling`, in the order of its table."""

_BANDS = len(OCTAVES) + 1
_ONES = (1.0,) * _BANDS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run. Frozen; `Settings(...)` raises ValueError where a value breaks its rule."""

    model: str = "tiny"
    """Name of a model that is loaded."""
    class_ids: tuple[int, ...] = (0,)
    """Labels; image i is of the class class_ids[i % len(class_ids)]."""
    num_images: int = 4
    """From 1 to MAX_IMAGES."""
    seed: int = 0
    """Image i starts from the noise of seed + i."""
    num_steps: int = 50
    """From 1 to MAX_STEPS."""
    solver: str = "euler"
    """A name in `deco_lab.sampling.SOLVERS`."""
    time_shift: float = 1.0
    """Above 1 spends more steps near the noise; from 0.01 to MAX_SCALE."""
    guidance: str = "plain"
    """A name in GUIDANCE_RULES."""
    guidance_scale: float = 3.0
    """From 0 to MAX_SCALE; 1 is off. Without effect on "by band", which has band_scales."""
    guidance_low: float = 0.1
    """Guidance starts above this t, in [0, 1)."""
    guidance_high: float = 1.0
    """Guidance ends after this t, in (0, 1]."""
    band_scales: tuple[float, ...] = (3.0,) * _BANDS
    """Guidance scales of the four bands of "by band", lowest first, from 0 to MAX_SCALE."""
    dit_gains: tuple[float, ...] = _ONES
    """What the DiT's part of the velocity is multiplied with, band by band; 1 leaves it."""
    decoder_gains: tuple[float, ...] = _ONES
    """The same for the decoder's part; both from -MAX_GAIN to MAX_GAIN."""
    condition_reuse: int = 1
    """Evaluations for which one pass of the DiT serves; 1 is none, from 1 to MAX_REUSE."""
    decompose: bool = True
    """Whether each step's predicted image is taken apart: of one image, costs seven decoder passes
    a step and, up to 16 times a run, two of the DiT."""

    def __post_init__(self) -> None:
        for name in ("class_ids", "band_scales", "dit_gains", "decoder_gains"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple):
                raise ValueError(f"{name} must be a list of numbers, got {_said(value)}")
            object.__setattr__(self, name, tuple(value))
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be the name of a loaded model, got {_said(self.model)}")
        check_whole("num_images", self.num_images, 1, MAX_IMAGES)
        check_whole("num_steps", self.num_steps, 1, MAX_STEPS)
        check_whole("seed", self.seed, 0, 2**32 - self.num_images)
        check_whole("condition_reuse", self.condition_reuse, 1, MAX_REUSE)
        if not 1 <= len(self.class_ids) <= MAX_IMAGES:
            raise ValueError(
                f"class_ids must be 1 to {MAX_IMAGES} labels, got {len(self.class_ids)}"
            )
        for label in self.class_ids:
            check_whole("each of class_ids", label, 0, 2**31)
        check_choice("solver", self.solver, SOLVERS)
        check_choice("guidance", self.guidance, GUIDANCE_RULES)
        check_number("time_shift", self.time_shift, 0.01, MAX_SCALE)
        check_number("guidance_scale", self.guidance_scale, 0, MAX_SCALE)
        check_number("guidance_low", self.guidance_low, 0, 1)
        check_number("guidance_high", self.guidance_high, 0, 1)
        if not self.guidance_low < self.guidance_high:
            raise ValueError(
                "guidance_low must be less than guidance_high, "
                f"got {self.guidance_low} and {self.guidance_high}"
            )
        for name, low, high in (
            ("band_scales", 0, MAX_SCALE),
            ("dit_gains", -MAX_GAIN, MAX_GAIN),
            ("decoder_gains", -MAX_GAIN, MAX_GAIN),
        ):
            values = getattr(self, name)
            if len(values) != _BANDS:
                raise ValueError(
                    f"{name} must be {_BANDS} numbers, one a band, lowest first, got {len(values)}"
                )
            for value in values:
                check_number(f"each of {name}", value, low, high)
        if not isinstance(self.decompose, bool):
            raise ValueError(f"decompose must be true or false, got {_said(self.decompose)}")

    @property
    def labels(self) -> list[int]:
        """The label of each image."""
        return [self.class_ids[i % len(self.class_ids)] for i in range(self.num_images)]

    @property
    def has_gains(self) -> bool:
        """Whether a part of the velocity is changed in any band."""
        return any(gain != 1 for gain in self.dit_gains + self.decoder_gains)

    def rule(self) -> GuidanceRule:
        """Return the guidance rule of that name, its other parameters at their defaults."""
        match self.guidance:
            case "by band":
                return BandGuidance(self.band_scales, OCTAVES)
            case "rescaled":
                return RescaledGuidance()
            case "projected":
                return ProjectedGuidance()
            case "zero-star":
                return ZeroStarGuidance()
        return PlainGuidance()

    def sampling_arguments(self) -> dict[str, Any]:
        """Return what `deco_lab.sample` takes beside the model; gains are the model's matter."""
        return {
            "class_ids": self.labels,
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance_scale,
            "guidance_interval": (self.guidance_low, self.guidance_high),
            "solver": self.solver,
            "time_shift": self.time_shift,
            "seed": self.seed,
            "guidance": None if self.guidance == "plain" else self.rule(),
            "condition_reuse": self.condition_reuse,
        }

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, as lists, numbers and strings."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return the settings that a mapping of field names holds; what is missing is the default.

    Raises
    ------
    ValueError
        For a name that is no field, or a value that breaks its rule.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"settings must be an object of names and values, got {_said(values)}")
    known = {field.name for field in dataclasses.fields(Settings)}
    unknown = sorted(str(name) for name in values if name not in known)
    if unknown:
        raise ValueError(f"settings have no {_said(unknown[0])}; they are {', '.join(known)}")
    return Settings(**values)


def to_query(settings: Settings) -> str:
    """Return the settings as the query of a link, without what is at its default."""
    said = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in settings.changed().items()
    }
    return urlencode(said, safe="[],/:")


def from_query(query: Mapping[str, str]) -> Settings:
    """Return the settings that a link's query holds; names that are no settings are passed over.

    Raises
    ------
    ValueError
        For a value that is not JSON, or breaks its rule.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        text = query.get(field.name)
        if text is None or isinstance(field.default, str):
            values |= {} if text is None else {field.name: text}
            continue
        try:
            values[field.name] = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            raise ValueError(f"{field.name} in the link must be JSON, got {_said(text)}") from None
    return Settings(**values)


def check_model(settings: Settings, config: Any) -> None:
    """Raise ValueError where a model's classes or size do not go with the settings."""
    pixels = settings.num_images * config.image_size**2
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"num_images must be at most {MAX_PIXELS // config.image_size**2} for images of "
            f"{config.image_size} x {config.image_size} pixels, got {settings.num_images}"
        )
    if max(settings.class_ids) >= config.num_classes:
        raise ValueError(
            f"class_ids must be at most {config.num_classes - 1}, since {settings.model} knows "
            f"{config.num_classes} classes, got {max(settings.class_ids)}"
        )


def _said(value: Any) -> str:
    """Return a value in few characters: it may be whatever a stranger sent."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " ..."


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise ValueError unless a value is a whole number in a range."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_said(value)}")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError unless a value is a finite number in a range."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {_said(value)}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise ValueError unless a value is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {_said(value)}")
