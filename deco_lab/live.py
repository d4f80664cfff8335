"""Watch a model draw: every sampling step as a frame of plain numbers and small pictures.

A frame holds what a screen shows of one step: the state x_t and the predicted image as PNG, the
DCT energy of predicted image, velocity and the DiT's condition, and each part's share of the
velocity, band by band. The step from t to t' is explained where its velocity was computed: parts
and condition are those of the state at t, for the class alone (guidance mixes two velocities
afterwards, so it has no parts of its own).

`watch` is the one place that touches the model; it knows no widget, and frames are ready for JSON.
"""

import base64
import io
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deco_lab.data import to_picture
from deco_lab.sampling import Step, sample_steps
from deco_lab.spectra import (
    band_shares,
    dct_energy,
    decompose,
    log_energy,
    token_map,
    zigzag_order,
)

MAX_STEPS = 1000
"""Most solver steps of one run."""
MAX_IMAGES = 16
"""Most images of one run."""
MAX_DECOMPOSED = 4
"""Images whose velocity is decomposed at each step: four decoder passes each."""
MAX_PICTURE_SIDE = 512
"""Longest side of a picture, in pixels; larger ones are averaged down by a whole factor."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a person chooses before a run; `watch` checks it."""

    class_id: int = 0
    """Label of every image."""
    num_images: int = 4
    """From 1 to MAX_IMAGES."""
    num_steps: int = 50
    """From 1 to MAX_STEPS."""
    guidance_scale: float = 3.0
    """1 is off."""
    guidance_low: float = 0.1
    """Guidance starts above this t."""
    guidance_high: float = 1.0
    """Guidance ends after this t."""
    solver: str = "euler"
    """A name in `deco_lab.sampling.SOLVERS`."""
    seed: int = 0
    """Image i starts from the noise of seed + i."""


@dataclass(frozen=True)
class Spectrum:
    """DCT energy of 8 x 8 blocks, low frequencies first."""

    energy: list[float | None]
    """64 mean squared coefficients in zigzag order."""
    curve: list[float | None]
    """64 values in [0, 1], log(1 + energy) divided by its maximum."""


@dataclass(frozen=True)
class Shares:
    """What each part supplies of the velocity's energy: one value a band, lowest band first.

    The three sum to 1 in each band; None where the velocity has no energy.
    """

    dit: list[float | None]
    decoder: list[float | None]
    baseline: list[float | None]


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One step, ready for JSON; index 0 is the noise and has no prediction."""

    index: int
    num_steps: int
    t: float
    """Time of the state, in [0, 1]."""
    t_start: float | None
    """Time at which the step started: velocity, condition and parts are those of this time."""
    nfe: int
    """Network passes per image so far."""
    sampling_ms: float
    """Milliseconds the sampler took for this step, without what is measured beside it."""
    num_images: int
    columns: int
    """Images in a row of the pictures; row-major, the last row may be short."""
    shrink: int
    """Whole factor by which the pictures were averaged down; 1 is none."""
    noisy: str
    """The state, clipped to [-1, 1], as PNG in a data URI."""
    predicted: str | None
    """The predicted image, likewise."""
    predicted_spectrum: Spectrum | None
    velocity_spectrum: Spectrum | None
    condition_spectrum: Spectrum | None
    """Of the DiT's condition on its token grid; None for a model without a pixel decoder, and for
    grids below 5 x 5 tokens, which hold no 8 x 8 block."""
    shares: Shares | None
    """Of the velocity's parts, on the first MAX_DECOMPOSED images; None without a decoder."""


@dataclass(frozen=True)
class Update:
    """What a run has to say: where it stands, and its newest frame."""

    status: str
    """"running", "done" or "stopped"."""
    text: str
    """The same in a sentence."""
    frame: Frame | None
    """The newest frame, also of a run that stopped; None before the first."""


class RunCounter:
    """Which run of each session is the newest, so that an older one knows when to end."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._newest: dict[str, int] = {}
        self._begun: dict[str, int] = {}

    def call(self, session: str) -> int:
        """Return a new run's number; whatever ran in this session is from now on stale."""
        with self._lock:
            self._newest[session] = number = next(self._numbers)
            return number

    def begin(self, session: str, number: int) -> bool:
        """Return True once for the session's newest number: that run may begin."""
        with self._lock:
            if self._newest.get(session) != number or self._begun.get(session) == number:
                return False
            self._begun[session] = number
            return True

    def is_newest(self, session: str, number: int) -> bool:
        """Return whether no later run, stop or end of the session came after this number."""
        return self._newest.get(session) == number

    def stop(self, session: str) -> None:
        """End the session's run, if any, and forget the session."""
        with self._lock:
            self._newest.pop(session, None)
            self._begun.pop(session, None)


class _Remembering(nn.Module):
    """A model that keeps the conditions of a step's passes, so that none is computed twice."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self._passes: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        condition = self.model.condition(x, t, class_ids)
        self._passes.append((x, t, class_ids, condition))
        return self.model.decode(x, condition)

    def condition(self, x: Tensor, t: Tensor, class_ids: Tensor) -> Tensor:
        B = x.shape[0]
        for *inputs, condition in self._passes:  # a guided pass holds the class's images first
            if all(
                torch.equal(kept[:B], given)
                for kept, given in zip(inputs, (x, t, class_ids), strict=True)
            ):
                return condition[:B]
        return self.model.condition(x, t, class_ids)

    def decode(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.model.decode(x, condition)

    def forget(self) -> None:
        self._passes.clear()


def watch(model: Any, settings: Settings) -> Generator[Frame, None, None]:
    """Check the settings, then give a frame for the noise and for each step as it is computed.

    Parameters
    ----------
    model : DeCo or DiT
        Any model with a `config`, called as (x, t, class_ids). With `condition` and `decode` its
        frames also hold the condition's spectrum and the parts' shares.
    settings : Settings
        What to draw.

    Yields
    ------
    Frame
        settings.num_steps + 1 of them. Closing the generator early is safe.

    Raises
    ------
    ValueError
        At the call, where a setting is out of range or of a wrong type.
    """
    _check_limit("num_images", settings.num_images, MAX_IMAGES)
    _check_limit("num_steps", settings.num_steps, MAX_STEPS)
    decodes = hasattr(model, "condition") and hasattr(model, "decode")
    watched = _Remembering(model) if decodes else model
    steps = sample_steps(
        watched,
        [settings.class_id] * settings.num_images,
        num_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        guidance_interval=(settings.guidance_low, settings.guidance_high),
        solver=settings.solver,
        seed=settings.seed,
    )
    return _frames(steps, watched if isinstance(watched, _Remembering) else None, settings)


def run(
    model: Any,
    settings: Settings,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
    time_limit: float = math.inf,
) -> Generator[Update, None, None]:
    """Check the settings, then `watch` until the end, a stop or the time limit.

    Parameters
    ----------
    model, settings
        As for `watch`.
    is_wanted : callable
        Asked before each step; the run ends where it returns False.
    time_limit : float
        Seconds after which no further step begins.

    Yields
    ------
    Update
        One at once, without a frame, then one for each frame, and a last one if it was cut short.

    Raises
    ------
    ValueError
        As for `watch`.
    """
    return _updates(watch(model, settings), is_wanted, time_limit)


def _updates(
    frames: Generator[Frame, None, None], is_wanted: Callable[[], bool], time_limit: float
) -> Generator[Update, None, None]:
    started = time.monotonic()
    frame: Frame | None = None
    yield Update("running", "Starting.", None)
    while True:
        seconds = time.monotonic() - started
        if not is_wanted() or seconds > time_limit:
            at = "before the first step" if frame is None else _place(frame)
            reason = f", at the time limit of {time_limit:g} s" if seconds > time_limit else ""
            yield Update("stopped", f"Stopped {at}{reason}.", frame)
            return
        frame = next(frames)
        if frame.index == frame.num_steps:
            seconds = time.monotonic() - started
            text = f"Done: {frame.num_steps} steps, {frame.nfe} network passes, {seconds:.1f} s."
            yield Update("done", text, frame)
            return
        yield Update("running", "Drawing.", frame)


def _place(frame: Frame) -> str:
    return f"at step {frame.index} of {frame.num_steps}"


def _frames(
    steps: Iterator[Step], model: _Remembering | None, settings: Settings
) -> Generator[Frame, None, None]:
    before: Step | None = None
    while True:
        started = time.perf_counter()
        step = next(steps, None)
        if step is None:
            return
        step.x.sum().item()  # on a GPU, waits for the step
        milliseconds = 1000 * (time.perf_counter() - started)
        frame = _frame(step, before, model, settings, milliseconds)
        before = step
        if model is not None:
            model.forget()
        yield frame


# Not around the loop: a generator's caller would inherit the switch.
@torch.no_grad()
def _frame(
    step: Step,
    before: Step | None,
    model: _Remembering | None,
    settings: Settings,
    milliseconds: float,
) -> Frame:
    columns = math.ceil(math.sqrt(settings.num_images))
    shrink = max(1, math.ceil(columns * max(step.x.shape[-2:]) / MAX_PICTURE_SIDE))
    condition = shares = None
    if model is not None and before is not None:
        x = before.x
        t = torch.full((x.shape[0],), before.t, device=x.device)
        class_ids = torch.full((x.shape[0],), settings.class_id, device=x.device)
        P = model.config.patch_size
        tokens = model.condition(x, t, class_ids)
        grid = x.shape[-2] // P, x.shape[-1] // P
        if min(grid) > 4:  # a smaller one cannot be reflected to a whole 8 x 8 block
            condition = _spectrum(token_map(tokens, *grid))
        few = slice(MAX_DECOMPOSED)
        parts = decompose(model, x[few], t[few], class_ids[few])
        dit = band_shares(parts.dit, parts.velocity)
        decoder = band_shares(parts.decoder, parts.velocity)
        shares = Shares(_plain(dit), _plain(decoder), _plain(1 - dit - decoder))
    return Frame(
        index=step.index,
        num_steps=settings.num_steps,
        t=step.t,
        t_start=None if before is None else before.t,
        nfe=step.nfe,
        sampling_ms=round(milliseconds, 2),
        num_images=settings.num_images,
        columns=columns,
        shrink=shrink,
        noisy=_picture(step.x, columns, shrink),
        predicted=None
        if step.predicted_image is None
        else _picture(step.predicted_image, columns, shrink),
        predicted_spectrum=_spectrum(step.predicted_image),
        velocity_spectrum=_spectrum(step.velocity),
        condition_spectrum=condition,
        shares=shares,
    )


def _check_limit(name: str, value: Any, most: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= most:
        raise ValueError(f"{name} must be a whole number from 1 to {most}, got {value!r}")


def _spectrum(images: Tensor | None) -> Spectrum | None:
    if images is None or not images.isfinite().all():
        return None
    energy = dct_energy(images)
    order = torch.tensor(zigzag_order(energy.shape[-1]))
    return Spectrum(_plain(energy.flatten().cpu()[order]), _plain(log_energy(energy)))


def _plain(values: Tensor) -> list[float | None]:
    """Return values as numbers of four significant digits; JSON knows no NaN, so it is None."""
    return [float(f"{v:.4g}") if math.isfinite(v) else None for v in values.tolist()]


def _picture(images: Tensor, columns: int, shrink: int) -> str:
    """Return images (B, 3, H, W) in [-1, 1], side by side without gaps, as a PNG data URI."""
    if shrink > 1:
        images = F.avg_pool2d(images, shrink, ceil_mode=True)
    png = io.BytesIO()
    to_picture(images, columns).save(png, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
