"""The choice of a picture to look into, the same in two tabs."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from deco_lab.page.assets import ANSWER, QUIET, inlet, session_of, toast
from deco_lab.workbench import Workbench
from deco_lab.workbench.bench import sentence
from deco_lab.workbench.inlet import from_data_uri, read_picture
from deco_lab.workbench.source import SOURCES, Chosen, choose

MAX_KEPT_SIDE = 2048
"""Longest side, in pixels, of a picture that a session keeps."""


class PictureChoice:
    """Components that say which picture; `picture` turns their values into it."""

    def __init__(self, bench: Workbench, name: str, choices: Sequence[tuple[str, int]]) -> None:
        self._bench = bench
        self._source = gr.Radio(
            [(source.capitalize(), source) for source in SOURCES],
            value=SOURCES[0],
            label="Picture",
            info="A crop of a bundled photograph, an image drawn last, or one of yours.",
            elem_classes="of-source",
        )
        with gr.Row(elem_classes="pair"):
            self.class_id = gr.Dropdown(
                list(choices), value=choices[0][1], label="Class", info="What the model is told.",
                elem_classes="of-class_id",
            )  # fmt: skip
            self._index = gr.Number(
                1, label="Image", info="Of the last run, from 1.", step=1, elem_classes="of-image"
            )
        self._seed = gr.Number(
            0, label="Seed", info="Of the crop and of the noise.", step=1, elem_classes="of-seed"
        )
        self._inlet = inlet(name, "A picture of your own: choose it, or drop it on the page")
        self.components = [self._source, self.class_id, self._index, self._seed]

    def answer(self, events: Sequence[Any], function: Any, inputs: list[Any], out: Any) -> None:
        """Let events, another class and a picture of one's own be answered in a panel."""
        taken = self._inlet.input(self._take, self._inlet, [self._source, self._inlet], **QUIET)
        for event in (*events, self.class_id.input, taken.success):
            event(function, inputs, out, **ANSWER)

    def _take(self, request: gr.Request, uri: str) -> tuple[str, str]:
        try:
            picture = read_picture(from_data_uri(uri))
        except ValueError as error:
            raise toast(sentence(error)) from error
        picture.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE))
        self._bench.sessions.keep_picture(session_of(request), picture)
        return "own picture", ""

    def picture(self, request: gr.Request, config: Any, values: Sequence[Any]) -> Chosen:
        """Return the picture that the components say, for a model's config, as `choose`."""
        return choose(self._bench.sessions, session_of(request), config, *values)
