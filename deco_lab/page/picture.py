"""The choice of a picture to look into, the same in two tabs, which share a person's own."""

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


def keep_own(bench: Workbench, request: gr.Request, uri: str) -> str:
    """Keep a picture that a person chose or dropped, for all tabs, and say so in a sentence."""
    try:
        picture = read_picture(from_data_uri(uri))
    except ValueError as error:
        raise toast(sentence(error)) from error
    said = f"Yours, {picture.width} by {picture.height} pixels, is kept for every tab."
    picture.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE))
    bench.sessions.keep_picture(session_of(request), picture)
    return said


class PictureChoice:
    """Components that say which picture; `picture` turns their values into it.

    Parameters
    ----------
    bench : Workbench
        Where the last run and a person's own picture are kept.
    name : str
        The inlet's element id.
    choices : sequence of (str, int)
        The model's classes, and their labels.
    with_step : bool
        Whether a step of the last run can be chosen.
    """

    def __init__(
        self,
        bench: Workbench,
        name: str,
        choices: Sequence[tuple[str, int]],
        with_step: bool = False,
    ) -> None:
        self._bench = bench
        self.source = gr.Radio(
            [(source.capitalize(), source) for source in SOURCES],
            value=SOURCES[0],
            label="Picture",
            info="A crop of a bundled photograph, an image drawn last, or one of yours.",
            elem_classes="of-source",
        )
        with gr.Row(elem_classes="pair"):
            self.class_id = gr.Dropdown(
                list(choices), value=choices[0][1], label="Class", info="What it is told.",
                elem_classes="of-class_id",
            )  # fmt: skip
            self._seed = gr.Number(
                0, label="Seed", info="Of crop and noise.", step=1, elem_classes="of-seed"
            )
        with gr.Row(elem_classes="pair"):
            self.index = gr.Number(
                1, label="Image", info="Of the last run.", step=1, elem_classes="of-image"
            )
            if with_step:
                self.step = gr.Number(
                    None, label="Step", info="Where it began.",
                    placeholder="where it stopped", step=1, elem_classes="of-step",
                )  # fmt: skip
        self.inlet = inlet(name, "A picture of your own: choose it, or drop it on the page")
        self.taken: Any = None
        """The event of a person's own picture, once `answer` has been called."""
        self.components = [self.source, self.class_id, self.index, self._seed]
        if with_step:
            self.components.append(self.step)

    def answer(
        self,
        events: Sequence[Any],
        function: Any,
        inputs: list[Any],
        out: Any,
        shared: Sequence["PictureChoice"],
    ) -> None:
        """Let events, another class and a picture of one's own be answered in a panel.

        A picture of one's own is chosen in all of `shared`, this one among them.
        """
        places = [part for choice in shared for part in (choice.source, choice.inlet)]

        def take(request: gr.Request, uri: str) -> list[str]:
            return ["own picture", keep_own(self._bench, request, uri)] * len(shared)

        self.taken = taken = self.inlet.input(take, self.inlet, places, **QUIET)
        for event in (*events, self.class_id.input, taken.success):
            event(function, inputs, out, **ANSWER)

    def picture(self, request: gr.Request, config: Any, values: Sequence[Any]) -> Chosen:
        """Return the picture that the components say, for a model's config, as `choose`."""
        return choose(self._bench.sessions, session_of(request), config, *values)
