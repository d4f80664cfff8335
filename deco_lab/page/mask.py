"""What a mask is painted on: a person's own picture, as the model is given it."""

import json
from typing import Any

import gradio as gr

from deco_lab.page.assets import AT_ONCE, session_of
from deco_lab.page.controls import Controls
from deco_lab.workbench import Workbench
from deco_lab.workbench.pictures import to_pictures
from deco_lab.workbench.settings import first_start
from deco_lab.workbench.source import prepare


class MaskGround:
    """Keeps the ground of a form's mask what its other components say.

    Parameters
    ----------
    bench : Workbench
        Where a person's own picture is kept.
    controls : Controls
        The form; its components are joined here.
    """

    def __init__(self, bench: Workbench, controls: Controls) -> None:
        self._bench = bench
        self._ground = controls.mask_ground
        self._said = [controls.parts[name] for name in ("start_from", "origin", "model")]
        # A form that is folded has no fields that change; the mask asks when it comes.
        for event in (controls.mask_asks.input, *(part.change for part in self._said)):
            self.after(event)

    def after(self, event: Any) -> None:
        """Show the ground anew after an event, such as that of another picture."""
        event(self.shown, self._said, self._ground, **AT_ONCE)

    def shown(self, request: gr.Request, start_from: Any, origin: Any, model: Any) -> str:
        """Return whether there is a picture to paint on, the model's size, and the picture."""
        said: dict[str, Any] = {"wanted": False, "side": 0, "picture": None}
        try:
            if first_start(start_from, origin) == "own picture":
                said |= {"wanted": True, "side": self._bench.library.facts(model).image_size}
                picture = self._bench.sessions.picture(session_of(request))
                said["picture"] = to_pictures(prepare(picture, said["side"])[None])
        except ValueError:  # what draws says why
            pass
        return json.dumps(said, default=vars)
