"""The browser app: `python3 app.py`, then open the address it prints.

Layout and wiring only: `deco_lab.workbench` runs the models, `deco_lab.page` has a module for each
tab, and `deco_lab/panel` draws in the browser.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from deco_lab.environment import need

if __name__ == "__main__":
    need("app")

import torch
import tyro

from deco_lab.fast import share_one_heap
from deco_lab.proxies import past_proxies
from deco_lab.setting import Setting
from deco_lab.terminal import print_any_text
from deco_lab.workbench import Library, Settings, Workbench, opening_run

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
with past_proxies():
    import gradio as gr

    from deco_lab.page import (
        Live,
        LossTab,
        MeasureTab,
        ModelsTab,
        PartsTab,
        SampleTab,
        SweepTab,
        check_access,
        endpoints,
        header,
        serve,
        session_of,
    )

LINE = "Watch a diffusion model draw, frequency by frequency."


@dataclass(frozen=True)
class Options:
    """Watch a DeCo model draw in the browser, its spectra beside it."""

    # fmt: off
    model: Annotated[str, Setting(
        "tiny, tiny-fm, tiny-dit, a .safetensors or .ckpt file, or hf://owner/repository/file."
    )] = "tiny"
    models: Annotated[Path, Setting("Checkpoints for the Models tab.")] = Path("runs")
    image_size: Annotated[int | None, Setting(
        "Of --model, where its file does not say; the Models tab asks for others."
    )] = None
    device: Annotated[str | None, Setting("cpu, cuda, cuda:1, mps; the best if not given.")] = None
    plain: Annotated[bool, Setting(
        "Without native kernels (CPU) or torch.compile, CUDA graphs and bfloat16 (GPU)."
    )] = False
    host: Annotated[str, Setting(
        "Address to listen on; any but this machine's own needs --auth."
    )] = "127.0.0.1"
    port: Annotated[int, Setting("The next free one is used where it is taken.")] = 7860
    auth: Annotated[str | None, Setting(
        "NAME:PASSWORD to ask for; the variable DECO_LAB_AUTH keeps them out of the list of "
        "processes."
    )] = None
    time_limit: Annotated[float, Setting("Seconds of the longest run.")] = 600
    # fmt: on


def build_app(bench: Workbench, first: Settings) -> tuple[gr.Blocks, Live]:
    """Return the app, not yet launched, that opens with a run of `first`, and its runs' streams."""
    live = Live()

    def close(request: gr.Request) -> None:
        """Free the model and forget what a session kept, once its page is closed."""
        bench.sessions.close(session_of(request))

    with gr.Blocks(title="DeCo Lab", fill_width=True) as blocks:
        with gr.Row(elem_id="head"):
            gr.HTML("<h1>DeCo Lab</h1>", padding=False)
            loaded = gr.HTML(header(bench.library.facts(first.model)), padding=False)
            gr.HTML(f"<p>{LINE}</p>", padding=False, elem_id="line")
        with gr.Tabs() as tabs:
            with gr.Tab("Sample"):
                sample = SampleTab(bench, live, first)
            with gr.Tab("Sweep"):
                sweep = SweepTab(bench, sample.controls)
            with gr.Tab("Decompose", id="decompose") as parts_tab:
                parts = PartsTab(bench, sample.controls)
            with gr.Tab("Measure"):
                measure = MeasureTab(bench, sample.controls)
            with gr.Tab("Loss weights") as loss_tab:
                loss = LossTab(bench, sample.controls)
            with gr.Tab("Models"):
                models = ModelsTab(bench)
        pictures = [parts.choice, loss.choice]
        sample.wire(blocks, loaded, [choice.class_id for choice in pictures])
        sweep.wire()
        parts.wire(parts_tab, pictures)
        parts.open_from(sample.apart, tabs, "decompose")
        measure.wire()
        loss.wire(loss_tab, pictures)
        for choice in pictures:
            sample.ground.after(choice.taken.success)
        models.wire(sample, loaded)
        endpoints(bench)
        blocks.unload(close)
    return blocks.queue(max_size=64, api_open=False), live


def use_machine() -> None:
    """Leave one core to server and browser, and keep memory where it can be used again.

    PyTorch's threads wait for one another at every operation, so one that has to share its core
    holds up all.
    """
    share_one_heap()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))


def main() -> None:
    """Load the model and serve the page until interrupted."""
    print_any_text()
    options = tyro.cli(Options, prog="app.py", config=(tyro.conf.FlagCreatePairsOff,))
    use_machine()
    try:
        asked = os.environ.get("DECO_LAB_AUTH") if options.auth is None else options.auth
        auth = check_access(options.host, asked)
        print(f"Loading {options.model} ...", file=sys.stderr, flush=True)
        library = Library(
            options.model,
            options.device,
            options.models,
            fast=not options.plain,
            image_size=options.image_size,
        )
        first = opening_run(library.facts(library.names()[0]))
        blocks, live = build_app(Workbench(library, options.time_limit), first)
        address = serve(blocks, live, options.host, options.port, auth, prevent_thread_lock=True)
    except (ValueError, OSError) as error:
        sys.exit(f"app.py: {error}")
    print(f"DeCo Lab with {first.model}: {address}", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
