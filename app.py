"""The browser app: `python3 app.py`, then open the address it prints.

Layout and wiring only: `deco_lab.workbench` runs the models, `deco_lab.page` has a module for each
tab, and `deco_lab/panel` draws in the browser.
"""

import argparse
import os
import sys
from pathlib import Path

from deco_lab.environment import need

if __name__ == "__main__":
    need("app")

import torch

from deco_lab.fast import share_one_heap
from deco_lab.proxies import past_proxies
from deco_lab.terminal import print_any_text
from deco_lab.workbench import Library, Settings, Workbench

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
with past_proxies():
    import gradio as gr

    from deco_lab.page import (
        Live,
        LossTab,
        ModelsTab,
        PartsTab,
        SampleTab,
        check_access,
        endpoints,
        header,
        serve,
        session_of,
    )

LINE = "Watch a diffusion model draw, frequency by frequency."


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Watch a DeCo model draw in the browser, its spectra beside it."
    )
    parser.add_argument(
        "--model",
        default="tiny",
        help="tiny, tiny-fm, tiny-dit, a .safetensors or .ckpt file, or hf://owner/repository/file",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="where the Models tab finds checkpoints (default: runs)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="of --model, where its file does not say; the Models tab asks for others",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="draw without native kernels (CPU) or torch.compile, CUDA graphs and bfloat16 (GPU)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; any but this machine's own needs --auth",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="the next free one is used where it is taken"
    )
    parser.add_argument(
        "--auth",
        default=os.environ.get("DECO_LAB_AUTH"),
        metavar="NAME:PASSWORD",
        help="ask for these; the variable DECO_LAB_AUTH keeps them out of the list of processes",
    )
    parser.add_argument(
        "--time-limit", type=float, default=600, metavar="SECONDS", help="longest run"
    )
    return parser.parse_args(arguments)


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
        with gr.Tabs():
            with gr.Tab("Sample"):
                sample = SampleTab(bench, live, first)
            with gr.Tab("Decompose") as parts_tab:
                parts = PartsTab(bench, sample.controls)
            with gr.Tab("Loss weights") as loss_tab:
                loss = LossTab(bench, sample.controls)
            with gr.Tab("Models"):
                models = ModelsTab(bench)
        sample.wire(blocks, loaded, [parts.choice.class_id, loss.choice.class_id])
        parts.wire(parts_tab)
        loss.wire(loss_tab)
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
    arguments = parse_arguments()
    use_machine()
    try:
        auth = check_access(arguments.host, arguments.auth)
        print(f"Loading {arguments.model} ...", file=sys.stderr, flush=True)
        library = Library(
            arguments.model,
            arguments.device,
            arguments.models,
            fast=not arguments.plain,
            image_size=arguments.image_size,
        )
        bench = Workbench(library, arguments.time_limit)
        first = Settings(model=library.names()[0])
        blocks, live = build_app(bench, first)
        address = serve(
            blocks, live, arguments.host, arguments.port, auth, prevent_thread_lock=True
        )
    except (ValueError, OSError) as error:
        sys.exit(f"app.py: {error}")
    print(f"DeCo Lab with {first.model}: {address}", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
