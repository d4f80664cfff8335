"""The form's curves over t: one plot on which they are drawn, and the text that it hands over."""

import json
from contextlib import suppress
from typing import Any

import gradio as gr

from deco_lab.page.assets import drawn
from deco_lab.sampling import GUIDANCE
from deco_lab.setting import RuleError, said, settings_of
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench import Settings

CURVES = ("guidance_curve", "band_curves", "dit_curves", "decoder_curves")
"""Settings that are curves."""

_OF_GUIDANCE = (
    "How much of the scale over 1 a step has, by the t at which it starts: 0 is no guidance."
)
_OF_GAINS = "What the gain of the band is multiplied with: 1 leaves it, 0 takes the part away."
_GROUPS: tuple[dict[str, Any], ...] = (
    {
        "name": "guidance_curve", "label": "Guidance", "looks": ["dl-curve"],
        "help": _OF_GUIDANCE,
    },
    {
        "name": "band_curves", "label": "Guidance", "group": "Guidance by band",
        "looks": [f"dl-band-{k}" for k in range(4)],
        "help": "The same of one band, times the curve of all bands: 0 is no guidance there.",
    },
    {"name": "dit_curves", "label": "DiT", "looks": ["dl-condition"] * 4, "help": _OF_GAINS},
    {"name": "decoder_curves", "label": "Decoder", "looks": ["dl-pixels"] * 4, "help": _OF_GAINS},
)  # fmt: skip


def curves_plot(first: Settings) -> gr.HTML:
    """Return the component of all curves: its value is those that are not 1 throughout, as JSON."""
    groups = []
    for group in _GROUPS:
        name = group["name"]
        is_gain = settings_of(Settings)[name].low < 0
        rules = [rule for rule, of in GUIDANCE.items() if name in of.settings]
        groups.append(
            {
                "group": group["label"],
                "bands": band_names(OCTAVES) if len(group["looks"]) > 1 else [""],
                "range": [-1, 3] if is_gain else [0, 2],
                "rules": rules or None,  # None: whatever the rule
                **group,
            }
        )
    return drawn("curves", "mountCurves", as_text(first), groups=groups, rule=first.guidance)


def as_text(settings: Settings) -> str:
    """Return the plot's value for settings."""
    return json.dumps({name: values for name in CURVES if (values := getattr(settings, name))})


def curves_of_text(text: Any) -> dict[str, Any]:
    """Return the settings that the plot's value holds, unchecked, or raise ValueError."""
    found = None
    if isinstance(text, str):
        with suppress(ValueError, RecursionError):
            found = json.loads(text or "{}")
    if not isinstance(found, dict):
        raise RuleError(CURVES[0], f"must be curves by name, as JSON, got {said(text)}")
    return {name: found.get(name, ()) for name in CURVES}
