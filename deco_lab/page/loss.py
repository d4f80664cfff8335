"""The Loss weights tab: the loss's tables, a picture split by them, and a model's own loss."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from deco_lab.page.assets import ANSWER, as_json, fold, panel
from deco_lab.page.controls import Controls, class_names
from deco_lab.page.picture import PictureChoice
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench import Workbench
from deco_lab.workbench.bench import refusal
from deco_lab.workbench.loss import MAX_GAMMA, TIMES, loss_share, split, weights


class LossTab:
    """Components and wiring; the model is the Sample tab's."""

    def __init__(self, bench: Workbench, controls: Controls) -> None:
        self._bench = bench
        self._model = controls.parts["model"]
        names = class_names(bench.library.facts(controls.first.model))
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="side instant"):
                self._go = gr.Button("Weigh", variant="primary", size="md", elem_classes="go")
                fold()
                self._quality = gr.Slider(
                    1, 100, 85, step=1, label="Quality", buttons=[], elem_classes="of-quality",
                    info="JPEG's, whose steps make the weights; at 100 all are 1.",
                )  # fmt: skip
                self._gamma = gr.Slider(
                    0, MAX_GAMMA, 1.0, step=0.1, label="Gamma", buttons=[], elem_classes="of-gamma",
                    info="Exponent of the weights; 0 makes all of them 1.",
                )  # fmt: skip
                self.choice = PictureChoice(bench, "loss-inlet", names)
                self._measure = gr.Button("Measure the model's loss", size="md")
                gr.Button("Keep the tables (CSV)", size="sm", elem_id="loss-csv")
            with gr.Column(elem_classes="answer"):
                setup = {"bands": band_names(OCTAVES), "times": TIMES}
                self._panel = panel("loss", "mountLoss", setup)

    def wire(self, tab: gr.Tab, shared: Sequence[PictureChoice]) -> None:
        """Join the components; the tab computes when it is opened."""
        inputs = [self._model, self._quality, self._gamma, *self.choice.components]
        events = [tab.select, self._go.click]
        self.choice.answer(events, self.weighed, inputs, self._panel, shared)
        self._measure.click(self.measured, inputs, self._panel, **ANSWER)

    def weighed(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Yield the panel's messages on tables and picture."""
        name, quality, gamma, *picture = values

        def question() -> Any:
            config = self._bench.library.get(name).config
            return split(self.choice.picture(request, config, picture).image, quality, gamma)

        try:
            table = weights(quality, gamma)
        except ValueError as error:
            yield json.dumps(refusal(error))
            return
        yield from as_json([{"status": "running", "text": "", "weights": table}])
        yield from as_json(self._bench.ask(question, "split"))

    def measured(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Yield the panel's messages on the model's own loss."""
        name, quality, gamma, *picture = values

        def question() -> Any:
            model, which = self._bench.library.get(name), {}
            if picture[0] != "photograph":
                chosen = self.choice.picture(request, model.config, picture)
                which = {"image": chosen.image, "class_id": chosen.class_id, "seed": chosen.seed}
            return loss_share(model, quality, gamma, name=name, **which)

        yield from as_json(self._bench.ask(question, "shares"))
