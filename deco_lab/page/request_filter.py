"""What may be sent: few addresses, small bodies, and calls of plain values.

Gradio serves more than this app needs (uploads that stay, files, streams, a proxy), and hands
values to components before anyone has looked at them. Whatever is no part of the page or the API is
shut here, before Gradio sees it, and the answer is a sentence. What goes on is only what was looked
at, and a session's name is made one that no other visitor can name.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import gradio as gr
import orjson
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deco_lab.page.login import refusal, visitor

MAX_BODY = 24 * 2**20
"""Most bytes of a request with a picture: 16 MiB of it in base64, and room for the rest."""
MAX_CALL = 64 * 2**10
"""Most bytes of any other request."""
MAX_LIST = 64
"""Most values of a list in a call."""
MAX_PARTS = 10_000
"""Most commas and opening brackets in a body: eight million take many seconds to parse."""

_API = "/gradio_api"
_READ = re.compile(
    rf"/|/(config|theme\.css|favicon\.ico|manifest\.json|login|logout|openapi\.json)/?"
    rf"|/(static|assets|svelte)/.*"
    rf"|{_API}/(info|app_id|user|token|login_check|startup-events|(?P<data>queue/data))/?"
    rf"|{_API}/heartbeat/(?P<session>[\w-]{{1,64}})/?|{_API}/call/[a-z_]+/(?P<event>\w+)/?"
    r"|/live/[\w-]{43}",
    re.ASCII,
)
_CALL = re.compile(rf"{_API}/(queue/join|(call|run|api)/(?P<name>[a-z_]+))/?")
_CANCEL = re.compile(rf"{_API}/cancel/?")
_LOGIN = re.compile(r"/login/?")
_HASH = re.compile(r"[\w-]{1,64}", re.ASCII)
_UNBELIEVED = (b"x-forwarded-host", b"x-gradio-server")
"""Headers by which a caller would tell Gradio the app's own address."""


class RequestFilter:
    """ASGI middleware that lets through what the app needs, and answers the rest in a sentence.

    404 to other addresses, and to sessions and events that are not there; 413 to bodies that are
    too long, of which no more is read; 415 to calls that are not declared as JSON; 400 to calls
    that are no JSON object, not of a known event, or whose values are not numbers, text, true,
    false, null or lists of these.
    """

    def __init__(self, app: ASGIApp, blocks: gr.Blocks) -> None:
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
        headers = [header for header in scope["headers"] if header[0] not in _UNBELIEVED]
        scope = {**scope, "headers": headers}
        try:
            if scope["method"] == "POST":
                receive = await self._checked_body(scope, receive)
            else:
                self._check_read(scope)
        except HTTPException as refused:
            await refusal(refused.status_code, refused.detail)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_read(self, scope: Scope) -> None:
        """Raise HTTPException for a reading that leads nowhere; name the visitor's own session."""
        path = scope["path"]
        read = _READ.fullmatch(path)
        if read is None or scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(404, "There is nothing at this address.")
        queue = self._blocks._queue
        if read["session"]:
            path = path[: read.start("session")] + _own(read["session"], scope)
            scope.update(path=path, raw_path=path.encode())
        elif read["data"]:
            session = _own(QueryParams(scope["query_string"]).get("session_hash", ""), scope)
            if session not in queue.pending_messages_per_session:
                raise HTTPException(404, "There is no such session.")
            scope["query_string"] = f"session_hash={session}".encode()
        elif read["event"]:
            waiting = queue.pending_event_ids_session.values()
            if not any(read["event"] in events for events in waiting):
                raise HTTPException(404, "There is no such event.")

    async def _checked_body(self, scope: Scope, receive: Receive) -> Receive:
        """Return what gives the body of a request on, read whole; HTTPException for a bad one."""
        path, headers = scope["path"], Headers(scope=scope)
        call, is_login = _CALL.fullmatch(path), _LOGIN.fullmatch(path)
        if not (call or is_login or _CANCEL.fullmatch(path)):
            raise HTTPException(404, "There is nothing at this address.")
        kind = headers.get("content-type", "").partition(";")[0]
        if not is_login and kind != "application/json":
            raise HTTPException(415, "The request must be of the content type application/json.")
        name = call and call["name"]
        by_number = call and name in (None, "predict")  # the event's number stands in the body
        fn = self._endpoint(name) if name and not by_number else None
        limit = MAX_BODY if by_number or (fn and _takes_picture(fn)) else MAX_CALL
        body = await _whole_body(receive, headers.get("content-length", "0"), limit)
        if not is_login:
            try:  # in a thread, since a picture takes a while
                body = await asyncio.to_thread(self._rewritten, body, scope, call is not None, fn)
            except ValueError as error:
                raise HTTPException(400, f"{error}.") from None
        whole: Message = {"type": "http.request", "body": body, "more_body": False}
        messages = [whole]

        async def replayed() -> Message:
            return messages.pop() if messages else await receive()

        return replayed

    def _endpoint(self, name: str) -> Any:
        """Return the event of an endpoint of the API; HTTPException where there is none."""
        for fn in self._blocks.fns.values():
            if fn.api_name == name and fn.api_visibility != "private":
                return fn
        raise HTTPException(404, "There is no such endpoint.")

    def _rewritten(self, body: bytes, scope: Scope, is_call: bool, fn: Any) -> bytes:
        """Return what goes on of a call, or of the wish to cancel one; ValueError for a bad one.

        `fn` is the event that is called; None where its number stands in the body.
        """
        said = _object(body)
        session, number, event = (said.get(k) for k in ("session_hash", "fn_index", "event_id"))
        if not (session is None or (isinstance(session, str) and _HASH.fullmatch(session))):
            raise ValueError("session_hash must be at most 64 letters, digits, - and _")
        kept: dict[str, Any] = {"session_hash": session and _own(session, scope)}
        if not is_call:
            if type(number) is not int or not isinstance(event, str):
                raise ValueError("fn_index must be a number, and event_id a text")
            # Gradio ends an event whoever asks.
            own = self._blocks._queue.pending_event_ids_session.get(kept["session_hash"], ())
            event = event if event in own else ""
            return orjson.dumps(kept | {"fn_index": number, "event_id": event})
        if fn is None:
            if type(number) is not int or number not in self._blocks.fns:
                raise ValueError("fn_index must be the number of an event of this app")
            kept["fn_index"], fn = number, self._blocks.fns[number]
        if len(body) > MAX_CALL and not _takes_picture(fn):
            raise ValueError(f"a call without a picture must have at most {MAX_CALL} bytes")
        return orjson.dumps(kept | {"data": _checked_values(said.get("data"), len(fn.inputs))})


def _own(session: str, scope: Scope) -> str:
    """Return the name that stands for a visitor's session, and for that of nobody else."""
    return hashlib.sha256(f"{visitor(scope)} {session}".encode()).hexdigest()


def _takes_picture(fn: Any) -> bool:
    """Return whether an event takes a picture: an inlet is the only HTML that is an input."""
    return fn.api_name == "decompose" or any(isinstance(block, gr.HTML) for block in fn.inputs)


def _checked_values(values: object, count: int) -> list[Any]:
    """Return the values of a call; ValueError where they are not so many, or not plain."""
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"data must be a list of {count} values, one an argument")
    for value in values:
        if isinstance(value, list) and len(value) > MAX_LIST:
            raise ValueError(f"a list must have at most {MAX_LIST} values, got {len(value)}")
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, list | dict):
                raise ValueError(
                    "each value must be a number, a text, true, false, null or a list of these"
                )
    return values


async def _whole_body(receive: Receive, declared: str, limit: int) -> bytes:
    """Return a request's body; HTTPException where it is too long, or its sender has gone."""
    body = bytearray()
    if declared.isdecimal() and len(declared) < 20 and int(declared) <= limit:
        while len(body) <= limit:
            message = await receive()
            if message["type"] != "http.request":
                break
            body += message.get("body", b"")
            if not message.get("more_body", False) and len(body) <= limit:
                return bytes(body)
    raise HTTPException(413, "The request is too large.")


def _object(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object that a body is; orjson takes no NaN, infinity or half a surrogate."""
    if sum(body.count(part) for part in (b",", b"[", b"{")) > MAX_PARTS:
        raise ValueError(f"the request must have at most {MAX_PARTS} values")
    try:
        said = orjson.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ValueError("the request must be a JSON object of finite numbers and valid text")
    return said
