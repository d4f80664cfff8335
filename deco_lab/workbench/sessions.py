"""What each session drew last, and which of its runs is the newest, until it is used no more."""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
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
    kept: int = 0
    """The run whose record it is."""
    shown: int = 0
    """The newest run of which something was shown."""
    tables: dict[str, str] = field(default_factory=dict)
    picture: Image.Image | None = None

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        size = 0
        if self.record is not None:
            size += sum(curve.values.nbytes for curve in self.record.curves.values())
            size += self.record.images.nbytes
            size += self.record.paused.x.nbytes if self.record.paused else 0
        size += sum(map(len, self.tables.values()))
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

    def show(self, name: str, number: int) -> None:
        """Say that something of a run is shown from now on, and no longer what was kept before."""
        with self._lock:
            if session := self._used(name):
                session.shown = max(session.shown, number)

    def keep(self, name: str, number: int, record: Record) -> None:
        """Keep a run in place of the session's last, unless a newer was kept or shown since.

        A session that was closed stays closed.
        """
        with self._lock:
            session = self._used(name)
            if session is None or number < max(session.kept, session.shown):
                return
            session.record, session.kept = record, number
            self._make_room()

    def kept(self, name: str) -> Record | None:
        """Return the session's last run, if there is one.

        Raises
        ------
        ValueError
            While a newer one is shown that has not ended.
        """
        with self._lock:
            session = self._used(name)
            if session is not None and session.kept < session.shown:
                raise ValueError(
                    "the run that is shown must have ended; stop it, or wait until it is done"
                )
            return session.record if session else None

    def keep_table(self, name: str, tab: str, text: str) -> None:
        """Keep what a tab shows, as a table, in place of what it showed before."""
        with self._lock:
            self._opened(name).tables[tab] = text
            self._make_room()

    def table(self, name: str, tab: str) -> str:
        """Return what a tab shows, as a table; ValueError where there is nothing yet."""
        with self._lock:
            session = self._used(name)
            if session is None or tab not in session.tables:
                raise ValueError("there is nothing to keep yet; let the tab compute it first")
            return session.tables[tab]

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
