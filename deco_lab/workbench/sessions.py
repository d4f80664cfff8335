"""What each session drew, and which of its runs is the newest, until others need the room.

Of a session the newest runs are kept in memory, while its page is open; nothing is written to disk.
"""

import itertools
from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

from PIL import Image

from deco_lab.workbench.record import Paused, Record
from deco_lab.workbench.resuming import kept_state
from deco_lab.workbench.settings import Settings
from deco_lab.workbench.sweeping import Sweep

MOST_RUNS = 12
"""Runs that a session keeps."""


@dataclass
class _Session:
    newest: int | None = None
    """The run that is wanted; None once it was stopped."""
    asked: Settings | None = None
    runs: dict[int, Record] = field(default_factory=dict)
    """By number, the oldest first."""
    passing: int | None = None
    """One of them that a newer run cut short: it goes when that one is shown."""
    latest: int = 0
    """The newest run of which something was shown."""
    shown: int = 0
    """The run that a person sees: the latest, or one that was shown again since."""
    picture: Image.Image | None = None
    sweep: Sweep | None = None
    state: tuple[str, Paused] | None = None
    """What runs go on from, and the origin that names it."""

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        size = sum(record.size for record in self.runs.values())
        size += self.sweep.images.nbytes if self.sweep else 0
        size += self.state[1].x.nbytes if self.state else 0
        return size + (3 * self.picture.width * self.picture.height if self.picture else 0)

    def forget_steps(self, number: int) -> None:
        """Let go of what a run keeps of its steps."""
        self.runs[number] = self.runs[number].without_steps()

    def make_room(self, most_bytes: int) -> None:
        """Keep the newest run, and of those before it what there is room for."""
        older = [*self.runs][:-1]
        for number in older[: max(0, len(self.runs) - MOST_RUNS)]:
            del self.runs[number]
        for let_go in (self.forget_steps, self.runs.pop):
            for number in [*self.runs][:-1]:
                if self.size > most_bytes:
                    let_go(number)


_GONE = "this run is no longer kept, since newer ones took its room; draw it again"


class Sessions:
    """The newest run of each session, and what its runs left.

    A run that asks `is_newest` uses its session, so that a crowd of new sessions ends no run that
    is under way.

    Parameters
    ----------
    most : int
        Sessions at once; the one that was used longest ago goes.
    most_bytes : int
        Of all that is kept; likewise, except for the session that keeps. What runs keep of their
        steps goes before any session does.
    most_of_one : int
        Bytes of one session; its older runs go, their steps first, and only its newest stays in any
        case.
    """

    def __init__(
        self,
        most: int = 1024,
        most_bytes: int = 256 * 2**20,
        most_of_one: int = 96 * 2**20,
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._most_of_one = most_of_one
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # longest unused first

    def call(self, name: str, settings: Settings | None = None) -> int:
        """Return a new run's number; whatever ran in this session is from now on stale."""
        with self._lock:
            session = self._used(name, may_open=True)
            session.newest, session.asked = next(self._numbers), settings
            return session.newest

    def asked(self, name: str) -> Settings | None:
        """Return what the session's newest run was called with."""
        with self._lock:
            return self._used(name).asked

    def is_newest(self, name: str, number: int) -> bool:
        """Return whether no later run, stop or end of the session came after this number."""
        with self._lock:
            return self._used(name).newest == number

    def stop(self, name: str) -> None:
        """End the session's run, if any, within a step; what it kept stays."""
        with self._lock:
            self._used(name).newest = None

    def close(self, name: str) -> None:
        """End the session's run and forget the session."""
        with self._lock:
            self._sessions.pop(name, None)

    def show(self, name: str, number: int) -> None:
        """Say that something of a run is shown from now on, and no longer what was kept before."""
        with self._lock:
            session = self._used(name)
            if number > session.latest:
                session.latest = session.shown = number
                if session.passing is not None:
                    session.runs.pop(session.passing, None)
                    session.passing = None

    def show_again(self, name: str, number: int) -> None:
        """Say that a person sees an earlier run of the session, whether it is still kept or not."""
        with self._lock:
            self._used(name).shown = number

    def keep(self, name: str, number: int, record: Record) -> None:
        """Keep a run beside those before it, unless something of a newer was shown since.

        A session that was closed stays closed.
        """
        with self._lock:
            session = self._used(name)
            if number < session.latest:
                return
            if number > session.latest:
                session.latest = session.shown = number
            session.runs[number] = record
            if session.newest not in (None, number):
                session.passing = number
            session.make_room(self._most_of_one)
            self._make_room()

    def kept(self, name: str) -> Record:
        """Return the run of the session that a person sees.

        Raises
        ------
        ValueError
            Where there is none, while it has not ended, and where it made room for others.
        """
        with self._lock:
            session = self._used(name)
            if session.shown in session.runs:
                return session.runs[session.shown]
            if not session.shown:
                raise ValueError("there is no run yet; draw one first")
            if session.shown == session.latest:
                raise ValueError(
                    "the run that is shown must have ended; stop it, or wait until it is done"
                )
            raise ValueError(_GONE)

    def keep_picture(self, name: str, picture: Image.Image) -> None:
        """Keep a person's own picture in place of the session's last."""
        with self._lock:
            self._used(name, may_open=True).picture = picture
            self._make_room()

    def picture(self, name: str) -> Image.Image:
        """Return the session's own picture; ValueError where there is none."""
        with self._lock:
            if picture := self._used(name).picture:
                return picture
            raise ValueError("there is no picture of your own yet; choose a file, or drop one")

    def keep_sweep(self, name: str, sweep: Sweep) -> None:
        """Keep a sweep in place of the session's last; a session that was closed stays closed."""
        with self._lock:
            session = self._used(name)
            session.sweep = sweep
            session.make_room(self._most_of_one)
            self._make_room()

    def sweep(self, name: str) -> Sweep:
        """Return the session's last sweep; ValueError where there is none."""
        with self._lock:
            if sweep := self._used(name).sweep:
                return sweep
            raise ValueError("there is no sweep yet; draw one first")

    def keep_state(self, name: str, origin: str, state: Paused) -> None:
        """Keep the state that runs of this origin go on from."""
        with self._lock:
            self._used(name).state = origin, state
            self._make_room()

    def state(self, name: str, origin: str) -> Paused | None:
        """Return the state that an origin names, where it is kept or is one of a kept run's."""
        with self._lock:
            session = self._used(name)
            if session.state and session.state[0] == origin:
                return session.state[1]
            found = (kept_state(record, origin) for record in session.runs.values())
            return next((state for state in found if state is not None), None)

    def __len__(self) -> int:
        """Return how many sessions are kept."""
        return len(self._sessions)

    def _used(self, name: str, may_open: bool = False) -> _Session:
        """Return a session; one that is not there is nobody's, unless it may be opened."""
        if name not in self._sessions:
            if not may_open:
                return _Session()
            self._sessions[name] = _Session()
        self._sessions.move_to_end(name)
        if len(self._sessions) > self._most:
            self._sessions.popitem(last=False)
        return self._sessions[name]

    def _make_room(self) -> None:
        """Forget steps, then sessions, longest unused first, until the rest is small enough."""
        held = sum(session.size for session in self._sessions.values())
        for session in [*self._sessions.values()][:-1]:
            if held > self._most_bytes:
                held -= session.size
                for number in session.runs:
                    session.forget_steps(number)
                held += session.size
        while held > self._most_bytes and len(self._sessions) > 1:
            held -= self._sessions.popitem(last=False)[1].size
