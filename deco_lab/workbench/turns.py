"""Who may use the model: one job at a time, first come first served.

A job is an iterator that a thread of its own reads ahead, so that the model does not wait for the
page, nor the page for the model: whoever reads gets all that has come since. A job that nobody
reads any more (a browser that vanished) ends by itself.
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


class _UnreadError(Exception):
    """Nobody wants what the job has to say."""


class _Outbox(Generic[T]):
    """Answers between a job's thread and its reader."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._changed = Condition()
        self._answers: deque[T] = deque()
        self._taken_at = time.monotonic()
        self._ended = False
        self._closed = False
        self.error: BaseException | None = None

    def put(self, answer: T) -> None:
        """Add an answer; raise _UnreadError where the reader has gone."""
        with self._changed:
            while True:
                unread_for = time.monotonic() - self._taken_at
                if self._closed or (self._answers and unread_for > self._patience):
                    raise _UnreadError
                if len(self._answers) < _MOST_AHEAD:
                    break
                self._changed.wait(0.2)
            if not self._answers:
                self._taken_at = time.monotonic()  # from now on there is something to be read
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
            self._taken_at = time.monotonic()
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
    patience : float
        Seconds for which answers may lie unread before their job ends.
    """

    def __init__(self, most_waiting: int = 16, patience: float = 5.0) -> None:
        self._most_waiting = most_waiting
        self._patience = patience
        self._changed = Condition()
        self._queue: list[_Outbox] = []  # the first has the model

    def in_turn(
        self,
        work: Callable[[], Iterator[T]],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Generator[list[Waiting | T], None, None]:
        """Queue a job and give its answers, all that have come since the last.

        Parameters
        ----------
        work : callable
            Called in the job's thread when its turn comes; the iterator that it returns is read to
            its end, or closed.
        is_wanted : callable
            Asked while the job waits; one that is not wanted leaves the queue, and nothing comes.

        Yields
        ------
        list of Waiting or of what the job gives
            Waiting(place) whenever its place changes, and at least every half second.

        Raises
        ------
        ValueError
            At the first `next`, where too many wait already; and whatever the job raises.
        """
        outbox: _Outbox[Waiting | T] = _Outbox(self._patience)
        with self._changed:
            if len(self._queue) > self._most_waiting:
                raise ValueError(
                    f"at most {self._most_waiting} jobs may wait for the model, and as many do; "
                    "try again in a moment"
                )
            self._queue.append(outbox)
        Thread(target=self._work, args=(outbox, work, is_wanted), daemon=True).start()
        try:
            while answers := outbox.take():
                yield answers
        finally:
            outbox.close()
        if outbox.error is not None:
            raise outbox.error

    def _work(
        self, outbox: _Outbox, work: Callable[[], Iterator], is_wanted: Callable[[], bool]
    ) -> None:
        try:
            while place := self._place(outbox, 0.5):
                if not is_wanted():
                    return
                outbox.put(Waiting(place))
            answers = work()
            try:
                for answer in answers:
                    outbox.put(answer)
            finally:
                close = getattr(answers, "close", None)
                if close is not None:
                    close()
        except _UnreadError:
            pass
        except Exception as error:  # raised where the answers are read
            outbox.error = error
        finally:
            with self._changed:
                self._queue.remove(outbox)
                self._changed.notify_all()
            outbox.end()

    def _place(self, outbox: _Outbox, seconds: float) -> int:
        """Return how many are before a job; waits for a change, at most some seconds."""
        with self._changed:
            place = self._queue.index(outbox)
            if place:
                self._changed.wait(seconds)
                place = self._queue.index(outbox)
            return place
