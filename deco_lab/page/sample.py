"""The Sample tab: controls that start runs, the live panel, and what is kept of a run."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import gradio as gr

from deco_lab.page.assets import (
    ASK,
    AT_ONCE,
    QUIET,
    as_file,
    fold,
    inlet,
    panel,
    sender,
    session_of,
    toast,
)
from deco_lab.page.controls import MORE, Controls, class_choice, class_names
from deco_lab.page.header import header
from deco_lab.page.live import PATIENCE, Live
from deco_lab.page.mask import MaskGround
from deco_lab.page.picture import keep_own
from deco_lab.setting import settings_of
from deco_lab.spectra import MEAN_AND_OCTAVES, OCTAVES, band_names
from deco_lab.workbench import Settings, Workbench, from_query, to_query, to_snippet
from deco_lab.workbench.bench import refusal, sentence
from deco_lab.workbench.examples import EXAMPLES
from deco_lab.workbench.frames import RANGES
from deco_lab.workbench.inlet import from_data_uri
from deco_lab.workbench.job_queue import Reader
from deco_lab.workbench.keeping import file_name, settings_from_png, to_csv, to_gif, to_npz, to_png
from deco_lab.workbench.settings import holds_settings, origin_of

_KEEP = {
    "png": "Picture", "gif": "Film", "npz": "Spectra", "csv": "Curves", "python": "Python",
    "link": "Link",
}  # fmt: skip
_FILES: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    "png": ("image/png", to_png),
    "gif": ("image/gif", to_gif),
    "npz": ("application/octet-stream", to_npz),
    "csv": ("text/csv", lambda record: to_csv(record).encode()),
}


class _Wanted(NamedTuple):
    """What an event wants drawn, and a sentence on it."""

    runs: Sequence[Settings]
    note: str = ""


class SampleTab:
    """Components and wiring; the other tabs refer to `controls`.

    Parameters
    ----------
    bench : Workbench
        What is asked.
    live : Live
        What streams the runs to the panel.
    first : Settings
        What is drawn when the page opens.
    """

    def __init__(self, bench: Workbench, live: Live, first: Settings) -> None:
        self._bench = bench
        self._live = live
        with gr.Row(elem_id="watch", elem_classes="workbench"):
            with gr.Column(elem_id="controls", elem_classes="side instant"):
                with gr.Row(elem_id="run"):  # of which one shows: panel/keys.js
                    self._start = gr.Button(
                        "Start", variant="primary", size="md", elem_id="start", elem_classes="go"
                    )
                    self._stop = gr.Button("Stop", size="md", elem_id="stop")
                fold()
                facts = bench.library.facts(first.model)
                self.controls = Controls(bench.library.names(), first, facts)
                with gr.Column(elem_id="keep"):
                    gr.HTML("<h2>Keep this run</h2>", padding=False)
                    with gr.Row(elem_classes="many"):
                        self._keep_buttons = {
                            kind: gr.Button(label, size="sm", elem_id=f"keep-{kind}")
                            for kind, label in _KEEP.items()
                        }
                    self._keeper = panel("keeper", "mountKeeper", {})
                    self._inlet = inlet(
                        "restore", "Open a kept picture, or drop it on the page, to restore it"
                    )
            with gr.Column(elem_classes="answer"):
                with gr.Row(elem_id="presets"):
                    self._examples = [gr.Button(example.name, size="sm") for example in EXAMPLES]
                setup = {
                    "bands": band_names(OCTAVES),
                    "shareBands": band_names(MEAN_AND_OCTAVES),
                    "velocityRange": f"{RANGES['velocity']:g}",
                    "more": {name: _labels_of(name) for name in MORE},
                    "labels": {name: said.label for name, said in settings_of(Settings).items()},
                    "presets": {example.name: example.help for example in EXAMPLES},
                }
                self.panel = panel("panel", "mountSample", setup)
                self.apart = sender("apart")
                """Its input is the step that is to be taken apart."""
                self._again, self._refill = sender("again"), sender("refill")
                self._resume = sender("resume")

    def wire(self, blocks: gr.Blocks, head: gr.HTML, others: Sequence[gr.Dropdown]) -> None:
        """Join the components; what is loaded shows in `head` and in `others`' classes."""
        controls, parts = self.controls, self.controls.parts
        self._start.click(self._draw, controls.components, self.panel, **ASK)
        # Other controls say "change" to panel/page.js, which presses Start. A list says "input"
        # also when it is left as it was.
        lists = [part.input for part in parts.values() if isinstance(part, gr.Dropdown)]
        lists.append(parts["curves"].input)
        gr.on(lists, self._draw_if_changed, controls.components, self.panel, **ASK)
        self._stop.click(self._stop_run, **AT_ONCE)
        every = controls.components
        self.draw_after(controls.reset.click(self._without_more, every, every, **AT_ONCE))
        place = controls.start_inlet
        taken = place.input(self._start_with, place, [parts["start_from"], place], **QUIET)
        self.draw_after(taken)
        self.ground = MaskGround(self._bench, controls)
        self.ground.after(taken.success)
        parts["mask"].input(self._draw, controls.components, self.panel, **ASK)
        resumed = [parts["start_from"], parts["origin"]]
        self.draw_after(self._resume.input(self._go_on, self._resume, resumed, **AT_ONCE))
        told = [parts["class_ids"], head, *others]
        model = parts["model"]
        model.input(self._model_changed, [model, parts["class_ids"]], told, **AT_ONCE)
        rule, scales = parts["guidance"], list(controls.scales.values())
        rule.change(controls.shown_scales, rule, scales, **AT_ONCE)
        rule.change(None, rule, js="(rule) => DecoLab.tellRule(rule)", **AT_ONCE)  # panel/curve.js
        for button, example in zip(self._examples, EXAMPLES, strict=True):
            wanted = _Wanted(example.runs, example.help)
            self._restore(button.click, lambda _, wanted=wanted: wanted, head, unpin=True)
        self._restore(self._inlet.input, self._saved_run, head, self._inlet)
        self._restore(blocks.load, self._linked_run, head)
        self._again.input(self._show_again, self._again, None, **AT_ONCE)
        self._refill.input(self._refilled, self._refill, [*every, head], **AT_ONCE)
        for kind, button in self._keep_buttons.items():
            button.click(self._keep(kind), None, self._keeper, **QUIET)

    def draw_after(self, event: Any) -> None:
        """Draw with what the controls say once another event has ended well."""
        event.success(self._draw, self.controls.components, self.panel, **ASK)

    def _start_with(self, request: gr.Request, uri: str) -> tuple[str, str]:
        return "own picture", keep_own(self._bench, request, uri)

    def _go_on(self, request: gr.Request, wanted: Any) -> tuple[str, str]:
        """Return what the form is to say, so that it goes on from a step of the last run."""
        if not wanted:
            return "noise", ""
        try:
            record = self._bench.sessions.kept(session_of(request))
            if not (isinstance(wanted, str) and wanted.isdecimal() and len(wanted) < 5):
                raise ValueError("the step must be a whole number; choose it with the slider")
        except ValueError as error:
            raise toast(sentence(error)) from error
        return "earlier run", origin_of(record.settings, int(wanted))

    def _without_more(self, *values: Any) -> list[Any]:
        return self.controls.without_more(values)

    def _stop_run(self, request: gr.Request) -> None:
        self._bench.sessions.stop(session_of(request))

    def _draw(self, request: gr.Request, *values: Any) -> str:
        return self._drawn(request, lambda: _Wanted([self.controls.settings(values)]))

    def _draw_if_changed(self, request: gr.Request, *values: Any) -> Any:
        asked = self._bench.sessions.asked(session_of(request))
        try:
            is_same = asked == self.controls.settings(values)
        except ValueError:
            is_same = False
        return gr.skip() if is_same else self._draw(request, *values)

    def _drawn(
        self,
        request: gr.Request,
        ask: Callable[[], _Wanted],
        unpin: bool = False,
        of_form: bool = True,
    ) -> str:
        session, reader = session_of(request), Reader(PATIENCE)
        try:
            runs, note = ask()
        except ValueError as error:
            number = self._bench.sessions.call(session)
            return json.dumps(refusal(error) | {"run": number, "of_form": of_form})
        messages = self._bench.draw(session, runs, unpin=unpin, note=note, reader=reader)
        return json.dumps(self._live.offer(messages, reader))

    def _restore(
        self,
        event: Any,
        wanted_of: Callable[[Any], _Wanted],
        head: gr.HTML,
        source: gr.HTML | None = None,
        unpin: bool = False,
    ) -> None:
        """Let an event fill the controls and draw what `wanted_of` finds in its source."""
        controls, library = self.controls, self._bench.library

        def fill(request: gr.Request, *value: Any) -> list[Any]:
            try:
                settings = wanted_of(value[0] if value else request).runs[-1]
                facts = library.facts(settings.model)
            except ValueError:
                return [gr.skip()] * (len(controls.parts) + 1)
            return [*controls.filled(settings, facts), header(facts)]

        def draw(request: gr.Request, *value: Any) -> str:
            wanted = partial(wanted_of, value[0] if value else request)
            return self._drawn(request, wanted, unpin, of_form=False)

        event(fill, source, [*controls.components, head], **AT_ONCE)
        event(draw, source, self.panel, **ASK)

    def _saved_run(self, uri: str) -> _Wanted:
        saved = settings_from_png(from_data_uri(uri))
        return _Wanted([saved.settings], self._bench.change_since(saved))

    def _linked_run(self, request: gr.Request) -> _Wanted:
        first, query = self.controls.first, dict(request.query_params)
        if not holds_settings(query):
            return _Wanted([first])
        return _Wanted([from_query({"model": first.model} | query)])

    def _show_again(self, request: gr.Request, number: Any) -> None:
        """Let what is kept be of the run that a person sees again."""
        if isinstance(number, str) and number.isdecimal() and len(number) < 16:
            self._bench.sessions.show_again(session_of(request), int(number))

    def _refilled(self, query: Any) -> list[Any]:
        """Return what the form says of a run of the strip, which is told by its link's query."""
        try:
            settings = from_query(dict(parse_qsl(query if isinstance(query, str) else "")))
            facts = self._bench.library.facts(settings.model)
        except ValueError as error:
            raise toast(sentence(error)) from error
        return [*self.controls.filled(settings, facts), header(facts)]

    def _model_changed(self, name: str, labels: list[int]) -> list[Any]:
        try:
            facts = self._bench.library.facts(name)
        except ValueError:  # what draws says why
            return [gr.skip()] * 4
        other = gr.Dropdown(class_names(facts), value=0)
        return [class_choice(facts, labels), header(facts), other, other]

    def _keep(self, kind: str) -> Callable[[gr.Request], str]:
        def keep(request: gr.Request) -> str:
            try:
                record = self._bench.sessions.kept(session_of(request))
                if kind in _FILES:
                    media, write = _FILES[kind]
                    return as_file(file_name(record, kind), media, write(record))
            except ValueError as error:
                return json.dumps({"says": sentence(error)})
            if kind == "link":
                text = "?" + to_query(record.settings)
                return json.dumps({"title": "A link to this run", "text": text, "link": True})
            text = to_snippet(record.settings)
            return json.dumps({"title": "This run in a notebook", "text": text})

        return keep


def _labels_of(name: str) -> str:
    label = settings_of(Settings)[name].label
    return label if isinstance(label, str) else label[0].removesuffix(" from t")
