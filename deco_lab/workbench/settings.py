"""What a person chooses before a run, as plain values that go into a file, a link or a script.

`Settings` is JSON-ready and holds nothing of the model but its name, so that the same settings
with the same model draw the same images. It is checked as a whole, at once, in sentences.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple
from urllib.parse import urlencode

from deco_lab.sampling.curve import Curve, OverTime, begins, curves_of
from deco_lab.sampling.guidance import GUIDANCE
from deco_lab.sampling.plan import NUM_BANDS, Plan, check_seeds, one_a_band
from deco_lab.setting import RuleError, Setting, check_whole, said
from deco_lab.workbench.mask import check_mask

MAX_IMAGES = 16
"""Most images of one run."""
MAX_PIXELS = 2**21
"""Most pixels of one run's images together: two of 1024 x 1024."""


STARTS: dict[str, None] = {"noise": None, "own picture": None, "earlier run": None}
"""What a run may start from."""
MAX_LEGS = 8
"""Most runs that one goes on from, each from a step of the one before."""

_gains = partial(one_a_band, low=-10, high=10, slider=(-1, 3, 0.1))
_gain_curves = partial(OverTime, low=-10, high=10, curves=NUM_BANDS)


@dataclass(frozen=True, kw_only=True)
class Settings(Plan):
    """One run. Frozen; `Settings(...)` raises ValueError where a value breaks its rule."""

    limited: ClassVar[bool] = True

    # fmt: off
    model: Annotated[str, Setting("What draws; the Models tab has more.", "Model")] = "tiny"
    class_ids: Annotated[tuple[int, ...], Setting(
        "Images take them in turn.", "Classes", 0, 2**31,
        counts=(1, MAX_IMAGES), what=f"1 to {MAX_IMAGES} labels",
    )] = (0,)
    num_images: Annotated[int, Setting(
        f"1 to {MAX_IMAGES}, together.", "Images", 1, MAX_IMAGES
    )] = 4
    dit_gains: Annotated[tuple[float, ...], _gains(
        "Gains of the condition's Shapley value in the velocity (for none: mean token, grey "
        "pixels), by band of cycles/pixel; 1 leaves it.", "DiT"
    )] = (1.0,) * NUM_BANDS
    decoder_gains: Annotated[tuple[float, ...], _gains(
        "Gains of the pixels' Shapley value there, by band; 1 leaves it.", "Decoder"
    )] = (1.0,) * NUM_BANDS
    dit_curves: Annotated[tuple[float, ...], _gain_curves(
        "What the DiT's gains are multiplied with over t: of each band values at evenly spaced "
        "times from 0 to 1, one band after the other; none is 1.", "DiT gains over t"
    )] = ()
    decoder_curves: Annotated[tuple[float, ...], _gain_curves(
        "The same of the decoder's gains.", "Decoder gains over t"
    )] = ()
    start_from: Annotated[str, Setting(
        "Noise, a picture of yours with noise, or a step of a run.", "Start from", choices=STARTS
    )] = "noise"
    origin: Annotated[str, Setting(
        "Of an earlier run: its settings and step, and those of the runs before, as JSON.",
        "Goes on from",
    )] = ""
    mask: Annotated[str, Setting(
        "Of a picture of yours: what is drawn anew, the rest stays; empty is all of it.", "Mask"
    )] = ""
    start_t: Annotated[float, Setting(
        "How much of the picture there is at the start.", "Start at t", 0, 0.95,
        slider=(0, 0.95, 0.05),
    )] = 0.5
    decompose: Annotated[bool, Setting(
        "Shares of the first image, and condition; costs seven decoder passes.",
        "Take each step apart",
    )] = True
    # fmt: on

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise RuleError("model", f"must be the name of a loaded model, got {said(self.model)}")
        super().__post_init__()
        check_seeds(self.seed, self.num_images)
        legs = self.legs
        if not legs:
            object.__setattr__(self, "origin", "")
        elif (found := legs[-1].settings.num_images) != self.num_images:
            raise RuleError(
                "num_images",
                f"must be {found}, as many as the run that it goes on from has, got "
                f"{self.num_images}; start from noise for another number",
            )
        if (legs[0].settings if legs else self).start_from != "own picture":
            object.__setattr__(self, "mask", "")
        elif self.mask != "":
            check_mask(self.mask)

    @property
    def legs(self) -> list["Leg"]:
        """The runs that it goes on from, the first one first."""
        return _legs_of(self.origin) if self.start_from == "earlier run" else []

    @property
    def labels(self) -> list[int]:
        """The label of each image."""
        return [self.class_ids[i % len(self.class_ids)] for i in range(self.num_images)]

    @property
    def has_gains(self) -> bool:
        """Whether a part of the velocity is changed in any band, at any time."""
        gains = self.dit_gains + self.decoder_gains
        return bool(self.dit_curves or self.decoder_curves) or any(gain != 1 for gain in gains)

    def gains(self) -> dict[str, Any]:
        """Return the gains of `PartGains` by band, each a number or a curve over t."""
        return {
            "dit": _over_time(self.dit_gains, self.dit_curves),
            "decoder": _over_time(self.decoder_gains, self.decoder_curves),
        }

    @property
    def guided_from(self) -> float | None:
        """Time from which guidance changes the velocity; None where it never does."""
        rule = self.rule()
        if rule.is_off(self.guidance_scale):
            return None
        shared = [Curve(self.guidance_curve)] if self.guidance_curve else []
        chains = [shared]
        if "band_scales" in GUIDANCE[self.guidance].settings:
            own = [[curve] for curve in curves_of(self.band_curves, NUM_BANDS)] or [[]] * NUM_BANDS
            of_bands = zip(self.band_scales, own, strict=True)
            chains = [shared + curve for scale, curve in of_bands if scale != 1]
        times = [begins(chain, *self.guidance_interval) for chain in chains]
        return min((time for time in times if time is not None), default=None)

    def sampling_arguments(self) -> dict[str, Any]:
        """Return what `deco_lab.sample` takes beside the model; gains are the model's matter."""
        arguments = {"class_ids": self.labels, **self.arguments()}
        if self.mask and self.legs:  # what stays has the noise that it began with
            arguments["seed"] = self.legs[0].settings.seed
        return arguments

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults, as lists, numbers and strings."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def _over_time(gains: Sequence[float], values: Sequence[float]) -> tuple[float | Curve, ...]:
    curves = curves_of(values, len(gains))
    if not curves:
        return tuple(gains)
    return tuple(
        gain if all(value == 1 for value in curve.values) else curve.multiplied(gain)
        for gain, curve in zip(gains, curves, strict=True)
    )


class Leg(NamedTuple):
    """A run that another goes on from."""

    settings: Settings
    """Its own; all but the first start where the one before was left, whatever they say here; what
    stays of a picture has the first one's seed."""
    step: int
    """Which of its steps reached the state that the next starts from; 0 is where it starts."""


def first_start(start_from: Any, origin: Any) -> str:
    """Return what a run starts from, or the first one of those that it goes on from.

    Raises
    ------
    ValueError
        For an origin that is none.
    """
    return _legs_of(origin)[0].settings.start_from if start_from == "earlier run" else start_from


def origin_of(settings: Settings, step: int) -> str:
    """Return the `origin` of a run that goes on from a step of a run with these settings."""
    legs = [*settings.legs, Leg(settings, step)]
    written = [{"step": leg.step} | asdict(leg.settings) for leg in legs]
    for k, values in enumerate(written):
        del values["origin"]
        values["start_from"] = "earlier run" if k else values["start_from"]
    return json.dumps(written, separators=(",", ":"))


def _legs_of(origin: Any) -> list[Leg]:
    rule = (
        "must be what “Go on from here” says of a run's step, a list of settings with their step, "
        f"at most {MAX_LEGS}, got {said(origin)}; choose a step and go on from there"
    )
    try:
        found = json.loads(origin)
        assert isinstance(found, list)
        assert 0 < len(found) <= MAX_LEGS
        legs: list[Leg] = []
        for k, values in enumerate(found):
            others = {name: value for name, value in values.items() if name != "step"}
            assert (others.get("start_from") == "earlier run") == (k > 0)
            # All start from what the first one starts from, and so keep of it what they say.
            first = {"start_from": legs[0].settings.start_from} if k else {}
            settings = settings_from(others | first)
            if k and settings.mask:
                settings = replace(settings, seed=legs[0].settings.seed)  # of what stays
            assert "origin" not in others
            step = check_whole("step", values["step"], 0, settings.num_steps - 1)
            legs.append(Leg(settings, step))
    except (AssertionError, AttributeError, KeyError, TypeError, RecursionError, ValueError):
        raise RuleError("origin", rule) from None
    return legs


_FORMER = {"guidance_low": 0, "guidance_high": 1}  # older links' ends of guidance_interval
_KNOWN = [field.name for field in fields(Settings)]


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return the settings that a mapping of field names holds; what is missing is the default.

    Raises
    ------
    ValueError
        For a name that is no field, or a value that breaks its rule.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"settings must be an object of names and values, got {said(values)}")
    known = {}
    for name, value in values.items():
        if name in _FORMER:
            known.setdefault("guidance_interval", [*Settings.guidance_interval])
            known["guidance_interval"][_FORMER[name]] = value
        elif name in _KNOWN:
            known[name] = value
        else:
            raise ValueError(f"settings have no {said(name)}; they are {', '.join(_KNOWN)}")
    return Settings(**known)


def to_query(settings: Settings) -> str:
    """Return all settings as the query of a link, so that it says the same when defaults change."""
    written = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in asdict(settings).items()
    }
    return urlencode(written, safe="[],/:")


def holds_settings(query: Mapping[str, str]) -> bool:
    """Return whether a link's query says anything of a run."""
    return not {*_KNOWN, *_FORMER}.isdisjoint(query)


def from_query(query: Mapping[str, str]) -> Settings:
    """Return the settings that a link's query holds; names that are no settings are passed over.

    Raises
    ------
    ValueError
        For a value that is not JSON, or breaks its rule.
    """
    values: dict[str, Any] = {}
    for name in {*_KNOWN, *_FORMER}.intersection(query):
        values[name] = query[name]
        if not isinstance(getattr(Settings, name, None), str):
            try:
                values[name] = json.loads(query[name])
            except (json.JSONDecodeError, RecursionError):
                text = said(query[name])
                raise ValueError(f"{name} in the link must be JSON, got {text}") from None
    return settings_from(values)


def check_pixels(settings: Settings, image_size: int) -> None:
    """Raise ValueError where a run's images would have too many pixels together."""
    most = MAX_PIXELS // image_size**2
    if settings.num_images > most:
        raise RuleError(
            "num_images",
            f"must be at most {most} for images of {image_size} x {image_size} pixels, "
            f"got {settings.num_images}",
        )
