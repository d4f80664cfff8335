"""What each session drew last, and which of its runs is the newest, until it is used no more."""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from PIL import Image

from deco_lab.workbench.record import Record
from deco_lab.workbench.settings import Settings


@dataclass
class _Session:
    newest: int = 0
    is_stopped: bool = False
    asked: Settings | None = None
    used: float = 0.0
    record: Record | None = None
    picture: Image.Image | None = None

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        size = 0
        if self.record is not None:
            size += sum(curve.values.nbytes for curve in self.record.curves.values())
            size += self.record.images.nbytes
        if self.picture is not None:
            size += 3 * self.picture.width * self.picture.height
        return size


class Sessions:
    """The newest run of each session, and what it left, until the session is not used any more.

    A run that asks `is_newest` uses its session, so that a crowd of new sessions ends no run that
    is under way.

    Parameters
    ----------
    lifetime : float
        Seconds after its last use at which a session is forgotten.
    most : int
        Sessions at once; the one that was used longest ago goes.
    most_bytes : int
        Of all that is kept; likewise, but for the session that keeps.
    clock : callable
        Seconds, of any start.
    """

    def __init__(
        self,
        lifetime: float = 3600.0,
        most: int = 1024,
        most_bytes: int = 256 * 2**20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = lifetime
        self._most = most
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # longest unused first

    def call(self, name: str, settings: Settings | None = None) -> int:
        """Return a new run's number; whatever ran in this session is from now on stale."""
        with self._lock:
            session = self._opened(name)
            session.newest = next(self._numbers)
            session.is_stopped = False
            session.asked = settings
            return session.newest

    def asked(self, name: str) -> Settings | None:
        """Return what the session's newest run was called with."""
        with self._lock:
            session = self._used(name)
            return session.asked if session else None

    def is_newest(self, name: str, number: int) -> bool:
        """Return whether no later run, stop or end of the session came after this number."""
        with self._lock:
            session = self._used(name)
            return session is not None and session.newest == number and not session.is_stopped

    def stop(self, name: str) -> None:
        """End the session's run, if any; what it kept stays."""
        with self._lock:
            if session := self._used(name):
                session.is_stopped = True

    def close(self, name: str) -> None:
        """End the session's run and forget the session."""
        with self._lock:
            self._sessions.pop(name, None)

    def keep(self, name: str, number: int, record: Record) -> None:
        """Keep a run in place of the session's last, unless a newer was called since.

        A session that was closed stays closed.
        """
        with self._lock:
            session = self._used(name)
            if session is None or session.newest != number:
                return
            session.record = record
            self._make_room()

    def kept(self, name: str) -> Record | None:
        """Return the session's last run, if there is one."""
        with self._lock:
            session = self._used(name)
            return session.record if session else None

    def keep_picture(self, name: str, picture: Image.Image) -> None:
        """Keep a person's own picture in place of the session's last."""
        with self._lock:
            self._opened(name).picture = picture
            self._make_room()

    def picture(self, name: str) -> Image.Image | None:
        """Return the session's own picture, if there is one."""
        with self._lock:
            session = self._used(name)
            return session.picture if session else None

    def __len__(self) -> int:
        """Return how many sessions are kept."""
        return len(self._sessions)

    def _used(self, name: str) -> _Session | None:
        """Return a session, if there is one, and forget all that are too old; the lock is held."""
        now = self._clock()
        while self._sessions:
            oldest = next(iter(self._sessions))
            if now - self._sessions[oldest].used <= self._lifetime:
                break
            del self._sessions[oldest]
        session = self._sessions.get(name)
        if session is not None:
            session.used = now
            self._sessions.move_to_end(name)
        return session

    def _opened(self, name: str) -> _Session:
        """Return a session, new if need be; the lock is held."""
        session = self._used(name)
        if session is None:
            session = self._sessions[name] = _Session(used=self._clock())
            if len(self._sessions) > self._most:
                self._sessions.popitem(last=False)
        return session

    def _make_room(self) -> None:
        """Forget sessions, longest unused first, until the rest is small enough."""
        held = sum(session.size for session in self._sessions.values())
        while held > self._most_bytes and len(self._sessions) > 1:
            held -= self._sessions.popitem(last=False)[1].size
