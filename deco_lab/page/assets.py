"""Scripts and styles of deco_lab/panel, and the components that they draw in."""

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import gradio as gr

from deco_lab.workbench import Workbench, sentence

_SCRIPTS = (
    "page.js", "draw.js", "spectrum.js", "heatmap.js", "sample.js", "parts.js", "loss.js",
    "inlet.js",
)  # fmt: skip
_STYLES = ("page.css", "panel.css", "sample.css", "parts.css", "loss.css")

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""For events of the page: panels say themselves what goes on."""

ANSWER: dict[str, Any] = {
    **QUIET,
    "preprocess": False,  # the workbench checks each value itself, in sentences
    "trigger_mode": "multiple",  # a newer question ends the one before
    "concurrency_limit": None,  # turns are taken in the workbench, which can say one's place
}
"""For events that stream a workbench's messages into a panel."""

ASK: dict[str, Any] = {**ANSWER, "queue": False}
"""For events that say where a panel finds the messages."""


def head() -> str:
    """Return what the page's head holds: nothing is fetched."""
    folder = files("deco_lab") / "panel"
    style, script = (
        "".join((folder / name).read_text(encoding="utf-8") for name in names)
        for names in (_STYLES, _SCRIPTS)
    )
    return f"<style>{style}</style><script>{script}</script>"


def panel(name: str, mount: str, setup: Mapping[str, Any]) -> gr.HTML:
    """Return a component that shows each message it is given, as JSON, by a function of panel/."""
    return gr.HTML(
        elem_id=name,
        html_template="",
        js_on_load=f"""
            const panel = {mount}(element, props.setup);
            const show = () => {{ if (props.value) panel.show(JSON.parse(props.value)); }};
            watch("value", show);
            show();
        """,
        apply_default_css=False,
        setup=dict(setup),
    )


def inlet(name: str, label: str) -> gr.HTML:
    """Return a component for a file that a person chooses or drops: its value is a data URI."""
    return gr.HTML(
        elem_id=name,
        html_template="",
        js_on_load="mountInlet(element, props, trigger);",
        apply_default_css=False,
        setup={"label": label},
    )


def toast(sentence: str) -> gr.Error:
    """Return what shows a sentence, which may quote a file, over the page: as HTML, by Gradio."""
    return gr.Error(html.escape(sentence), print_exception=False)


def fold() -> gr.HTML:
    """Return a button that, on a narrow page alone, shows and hides the controls after it."""
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


def as_csv_file(bench: Workbench, session: str, name: str) -> str:
    """Return the keeper's value for the table of what a session is shown under a name."""
    try:
        text = bench.sessions.table(session, name)
    except ValueError as error:
        return json.dumps({"says": sentence(error)})
    return as_file(f"deco-lab-{name}.csv", "text/csv", text.encode())
