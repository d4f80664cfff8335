"""The Measure tab: one of the studies asked of the loaded model, its figure and its numbers."""

import base64
from collections.abc import Iterator
from typing import Any

import gradio as gr

from deco_lab.page.assets import ANSWER, as_json, fold, panel
from deco_lab.page.controls import Controls
from deco_lab.setting import RuleError, check_choice, check_number, check_whole, said
from deco_lab.studies import STUDIES, crops_for, study
from deco_lab.workbench import Workbench

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
MAX_COUNT = 119


class MeasureTab:
    """Components and wiring; the model is the Sample tab's."""

    def __init__(self, bench: Workbench, controls: Controls) -> None:
        self._bench = bench
        self._model = controls.parts["model"]
        with gr.Row(elem_classes="workbench"):
            with gr.Column(elem_classes="side"):
                self._go = gr.Button("Measure", variant="primary", size="md", elem_classes="go")
                fold()
                self._study = gr.Radio(
                    [(study.label, name) for name, study in STUDIES.items()],
                    label="Study", info="What the model is asked; a click asks it.",
                    elem_classes=["of-study", "listed"],
                )  # fmt: skip
                self._times = gr.CheckboxGroup(
                    TIMES, value=[0.3, 0.5, 0.9], label="t", info="0 is noise, 1 the image.",
                    elem_classes="of-t",
                )  # fmt: skip
                self._count = gr.Slider(
                    17, MAX_COUNT, 17, step=17, label="Images", buttons=[],
                    elem_classes="of-images",
                    info="Crops of bundled photographs, or fields: 17 take seconds.",
                )  # fmt: skip
                self._seed = gr.Number(
                    0, label="Seed", info="Of images and noise.", step=1, elem_classes="of-seed"
                )
                gr.Button("Keep figure and numbers (ZIP)", size="sm", elem_id="measure-zip")
            with gr.Column(elem_classes="answer"):
                questions = {name: study.question for name, study in STUDIES.items()}
                self._panel = panel("measure", "mountMeasure", {"questions": questions})

    def wire(self) -> None:
        """Join the components."""
        inputs = [self._model, self._study, self._times, self._count, self._seed]
        asked = [self._go.click, self._study.input]
        gr.on(asked, self.answers, inputs, self._panel, **ANSWER)

    def answers(self, name: Any, asked: Any, times: Any, count: Any, seed: Any) -> Iterator[str]:
        """Yield the panel's messages to what the components say."""

        def question() -> dict[str, Any]:
            check_choice("study", asked, STUDIES)
            check_whole("images", count, 1, MAX_COUNT)
            if not isinstance(times, list):
                raise RuleError("t", f"must be a list of times, got {said(times)}")
            at = sorted({check_number("t", t, 0, 1) for t in times})
            model = self._bench.library.get(name)
            found = study(asked, model, crops_for(model, count, at, seed=seed))
            svg, archive = (
                base64.b64encode(file).decode() for file in (found.svg(), found.zipped())
            )
            return {
                "study": asked,
                "title": f"{STUDIES[asked].label}: {name}, {count} images, seed {seed}",
                "svg": svg,
                "zip": archive,
            }

        yield from as_json(self._bench.ask(question))
