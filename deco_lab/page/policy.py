"""What a browser may do with the app's answers: show them as they are, with nothing from elsewhere.

It may keep those whose names change when they do.

Scripts run where they come from the app's files, or stand in the page as it was served: each of
these is named by its hash, so that one which text from a file or a link has brought into the page
does not run, nor does an event handler in it [1].

References
----------
[1] Content Security Policy Level 3, https://www.w3.org/TR/CSP3/.
"""

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HASHED = re.compile(r"/assets/[\w.-]+-[\w-]{8,10}\.(js|css|woff2?)", re.ASCII)
"""Gradio's files that hold a hash of their content in their names."""
_INLINE = re.compile(rb"<script[^>]*>(.*?)</script>", re.DOTALL)


class Policy:
    """ASGI middleware that says in the headers of every answer what a browser may do with it.

    Parameters
    ----------
    head : str
        HTML whose scripts the page adds to itself, beside those that stand in it.
    """

    def __init__(self, app: ASGIApp, head: str) -> None:
        self._app = app
        self._scripts = _INLINE.findall(head.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the headers to its answer."""
        page: Message | None = None  # the start of one, until its scripts are known

        async def guarded(message: Message) -> None:
            nonlocal page
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["x-frame-options"] = "DENY"
                if _HASHED.fullmatch(scope.get("path", "")) and message["status"] == 200:
                    headers["cache-control"] = "public, max-age=31536000, immutable"
                if headers.get("content-type", "").startswith("text/html"):
                    page = message
                    return
                headers["content-security-policy"] = policy([])
            elif page is not None:
                scripts = [*self._scripts, *_INLINE.findall(message.get("body", b""))]
                MutableHeaders(scope=page)["content-security-policy"] = policy(scripts)
                await send(page)
                page = None
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def policy(scripts: Iterable[bytes]) -> str:
    """Return a Content-Security-Policy that lets some inline scripts run, and no others."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return "; ".join(
        (
            "default-src 'self'",
            # Gradio makes functions of the text of its HTML components.
            f"script-src 'self' 'unsafe-eval' {allowed}".rstrip(),
            "style-src 'self' 'unsafe-inline'",  # Svelte's and the panels' own
            "img-src 'self' data:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )
