"""The Decompose tab: a picture, a time and references; the parts of the predicted image there."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from deco_lab.page.assets import ANSWER, QUIET, as_csv_file, as_json, fold, panel
from deco_lab.page.controls import Controls, class_names
from deco_lab.page.picture import PictureChoice
from deco_lab.workbench import CHOICES, PartsView, Workbench, curves_csv, explain

_LABELS = {
    "whole": ("Take apart", "What the parts are parts of."),
    "condition_reference": ("Condition reference", "What stands for no condition."),
    "pixel_reference": ("Pixel reference", "What stands for no pixels."),
    "effects": ("Effects", "Where the interaction is."),
}


class PartsTab:
    """Components and wiring; the model is the Sample tab's."""

    def __init__(
        self, bench: Workbench, session_of: Callable[[gr.Request], str], controls: Controls
    ) -> None:
        self._bench = bench
        self._session_of = session_of
        self._model = controls.parts["model"]
        names = class_names(bench.library.facts(controls.first.model))
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="side instant"):
                self._go = gr.Button("Take apart", variant="primary", size="md", elem_classes="go")
                fold()
                self.choice = PictureChoice("parts-inlet", names)
                self._t = gr.Slider(
                    0, 0.99, 0.5, step=0.01, label="t",
                    info="From noise, 0, to image, 1; a last run has its own.",
                    buttons=[],
                )  # fmt: skip
                self._choices = [
                    gr.Dropdown(
                        [
                            (f"{name.replace('_', ' ')}: {said}", name)
                            for name, said in all_.items()
                        ],
                        value=next(iter(all_)),
                        label=_LABELS[argument][0],
                        info=_LABELS[argument][1],
                    )
                    for argument, all_ in CHOICES.items()
                ]
                self._clusters = gr.Slider(
                    2, 16, 8, step=1, label="Clusters", buttons=[],
                    info="Colours of the condition's map; the paper has 8.",
                )  # fmt: skip
                self._csv = gr.Button("Keep the curves (CSV)", size="sm")
                self._keeper = panel("parts-keeper", "mountKeeper", {})
            with gr.Column(elem_classes="answer"):
                self._panel = panel("parts", "mountParts", {"choices": CHOICES})

    def wire(self, tab: gr.Tab) -> None:
        """Join the components; the tab computes when it is opened."""
        inputs = [self._model, *self.choice.components, self._t, *self._choices, self._clusters]
        chosen = [part.input for part in (*self._choices, self.choice.class_id)]
        events = [
            tab.select,
            self._go.click,
            *chosen,
            self.choice.wire(self._bench, self._session_of),
        ]
        for event in events:
            event(self._answer, inputs, self._panel, **ANSWER)
        self._csv.click(self._kept, None, self._keeper, **QUIET)

    def _question(self, request: gr.Request, values: Sequence[Any]) -> PartsView:
        """Return the answer to what the components say; called when the model is free."""
        name, *picture, t, whole, condition, pixel, effects, clusters = values
        model = self._bench.library.get(name)
        session = self._session_of(request)
        chosen = self.choice.picture(self._bench, session, model.config, picture)
        return explain(
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

    def _answer(self, request: gr.Request, *values: Any) -> Iterator[str]:
        def shown() -> Iterator[dict[str, Any]]:
            for message in self._bench.ask(lambda: self._question(request, values)):
                if "view" in message:
                    text = curves_csv(message["view"])
                    self._bench.sessions.keep_table(self._session_of(request), "parts", text)
                yield message

        yield from as_json(shown())

    def _kept(self, request: gr.Request) -> str:
        return as_csv_file(self._bench, self._session_of(request), "parts")
