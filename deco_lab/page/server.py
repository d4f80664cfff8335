"""The server behind the page: who may ask it, how much at once, and what it keeps shut."""

import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
from gradio import themes
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from deco_lab.page.assets import head

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY_ADDRESS = ("0.0.0.0", "::")
MAX_BODY = 24 * 2**20
"""Most bytes of a request: a picture of 16 MiB in base64, and room for the rest."""

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

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class BodyLimit:
    """ASGI middleware that answers 413 to more than MAX_BODY bytes, and reads no more."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on whose body is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_BODY:
            await _refuse(send)
            return
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # A body without a length is cut off: what is left cannot be a whole request.
            return message if received <= MAX_BODY else {"type": "http.disconnect"}

        await self.app(scope, counted, send)


async def _refuse(send: Send) -> None:
    start = {"type": "http.response.start", "status": 413, "headers": []}
    await send(start)
    await send({"type": "http.response.body", "body": b"The request is too large."})


def session_of(request: gr.Request) -> str:
    """Return the session's name; a caller without one gets a name of its own."""
    return request.session_hash or secrets.token_hex()


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
                "without it the app listens on 127.0.0.1 alone"
            )
        return None
    name, colon, password = auth.partition(":")
    if not colon or not name or len(password) < 8:
        raise ValueError("--auth must be NAME:PASSWORD, the password of 8 characters or more")
    return name, password


def serve(
    blocks: gr.Blocks, host: str, port: int, auth: tuple[str, str] | None = None, **launch: Any
) -> str:
    """Launch the app and return its address."""
    hosts = ["*"] if host in EVERY_ADDRESS else [*LOOPBACK, "[::1]", host]
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=free_port(host, port),
        auth=auth,
        share=False,
        run_history=False,
        enable_monitoring=False,
        max_file_size="1kb",  # pictures come as text, and are checked as such
        footer_links=[],
        app_kwargs={
            "openapi_url": None,
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                Middleware(BodyLimit),
            ],
        },
        theme=THEME,
        head=head(),  # launch(css=...) rewrites selectors and breaks @media
        quiet=True,
        **launch,
    )
    return address
