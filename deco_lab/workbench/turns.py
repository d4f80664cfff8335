"""Who may use the model: one job at a time, first come first served.

A job is an iterator that the model's own thread reads ahead, so that the model does not wait for
the page, nor the page for the model: whoever reads gets all that has come since. A job that nobody
reads any more (a browser that vanished) ends by itself. The thread is the same for all jobs: what
PyTorch plans and keeps for a thread (attention on a GPU, threads and memory on a CPU) is had once.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Generic, TypeVar

T = TypeVar("T")

_MOST_AHEAD = 256
"""Answers that may lie unread before a job waits for its reader."""


@dataclass(frozen=True)
class Waiting:
    """What a job says while others are before it."""

    place: int
    """How many are before it, the one that runs included."""


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


class _Job(Generic[T]):
    """What is to be done in the model's thread, and its answers on their way to the reader."""

    def __init__(self, work: Callable[[], Iterator[T]], reader: Reader) -> None:
        self._work = work
        self._reader = reader
        self._changed = Condition()
        self._answers: deque[T] = deque()
        self._ended = False
        self._closed = False
        self.error: BaseException | None = None

    def is_abandoned(self) -> bool:
        """Return whether nobody reads any more."""
        return self._closed or self._reader.has_gone()

    def run(self) -> None:
        """Do the work, to its end or for as long as somebody reads."""
        try:
            answers = self._work()
            try:
                for answer in answers:
                    self._put(answer)
            finally:
                close = getattr(answers, "close", None)
                if close is not None:
                    close()
        except _UnreadError:
            pass
        except BaseException as error:  # raised where the answers are read; the thread goes on
            self.error = error
        finally:
            self.end()

    def _put(self, answer: T) -> None:
        with self._changed:
            while True:
                if self._closed or (self._answers and self.is_abandoned()):
                    raise _UnreadError
                if len(self._answers) < _MOST_AHEAD:
                    break
                self._changed.wait(0.2)
            if not self._answers:
                self._reader.touch()  # from now on there is something to be read
            self._answers.append(answer)
            self._changed.notify_all()

    def end(self) -> None:
        """Say that nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def take(self) -> list[T]:
        """Return all answers since the last call, waiting for one; empty at the end."""
        with self._changed:
            while not self._answers and not self._ended:
                self._changed.wait()
            found = list(self._answers)
            self._answers.clear()
            self._reader.touch()
            self._changed.notify_all()
            return found

    def close(self) -> None:
        """Say that nothing more will be read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Turns:
    """A queue for the one model.

    Parameters
    ----------
    most_waiting : int
        Jobs that may wait beside the one that runs.
    """

    def __init__(self, most_waiting: int = 16) -> None:
        self._most_waiting = most_waiting
        self._changed = Condition()
        self._queue: list[_Job] = []  # the first has the model
        self._thread: Thread | None = None

    def in_turn(
        self,
        work: Callable[[], Iterator[T]],
        is_wanted: Callable[[], bool] = lambda: True,
        reader: Reader | None = None,
    ) -> Generator[list[Waiting | T], None, None]:
        """Queue a job and give its answers, all that have come since the last.

        Parameters
        ----------
        work : callable
            Called in the model's thread when its turn comes; the iterator that it returns is read
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
        job: _Job[Waiting | T] = _Job(work, reader)
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
            while place := self._place(job, place, min(0.5, reader.patience / 10)):
                if not is_wanted():
                    return
                yield [Waiting(place)]
                reader.touch()
            while answers := job.take():
                yield answers
        finally:
            job.close()
            with self._changed:
                self._forget_abandoned()
        if job.error is not None:
            raise job.error

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    self._changed.wait()
            self._queue[0].run()  # and no name for it here, which would hold what it held
            with self._changed:
                self._forget_abandoned()
                del self._queue[0]
                self._changed.notify_all()

    def _place(self, job: _Job, said: int | None, seconds: float) -> int:
        """Return how many are before a job; waits, at most some seconds, for fewer than said."""

        def place() -> int:
            self._forget_abandoned()
            return self._queue.index(job) if job in self._queue else 0

        with self._changed:
            before = place() if said is None else said
            self._changed.wait_for(lambda: place() < max(1, before), seconds)
            return place()

    def _forget_abandoned(self) -> None:
        """Take out of the queue who waits and has been left; the lock is held."""
        for job in [job for job in self._queue[1:] if job.is_abandoned()]:
            job.end()
            self._queue.remove(job)
            self._changed.notify_all()
