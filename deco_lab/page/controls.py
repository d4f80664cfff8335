"""The Sample tab's controls, made of what `Settings` says of its fields, laid out in a column."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gradio as gr

from deco_lab.page.assets import drawn, inlet, panel, sender
from deco_lab.page.curves import CURVES, as_text, curves_of_text, curves_plot
from deco_lab.sampling import GUIDANCE
from deco_lab.setting import Interval, Setting, settings_of
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench import Settings
from deco_lab.workbench.library import ModelFacts

MORE = (
    "guidance", "band_scales", "guidance_interval", "start_from", "origin", "mask", "start_t",
    "solver", "time_shift", "condition_reuse", "decompose", "dit_gains", "decoder_gains", *CURVES,
)  # fmt: skip
"""Settings that few need, behind "More"."""

DRAWN = ("origin", "mask", *CURVES)
"""Those of them that have components of their own, of panel/."""

Control = gr.Dropdown | gr.Number | gr.Slider | gr.Checkbox | gr.HTML


class Controls:
    """Components by the name of their field; a field of several numbers has "name.0" and so on.

    The curves over t are one component, "curves".
    """

    def __init__(self, names: Sequence[str], first: Settings, model: ModelFacts) -> None:
        self.first = first
        self.parts: dict[str, Control] = {
            "model": gr.Dropdown(
                list(names),
                value=first.model,
                elem_classes="of-model",
                **_said(settings_of(Settings)["model"]),
            ),
            "class_ids": class_choice(model, first.class_ids),
        }
        self._row("num_images", "seed")
        self._row("num_steps")
        self.scales: dict[str, gr.Column] = {}
        self._scale("guidance_scale")
        with gr.Accordion("More", open=False, elem_id="more"):
            self.parts["curves"] = curves_plot(first)  # first: in sight of what it draws
            self._add("guidance")
            self._scale("band_scales")
            self._row("guidance_interval")
            self._add("start_from")
            self.start_inlet = inlet(
                "start-inlet", "A picture of your own to start from: choose it", drops=False
            )
            said = settings_of(Settings)["mask"]
            self.parts["mask"] = drawn("mask", "mountMask", first.mask, label=said.label)
            self.mask_ground = panel("mask-ground", "mountMaskGround", {})
            self.mask_ground.visible = "hidden"
            for name in MORE[4:]:
                if name not in DRAWN:
                    self._add(name)
            self.reset = gr.Button("Reset all of these", size="sm")
        gr.HTML("<p></p>", padding=False, elem_id="more-says")  # panel/sample.js
        self.mask_asks = sender("mask-asks")
        self.parts["origin"] = drawn("origin", "mountOrigin", first.origin)

    def _scale(self, name: str) -> None:
        """Add the component of a scale that not every rule of guidance looks at."""
        visible = name in GUIDANCE[self.first.guidance].settings
        with gr.Column(visible=visible) as self.scales[name]:
            self._add(name)

    def _row(self, *names: str) -> None:
        with gr.Row(elem_classes="pair"):
            for name in names:
                self._add(name)

    def _add(self, name: str) -> None:
        """Add the component of a field, or one for each of its numbers."""
        setting, value = settings_of(Settings)[name], getattr(self.first, name)
        which = f"of-{name}"  # where panel/refused.js says what is wrong
        if not isinstance(value, tuple):
            self.parts[name] = _component(setting, value, elem_classes=which, **_said(setting))
            return
        labels, said = setting.label, {"info": setting.help}
        if isinstance(labels, str):
            gr.HTML(f"<p>{setting.help}</p>", padding=False)
            said = {}
            labels = [f"{setting.label}, {band}" for band in band_names(OCTAVES)]
        for i, (label, one) in enumerate(zip(labels, value, strict=True)):
            self.parts[f"{name}.{i}"] = _component(
                setting, one, elem_classes=which, label=label, **said
            )

    def shown_scales(self, rule: object) -> list[Any]:
        """Return which of `scales` a rule of guidance looks at, none of what is no rule."""
        shown = {name for known, of in GUIDANCE.items() if known == rule for name in of.settings}
        return [gr.update(visible=name in shown) for name in self.scales]

    @property
    def components(self) -> list[Control]:
        """All of them, in the order of the values that events hand over."""
        return list(self.parts.values())

    def settings(self, values: Sequence[Any]) -> Settings:
        """Return the settings that the components' values say, or raise ValueError."""
        told: dict[str, Any] = {}
        for name, value in zip(self.parts, values, strict=True):
            field, _, place = name.partition(".")
            if field == "curves":
                told |= curves_of_text(value)
                continue
            told[field] = [*told.get(field, []), value] if place else value
        return Settings(**told)

    def without_more(self, values: Sequence[Any]) -> list[Any]:
        """Return values in which all of `MORE` are at their defaults."""
        defaults: dict[str, Any] = {name: getattr(Settings, name) for name in MORE}
        defaults["curves"] = as_text(Settings())
        return [
            (defaults[field][int(place)] if place else defaults[field])
            if field in defaults
            else value
            for (field, _, place), value in zip(
                (name.partition(".") for name in self.parts), values, strict=True
            )
        ]

    def filled(self, settings: Settings, model: ModelFacts) -> list[Any]:
        """Return what to hand the components so that they say `settings`."""
        values: dict[str, Any] = asdict(settings)
        values["class_ids"] = class_choice(model, settings.class_ids)
        values["curves"] = as_text(settings)
        parts = (name.partition(".") for name in self.parts)
        return [values[field][int(place)] if place else values[field] for field, _, place in parts]


def _said(setting: Setting) -> dict[str, Any]:
    return {"label": setting.label, "info": setting.help}


def _component(setting: Setting, value: Any, **words: Any) -> Control:
    """Return the component that a setting asks for."""
    if setting.choices is not None:
        shown = [(getattr(what, "label", name), name) for name, what in setting.choices.items()]
        return gr.Dropdown(shown, value=value, **words)
    if isinstance(value, bool):
        return gr.Checkbox(value, **words)
    if setting.slider is not None:
        low, high, step = setting.slider
        return gr.Slider(low, high, value, step=step, buttons=[], **words)
    return gr.Number(value, step=0.05 if isinstance(setting, Interval) else 1, **words)


def class_choice(model: ModelFacts, chosen: Any) -> gr.Dropdown:
    """Return the choice of classes of a model, with those that it has of `chosen`, a list."""
    labels = chosen if isinstance(chosen, list | tuple) else ()  # a script may send anything
    return gr.Dropdown(
        class_names(model),
        value=[label for label in labels if label in range(model.num_classes)] or [0],
        multiselect=True,
        label="Classes",
        info="Images take them in turn.",
        elem_classes="of-class_ids",
    )


def class_names(model: ModelFacts) -> list[tuple[str, int]]:
    """Return a model's classes as a dropdown has them: what is shown, and the label."""
    names = model.class_names or [f"class {i}" for i in range(model.num_classes)]
    return [(f"{i} \N{MIDDLE DOT} {name}", i) for i, name in enumerate(names)]
