"""Watch a model draw: every step of a run as pictures and curves, ready for a page or a script.

A frame holds what a screen shows of one step. The step from t to t' is explained where its velocity
was computed: the predicted image, velocity, condition, parts and guidance are those of the state at
t ("t_start"), the noisy image is the state that was reached, at t'. Condition and parts are of the
class only, as the model has them (guidance and gains come afterwards). The parts are those of the
first image's prediction; what stands for none of an input is that of other pictures (`others`).

`Watch` is the one place that samples; it knows no widget. What it measured on the way becomes a
`Record`, in full precision. Steps that are faster than a screen are measured together: of small
images, most of a transform's time is what it takes to call it.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deco_lab.flow import time_grid
from deco_lab.sampling import ReusedCondition, Start, Step, sample_steps
from deco_lab.setting import RuleError
from deco_lab.spectra import (
    MEAN_AND_OCTAVES,
    OCTAVES,
    PartGains,
    band_names,
    dct_energy,
    token_map,
)
from deco_lab.spectra.factorial import PARTS, draws_products
from deco_lab.spectra.frequencies import ring_frequencies
from deco_lab.workbench.frames import ADDED, RANGES, Frame, Update, bands_of, shades
from deco_lab.workbench.hearing import Heard, Passes, Remembering, Taken
from deco_lab.workbench.history import History
from deco_lab.workbench.live_spectra import in_zigzag, measure, spectra_of
from deco_lab.workbench.others import Others, others_of, taken_apart
from deco_lab.workbench.parts import shares_of
from deco_lab.workbench.pictures import pack, plain, shades_of, shrink_of, to_host
from deco_lab.workbench.record import CURVES, Array, Curve, Paused, Record
from deco_lab.workbench.settings import Settings, check_pixels
from deco_lab.workbench.settled import Settled, Settling

DRAWS = 2
"""Other pictures that stand for each input of the first image, at each step."""
TIMES = 16
"""Their conditions are those of the nearest of so many times from 0 on, so that many steps of a run
ask the DiT for them at most that often."""


class Watch:
    """A run that can be iterated once, frame by frame, and leaves a record.

    Whoever is in a hurry takes several steps (`take`) and asks for their `frames` together.

    Parameters
    ----------
    model : DeCo or DiT
        Any model with a `config`, called as (x, t, class_ids). With `condition` and `decode` its
        frames also hold the condition's spectrum and the parts' shares.
    settings : Settings
        What to draw; `settings.model` is only a name here.
    start : Start or Paused, optional
        The picture or state to start from, where the settings ask for one.

    Raises
    ------
    ValueError
        Where the settings do not go with the model.
    """

    def __init__(self, model: Any, settings: Settings, start: Start | Paused | None = None) -> None:
        check_pixels(settings, model.config.image_size)
        self.settings = settings
        self._model = self._watched = sampled = model
        decodes = hasattr(model, "condition") and hasattr(model, "decode")
        if settings.has_gains and not decodes:
            changed = [name for name in ("dit_curves", "decoder_curves") if getattr(settings, name)]
            raise RuleError(
                tuple(changed[:1]) or ("dit_gains", "decoder_gains"),
                f"must be 1, since {settings.model} has no pixel decoder and so no parts; choose "
                "a DeCo model",
            )
        self.others: Others | None = None
        """What stands for none of an input; None where nothing is taken apart."""
        if decodes and settings.decompose:
            device = next(model.parameters()).device
            self.others = others_of(model.config, settings.labels[0], count=DRAWS, device=device)
        self._conditions: tuple[int, Tensor] | None = None  # of the others, and which time
        if settings.condition_reuse > 1:
            sampled = ReusedCondition(sampled, settings.condition_reuse)
        if decodes:
            self._watched = sampled = Remembering(sampled)
        if settings.has_gains:
            sampled = PartGains(sampled, **settings.gains())
        self._heard = Heard(settings.rule())
        arguments: dict[str, Any] = {**settings.sampling_arguments(), "guidance": self._heard}
        times = time_grid(settings.num_steps, time_shift=settings.time_shift)
        self.num_steps = int((times > (start.t + 1e-9 if start else 0)).sum())
        """How many it takes: those of the settings that end after the start."""
        arguments["start"] = start
        del arguments["condition_reuse"]  # below what is remembered, so that parts are what drew
        self._steps = sample_steps(sampled, **arguments)
        self._before: Step | None = None
        self._last: Step | None = None
        self._paused: Step | None = None  # the last that leaves something to draw
        self._history = History()
        self._settling = Settling()
        self._predicted: Tensor | None = None  # the last step's, as a frame has it
        self._taken: list[Taken] = []
        self._measured: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        self.take()
        (frame,) = self.frames()
        return frame

    def take(self) -> int:
        """Take the next step and return its index; raises StopIteration after the last."""
        started = time.perf_counter()
        step = next(self._steps)
        step.x.sum().item()  # on a GPU, waits for the step
        milliseconds = 1000 * (time.perf_counter() - started)
        passes: Passes = []
        if isinstance(self._watched, Remembering):
            passes, self._watched.passes = self._watched.passes, passes
        velocities, self._heard.velocities = self._heard.velocities, None
        self._taken.append(Taken(step, self._before, milliseconds, velocities, passes))
        self._before = step
        return step.index

    def skip(self) -> Step:
        """Take the next step, of which nothing is measured; StopIteration after the last."""
        self.take()
        return self._taken.pop().step

    def frames(self) -> list[Frame]:
        """Return the frames of the steps taken since the last call, measured together."""
        taken, self._taken = self._taken, []
        if not taken:
            return []
        signals = [one.signals() for one in taken]
        with torch.no_grad():
            others, wholes = [], []
            for one, images in zip(taken, signals, strict=True):
                found = self._parts(one) | shades(images)
                if self._history.wants(one.step.index):
                    found["state"] = one.step.x
                if "predicted" in images:
                    wholes.append(found.pop("whole", images["predicted"][:1]))
                    found["first"] = images["predicted"][:1].float()
                others.append(found)
            bands = iter(bands_of(torch.cat(wholes)) if wholes else ())
            for found in others:
                if "first" in found:
                    found["bands"] = next(bands)
            on_device = [*measure(signals), *(t for other in others for t in other.values())]
            energies, power, *rest = to_host(on_device)
        copied = iter(rest)
        return [
            self._frame(one, curves, {name: next(copied) for name in other})
            for one, curves, other in zip(
                taken, spectra_of(signals, energies, power), others, strict=True
            )
        ]

    def _frame(self, taken: Taken, curves: dict[str, Tensor], other: dict[str, Tensor]) -> Frame:
        """Return a step's frame, and keep what was measured."""
        step, says = taken.step, ""
        t_start = None if taken.before is None else taken.before.t
        if "condition" in other:
            curves["condition_energy"] = in_zigzag(other["condition"])
        if "parts" in other and t_start is not None:
            shares = shares_of(other["parts"], t_start)
            curves["predicted_shares"] = shares.values
            says = shares.says or shares.unshared  # gaps in the strips say the other bands'
        shrinks = {"drawn": shrink_of(step.x[:1]), "bands": 1}
        pictures: dict[str, Any] = {
            name: pack(other[name], shrinks.get(name, shrink_of(step.x))) if name in other else None
            for name in (*RANGES, *shrinks)
        }
        frame = Frame(
            index=step.index,
            t=step.t,
            t_start=t_start,
            nfe=step.nfe,
            sampling_ms=round(taken.milliseconds, 2),
            **pictures,
            says=says,
            curves={name: plain(values) for name, values in curves.items()},
        )
        start = math.nan if t_start is None else t_start
        single = {"t": step.t, "t_start": start, "nfe": step.nfe, "sampling_ms": taken.milliseconds}
        self._measured.append(single | curves)
        self._last = step
        if step.t < 1:
            self._paused = step
        # Copied, as what was measured together is one tensor.
        if "state" in other:
            self._history.add_state(step.index, Paused(other["state"].clone(), step.t))
        if "predicted" in other:
            self._predicted = other["predicted"].clone()
            self._history.add_frame(step.index, self._predicted)
            self._settling.add(step.index, start, other["first"].clone())
        return frame

    def _parts(self, taken: Taken) -> dict[str, Tensor]:
        """Return the condition's energies and the parts' products where a step started."""
        start = taken.before
        if start is None or self.others is None:
            return {}
        seen = Remembering(self._model)
        seen.passes = taken.passes
        labels = torch.tensor(self.settings.labels, device=start.x.device)
        tokens = seen.condition(
            start.x, torch.full(labels.shape, start.t, device=start.x.device), labels
        )
        found = {}
        rows, columns = (size // seen.config.patch_size for size in start.x.shape[-2:])
        if min(rows, columns) > 4:
            found["condition"] = dct_energy(token_map(tokens.float(), rows, columns))
        nearest = min(TIMES - 1, round(TIMES * start.t))
        if self._conditions is None or self._conditions[0] != nearest:
            self._conditions = nearest, self.others.condition(self._model, nearest / TIMES)
        pixels = self.others.pixels(start.t)
        wholes, draws = taken_apart(
            self._model, start.x[:1], tokens[:1], start.t, pixels, self._conditions[1]
        )
        found["parts"] = draws_products(wholes[1], draws[:, 1])
        baseline, condition, *_ = draws[:, 1].mean(1)
        whole, of_condition = wholes[1], baseline + condition
        drawn = torch.stack([whole, of_condition, (whole - of_condition) / ADDED])
        found |= {"drawn": shades_of(drawn, shrink=shrink_of(whole[None])), "whole": whole[None]}
        return found

    @property
    def settled(self) -> Settled | None:
        """When the bands were settled; of a run that has come to its end, None of others."""
        return self._settling.found() if self._last is not None and self._last.t == 1 else None

    @property
    def has_begun(self) -> bool:
        """Whether there is a frame, and so something to record."""
        return self._last is not None

    def record(self, model_facts: dict[str, Any]) -> Record:
        """Return what was drawn and measured so far; after the first frame, not before."""
        assert self._last is not None
        assert self._paused is not None
        x, num_steps = self._last.x, self._last.index
        axes: dict[str, Array] = {
            "step": np.arange(num_steps + 1),
            "zigzag": np.arange(64),
            "frequency": ring_frequencies(*x.shape[-2:]).numpy(),
            "band": np.array(band_names(OCTAVES)),
            "part": np.array(PARTS),
            "share_band": np.array(band_names(MEAN_AND_OCTAVES)),
        }
        curves = {}
        for name, (names, unit) in CURVES.items():
            values = np.full([len(axes[axis]) for axis in ("step", *names)], np.nan)
            for step, measured in enumerate(self._measured):
                if name in measured:
                    values[step] = measured[name]
            if name == "predicted_likeness" and self.settled is not None:
                values[self.settled.steps] = self.settled.correlation
            if not np.isnan(values).all():
                curves[name] = Curve(("step", *names), values, unit)
        states, film = self._history.states, self._history.film
        paused = states.pop(self._paused.index, None)
        states.pop(num_steps, None)  # the images
        if self._predicted is not None:
            film[num_steps] = self._predicted
        return Record(
            settings=self.settings,
            model=model_facts,
            images=x.detach().cpu(),
            num_steps=num_steps,
            axes=axes,
            curves=curves,
            paused=paused or Paused(self._paused.x.detach().cpu(), self._paused.t),
            paused_at=self._paused.index,
            states=states,
            film=film,
        )


def run(
    watch: Watch,
    *,
    is_wanted: Callable[[], bool] = lambda: True,
    time_limit: float = math.inf,
    pause: float = 0.0,
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
    pause : float
        Mean seconds between updates; steps that are faster come together. The first step and the
        end do not wait.

    Yields
    ------
    Update
        With each step's frame once. The last one's status is "done" or "stopped".
    """
    started = due = time.monotonic()
    num_steps, at = watch.num_steps, "before the first step"
    while True:
        seconds = time.monotonic() - started
        if not is_wanted() or seconds > time_limit:
            reason = f", at the time limit of {time_limit:g} s" if seconds > time_limit else ""
            yield Update("stopped", f"Stopped {at}{reason}.", watch.frames())
            return
        index = watch.take()
        if index == num_steps:
            frames = watch.frames()
            seconds = time.monotonic() - started
            text = f"Done: {num_steps} steps, {frames[-1].nfe} network passes, {seconds:.2f} s."
            settled = None if watch.settled is None else plain(torch.tensor(watch.settled.times))
            yield Update("done", text, frames, settled)
            return
        at = f"at step {index} of {num_steps}"
        now = time.monotonic()
        if index <= 1 or now >= due:
            due = max(due + pause, now)
            yield Update("running", f"Drawing with {watch.settings.model}.", watch.frames())
