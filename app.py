"""The browser app: `python app.py`, then open the address it prints.

Widgets and wiring only. `deco_lab.live` checks the settings and runs the model, `deco_lab/panel`
draws what it says, and this file joins the two to Gradio: a page with controls, and the endpoints
/sample and /stop for programs.
"""

import argparse
import html
import json
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import torch
from gradio import themes
from gradio.events import api
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import deco_lab
from deco_lab.live import (
    MAX_DECOMPOSED,
    MAX_IMAGES,
    MAX_STEPS,
    RunCounter,
    Settings,
    Update,
    run,
)
from deco_lab.sampling import SOLVERS
from deco_lab.spectra import OCTAVES, band_names

Start = Callable[[str, int, Settings], Iterator[Update]]
Stop = Callable[[gr.Request], None]

TOYS = ("tiny", "tiny-fm", "tiny-dit")
LOOPBACK = ("127.0.0.1", "localhost")
EVERY_ADDRESS = ("0.0.0.0", "::")

# One run at a time on the model. Gradio takes the smallest limit of those that share an id, so
# each event that runs the model says the same.
ON_THE_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
MAX_WAITING = 16

# System fonts and quiet greys: nothing is fetched.
THEME = themes.Base(
    primary_hue=themes.colors.blue,
    neutral_hue=themes.colors.slate,
    spacing_size=themes.sizes.spacing_sm,
    radius_size=themes.sizes.radius_sm,
    text_size=themes.sizes.text_sm,
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
)


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
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets the whole network in, under any name",
    )
    parser.add_argument(
        "--port", type=int, default=7860, help="the next free one is used where it is taken"
    )
    parser.add_argument(
        "--time-limit", type=float, default=600, metavar="SECONDS", help="longest run"
    )
    return parser.parse_args(arguments)


def asset(name: str) -> str:
    """Return a file of deco_lab/panel."""
    return (files("deco_lab") / "panel" / name).read_text(encoding="utf-8")


def header(model: Any, name: str) -> str:
    """Return the line that says what is loaded, as HTML."""
    config = model.config
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    device = next(model.parameters()).device
    size = f"{config.image_size} &times; {config.image_size} pixels, patches of {config.patch_size}"
    facts = " &middot; ".join(
        (
            html.escape(Path(name).name),
            f"{type(model).__name__}, {parameters:.1f} M parameters",
            size,
            str(device),
        )
    )
    toy = (
        '<p class="toy">A toy: it models crops of fourteen photographs.</p>' if name in TOYS else ""
    )
    return f'<h1>DeCo Lab</h1><p class="facts">{facts}</p>{toy}'


def session_of(request: gr.Request) -> str:
    """Return the session's name; a caller without one gets a name of its own."""
    return request.session_hash or secrets.token_hex()


def sentence(error: ValueError) -> str:
    """Return an error's message as one sentence of bounded length: it may quote what was sent."""
    text = str(error)
    return f"{text if len(text) <= 300 else text[:300] + ' ...'}."


def build_app(model: Any, name: str, time_limit: float = 600) -> gr.Blocks:
    """Return the app for a loaded model, not yet launched."""
    runs = RunCounter()

    def start(session: str, number: int, settings: Settings) -> Iterator[Update]:
        """Run until a newer run or a stop of the session takes over."""
        return run(
            model,
            settings,
            is_wanted=lambda: runs.is_newest(session, number),
            time_limit=time_limit,
        )

    def stop(request: gr.Request) -> None:
        """End this session's run, within a step."""
        runs.stop(session_of(request))

    with gr.Blocks(title="DeCo Lab", fill_width=True) as blocks:
        gr.HTML(header(model, name), elem_id="head", js_on_load=None, apply_default_css=False)
        watch_page(blocks, model, runs, start, stop)
        endpoints(runs, start, stop)
        blocks.unload(stop)
    return blocks.queue(max_size=MAX_WAITING, api_open=False)


def watch_page(
    blocks: gr.Blocks,
    model: Any,
    runs: RunCounter,
    start: Start,
    stop: Stop,
) -> None:
    """Lay out the controls and the live panel, and join them."""
    with gr.Row(elem_id="watch"):
        with gr.Column(elem_id="controls"):
            controls = settings_controls(model.config)
            with gr.Row(elem_classes="pair"):
                start_button = gr.Button("Start", variant="primary", size="md", elem_id="start")
                stop_button = gr.Button("Stop", size="md", elem_id="stop")
        panel = live_panel(model)
    number = gr.Number(visible=False)

    def call(request: gr.Request) -> tuple[int, str]:
        new = runs.call(session_of(request))
        return new, json.dumps({"run": new, "status": "waiting", "text": "Waiting for the model."})

    def draw(request: gr.Request, new: int, *values: Any) -> Iterator[str]:
        session = session_of(request)
        if not runs.begin(session, new):
            return
        try:
            settings = Settings(**dict(zip(controls, values, strict=True)))
            for update in start(session, new, settings):
                yield json.dumps({"run": new, **asdict(update)})
        except ValueError as error:
            yield json.dumps({"run": new, "status": "refused", "text": sentence(error)})

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    submitted = [field.submit for field in controls.values() if isinstance(field, gr.Number)]
    # A new run first makes the old one stale, past the queue, and then waits for its turn.
    gr.on(
        [blocks.load, start_button.click, *submitted],
        call,
        outputs=[number, panel],
        queue=False,
        trigger_mode="multiple",
        **quiet,
    ).then(
        draw,
        inputs=[number, *controls.values()],
        outputs=panel,
        preprocess=False,  # `run` checks each value itself and says in a sentence what is wrong
        trigger_mode="multiple",
        **ON_THE_MODEL,
        **quiet,
    )
    stop_button.click(stop, queue=False, api_name="stop_in_page", **quiet)


def settings_controls(config: Any) -> dict[str, gr.Dropdown | gr.Number]:
    """Return a control for each field of `Settings`, by its name, laid out in a column."""
    first = Settings()
    names = config.class_names or [f"class {i}" for i in range(config.num_classes)]
    choices = [(f"{i} \N{MIDDLE DOT} {name}", i) for i, name in enumerate(names)]
    controls: dict[str, gr.Dropdown | gr.Number] = {}

    def number(name: str, label: str, info: str, step: float = 1) -> None:
        controls[name] = gr.Number(getattr(first, name), label=label, info=info, step=step)

    controls["class_id"] = gr.Dropdown(
        choices, value=first.class_id, label="Class", info="What every image shows."
    )
    with gr.Row(elem_classes="pair"):
        number("num_images", "Images", f"1 to {MAX_IMAGES}, together.")
        number("seed", "Seed", "Image i: seed + i.")
    with gr.Row(elem_classes="pair"):
        number("num_steps", "Steps", f"From 1 to {MAX_STEPS}.")
        controls["solver"] = gr.Dropdown(
            list(SOLVERS), value=first.solver, label="Solver", info="How steps are taken."
        )
    number("guidance_scale", "Guidance scale", "Pull towards the class; 1 is off.", 0.5)
    with gr.Row(elem_classes="pair"):
        number("guidance_low", "Guided from t", "Only after this t.", 0.05)
        number("guidance_high", "Guided to t", "Only up to this t.", 0.05)
    return controls


def live_panel(model: Any) -> gr.HTML:
    """Return the component that draws each update it is given, as JSON."""
    join = """
        const panel = mountPanel(element, props.setup);
        const show = () => { if (props.value) panel.show(JSON.parse(props.value)); };
        watch("value", show);
        show();
    """
    return gr.HTML(
        elem_id="panel",
        html_template="",
        js_on_load=asset("panel.js") + join,
        apply_default_css=False,
        setup={
            "patchSize": model.config.patch_size,
            "hasDecoder": hasattr(model, "decode"),
            "decomposed": MAX_DECOMPOSED,
            "bands": band_names(OCTAVES),
        },
    )


def endpoints(runs: RunCounter, start: Start, stop: Stop) -> None:
    """Add /sample and /stop, for programs."""
    first = Settings()

    def sample(
        request: gr.Request,
        class_id: int = first.class_id,
        num_images: int = first.num_images,
        num_steps: int = first.num_steps,
        guidance_scale: float = first.guidance_scale,
        guidance_low: float = first.guidance_low,
        guidance_high: float = first.guidance_high,
        solver: str = first.solver,
        seed: int = first.seed,
    ) -> Iterator[dict]:
        """Draw images, one update a step: status, text and frame (`deco_lab.live.Update`)."""
        session = session_of(request)
        number = runs.call(session)
        try:
            settings = Settings(
                class_id=class_id,
                num_images=num_images,
                num_steps=num_steps,
                guidance_scale=guidance_scale,
                guidance_low=guidance_low,
                guidance_high=guidance_high,
                solver=solver,
                seed=seed,
            )
            for update in start(session, number, settings):
                yield asdict(update)
        except ValueError as error:
            raise gr.Error(sentence(error), print_exception=False) from error

    api(sample, api_name="sample", **ON_THE_MODEL)
    api(stop, api_name="stop", queue=False)


def free_port(host: str, first: int) -> int:
    """Return the first free port from `first` on, of a hundred."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except (OSError, OverflowError):
                continue
            return port
    raise ValueError(f"no free port from {first} on at {host}; choose another with --port")


def serve(blocks: gr.Blocks, host: str, port: int, **launch: Any) -> str:
    """Launch the app and return its address."""
    hosts = ["*"] if host in EVERY_ADDRESS else [*LOOPBACK, host]
    css = "".join(asset(name) for name in ("page.css", "panel.css"))
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=free_port(host, port),
        share=False,
        run_history=False,
        enable_monitoring=False,
        max_file_size="1kb",  # the app takes no files
        footer_links=[],
        app_kwargs={
            "openapi_url": None,
            "middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        },
        theme=THEME,
        head=f"<style>{css}</style>",  # launch(css=...) rewrites selectors and breaks @media
        quiet=True,
        **launch,
    )
    return address


def main() -> None:
    """Load the model and serve the page until interrupted."""
    arguments = parse_arguments()
    # One core for server and browser: PyTorch's threads wait for one another at every operation,
    # so one that has to share its core holds up all.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
    try:
        model = deco_lab.load(arguments.model, device=arguments.device)
        blocks = build_app(model, arguments.model, arguments.time_limit)
        address = serve(blocks, arguments.host, arguments.port, prevent_thread_lock=True)
    except (ValueError, OSError) as error:
        sys.exit(f"app.py: {error}")
    print(f"DeCo Lab with {arguments.model}: {address}", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    main()
