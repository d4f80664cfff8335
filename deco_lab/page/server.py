"""The server behind the page: who may ask it, how much at once, and what it keeps shut."""

import socket
from typing import Any

import gradio as gr
from gradio import themes
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deco_lab.page.assets import head
from deco_lab.page.live import Live
from deco_lab.page.login import MAX_WRONG, Login
from deco_lab.page.policy import Policy
from deco_lab.page.request_filter import RequestFilter
from deco_lab.proxies import past_proxies

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
QUEUE_SLEEP = 0.02
"""Seconds between two looks of Gradio's queue for new events."""
SESSION_STATES = 16
"""Sessions whose last answers Gradio keeps, of each its own; nothing here reads them again."""
PROGRESS_SLEEP = 10.0
"""Seconds between two looks for the state of `gr.Progress`, which nothing here uses."""

# System fonts and quiet greys: nothing is fetched.
THEME = themes.Base(
    primary_hue=themes.colors.blue,
    neutral_hue=themes.colors.slate,
    spacing_size=themes.sizes.spacing_sm,
    radius_size=themes.sizes.radius_sm,
    text_size=themes.sizes.text_sm,
    font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
    font_mono=["ui-monospace", "Consolas", "monospace"],
).set(  # Gradio's own greys have a contrast of 2.6 on white; 4.5 is what reading asks for
    body_text_color_subdued="*neutral_600",
    block_info_text_color="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_700",
)


def free_port(host: str, first: int) -> int:
    """Return the first free port from `first` on, of a hundred.

    It is free on 127.0.0.1 too, where Gradio looks whatever the host.
    """
    for port in range(first, first + 100):
        try:
            for name in {host, "127.0.0.1"}:
                family = socket.AF_INET6 if ":" in name else socket.AF_INET
                socket.create_server((name, port), family=family).close()
        except (OSError, OverflowError):
            continue
        return port
    raise ValueError(f"no free port from {first} on at {host}; choose another with --port")


def check_access(host: str, auth: str | None) -> tuple[str, str] | None:
    """Return name and password of `--auth`, None without.

    Raises
    ------
    ValueError
        Where they are not NAME:PASSWORD, or are missing although others can reach the host.
    """
    if auth is None:
        if host not in LOOPBACK:
            raise ValueError(
                f"--host {host} lets others on the network in, and so needs --auth NAME:PASSWORD; "
                "without it the app listens on 127.0.0.1 only"
            )
        return None
    name, colon, password = auth.partition(":")
    if not colon or not name or len(password) < 8:
        raise ValueError("--auth must be NAME:PASSWORD, the password of 8 characters or more")
    return name, password


def serve(
    blocks: gr.Blocks,
    live: Live,
    host: str,
    port: int,
    auth: tuple[str, str] | None = None,
    **launch: Any,
) -> str:
    """Launch the app, its page's runs streamed by `live`, and return its address."""
    for fn in blocks.fns.values():
        # Components would refuse values with a traceback; the workbench does with a sentence.
        fn.preprocess = False
    # Gradio's queue looks for work every millisecond by default, and for progress every ten, and
    # each look takes Python's lock from the model, which asks for it at every operation.
    blocks._queue.sleep_when_free = QUEUE_SLEEP
    blocks._queue.progress_update_sleep_when_free = PROGRESS_SLEEP
    name = f"[{host}]" if ":" in host else host  # as addresses have it
    hosts = ["*"] if host in EVERY_ADDRESS else [*LOOPBACK, "[::1]", name]
    with past_proxies():
        _, address, _ = blocks.launch(
            server_name=name,
            server_port=free_port(host, port),
            auth=auth,
            auth_message=f"After {MAX_WRONG} wrong logins within a minute, wait a minute.",
            share=False,
            run_history=False,
            enable_monitoring=False,
            state_session_capacity=SESSION_STATES,
            max_file_size="1kb",  # pictures come as text, and are checked as such
            footer_links=[],
            app_kwargs={
                "openapi_url": None,
                "routes": [live.route],
                "middleware": [
                    Middleware(GZipMiddleware, compresslevel=5),  # Gradio's assets are already
                    Middleware(Policy, head=head()),
                    Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                    Middleware(Login),
                    Middleware(RequestFilter, blocks=blocks),
                ],
            },
            theme=THEME,
            head=head(),  # launch(css=...) rewrites selectors and breaks @media
            quiet=True,
            **launch,
        )
    return address
