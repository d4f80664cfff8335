"""Who may ask: where a password is set, only those who know it; and nobody may guess for long.

Gradio has the page, the form and the cookie of the login, but checks them at only some of its
addresses, and lets everybody guess as fast as it can compare.
"""

import re
import time

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WINDOW = 60.0
"""Seconds for which a wrong login counts."""
MAX_WRONG = 5
"""Wrong logins from one address within WINDOW, after which it has to wait. The address is what a
proxy on this machine says, if there is one."""
MAX_WRONG_OF_ALL = 100
"""The same of all addresses together."""

_OPEN = re.compile(
    r"/|/(theme\.css|favicon\.ico|manifest\.json|login)/?|/(static|assets|svelte)/.*"
    r"|/gradio_api/startup-events/?"  # which Gradio asks itself, to begin
)


def visitor(scope: Scope) -> str | None:
    """Return what stands for the one who asks, and for no other; None for a stranger.

    That is the token which Gradio gave at the login; "" where there is none, and all are one.
    """
    app = scope["app"]  # Gradio's
    if app.auth is None:
        return ""
    cookies = HTTPConnection(scope).cookies
    name = "access-token{}-" + app.cookie_id
    token = cookies.get(name.format("")) or cookies.get(name.format("-unsecure"))
    return token if token in app.tokens else None


def refusal(status: int, sentence: str) -> JSONResponse:
    """Return the answer to a request that goes no further."""
    return JSONResponse({"detail": sentence}, status, {"connection": "close"})


class Login:
    """ASGI middleware that lets strangers no further than the login.

    401 to them at all addresses that the login's own page does without, before anything that they
    send is read; 429 to logins after MAX_WRONG wrong ones from an address within WINDOW.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._wrong: list[tuple[float, str]] = []  # when, and from where

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not _OPEN.fullmatch(scope["path"]) and visitor(scope) is None:
            await refusal(401, "Log in first.")(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"].startswith("/login"):
            await self._log_in(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or ("",))[0]
        is_refused = False

        async def watched(message: Message) -> None:
            # Counted as they are answered, since many may be tried at once: of those after the
            # last that may be wrong nobody learns whether they were right.
            nonlocal is_refused
            if message["type"] == "http.response.start":
                now = time.monotonic()
                self._wrong = [(at, by) for at, by in self._wrong if now - at < WINDOW]
                here = sum(by == address for _, by in self._wrong)
                if here >= MAX_WRONG or len(self._wrong) >= MAX_WRONG_OF_ALL:
                    is_refused = True
                    answer = refusal(429, "Too many wrong logins; wait a minute.")
                    await answer(scope, receive, send)
                elif message["status"] != 200:
                    self._wrong.append((now, address))
            if not is_refused:
                await send(message)

        await self._app(scope, receive, watched)
