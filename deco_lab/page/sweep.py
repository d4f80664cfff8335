"""The Sweep tab: the Sample tab's run with two of its settings varied, as a grid of pictures."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import gradio as gr

from deco_lab.page.assets import ANSWER, AT_ONCE, QUIET, as_file, as_json, fold, panel, session_of
from deco_lab.page.controls import Controls
from deco_lab.setting import RuleError, check_whole, settings_of
from deco_lab.spectra import OCTAVES, band_names
from deco_lab.workbench import Settings, Sweep, Workbench
from deco_lab.workbench.bench import Message, sentence
from deco_lab.workbench.contact_sheet import to_sheet
from deco_lab.workbench.keeping import sweep_name
from deco_lab.workbench.settings import MAX_IMAGES
from deco_lab.workbench.sweeping import MAX_CELLS, VARIED, Grid, usual_values, values_of

_FIRST = ("guidance_scale", "seed")
_KINDS = {"png": "Sheet", "npz": "Arrays", "csv": "Energies"}


def label_of(name: str) -> str:
    """Return what the form calls a setting, of several numbers in a word or two."""
    if not name:
        return ""
    label = settings_of(Settings)[name].label
    said = label if isinstance(label, str) else label[0].removesuffix(" from t")
    many = {"band_scales": "Guidance by band", "dit_gains": "DiT gains"}
    return (many | {"decoder_gains": "Decoder gains"}).get(name, said)


class SweepTab:
    """Components and wiring; all that is not varied is what the Sample tab's form says."""

    def __init__(self, bench: Workbench, controls: Controls) -> None:
        self._bench = bench
        self._controls = controls
        with gr.Row(elem_id="sweep-tab", elem_classes="workbench"):
            with gr.Column(elem_classes="side"):
                with gr.Row(elem_id="sweep-run"):  # of which one shows: panel/sweep.js
                    self._go = gr.Button(
                        "Draw the grid", variant="primary", size="md", elem_id="sweep-start"
                    )
                    self._stop = gr.Button("Stop", size="md", elem_id="sweep-stop")
                fold()
                gr.HTML(
                    "<p>The run that the form of the Sample tab says, with two of its settings "
                    f"varied: at most {MAX_CELLS} cells.</p>",
                    padding=False,
                )
                self._axes = [self._axis("x", "Columns", _FIRST[0], False)]
                self._axes.append(self._axis("y", "Rows", _FIRST[1], True))
                self._images = gr.Number(
                    1, label="Images in a cell", info=f"1 to {MAX_IMAGES}, whatever the form says.",
                    step=1, elem_classes="of-num_images",
                )  # fmt: skip
                with gr.Column(elem_id="sweep-keep"):
                    gr.HTML("<h2>Keep this sweep</h2>", padding=False)
                    with gr.Row(elem_classes="many"):
                        self._keep_buttons = {
                            kind: gr.Button(label, size="sm", elem_id=f"sweep-{kind}")
                            for kind, label in _KINDS.items()
                        }
                    self._keeper = panel("sweep-keeper", "mountKeeper", {})
            with gr.Column(elem_classes="answer"):
                self._panel = panel("sweep", "mountSweep", {"bands": band_names(OCTAVES)})

    def _axis(self, axis: str, label: str, name: str, may_be_none: bool) -> list[Any]:
        """Add which setting varies along an axis, and its values."""
        first, models = self._controls.first, self._bench.library.names()
        choices = [(label_of(name), name) for name in VARIED]
        none = [("nothing: one row", "")] if may_be_none else []
        choice = gr.Dropdown(
            none + choices, value=name, label=label, info="What varies.", elem_classes=f"of-{axis}"
        )
        values = gr.Textbox(
            usual_values(name, first, models), label=f"Values of {label.lower()}", lines=1,
            info="With commas between.", elem_classes=f"of-{axis}_values",
        )  # fmt: skip
        return [choice, values]

    def wire(self) -> None:
        """Join the components."""
        for choice, values in self._axes:
            choice.input(self._usual, choice, values, **AT_ONCE)
        inputs = [*self._controls.components, *self._axes[0], *self._axes[1], self._images]
        self._go.click(self.answers, inputs, self._panel, **ANSWER)
        self._stop.click(self._stop_sweep, **AT_ONCE)
        for kind, button in self._keep_buttons.items():
            button.click(self._keep(kind), None, self._keeper, **QUIET)

    def _usual(self, name: Any) -> Any:
        """Return values that are worth a look, in place of another setting's."""
        if name not in VARIED:
            return gr.update(value="", interactive=bool(name))
        said = usual_values(name, self._controls.first, self._bench.library.names())
        return gr.update(value=said, interactive=True)

    def answers(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Yield the panel's messages to what the components say."""

        def grid_of() -> Grid:
            *form, x, of_x, y, of_y, count = values
            settings = asdict(self._controls.settings(form))
            settings["num_images"] = check_whole("num_images", count, 1, MAX_IMAGES)
            axes = []
            for axis, name, text in (("x", x, of_x), ("y", y, of_y)):
                try:
                    axes.append((name, values_of(text) if name else (None,)))
                except ValueError as error:
                    raise RuleError(f"{axis}_values", str(error).removeprefix("values ")) from error
            return Grid(Settings(**settings), *axes)

        labels = {name: label_of(name) for name in VARIED}
        messages = self._bench.sweep(session_of(request), grid_of, labels)
        *_, x, _, y, _, _ = values
        yield from as_json(_at_its_field(message, x, y) for message in messages)

    def _stop_sweep(self, request: gr.Request) -> None:
        self._bench.sessions.stop(session_of(request))

    def _keep(self, kind: str) -> Callable[[gr.Request], str]:
        def keep(request: gr.Request) -> str:
            try:
                found = self._bench.sessions.sweep(session_of(request))
            except ValueError as error:
                return json.dumps({"says": sentence(error)})
            media, content = _written(found, kind)
            return as_file(sweep_name(found, kind), media, content)

        return keep


def _written(found: Sweep, kind: str) -> tuple[str, bytes]:
    """Return a file's type and content."""
    if kind == "npz":
        return "application/octet-stream", found.to_npz()
    if kind == "csv":
        return "text/csv", found.to_csv().encode()
    labels = {name: label_of(name) for name in VARIED}
    return "image/png", to_sheet(found, labels)


def _at_its_field(message: Message, x: Any, y: Any) -> Message:
    """Return a message in which what is wrong is the axis that gave a setting its value."""
    if "wrong" not in message:
        return message
    fields = {name: axis for name, axis in ((x, "x_values"), (y, "y_values")) if name in VARIED}
    wrong = message["wrong"]
    names = [fields.get(name, name) for name in wrong["names"]]
    place = wrong["place"] if names == wrong["names"] else None
    return message | {"wrong": wrong | {"names": names, "place": place}}
