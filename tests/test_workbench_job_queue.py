"""Who may use the model: order, places, and readers that vanish."""

import threading
import time
import weakref
from collections.abc import Callable, Generator

import pytest

from deco_lab.workbench.job_queue import JobQueue, Reader, Waiting


def count(n: int) -> Callable[[], Generator[int, None, None]]:
    return lambda: (i for i in range(n))


class Endless:
    """A job that goes on until nobody reads it; `closed` says that it was closed."""

    def __init__(self) -> None:
        self.begun, self.closed = threading.Event(), threading.Event()

    def __call__(self) -> Generator[int, None, None]:
        try:
            while True:
                self.begun.set()
                time.sleep(0.005)
                yield 0
        finally:
            self.closed.set()


def answers_of(batches) -> list:
    return [answer for batch in batches for answer in batch]


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_in_turn_gives_each_answer_once_and_in_order():
    queue = JobQueue()
    assert answers_of(queue.in_turn(count(1000))) == list(range(1000))
    assert answers_of(queue.in_turn(count(0))) == []


def test_in_turn_runs_one_job_at_a_time_first_come_first_served():
    queue, busy, order = JobQueue(), threading.Lock(), []

    def job(name: int) -> Generator[int, None, None]:
        for step in range(3):
            assert busy.acquire(blocking=False), "two jobs compute at once"
            time.sleep(0.005)
            busy.release()
            yield step
        order.append(name)

    failed: list[BaseException] = []

    def read(name: int) -> None:
        try:
            answers = answers_of(queue.in_turn(lambda: job(name)))
            assert [a for a in answers if isinstance(a, int)] == [0, 1, 2]
        except BaseException as error:
            failed.append(error)

    endless = Endless()
    first = queue.in_turn(endless)
    next(first)  # holds the model until all have queued
    threads = []
    for name in range(8):
        threads.append(threading.Thread(target=read, args=(name,)))
        threads[-1].start()
        time.sleep(0.02)
    first.close()
    for thread in threads:
        thread.join(10)
    assert not failed
    assert order == list(range(8))


def test_in_turn_says_the_place_and_each_change_at_once():
    queue = JobQueue()
    holder, second = queue.in_turn(Endless()), queue.in_turn(Endless())
    next(holder)
    assert next(second)[-1] == Waiting(1)
    third = queue.in_turn(count(1))
    assert next(third)[-1] == Waiting(2)
    holder.close()
    started = time.monotonic()
    assert any(0 in batch for batch in second)
    assert any(Waiting(1) in batch for batch in third)
    assert time.monotonic() - started < 0.4
    second.close()
    assert 0 in answers_of(third)


def test_in_turn_refuses_when_too_many_wait():
    queue = JobQueue(most_waiting=2)
    holder = queue.in_turn(Endless())
    next(holder)
    waiting = [queue.in_turn(count(1)) for _ in range(2)]
    for job in waiting:
        assert next(job) == [Waiting(waiting.index(job) + 1)]
    with pytest.raises(ValueError, match=r"at most 2 jobs may wait .* try again in a moment"):
        next(queue.in_turn(count(1)))
    holder.close()
    for job in waiting:
        assert 0 in answers_of(job)


def test_in_turn_raises_what_the_job_raises_after_its_answers():
    queue = JobQueue()

    def broken() -> Generator[int, None, None]:
        yield 1
        raise ZeroDivisionError

    reading = queue.in_turn(broken)
    assert next(reading) == [1]
    with pytest.raises(ZeroDivisionError):
        next(reading)
    with pytest.raises(ZeroDivisionError):
        list(queue.in_turn(lambda: (1 // 0 for _ in range(1))))
    assert answers_of(queue.in_turn(count(1))) == [0]


def test_in_turn_closed_ends_the_job():
    queue, endless = JobQueue(), Endless()
    reading = queue.in_turn(endless)
    next(reading)
    reading.close()
    assert endless.closed.wait(5)
    assert answers_of(queue.in_turn(count(1))) == [0]


def test_in_turn_ends_a_job_whose_reader_vanished():
    queue, endless = JobQueue(), Endless()
    vanished = queue.in_turn(endless, reader=Reader(0.3))  # never resumed, nor closed
    next(vanished)
    started = time.monotonic()
    assert 0 in answers_of(queue.in_turn(count(1)))
    assert 0.2 < time.monotonic() - started < 2
    assert endless.closed.is_set()


def test_in_turn_is_not_blocked_by_waiting_readers_that_vanished():
    queue = JobQueue(most_waiting=2)
    jobs = [queue.in_turn(Endless(), reader=Reader(0.3)) for _ in range(3)]
    for job in jobs:
        next(job)
    wait_for(lambda: not queue._queue, 5)
    assert answers_of(queue.in_turn(count(1))) == [0]


def test_in_turn_waits_for_a_job_that_computes_for_long():
    queue = JobQueue()

    def slow():
        time.sleep(0.5)
        yield 1
        time.sleep(0.5)
        yield 2

    assert answers_of(queue.in_turn(slow, reader=Reader(0.1))) == [1, 2]


def test_in_turn_leaves_the_queue_when_it_is_not_wanted():
    queue, begun, wanted = JobQueue(), [], [True]
    holder = queue.in_turn(Endless())
    next(holder)
    waiting = queue.in_turn(lambda: (begun.append(True) for _ in range(1)), lambda: wanted[0])
    assert next(waiting) == [Waiting(1)]
    wanted[0] = False
    assert all(isinstance(answer, Waiting) for answer in answers_of(waiting))
    assert not begun
    holder.close()


def test_in_turn_has_one_thread_for_all_jobs():
    queue, used = JobQueue(), set()

    def job() -> Generator[int, None, None]:
        used.add(threading.get_ident())
        yield 1
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            list(queue.in_turn(job))
    assert len(used) == 1
    assert threading.get_ident() not in used


def test_in_turn_holds_nothing_of_a_job_that_has_ended():
    queue, held = JobQueue(), Endless()
    reading = queue.in_turn(held)
    next(reading)
    reading.close()
    assert held.closed.wait(5)
    left = weakref.ref(held)
    del held, reading
    wait_for(lambda: left() is None)


def test_in_turn_goes_on_while_the_reader_is_seen_to_read():
    queue, reader, endless = JobQueue(), Reader(0.3), Endless()
    reading = queue.in_turn(endless, reader=reader)
    next(reading)
    for _ in range(20):
        time.sleep(0.05)
        reader.touch()
    assert not endless.closed.is_set()
    assert endless.closed.wait(5)
