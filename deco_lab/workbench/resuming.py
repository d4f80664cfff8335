"""Go on from a step of a run: find the state that it reached, or draw it again.

What a run starts from then is that state, bit for bit; the noise of its own seed has no part in it.
A solver that looks at earlier steps, and a condition that serves several, begin there without them.
"""

import time
from collections.abc import Callable
from typing import Any

from deco_lab.sampling import Start, sample_steps
from deco_lab.setting import RuleError
from deco_lab.spectra import PartGains
from deco_lab.workbench.mask import check_mask, keep_of
from deco_lab.workbench.record import Paused, Record
from deco_lab.workbench.settings import Leg, Settings, origin_of

REMEMBERING = ("heun_reuse", "adams2", "adams3", "adams4")
"""Solvers that look at earlier steps."""


def kept_state(record: Record, origin: str) -> Paused | None:
    """Return the state that an origin names, where it is a step of this run that is still kept."""
    states = record.states | {record.paused_at: record.paused}
    for step, state in states.items():
        if origin_of(record.settings, step) == origin:
            return state
    return None


def drawn_state(
    leg: Leg,
    model: Any,
    start: Any,
    is_wanted: Callable[[], bool] = lambda: True,
    deadline: float = float("inf"),
) -> Paused | None:
    """Return the state that a leg's step reached, drawn again; None where it is no longer wanted.

    Parameters
    ----------
    leg : Leg
        The run, and its step.
    model : object
        The one that its settings name.
    start : Start, Step or Paused, optional
        What it started from; None is noise.
    is_wanted : callable
        Asked before each step.
    deadline : float
        On the clock of `time.monotonic`, after which no further step begins.

    Raises
    ------
    ValueError
        Where the run has no such step, or at the deadline.
    """
    settings = leg.settings
    if settings.has_gains:
        model = PartGains(model, **settings.gains())
    for step in sample_steps(model, **settings.sampling_arguments(), start=start):
        if step.index == leg.step and step.t < 1:
            return Paused(step.x.detach().cpu(), step.t)
        if not is_wanted():
            return None
        if time.monotonic() > deadline:
            raise ValueError(
                "the run that this one goes on from took longer than the time limit; start from "
                "an earlier step, or from noise"
            )
    raise ValueError(
        f"origin must name a step before the end of its run, got step {leg.step}, which that run "
        "does not have; go on from one that is shown"
    )


def picture_start(settings: Settings, image: Any, state: Paused | None = None) -> Start:
    """Return the start from a picture, (3, S, S), that the settings ask for.

    Of a run that goes on from a state, the picture is where the mask lets it stay.

    Raises
    ------
    ValueError
        Where the mask is of another size.
    """
    keep, size = None, image.shape[-1]
    if settings.mask:
        side, _ = check_mask(settings.mask)
        if side != size:
            raise RuleError(
                "mask",
                f"must have the size of the model's images, {size} x {size}, got {side} x {side}; "
                "paint it again, or leave it empty",
            )
        keep = keep_of(settings.mask)
    if state is None:
        return Start(image[None], settings.start_t, keep)
    return Start(image[None], state.t, keep, state.x)


def said_of_start(settings: Settings) -> str:
    """Return in a sentence or two what a run starts from, where that is not noise alone.

    That is a step that it goes on from, with what begins anew there, and how much of a picture is
    drawn.
    """
    said = []
    if settings.legs:
        said = [f"Goes on from step {settings.legs[-1].step} of a run, whatever the seed"]
        if settings.solver in REMEMBERING:
            said.append(f"{settings.solver} begins there without earlier steps")
        if settings.condition_reuse > 1:
            said.append("the DiT is asked there first")
    sentences = ["; ".join(said)] if said else []
    if settings.mask:
        side, runs = check_mask(settings.mask)
        percent = 100 * sum(runs[1::2]) / side**2
        share = (
            "Under 1%"
            if percent < 0.5
            else "Over 99%"
            if 99.5 < percent < 100
            else f"{percent:.0f}%"
        )
        sentences.append(f"{share} of your picture is drawn anew, the rest stays")
    return " ".join(f"{sentence}." for sentence in sentences)
