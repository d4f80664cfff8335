"""The Models tab: what can draw, what is known of it, and loading more."""

import html
from collections.abc import Iterator
from typing import Any, TypeGuard

import gradio as gr

from deco_lab.page.assets import toast
from deco_lab.page.controls import class_choice
from deco_lab.page.header import header, image_side
from deco_lab.page.sample import SampleTab
from deco_lab.setting import RuleError
from deco_lab.workbench import Workbench
from deco_lab.workbench.bench import sentence
from deco_lab.workbench.library import PUBLISHED, ModelFacts

_MEANINGS = {
    "Kind": "DeCo has a DiT and a pixel decoder; a DiT draws the pixels by itself.",
    "Parameters": "Numbers that training has set, in millions.",
    "Images": "Side of the square images, and of the patches that become one token each. Assumed "
    "where a file does not say; give the image size to load it again.",
    "DiT": "Transformer blocks, and the width of the tokens that pass through them.",
    "Pixel decoder": "Its blocks and their width; it draws velocity from pixels and condition.",
    "Classes": "How many it can be told to draw.",
    "Trained on": "The pictures it has seen, and for how many steps, as far as its file says.",
    "Device": "Where it computes, and with numbers of what precision.",
    "Weights": "A hash of all parameters: two files with the same one hold the same model.",
}


def _cells(facts: ModelFacts) -> list[str]:
    """Return what a model has of each of `_MEANINGS`."""
    return [
        facts.kind,
        f"{facts.parameters / 1e6:.1f} M",
        f"{image_side(facts)}, patches of {facts.patch_size}",
        f"{facts.depth} blocks of width {facts.hidden_size}",
        facts.decoder,
        f"{facts.num_classes}",
        facts.trained_on + (f"; {facts.steps:,} steps" if facts.steps else ""),
        f"{facts.device}, {facts.dtype}",
        facts.weights,
    ]


class ModelsTab:
    """Components and wiring of the tab."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        with gr.Row(elem_id="models", elem_classes="workbench"):
            with gr.Column(elem_classes="side"):
                self._name = gr.Dropdown(
                    self._choices(),
                    value=bench.library.names()[0],
                    label="Model",
                    info="Bundled, of the folder of models, or published; or hf://owner/repo/file.",
                    allow_custom_value=True,
                )
                self._size = gr.Number(
                    0,
                    label="Image size",
                    info="In pixels, for a file that does not say; 0 where it does.",
                    precision=0,
                )
                self._load = gr.Button("Load and draw with it", variant="primary", size="md")
                self._says = gr.HTML(_said(""), padding=False, elem_id="models-says")
                gr.HTML(
                    "<p>A published checkpoint is downloaded once, 2.7 GB or more, and wants a "
                    "GPU. Nothing is fetched unless you ask for it here.</p>",
                    padding=False,
                )
            with gr.Column(elem_classes="answer"):
                self._table = gr.HTML(self._facts(), padding=False, elem_id="facts")

    def wire(self, sample: SampleTab, head: gr.HTML) -> None:
        """Let a loaded model be the one that the Sample tab draws with."""
        controls = sample.controls.parts
        loading = self._load.click(
            self.loads,
            [self._name, self._size, controls["class_ids"]],
            [self._says, self._table, self._name, controls["model"], controls["class_ids"], head],
            concurrency_limit=None,
            api_visibility="private",
            show_progress_on=self._says,
        )
        sample.draw_after(loading)

    def _choices(self) -> list[str]:
        library = self._bench.library
        return list(dict.fromkeys([*library.names(), *list(library.found())[:200], *PUBLISHED]))

    def loads(
        self,
        name: str,
        image_size: int | None,
        labels: list[int],
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008  (Gradio's way)
    ) -> Iterator[list[Any]]:
        """Load a model; whatever goes wrong, what drew before goes on.

        Not in turn: a download takes minutes, in which others may draw.
        """
        library, unchanged = self._bench.library, [gr.skip()] * 5
        yield [_said(f"Loading {str(name)[:200]}."), *unchanged]
        try:
            _, facts = library.load(name, image_size or None)
        except ValueError as error:
            text = f"{self._size.label} {error.rule}" if _is_of_size(error) else error
            says = f"{sentence(text)} What was loaded before goes on."
            yield [_said(says, is_wrong=True), *unchanged]
            # What draws next listens for success. The place itself says why there is none.
            raise toast(says, visible=False) from error
        yield [
            _said(f"Loaded {name}, which draws images of {image_side(facts)}."),
            self._facts(),
            gr.Dropdown(self._choices(), value=name),
            gr.Dropdown(library.names(), value=name),
            class_choice(facts, labels),
            header(facts),
        ]

    def _facts(self) -> str:
        """Return what is known of the models that can draw, as a table with a column for each."""
        models = self._bench.library.all_facts()
        names = [html.escape(facts.name) for facts in models]
        head = "".join(f'<th scope="col" title="{name}"><span>{name}</span></th>' for name in names)
        rows = "".join(
            f'<tr><th scope="row">{word}</th>'
            + "".join(f"<td>{html.escape(text)}</td>" for text in texts)
            for word, *texts in zip(_MEANINGS, *map(_cells, models), strict=True)
        )
        meanings = "".join(f"<dt>{word}</dt><dd>{said}</dd>" for word, said in _MEANINGS.items())
        return (
            f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
            '<div class="dl"><details class="dl-help"><summary>What the words mean</summary>'
            f"<dl>{meanings}</dl></details></div>"
        )


def _is_of_size(error: ValueError) -> TypeGuard[RuleError]:
    return isinstance(error, RuleError) and error.names == ("image_size",)


def _said(text: str, is_wrong: bool = False) -> str:
    look = ' class="dl-wrong"' if is_wrong else ""
    return f'<p role="status"{look}>{html.escape(text)}</p>'
