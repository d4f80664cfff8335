"""The Loss weights tab: the loss's tables, a picture split by them, and a model's own loss."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from deco_lab.page.assets import ANSWER, QUIET, as_csv_file, as_json, fold, panel
from deco_lab.page.controls import Controls, class_names
from deco_lab.page.picture import Chosen, PictureChoice
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench import Workbench, loss_share, sentence, split, tables_csv, weights
from deco_lab.workbench.loss import MAX_GAMMA, TIMES


class LossTab:
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
                self._go = gr.Button("Weigh", variant="primary", size="md", elem_classes="go")
                fold()
                self._quality = gr.Slider(
                    1, 100, 85, step=1, label="Quality", buttons=[],
                    info="JPEG's, whose steps make the weights; at 100 all are 1.",
                )  # fmt: skip
                self._gamma = gr.Slider(
                    0, MAX_GAMMA, 1.0, step=0.1, label="Gamma", buttons=[],
                    info="Exponent of the weights; 0 makes all of them 1.",
                )  # fmt: skip
                self.choice = PictureChoice("loss-inlet", names)
                self._measure = gr.Button("Measure the model's loss", size="md")
                self._csv = gr.Button("Keep the tables (CSV)", size="sm")
                self._keeper = panel("loss-keeper", "mountKeeper", {})
            with gr.Column(elem_classes="answer"):
                self._panel = panel(
                    "loss", "mountLoss", {"bands": band_names(OCTAVES), "times": list(TIMES)}
                )

    def wire(self, tab: gr.Tab) -> None:
        """Join the components; the tab computes when it is opened."""
        inputs = [self._model, self._quality, self._gamma, *self.choice.components]
        taken = self.choice.wire(self._bench, self._session_of)
        for event in (tab.select, self._go.click, self.choice.class_id.input, taken):
            event(self._weighed, inputs, self._panel, **ANSWER)
        self._measure.click(self._measured, inputs, self._panel, **ANSWER)
        self._csv.click(self._kept, None, self._keeper, **QUIET)

    def _weighed(self, request: gr.Request, *values: Any) -> Iterator[str]:
        name, quality, gamma, *picture = values

        def question() -> Any:
            config = self._bench.library.get(name).config
            return split(self._picture(request, config, picture).image, quality, gamma)

        try:
            table = weights(quality, gamma)
        except ValueError as error:
            yield json.dumps({"status": "refused", "text": sentence(error)})
            return
        self._bench.sessions.keep_table(self._session_of(request), "weights", tables_csv(table))
        yield from as_json([{"status": "running", "text": "", "weights": table}])
        yield from as_json(self._bench.ask(question, "split"))

    def _measured(self, request: gr.Request, *values: Any) -> Iterator[str]:
        name, quality, gamma, *picture = values

        def question() -> Any:
            model = self._bench.library.get(name)
            if picture[0] == "photograph":
                return loss_share(model, quality, gamma, name=name)
            chosen = self._picture(request, model.config, picture)
            return loss_share(
                model,
                quality,
                gamma,
                image=chosen.image,
                class_id=chosen.class_id,
                seed=chosen.seed,
                name=name,
            )

        yield from as_json(self._bench.ask(question, "shares"))

    def _picture(self, request: gr.Request, config: Any, values: Sequence[Any]) -> Chosen:
        return self.choice.picture(self._bench, self._session_of(request), config, values)

    def _kept(self, request: gr.Request) -> str:
        return as_csv_file(self._bench, self._session_of(request), "weights")
