"""Who may use the model: one job at a time, first come first served.

A job is a generator that the model's own thread reads ahead, so that the model does not wait for
the page, nor the page for the model: whoever reads gets all that has come since. A job that nobody
reads any more (a browser that vanished) ends by itself. The thread is the same for all jobs: what
PyTorch plans and keeps for a thread (attention on a GPU, threads and memory on a CPU) is had once.
"""

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

_MOST_AHEAD = 256
"""Answers that may lie unread before a job waits for its reader."""

Work = Callable[[], Generator[Any, None, None]]


@dataclass(frozen=True)
class Waiting:
    """What a job says while others are before it."""

    place: int
    """How many are before it, the one that runs included."""
    status = "waiting"

    @property
    def text(self) -> str:
        """The same in a sentence."""
        others = "one other job is" if self.place == 1 else f"{self.place} other jobs are"
        return f"Waiting for the model: {others} before this."


class Reader:
    """Who reads what a job says: last seen at the latest `touch`.

    Parameters
    ----------
    patience : float
        Seconds for which answers may lie unread before their job ends.
    """

    def __init__(self, patience: float = 5.0) -> None:
        self.patience = patience
        self.touch()

    def touch(self) -> None:
        """Say that somebody reads: also who still sends what came before, to a slow page."""
        self._at = time.monotonic()

    def has_gone(self) -> bool:
        """Return whether nobody was seen for longer than patience lasts."""
        return time.monotonic() - self._at > self.patience


class _UnreadError(Exception):
    """Nobody wants what the job has to say."""


@dataclass(eq=False)
class _Job:
    """What is to be done in the model's thread, and its answers on their way to the reader."""

    work: Work
    reader: Reader
    answers: deque[Any] = field(default_factory=deque)
    has_ended: bool = False
    is_closed: bool = False
    error: BaseException | None = None

    def is_abandoned(self) -> bool:
        return self.is_closed or self.reader.has_gone()


class JobQueue:
    """A queue for the one model.

    Parameters
    ----------
    most_waiting : int
        Jobs that may wait beside the one that runs.
    """

    def __init__(self, most_waiting: int = 16) -> None:
        self._most_waiting = most_waiting
        self._changed = Condition()  # guards the queue and what its jobs hold
        self._queue: list[_Job] = []  # the first has the model
        self._thread: Thread | None = None

    def in_turn(
        self, work: Work, is_wanted: Callable[[], bool] = lambda: True, reader: Reader | None = None
    ) -> Generator[list[Any], None, None]:
        """Queue a job and give its answers, all that have come since the last.

        Parameters
        ----------
        work : callable
            Called in the model's thread when its turn comes; the generator that it returns is read
            to its end, or closed.
        is_wanted : callable
            Asked while the job waits; one that is not wanted leaves the queue, and nothing comes.
        reader : Reader, optional
            For who takes long to send on what he has read, or has other patience than 5 s.

        Yields
        ------
        list of Waiting or of what the job gives
            Waiting(place) whenever its place changes, and at least every half second.

        Raises
        ------
        ValueError
            At the first `next`, where too many wait already; and whatever the job raises.
        """
        reader = reader or Reader()
        reader.touch()
        job = _Job(work, reader)
        with self._changed:
            self._forget_abandoned()
            if len(self._queue) > self._most_waiting:
                raise ValueError(
                    f"at most {self._most_waiting} jobs may wait for the model, and as many do; "
                    "try again in a moment"
                )
            self._queue.append(job)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = Thread(target=self._serve, daemon=True)
                self._thread.start()
        try:
            place = None
            while place := self._place(job, place):
                if not is_wanted():
                    return
                yield [Waiting(place)]
                reader.touch()
            while answers := self._take(job):
                yield answers
        finally:
            with self._changed:
                job.is_closed = True
                self._forget_abandoned()
                self._changed.notify_all()
        if job.error is not None:
            raise job.error

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
            self._do(self._queue[0])  # and no name for it here, which would hold what it held
            with self._changed:
                self._forget_abandoned()
                del self._queue[0]
                self._changed.notify_all()

    def _do(self, job: _Job) -> None:
        """Do the work of a job, to its end or for as long as somebody reads."""
        try:
            with closing(job.work()) as answers:
                for answer in answers:
                    self._put(job, answer)
        except _UnreadError:
            pass
        except BaseException as error:  # raised where the answers are read; the thread goes on
            job.error = error
        with self._changed:
            job.has_ended = True
            self._changed.notify_all()

    def _put(self, job: _Job, answer: Any) -> None:
        with self._changed:
            while len(job.answers) >= _MOST_AHEAD and not job.is_abandoned():
                self._changed.wait(0.2)
            if job.is_closed or (job.answers and job.is_abandoned()):
                raise _UnreadError
            if not job.answers:
                job.reader.touch()  # from now on there is something to be read
            job.answers.append(answer)
            self._changed.notify_all()

    def _take(self, job: _Job) -> list[Any]:
        """Return all answers since the last call, waiting for one; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: job.answers or job.has_ended)
            found = list(job.answers)
            job.answers.clear()
            job.reader.touch()
            self._changed.notify_all()
            return found

    def _place(self, job: _Job, said: int | None) -> int:
        """Return how many are before a job; waits, half a second at most, for fewer than said."""

        def place() -> int:
            self._forget_abandoned()
            return self._queue.index(job) if job in self._queue else 0

        with self._changed:
            before = place() if said is None else said
            self._changed.wait_for(
                lambda: place() < max(1, before), min(0.5, job.reader.patience / 10)
            )
            return place()

    def _forget_abandoned(self) -> None:
        """Take out of the queue who waits and has been left; the lock is held."""
        for job in [job for job in self._queue[1:] if job.is_abandoned()]:
            job.has_ended = True
            self._queue.remove(job)
            self._changed.notify_all()
