"""The Decompose tab: a picture, a time and references; the parts of the predicted image there.

A step that is shown on the Sample tab can be sent here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from deco_lab.page.assets import AT_ONCE, as_json, fold, panel, session_of, toast
from deco_lab.page.controls import Controls, class_names
from deco_lab.page.layers import LayersPanel
from deco_lab.page.picture import PictureChoice
from deco_lab.workbench import PartsView, Workbench
from deco_lab.workbench.bench import sentence
from deco_lab.workbench.parts import CHOICES, MAX_CLUSTERS, explain

_LABELS = {
    "whole": ("Take apart", "What the parts are parts of."),
    "condition_reference": ("Condition reference", "What stands for no condition."),
    "pixel_reference": ("Pixel reference", "What stands for no pixels."),
    "effects": ("Effects", "Where the interaction is."),
}


class PartsTab:
    """Components and wiring; the model is the Sample tab's."""

    def __init__(self, bench: Workbench, controls: Controls) -> None:
        self._bench = bench
        self._model = controls.parts["model"]
        names = class_names(bench.library.facts(controls.first.model))
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="side instant"):
                self._go = gr.Button("Take apart", variant="primary", size="md", elem_classes="go")
                fold()
                self.choice = PictureChoice(bench, "parts-inlet", names, with_step=True)
                self._t = gr.Slider(
                    0, 0.99, 0.5, step=0.01, label="t", buttons=[], elem_classes="of-t",
                    info="From noise, 0, to image, 1; a step has its own.",
                )  # fmt: skip
                self._choices = [_choice(argument) for argument in CHOICES]
                self._clusters = gr.Slider(
                    2, MAX_CLUSTERS, 8, step=1, label="Clusters", buttons=[],
                    elem_classes="of-num_clusters",
                    info="Colours of the condition's map; the paper has 8.",
                )  # fmt: skip
                gr.Button("Keep the curves (CSV)", size="sm", elem_id="parts-csv")
            with gr.Column(elem_classes="answer"):
                self._panel = panel("parts", "mountParts", {"choices": CHOICES})
                self.layers = LayersPanel(bench, controls, self.choice)

    def wire(self, tab: gr.Tab, shared: Sequence[PictureChoice]) -> None:
        """Join the components; the tab computes when it is opened."""
        inputs = [self._model, *self.choice.components, self._t, self._clusters, *self._choices]
        events = [tab.select, self._go.click, *(part.input for part in self._choices)]
        both = [self._panel, self.layers.panel]
        self.choice.answer(events, self._both, inputs, both, shared)
        self.layers.wire()

    def open_from(self, wanted: gr.HTML, tabs: gr.Tabs, name: str) -> None:
        """Take a step of the last run apart, on the tab of this name, when one is wanted."""
        choice = self.choice
        told = [choice.source, choice.index, choice.step, choice.class_id]
        chosen = wanted.input(self._step, [wanted, self._model], told, **AT_ONCE)
        chosen.success(lambda: gr.Tabs(selected=name), None, tabs, **AT_ONCE)

    def _step(self, request: gr.Request, wanted: Any, model: Any) -> list[Any]:
        """Return what the choice of a picture is to say, so that it is a step of the last run."""
        try:
            record = self._bench.sessions.kept(session_of(request))
            if not (isinstance(wanted, str) and wanted.isdecimal() and len(wanted) < 5):
                raise ValueError("the step must be a whole number; choose it with the slider")
        except ValueError as error:
            raise toast(sentence(error)) from error
        same = model == record.settings.model
        return ["last run", 1, int(wanted), record.settings.labels[0] if same else gr.skip()]

    def _both(self, request: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the messages of both panels, the parts first."""
        for message in self.answers(request, *values):
            yield message, gr.skip()
        name, *picture, t = values[: len(self.choice.components) + 2]
        for message in self.layers.answers(request, name, picture, t):
            yield gr.skip(), message

    def answers(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Yield the panel's messages to what the components say."""

        def question() -> PartsView:
            name, *picture, t, clusters, whole, condition, pixel, effects = values
            model = self._bench.library.get(name)
            chosen = self.choice.picture(request, model.config, picture)
            view = explain(
                model,
                chosen.image,
                chosen.class_id,
                t=t if chosen.t is None else chosen.t,
                seed=chosen.seed,
                noisy=chosen.noisy,
                whole=whole,
                condition_reference=condition,
                pixel_reference=pixel,
                effects=effects,
                num_clusters=clusters,
                name=name,
            )
            return replace(view, settings=view.settings | {"of": chosen.said})

        yield from as_json(self._bench.ask(question))


def _choice(argument: str) -> gr.Dropdown:
    label, info = _LABELS[argument]
    shown = [(f"{key.replace('_', ' ')}: {said}", key) for key, said in CHOICES[argument].items()]
    which = f"of-{argument}"
    return gr.Dropdown(shown, value=shown[0][1], label=label, info=info, elem_classes=which)
