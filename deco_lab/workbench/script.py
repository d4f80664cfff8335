"""The script that draws what a run drew, and its spectrum, in a notebook."""

import math
from dataclasses import fields
from typing import Any

from deco_lab.workbench.settings import Settings


def to_snippet(settings: Settings) -> str:
    """Return a script that draws the settings' run in a notebook, its images and their spectrum.

    What goes on from another run's step draws that run first, up to there.
    """
    uses = {"dct_curves": "deco_lab.plots", "image_grid": "deco_lab.plots"}
    uses["dct_energy"] = "deco_lab.spectra"
    lines = []
    for number, leg in enumerate(settings.legs, start=1):
        said = _arguments(leg.settings, uses, lines, goes_on=number > 1)
        lines.append(_LEG.format(number=number, arguments=_listed(said), step=leg.step))
    said = _arguments(settings, uses, lines, goes_on=bool(settings.legs))
    return _SCRIPT.format(
        imports="\n".join(f"from {place} import {name}" for name, place in uses.items()),
        load="\n".join(lines),
        arguments=_listed(said),
        every=math.ceil(settings.num_steps / 6),
        columns=math.ceil(math.sqrt(settings.num_images)),
    )


_LEG = """\
run_{number} = deco_lab.sample_steps(
    model,
{arguments}
)
state = next(step for step in run_{number} if step.index == {step})
"""

_SCRIPT = """\
from IPython.display import display

import deco_lab
{imports}

{load}
energies = {{}}  # how the predicted image's spectrum settles
run = deco_lab.sample_steps(
    model,
{arguments}
)
for step in run:
    if step.index and step.index % {every} == 0:
        energies[f"t = {{step.t:.2f}}"] = dct_energy(step.predicted_image)
images = step.x

display(image_grid(images, columns={columns}))
display(dct_curves(energies))
"""


def _arguments(
    settings: Settings, uses: dict[str, str], lines: list[str], goes_on: bool
) -> dict[str, str]:
    """Return a run's arguments as code; adds what it takes to `uses` and `lines`."""
    rule = settings.rule()
    said = {
        name: repr(value)
        for name, value in settings.sampling_arguments().items()
        if value is not None
    }
    load = [f"model = deco_lab.load({settings.model!r})"]
    if settings.model.endswith((".safetensors", ".ckpt")) and "://" not in settings.model:
        load[0] += "  # its path on your machine"
    if "guidance" in said:
        said["guidance"] = _call(rule)
        uses[type(rule).__name__] = type(rule).__module__
    if settings.has_gains:
        if said.pop("condition_reuse", None):  # the parts are those of the reused condition
            uses["ReusedCondition"] = "deco_lab.sampling"
            load.append(f"model = ReusedCondition(model, {settings.condition_reuse})")
        uses["PartGains"] = "deco_lab.spectra"
        gains = ", ".join(f"{part}={gains}" for part, gains in settings.gains().items())
        load.append(f"model = PartGains(model, {gains})")
    if goes_on:
        said["start"] = "state"
    if settings.mask:
        uses["keep_of"] = "deco_lab.workbench.mask"
        load.append(f"keep = keep_of({settings.mask!r})  # all but what was painted")
    if settings.mask and goes_on:
        said["start"] = "Start(image, state.t, keep, state.x)"
    elif settings.start_from == "own picture" and not goes_on:
        uses |= {"open_picture": "deco_lab.data", "Start": "deco_lab.sampling"}
        uses["prepare"] = "deco_lab.workbench.source"
        load.append('picture = open_picture("picture.png")  # the one that the run started from')
        load.append("image = prepare(picture, model.config.image_size)[None]")
        keep = ", keep" if settings.mask else ""
        said["start"] = f"Start(image, {settings.start_t}{keep})"
    if any("Curve(" in code for code in (*load, *said.values())):
        uses["Curve"] = "deco_lab.sampling"
    lines.extend(load)
    return said


def _listed(arguments: dict[str, str]) -> str:
    return "\n".join(f"    {name}={value}," for name, value in arguments.items())


def _call(rule: Any) -> str:
    """Return the code that makes a dataclass, with what differs from its defaults."""
    said = [
        f"{field.name}={getattr(rule, field.name)!r}"
        for field in fields(rule)
        if getattr(rule, field.name) != field.default
    ]
    return f"{type(rule).__name__}({', '.join(said)})"
