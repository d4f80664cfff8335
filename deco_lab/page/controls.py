"""The Sample tab's controls: one or more for each field of `Settings`, laid out in a column."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import gradio as gr

from deco_lab.sampling import SOLVERS
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench import GUIDANCE_RULES, MAX_IMAGES, MAX_STEPS, ModelFacts, Settings

BANDS = band_names(OCTAVES)

RULES = {
    "plain": "Plain: one scale for all bands",
    "by band": "By band: a scale for each band",
    "rescaled": "Rescaled: contrast given back",
    "projected": "Projected (APG): no oversaturation",
    "zero-star": "CFG-Zero*: fitted, zero first step",
}
assert tuple(RULES) == GUIDANCE_RULES


Control = gr.Dropdown | gr.Number | gr.Slider | gr.Checkbox


class Controls:
    """Components by the name of their field; fields with a value a band have four, "name.0" on."""

    def __init__(self, names: Sequence[str], first: Settings, model: ModelFacts) -> None:
        self.first = first
        self.parts: dict[str, Control] = {}
        keep = self.parts.__setitem__
        keep(
            "model",
            gr.Dropdown(
                list(names),
                value=first.model,
                label="Model",
                info="What draws; the Models tab has more.",
            ),
        )
        keep("class_ids", class_choice(model, first.class_ids))
        with gr.Row(elem_classes="pair"):
            self._number("num_images", "Images", f"1 to {MAX_IMAGES}, together.")
            self._number("seed", "Seed", "Image i: seed + i.")
        keep(
            "guidance",
            gr.Dropdown(
                [(label, name) for name, label in RULES.items()],
                value=first.guidance,
                label="Guidance",
                info="How the class's and the null class's velocities are joined.",
            ),
        )
        with gr.Column() as plain_scale:
            self._slider("guidance_scale", "Guidance scale", "w: 1 is off.", 0, 15, 0.25)
        with gr.Column(visible=False) as band_scales:
            gr.HTML("<p>Guidance scales by band of cycles/pixel; 1 is off.</p>", padding=False)
            self._bands("band_scales", "Scale", 0, 15, 0.25)
        self.scale_groups = [plain_scale, band_scales]
        with gr.Row(elem_classes="pair"):
            self._number("guidance_low", "Guided from t", "Only after this t.", 0.05)
            self._number("guidance_high", "Guided to t", "Only up to this t.", 0.05)
        with gr.Row(elem_classes="pair"):
            self._number("num_steps", "Steps", f"From 1 to {MAX_STEPS}.")
            keep(
                "solver",
                gr.Dropdown(
                    list(SOLVERS), value=first.solver, label="Solver", info="How steps go."
                ),
            )
        self._slider("time_shift", "Time shift", "Above 1: more steps near noise.", 0.1, 5, 0.1)
        self._slider(
            "condition_reuse", "Reuse of the condition", "Steps per pass of the DiT.", 1, 8, 1
        )
        with gr.Accordion("Parts", open=False, elem_id="gains"):
            keep(
                "decompose",
                gr.Checkbox(
                    first.decompose,
                    label="Take each step apart",
                    info="Shares of the first image, and condition; costs seven decoder passes.",
                ),
            )
            gr.HTML(
                "<p>Gains of the condition's Shapley value in the velocity (for none: mean token, "
                "grey pixels), by band of cycles/pixel; 1 leaves it.</p>",
                padding=False,
            )
            self._bands("dit_gains", "DiT", -1, 3, 0.1)
            gr.HTML(
                "<p>Gains of the pixels' Shapley value there, by band; 1 leaves it.</p>",
                padding=False,
            )
            self._bands("decoder_gains", "Decoder", -1, 3, 0.1)

    def _number(self, name: str, label: str, info: str, step: float = 1) -> None:
        self.parts[name] = gr.Number(getattr(self.first, name), label=label, info=info, step=step)

    def _slider(
        self, name: str, label: str, info: str, low: float, high: float, step: float
    ) -> None:
        self.parts[name] = gr.Slider(
            low, high, getattr(self.first, name), step=step, label=label, info=info, buttons=[]
        )

    def _bands(self, name: str, what: str, low: float, high: float, step: float) -> None:
        for i, band in enumerate(BANDS):
            self.parts[f"{name}.{i}"] = gr.Slider(
                low,
                high,
                getattr(self.first, name)[i],
                step=step,
                label=f"{what}, {band}",
                buttons=[],
            )

    @property
    def components(self) -> list[Control]:
        """All of them, in the order of the values that events hand over."""
        return list(self.parts.values())

    def settings(self, values: Sequence[Any]) -> Settings:
        """Return the settings that the components' values say, or raise ValueError."""
        said: dict[str, Any] = {}
        for name, value in zip(self.parts, values, strict=True):
            field, _, band = name.partition(".")
            if band:
                said.setdefault(field, []).append(value)
            else:
                said[field] = value
        return Settings(**said)

    def filled(self, settings: Settings, model: ModelFacts) -> list[Any]:
        """Return what to hand the components so that they say `settings`."""
        values: Mapping[str, Any] = {f.name: getattr(settings, f.name) for f in fields(settings)}
        updates: list[Any] = []
        for name in self.parts:
            field, _, band = name.partition(".")
            if name == "class_ids":
                updates.append(class_choice(model, settings.class_ids))
            else:
                updates.append(values[field][int(band)] if band else values[field])
        return updates


def class_choice(model: ModelFacts, chosen: Any) -> gr.Dropdown:
    """Return the choice of classes of a model, with those that it has of `chosen`, a list."""
    labels = chosen if isinstance(chosen, list | tuple) else ()  # a script may send anything
    return gr.Dropdown(
        class_names(model),
        value=[label for label in labels if label in range(model.num_classes)] or [0],
        multiselect=True,
        label="Classes",
        info="Images take them in turn.",
    )


def class_names(model: ModelFacts) -> list[tuple[str, int]]:
    """Return a model's classes as a dropdown has them: what is shown, and the label."""
    names = model.class_names or [f"class {i}" for i in range(model.num_classes)]
    return [(f"{i} \N{MIDDLE DOT} {name}", i) for i, name in enumerate(names)]
