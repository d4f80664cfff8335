"""Scripts and styles of deco_lab/panel, and the components that they draw in."""

import base64
import html
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import gradio as gr

from deco_lab.palette import as_css

_SCRIPTS = (
    "page.js", "draw.js", "keys.js", "refused.js", "enlarge.js", "figure.js", "answer.js",
    "spectrum.js", "heatmap.js", "compare.js", "keep.js", "over_t.js", "sample.js", "resume.js",
    "curve.js", "parts.js", "layers.js", "loss.js", "measure.js", "sweep.js", "inlet.js",
    "mask.js",
)  # fmt: skip
_STYLES = (
    "page.css",
    "panel.css",
    "answer.css",
    "sample.css",
    "keep.css",
    "curve.css",
    "mask.css",
    "parts.css",
    "layers.css",
    "loss.css",
    "measure.css",
    "sweep.css",
)

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For events of the page: panels say themselves what goes on."""

ANSWER: dict[str, Any] = {
    **QUIET,
    "trigger_mode": "multiple",  # a newer question ends the one before
    "concurrency_limit": None,  # turns are taken in the workbench, which can say one's place
}
"""For events that stream a workbench's messages into a panel."""

AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}
"""For events that take no time."""

ASK: dict[str, Any] = {**ANSWER, "queue": False}
"""For events that say where a panel finds the messages."""


def session_of(request: gr.Request) -> str:
    """Return the session's name; a caller without one gets a name of its own."""
    return request.session_hash or secrets.token_hex()


def head() -> str:
    """Return what the page's head holds: nothing is fetched."""
    folder = files("deco_lab") / "panel"
    style, script = (
        "".join((folder / name).read_text(encoding="utf-8") for name in names)
        for names in (_STYLES, _SCRIPTS)
    )
    return f"<style>{as_css()}{style}</style><script>{script}</script>"


def _mounted(name: str, script: str, setup: Mapping[str, Any]) -> gr.HTML:
    return gr.HTML(
        elem_id=name, html_template="", js_on_load=script, apply_default_css=False, setup=setup
    )


def panel(name: str, mount: str, setup: Mapping[str, Any]) -> gr.HTML:
    """Return a component that shows each message it is given, as JSON, by a function of panel/."""
    script = f"""
        const panel = {mount}(element, props.setup);
        const show = () => {{ if (props.value) panel.show(JSON.parse(props.value)); }};
        watch("value", show);
        show();
    """
    return _mounted(name, script, setup)


def inlet(name: str, label: str, *, drops: bool = True) -> gr.HTML:
    """Return a component for a file that a person chooses or drops: its value is a data URI.

    It shows any other value that it is given.
    """
    return _mounted(
        name, "mountInlet(element, props, trigger, watch);", {"label": label, "drops": drops}
    )


def drawn(name: str, mount: str, value: str, **setup: Any) -> gr.HTML:
    """Return a control of a form that a function of panel/ draws; its value is text."""
    component = _mounted(name, f"{mount}(element, props, trigger, watch);", setup)
    component.value = value
    component.elem_classes = [f"of-{name}"]
    return component


def sender(name: str) -> gr.HTML:
    """Return a component without looks, for a panel: `DecoLab.send(name, text)` is its input."""
    component = _mounted(name, "mountSender(element, props, trigger);", {"name": name})
    component.visible = "hidden"
    return component


def toast(sentence: str, visible: bool = True) -> gr.Error:
    """Return what shows a sentence, which may quote a file, over the page: as HTML, by Gradio.

    One that is not visible only keeps what would come next from coming.
    """
    return gr.Error(html.escape(sentence), visible=visible, print_exception=False)


def fold() -> gr.HTML:
    """Return a button that, only on a narrow page, shows and hides the controls after it."""
    button = '<button type="button" aria-expanded="false">Settings</button>'
    return gr.HTML(button, padding=False, apply_default_css=False, elem_classes="fold")


def as_json(messages: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield messages as a panel's value."""
    for message in messages:
        yield json.dumps(message, default=vars)


def as_file(name: str, kind: str, content: bytes) -> str:
    """Return the keeper's value for a file that the browser is to save."""
    data = base64.b64encode(content).decode()
    return json.dumps({"name": name, "type": kind, "data": data, "says": f"Saved as {name}."})
