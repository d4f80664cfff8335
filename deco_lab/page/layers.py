"""The Decompose tab's second panel: the blocks of the DiT, each with its tokens and what they draw.

What can be read from the tokens is measured when it is asked for, which takes some ten seconds.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np

from deco_lab.page.assets import ANSWER, as_json, panel, sender
from deco_lab.page.controls import Controls
from deco_lab.page.picture import PictureChoice
from deco_lab.setting import check_number
from deco_lab.spectra import LinearReadout, layer_readout
from deco_lab.studies import crops_are, crops_for
from deco_lab.workbench import Workbench
from deco_lab.workbench.layers import LayersView, look_inside
from deco_lab.workbench.parts import noised
from deco_lab.workbench.pictures import plain

COUNT = 17
"""Crops that readability is measured on: of the bundled photographs one each."""
TARGET = "image"
"""What is to be read: the true image that was noised."""


class LayersPanel:
    """The panel and its wiring; the model is the Sample tab's, the picture the Decompose tab's."""

    def __init__(self, bench: Workbench, controls: Controls, choice: PictureChoice) -> None:
        self._bench, self._choice = bench, choice
        self._model = controls.parts["model"]
        self.panel = panel("layers", "mountLayers", {})
        self._wanted = sender("readability")
        """Its input is the t at which readability is asked for."""

    def wire(self) -> None:
        """Let readability be measured when the panel asks for it."""
        self._wanted.input(self.readability, [self._model, self._wanted], self.panel, **ANSWER)

    def answers(
        self, request: gr.Request, name: Any, picture: Sequence[Any], t: Any
    ) -> Iterator[str]:
        """Yield the panel's messages; none where there is no picture, which another panel says."""

        def question() -> LayersView | None:
            model = self._bench.library.get(name)
            try:
                chosen = self._choice.picture(request, model.config, picture)
            except ValueError:
                return None
            at = check_number("t", t if chosen.t is None else chosen.t, 0, 1)
            x = noised(chosen.image, at, chosen.seed, chosen.noisy)
            return look_inside(model, x, at, chosen.class_id, name=name)

        yield from as_json(self._bench.ask(question))

    def readability(self, name: Any, wanted: Any) -> Iterator[str]:
        """Yield messages with what a ridge regression reads after each block, as "read"."""

        def question() -> dict[str, Any]:
            model = self._bench.library.get(name)
            at = check_number("t", _number(wanted), 0, 1)
            crops = crops_for(model, COUNT, (at,))
            r2 = [_r2(read) for read in layer_readout(model, crops)]
            return {"name": name, "t": at, "of": f"{COUNT} {crops_are(model)}", "r2": r2}

        yield from as_json(self._bench.ask(question, "read"))


def _number(text: Any) -> Any:
    """Return the number that a text says, or what came, for a rule to refuse."""
    try:
        return float(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _r2(read: LinearReadout) -> list[dict[str, float | None]]:
    """Return value and interval of TARGET's R^2 in each band."""
    q = read.targets.index(TARGET)
    bands = np.stack([end[0, 0, q] for end in read.r2.ends], 1)
    return [
        dict(zip(("value", "low", "high"), plain(band.tolist()), strict=True)) for band in bands
    ]
