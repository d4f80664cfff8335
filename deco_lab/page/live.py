"""A run's messages on their way to the page, past Gradio.

Gradio's event says that a run was asked for and where its messages are; the page reads them there,
as server-sent events. Through Gradio each message would pass a dozen tasks and threads that take
Python's lock from the model, and make the page copy the values of all its components.
"""

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Generator, Sequence
from threading import Lock

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from deco_lab.workbench.bench import Message
from deco_lab.workbench.frames import Frame
from deco_lab.workbench.job_queue import Reader

Messages = Generator[Message, None, None]

PIECE = 2**15
"""Characters of a message that are sent at a time: when they are gone, somebody has read."""
PATIENCE = 30.0
"""Seconds without a piece gone after which a page is taken for gone. A system that holds megabytes
for a slow page takes the next piece once a third of them has been read."""
LONGEST = 0.5
"""Seconds that a message may be on its way before the next has fewer frames."""


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
        self._offered: OrderedDict[str, tuple[Messages, Reader]] = OrderedDict()
        self.route = Route("/live/{name}", self._stream)
        """Where the messages are; a name that nobody can guess stands for the right to read."""

    def offer(self, messages: Messages, reader: Reader) -> Message:
        """Return the first message, with the address of all others under "stream".

        `reader` is the one that the messages' run knows.
        """
        first = next(messages)
        name = secrets.token_urlsafe()
        with self._lock:
            self._offered[name] = messages, reader
            if len(self._offered) > self._most:
                self._offered.popitem(last=False)
        return first | {"stream": f"live/{name}"}

    async def _stream(self, request: Request) -> Response:
        with self._lock:
            offered = self._offered.pop(request.path_params["name"], None)
        if offered is None:
            return Response(status_code=204)  # an EventSource does not come back after that
        return StreamingResponse(
            _events(*offered),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )


async def _events(messages: Messages, reader: Reader) -> AsyncIterator[str]:
    """Yield each message as an event, then one named "end"; closes a run that nobody reads.

    Where the page reads slowly, frames are left out, but never a message's last.
    """
    seconds, sent = 0.0, 0  # of the last message: how long it took, and how many frames

    def read() -> str | None:
        nonlocal sent
        message = next(messages, None)
        if message is None:
            return None
        frames = message["frames"]
        if seconds > LONGEST:
            frames = _thinned(frames, max(1, int(sent * LONGEST / seconds)))
        sent = len(frames)
        return json.dumps(message | {"frames": frames}, default=vars)

    try:
        while (text := await run_sync(read)) is not None:
            event, started = f"data: {text}\n\n", time.monotonic()
            for start in range(0, len(event), PIECE):
                yield event[start : start + PIECE]
                reader.touch()
            seconds = time.monotonic() - started
        yield "event: end\ndata:\n\n"
    finally:
        messages.close()


def _thinned(frames: Sequence[Frame], most: int) -> Sequence[Frame]:
    """Return at most some of the frames, evenly spaced, the last of all among them."""
    count = len(frames)
    return frames if count <= most else [frames[(i + 1) * count // most - 1] for i in range(most)]
