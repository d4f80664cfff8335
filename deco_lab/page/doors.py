"""What a stranger may send: few addresses, small bodies, and calls of plain values.

Gradio serves more than this app needs (uploads that stay, files, streams, a proxy), and hands
values to components before anyone has looked at them. Whatever is no part of the page or the API is
shut here, before Gradio sees it, and the answer is a sentence.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

import gradio as gr

MAX_BODY = 24 * 2**20
"""Most bytes of a request: a picture of 16 MiB in base64, and room for the rest."""
MAX_LIST = 64
"""Most values of a list in a call."""

_API = "/gradio_api"
_READ = re.compile(
    rf"/|/(config|theme\.css|favicon\.ico|manifest\.json|login|logout|openapi\.json)/?"
    rf"|/(static|assets|svelte)/.*"
    rf"|{_API}/(info|queue/data|app_id|user|token|login_check|startup-events)/?"
    rf"|{_API}/(heartbeat|call)/.*"
    r"|/live/[\w-]{43}"
)
_CALL = re.compile(rf"{_API}/(queue/join|(call|run|api)/(?P<name>[a-z_]+))/?")
_POST = re.compile(rf"/login/?|{_API}/cancel/?")
_HASH = re.compile(r"[\w-]{1,64}", re.ASCII)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Doors:
    """ASGI middleware that lets through what the app needs, and answers the rest in a sentence.

    404 to other addresses, 413 to bodies of more than MAX_BODY bytes, of which no more is read, and
    400 to calls that are not JSON, not of a known event, or whose values are neither numbers, text,
    true, false, null nor lists of these.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], blocks: gr.Blocks
    ) -> None:
        self._app = app
        self._blocks = blocks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # this app has no web sockets
            await send({"type": "websocket.close", "code": 1000})
            return
        path, method = scope["path"], scope["method"]
        call = _CALL.fullmatch(path) if method == "POST" else None
        known = _READ if method in ("GET", "HEAD") else _POST
        if call is None and not (known.fullmatch(path) and method in ("GET", "HEAD", "POST")):
            await _answer(send, 404, "There is nothing at this address.")
            return
        body = b""
        if method == "POST":
            declared = dict(scope["headers"]).get(b"content-length", b"0")
            read = None
            if declared.isdigit() and len(declared) < 20 and int(declared) <= MAX_BODY:
                read = await _whole_body(receive)
            if read is None:
                await _answer(send, 413, "The request is too large.")
                return
            body = read
        if call is not None or path.startswith(f"{_API}/cancel"):
            try:
                said = _object(body)
                if call is not None:
                    self._check_call(said, call["name"])
            except ValueError as error:
                await _answer(send, 400, f"{error}.")
                return
        if method != "POST":
            await self._app(scope, receive, send)
            return

        first = True

        async def replayed() -> MutableMapping[str, Any]:
            nonlocal first, body
            if not first:
                return await receive()
            first, whole, body = False, body, b""
            return {"type": "http.request", "body": whole, "more_body": False}

        await self._app(scope, replayed, send)

    def _check_call(self, said: Mapping[str, Any], name: str | None) -> None:
        """Raise ValueError where a call is not of an event here, or not of plain values."""
        fns = self._blocks.fns
        number = said.get("fn_index")
        if name in (None, "predict"):  # the page's and gradio_client's, by number
            if not isinstance(number, int) or isinstance(number, bool) or number not in fns:
                raise ValueError("fn_index must be the number of an event of this app")
            fn = fns[number]
        else:
            named = [fn for fn in fns.values() if fn.api_name == name]
            if not named or named[0].api_visibility == "private" or number is not None:
                raise ValueError("the address must be one of the API's endpoints, without fn_index")
            fn = named[0]
        session = said.get("session_hash")
        if not (session is None or (isinstance(session, str) and _HASH.fullmatch(session))):
            raise ValueError("session_hash must be at most 64 letters, digits, - and _")
        for key in ("trigger_id", "event_id"):
            if not isinstance(said.get(key), int | str | None):
                raise ValueError(f"{key} must be a number or a text")
        if said.get("batched"):
            raise ValueError("batched must be false: no event here takes batches")
        values = said.get("data")
        if not isinstance(values, list) or len(values) != len(fn.inputs):
            raise ValueError(f"data must be a list of {len(fn.inputs)} values, one an argument")
        for value in values:
            if isinstance(value, list) and len(value) > MAX_LIST:
                raise ValueError(f"a list must have at most {MAX_LIST} values, got {len(value)}")
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, list | dict):
                    raise ValueError(
                        "each value must be a number, a text, true, false, null or a list of these"
                    )


async def _whole_body(receive: Receive) -> bytes | None:
    """Return a request's body; None where it is too long, or its sender has gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a body is; no NaN, no infinity, and no lone surrogates."""
    try:
        said = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
        json.dumps(said, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ValueError("the request must be a JSON object of finite numbers and valid text")
    return said


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite(text: str) -> float:
    """Return a number; ValueError where it is beyond what a float holds."""
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(text)
    return number


async def _answer(send: Send, status: int, sentence: str) -> None:
    content = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
