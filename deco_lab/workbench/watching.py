"""Watch a model draw: every step of a run as pictures and curves, ready for a page or a script.

A frame holds what a screen shows of one step. The step from t to t' is explained where its velocity
was computed: the predicted image, velocity, condition, parts and guidance are those of the state at
t ("t_start"), the noisy image is the state that was reached, at t'. Condition and parts are of the
class alone, as the model has them (guidance and gains come afterwards).

`watch` is the one place that samples; it knows no widget. What it measured on the way becomes a
`Record`, in full precision.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deco_lab.sampling import GuidanceRule, GuidedPair, Step, sample_steps
from deco_lab.spectra import (
    OCTAVES,
    PartGains,
    band_names,
    band_shares,
    dct_energy,
    decompose,
    token_map,
    zigzag_order,
)
from deco_lab.spectra.bands import band_of_frequencies
from deco_lab.spectra.energy import image_energies
from deco_lab.spectra.frequencies import (
    mirrored,
    ring_counts,
    ring_frequencies,
    ring_of_frequencies,
)
from deco_lab.workbench.pictures import Pictures, plain, to_pictures
from deco_lab.workbench.record import Array, Curve, Record
from deco_lab.workbench.settings import Settings, check_model

MAX_DECOMPOSED = 2
"""Images whose velocity is decomposed at each step: four decoder passes each."""
VELOCITY_RANGE = 3.0
"""Velocities from minus to plus this are shown from black to white; 0 is mid-grey."""

_BANDS = len(OCTAVES) + 1
PARTS = ("dit", "decoder", "baseline")
_ENERGY = "mean squared DCT coefficient of 8 x 8 blocks; 1 for white noise of variance 1"
_POWER = "mean power in a ring of radial frequency; 1 for white noise of variance 1"
CURVES: dict[str, tuple[tuple[str, ...], str]] = {
    "noisy_energy": (("zigzag",), _ENERGY),
    "predicted_energy": (("zigzag",), _ENERGY),
    "velocity_energy": (("zigzag",), _ENERGY),
    "condition_energy": (("zigzag",), "the same of the DiT's condition on its token grid"),
    "noisy_power": (("frequency",), _POWER),
    "predicted_power": (("frequency",), _POWER),
    "velocity_power": (("frequency",), _POWER),
    "guidance_power": (("frequency",), _POWER),
    "guidance_bands": (("band",), "energy of guided - class velocity / energy of class velocity"),
    "shares": (("part", "band"), "share of the class's velocity that the part supplies"),
}
"""What a frame may hold: the axes of a curve, and what a value of 1 means."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One step, ready for JSON; index 0 is the noise and has no prediction."""

    index: int
    t: float
    """Time of the state, in [0, 1]."""
    t_start: float | None
    """Time at which the step started; None for the noise."""
    nfe: int
    """Network passes per image so far."""
    sampling_ms: float
    """Milliseconds the sampler took for this step, without what is measured beside it."""
    noisy: Pictures
    """The state, [-1, 1] from black to white, clipped."""
    predicted: Pictures | None
    """The predicted image, likewise."""
    velocity: Pictures | None
    """The step's velocity, VELOCITY_RANGE from grey to white."""
    curves: dict[str, list]
    """By name, those of CURVES that there are: numbers of four digits, None where undefined."""


@dataclass(frozen=True)
class Update:
    """What a run has to say: where it stands, and its next frame."""

    status: str
    """"running", "done" or "stopped"."""
    text: str
    """The same in a sentence."""
    frame: Frame | None
    """None where a run is stopped."""


class _Remembering(nn.Module):
    """A model that keeps the conditions of a step's passes, so that none is computed twice."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._passes: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        return self.model.decode(x, self.condition(x, t, class_ids))

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        B = x.shape[0]
        for *inputs, condition in self._passes:  # a guided pass holds the class's images first
            if all(
                torch.equal(kept[:B], given)
                for kept, given in zip(inputs, (x, t, class_ids), strict=True)
            ):
                return condition[:B]
        condition = self.model.condition(x, t, class_ids)
        self._passes.append((x, t, class_ids, condition))
        return condition

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.model.decode(x, condition)

    def forget(self) -> None:
        self._passes.clear()


@dataclass
class _Heard(GuidanceRule):
    """A rule that keeps what it made of a step's first pair."""

    rule: GuidanceRule
    velocities: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    """The class's velocity and the guided one."""

    def __call__(self, pair: GuidedPair) -> Tensor:
        velocity = self.rule(pair)
        if self.velocities is None:
            self.velocities = (pair.cond, velocity)
        return velocity

    def is_off(self, guidance_scale: float) -> bool:
        return self.rule.is_off(guidance_scale)

    def skips(self, step: int) -> bool:
        return self.rule.skips(step)


class Watch:
    """A run that can be iterated once, frame by frame, and leaves a record.

    Parameters
    ----------
    model : DeCo or DiT
        Any model with a `config`, called as (x, t, class_ids). With `condition` and `decode` its
        frames also hold the condition's spectrum and the parts' shares.
    settings : Settings
        What to draw; `settings.model` is only a name here.

    Raises
    ------
    ValueError
        Where the settings do not go with the model.
    """

    def __init__(self, model: Any, settings: Settings) -> None:
        check_model(settings, model.config)
        self.settings = settings
        self._decodes = hasattr(model, "condition") and hasattr(model, "decode")
        if settings.has_gains and not self._decodes:
            raise ValueError(
                f"dit_gains and decoder_gains must be 1, since {settings.model} has no pixel "
                "decoder and so no parts; choose a DeCo model"
            )
        self._watched = _Remembering(model) if self._decodes else model
        drawing = self._watched
        if settings.has_gains:
            drawing = PartGains(
                self._watched, dit=settings.dit_gains, decoder=settings.decoder_gains
            )
        self._heard = _Heard(settings.rule())
        arguments: dict[str, Any] = {**settings.sampling_arguments(), "guidance": self._heard}
        self._steps = sample_steps(drawing, **arguments)
        self._before: Step | None = None
        self._measured: list[dict[str, Tensor]] = []
        self._rows: list[tuple[int, float, float, int, float]] = []

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        started = time.perf_counter()
        step = next(self._steps)
        step.x.sum().item()  # on a GPU, waits for the step
        milliseconds = 1000 * (time.perf_counter() - started)
        before, self._before = self._before, step
        with torch.no_grad():
            curves = self._curves(step, before)
        self._heard.velocities = None
        if isinstance(self._watched, _Remembering):
            self._watched.forget()
        t_start = None if before is None else before.t
        self._measured.append(curves)
        start = math.nan if t_start is None else t_start
        self._rows.append((step.index, step.t, start, step.nfe, milliseconds))
        image, v = step.predicted_image, step.velocity
        return Frame(
            index=step.index,
            t=step.t,
            t_start=t_start,
            nfe=step.nfe,
            sampling_ms=round(milliseconds, 2),
            noisy=to_pictures(step.x),
            predicted=None if image is None else to_pictures(image),
            velocity=None if v is None else to_pictures(v, -VELOCITY_RANGE, VELOCITY_RANGE),
            curves={name: plain(values) for name, values in curves.items()},
        )

    def _curves(self, step: Step, before: Step | None) -> dict[str, Tensor]:
        curves = {}
        signals = {"noisy": step.x}
        if step.velocity is not None and step.predicted_image is not None:
            signals |= {"predicted": step.predicted_image, "velocity": step.velocity}
        if self._heard.velocities is not None:
            cond, guided = self._heard.velocities
            signals |= {"guidance": guided - cond, "class": cond}
        # Together: small transforms cost little more than calling them.
        stacked = torch.stack(list(signals.values())).float()
        blocks = image_energies(stacked[:3].flatten(0, 1)).unflatten(0, (-1, len(step.x))).mean(1)
        rings, bands = _powers(stacked)
        for index, name in enumerate(signals):
            if index < 3:
                curves[f"{name}_energy"] = _zigzag(blocks[index])
            if name != "class":
                curves[f"{name}_power"] = rings[index]
        if "class" in signals:
            curves["guidance_bands"] = bands[3] / bands[4]
        if before is not None and self._decodes and self.settings.decompose:
            labels = torch.tensor(self.settings.labels, device=before.x.device)
            t = torch.full(labels.shape, before.t, device=before.x.device)
            rows, columns = (size // self._watched.config.patch_size for size in step.x.shape[-2:])
            if min(rows, columns) > 4:
                tokens = self._watched.condition(before.x, t, labels)
                energy = dct_energy(token_map(tokens.float(), rows, columns))
                curves["condition_energy"] = _zigzag(energy)
            first = slice(MAX_DECOMPOSED)
            parts = decompose(self._watched, before.x[first], before.t, labels[first])
            dit, decoder = (
                band_shares(part, parts.velocity) for part in (parts.dit, parts.decoder)
            )
            curves["shares"] = torch.stack([dit, decoder, 1 - dit - decoder])
        return curves

    @property
    def has_begun(self) -> bool:
        """Whether there is a frame, and so something to record."""
        return self._before is not None

    def record(self, model_facts: dict[str, Any]) -> Record:
        """Return what was drawn and measured so far; after the first frame, not before."""
        assert self._before is not None
        x = self._before.x
        rows = np.array(self._rows, dtype=np.float64)
        axes: dict[str, Array] = {
            "step": rows[:, 0].astype(np.int64),
            "zigzag": np.arange(64),
            "frequency": ring_frequencies(*x.shape[-2:]).numpy(),
            "band": np.array(band_names(OCTAVES)),
            "part": np.array(PARTS),
        }
        curves = {
            "t": Curve(("step",), rows[:, 1], "time of the state: 0 is noise, 1 the image"),
            "t_start": Curve(("step",), rows[:, 2], "time at which the step started"),
            "nfe": Curve(("step",), rows[:, 3], "network passes per image so far"),
            "sampling_ms": Curve(("step",), rows[:, 4], "milliseconds of the sampler"),
        }
        for name, (names, unit) in CURVES.items():
            values = np.full((len(rows), *(len(axes[axis]) for axis in names)), np.nan)
            for row, measured in zip(values, self._measured, strict=True):
                if name in measured:
                    row[...] = measured[name].cpu().numpy()
            if not np.isnan(values).all():
                curves[name] = Curve(("step", *names), values, unit)
        return Record(
            settings=self.settings,
            model=model_facts,
            images=x.detach().cpu(),
            num_steps=self._before.index,
            axes=axes,
            curves=curves,
        )


def run(
    watch: Watch,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
    time_limit: float = math.inf,
) -> Generator[Update, None, None]:
    """Draw until the end, a stop or the time limit.

    Parameters
    ----------
    watch : Watch
        The run.
    is_wanted : callable
        Asked before each step; the run ends where it returns False.
    time_limit : float
        Seconds after which no further step begins.

    Yields
    ------
    Update
        One for each frame, and one without if it was cut short. The last one's status is "done" or
        "stopped".
    """
    started = time.monotonic()
    num_steps, at = watch.settings.num_steps, "before the first step"
    while True:
        seconds = time.monotonic() - started
        if not is_wanted() or seconds > time_limit:
            reason = f", at the time limit of {time_limit:g} s" if seconds > time_limit else ""
            yield Update("stopped", f"Stopped {at}{reason}.", None)
            return
        frame = next(watch)
        if frame.index == num_steps:
            seconds = time.monotonic() - started
            text = f"Done: {num_steps} steps, {frame.nfe} network passes, {seconds:.2f} s."
            yield Update("done", text, frame)
            return
        yield Update("running", "Drawing.", frame)
        at = f"at step {frame.index} of {num_steps}"


def _powers(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the power in rings, (S, R), and energy in octaves, (S, 4), of images (S, B, C, H, W).

    As `radial_power` and `split_bands` have them, in one transform.
    """
    H, W = images.shape[-2:]
    power = torch.fft.rfft2(images).abs().square().mean((1, 2)).cpu().double() / (H * W)
    sums = _sums(H, W)
    rings, bands = (power.flatten(1) @ sums).tensor_split([sums.shape[1] - _BANDS], dim=1)
    return rings, bands


@lru_cache(maxsize=8)
def _sums(height: int, width: int) -> Tensor:
    """Return what sums rfft2's power to means in rings and sums in octaves, (H (W//2+1), R + 4)."""
    copies = mirrored(width).expand(height, -1).flatten()
    ring = ring_of_frequencies(height, width).flatten()
    counts = ring_counts(height, width)
    in_ring = (ring[:, None] == torch.arange(len(counts))) * (copies[:, None] / counts)
    band = band_of_frequencies(height, width, OCTAVES).flatten()
    return torch.cat([in_ring, (band[:, None] == torch.arange(_BANDS)) * copies[:, None]], 1)


def _zigzag(energy: Tensor) -> Tensor:
    """Return 8 x 8 energies as 64, low frequencies first."""
    return energy.flatten()[torch.tensor(zigzag_order(energy.shape[-1]), device=energy.device)]
