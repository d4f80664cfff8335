"""The choice of a picture to look into, the same in two tabs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr
from torch import Tensor

from deco_lab.page.assets import QUIET, inlet, toast
from deco_lab.workbench import (
    MAX_IMAGES,
    SOURCES,
    Workbench,
    from_data_uri,
    picture_from,
    read_picture,
    sentence,
)
from deco_lab.workbench.settings import check_whole

MAX_KEPT_SIDE = 2048
"""Longest side, in pixels, of a picture that a session keeps."""


class Chosen(NamedTuple):
    """A picture to look into, and how."""

    image: Tensor
    """(3, S, S) in [-1, 1]."""
    class_id: int
    """What the model is to be told."""
    seed: int
    noisy: Tensor | None = None
    """(3, S, S), of the last run: where it stood at t, in place of image and noise."""
    t: float | None = None


class PictureChoice:
    """Components that say which picture; `picture` turns their values into it."""

    def __init__(self, name: str, choices: Sequence[tuple[str, int]]) -> None:
        self._source = gr.Radio(
            [(source.capitalize(), source) for source in SOURCES],
            value="photograph",
            label="Picture",
            info="A crop of a bundled photograph, an image drawn last, or one of yours.",
        )
        with gr.Row(elem_classes="pair"):
            self.class_id = gr.Dropdown(
                list(choices), value=choices[0][1], label="Class", info="What the model is told."
            )
            self._index = gr.Number(1, label="Image", info="Of the last run, from 1.", step=1)
        self._seed = gr.Number(0, label="Seed", info="Of the crop and of the noise.", step=1)
        self._inlet = inlet(name, "A picture of your own: choose it, or drop it on the page")

    @property
    def components(self) -> list[gr.Component]:
        """All of them, in the order in which `picture` takes their values."""
        return [self._source, self.class_id, self._index, self._seed]

    def wire(self, bench: Workbench, session_of: Callable[[gr.Request], str]) -> Any:
        """Let a chosen file be kept, and return the event that follows where it can be read."""

        def take(request: gr.Request, uri: str) -> tuple[str, str]:
            try:
                picture = read_picture(from_data_uri(uri))
            except ValueError as error:
                raise toast(sentence(error)) from error
            picture.thumbnail((MAX_KEPT_SIDE, MAX_KEPT_SIDE))
            bench.sessions.keep_picture(session_of(request), picture)
            return "own picture", ""

        taken = self._inlet.input(take, self._inlet, [self._source, self._inlet], **QUIET)
        return taken.success

    def picture(self, bench: Workbench, session: str, config: Any, values: Sequence[Any]) -> Chosen:
        """Return the picture for a model's config.

        Raises ValueError as `picture_from`, and for a last run of a model with other classes.
        """
        source, class_id, index, seed = values
        check_whole("seed", seed, 0, 2**31)
        check_whole("image", index, 1, MAX_IMAGES)
        record = bench.sessions.kept(session) if source == "last run" else None
        image = picture_from(
            source,
            image_size=config.image_size,
            class_id=class_id,
            seed=seed,
            record=record,
            index=index - 1,
            picture=bench.sessions.picture(session),
        )
        if record is None or record.paused is None:
            return Chosen(image, class_id, seed)
        drew = record.model["num_classes"], tuple(record.model["class_names"])
        if drew != (config.num_classes, tuple(config.class_names)):
            raise ValueError(
                "the last run must be of a model with the same classes, so that its label means "
                f"the same, got one of {record.settings.model}; draw with this model first"
            )
        label, (x, t) = record.settings.labels[index - 1], record.paused
        return Chosen(image, label, seed, x[index - 1], t)
