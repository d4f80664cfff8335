"""A run's messages on their way to the page, past Gradio.

Gradio's event says that a run was asked for and where its messages are; the page reads them there,
as server-sent events. Through Gradio each message would pass a dozen tasks and threads that take
Python's lock from the model, and make the page copy the values of all its components.
"""

import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Generator
from threading import Lock

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from deco_lab.workbench.bench import Message

Messages = Generator[Message, None, None]


class Live:
    """Runs that were asked for, until their pages fetch them; each can be fetched once.

    Parameters
    ----------
    most : int
        Runs that may wait to be fetched; the one that was asked for first goes.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._lock = Lock()
        self._offered: OrderedDict[str, Messages] = OrderedDict()
        self.route = Route("/live/{name}", self._stream)
        """Where the messages are; a name that nobody can guess stands for the right to read."""

    def offer(self, messages: Messages) -> Message:
        """Return the first message, with the address of all others under "stream"."""
        first = next(messages)
        name = secrets.token_urlsafe()
        with self._lock:
            self._offered[name] = messages
            if len(self._offered) > self._most:
                self._offered.popitem(last=False)
        return first | {"stream": f"live/{name}"}

    async def _stream(self, request: Request) -> Response:
        with self._lock:
            messages = self._offered.pop(request.path_params["name"], None)
        if messages is None:
            return Response(status_code=204)  # an EventSource does not come back after that
        return StreamingResponse(
            _events(messages),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


async def _events(messages: Messages) -> AsyncIterator[str]:
    """Yield each message as an event, then one named "end"; closes a run that nobody reads."""

    def read() -> str | None:
        message = next(messages, None)
        return None if message is None else json.dumps(message, default=vars)

    try:
        while (text := await run_sync(read)) is not None:
            yield f"data: {text}\n\n"
        yield "event: end\ndata:\n\n"
    finally:
        messages.close()
