"""Sessions: the newest run of each, and what is kept until it is used no more."""

import threading

import numpy as np
import pytest
import torch

from deco_lab.workbench.record import Curve, Record
from deco_lab.workbench.sessions import Sessions
from deco_lab.workbench.settings import Settings


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def record(numbers: int = 4) -> Record:
    """A run whose image and curve take 24 bytes a number."""
    curve = Curve(("step",), np.zeros(numbers), "one")
    return Record(
        settings=Settings(),
        model={},
        images=torch.zeros(numbers, 1, 2, 2),
        num_steps=1,
        axes={"step": np.arange(numbers)},
        curves={"t": curve},
    )


def test_sessions_newest_run_makes_older_ones_stale():
    sessions = Sessions()
    first, other = sessions.call("a"), sessions.call("b")
    assert sessions.is_newest("a", first)
    second = sessions.call("a")
    assert second > first
    assert not sessions.is_newest("a", first)
    assert sessions.is_newest("a", second)
    assert sessions.is_newest("b", other)


def test_sessions_stop_ends_the_run_and_not_the_next():
    sessions = Sessions()
    number = sessions.call("a")
    sessions.stop("a")
    assert not sessions.is_newest("a", number)
    assert sessions.is_newest("a", sessions.call("a"))
    sessions.stop("never called")
    assert len(sessions) == 1


def test_sessions_keep_what_a_stopped_run_left():
    sessions, left = Sessions(), record()
    assert sessions.kept("a") is None
    number = sessions.call("a")
    sessions.stop("a")
    sessions.keep("a", number, left)
    assert sessions.kept("a") is left


def test_sessions_keep_nothing_of_a_stale_run():
    sessions, newer = Sessions(), record()
    old = sessions.call("a")
    new = sessions.call("a")
    sessions.stop("a")
    sessions.keep("a", new, newer)
    sessions.keep("a", old, record())
    assert sessions.kept("a") is newer


def test_sessions_keep_a_stale_run_that_is_still_shown():
    sessions, left = Sessions(), record()
    number = sessions.call("a")
    sessions.show("a", number)
    sessions.call("a")  # such as one that is refused
    sessions.keep("a", number, left)
    assert sessions.kept("a") is left


def test_sessions_give_no_run_while_a_newer_one_is_shown():
    sessions, newer = Sessions(), record()
    sessions.keep("a", sessions.call("a"), record())
    number = sessions.call("a")
    sessions.show("a", number)
    with pytest.raises(ValueError, match="the run that is shown must have ended; stop it, or wait"):
        sessions.kept("a")
    sessions.keep("a", number, newer)
    assert sessions.kept("a") is newer


def test_sessions_keep_a_table_of_each_tab():
    sessions = Sessions()
    with pytest.raises(ValueError, match="there is nothing to keep yet"):
        sessions.table("a", "parts")
    for text in ("t: 0.5", "t: 0.7"):
        sessions.keep_table("a", "parts", text)
    assert sessions.table("a", "parts") == "t: 0.7"
    for session, tab in (("a", "weights"), ("b", "parts")):
        with pytest.raises(ValueError, match="there is nothing to keep yet"):
            sessions.table(session, tab)


def test_sessions_closed_are_not_brought_back_by_their_runs():
    sessions = Sessions()
    number = sessions.call("a")
    sessions.close("a")
    sessions.keep("a", number, record())
    assert not sessions.is_newest("a", number)
    assert sessions.kept("a") is None
    assert len(sessions) == 0


def test_sessions_are_forgotten_an_hour_after_their_last_use():
    clock = Clock()
    sessions = Sessions(lifetime=3600, clock=clock)
    for name in ("a", "b"):
        sessions.keep(name, sessions.call(name), record())
    clock.now += 3000
    assert sessions.kept("b") is not None
    clock.now += 601
    assert sessions.kept("a") is None
    assert sessions.kept("b") is not None
    assert len(sessions) == 1
    clock.now += 3601
    assert sessions.kept("b") is None
    assert len(sessions) == 0


def test_sessions_forget_the_one_used_longest_ago_when_there_are_too_many():
    sessions = Sessions(most=3)
    numbers = {name: sessions.call(name) for name in "abc"}
    assert sessions.is_newest("a", numbers["a"])  # a run under way uses its session
    sessions.call("d")
    assert len(sessions) == 3
    assert sessions.is_newest("a", numbers["a"])
    assert not sessions.is_newest("b", numbers["b"])


def test_sessions_a_crowd_ends_no_run_under_way():
    sessions = Sessions(most=4)
    number = sessions.call("honest")
    for i in range(50):
        sessions.call(f"stranger {i}")
        assert sessions.is_newest("honest", number)
    assert len(sessions) == 4


def test_sessions_keep_no_more_than_their_bytes():
    sessions = Sessions(most_bytes=3 * 24 * 100)
    for name in "abcd":
        sessions.keep(name, sessions.call(name), record(100))
    assert [sessions.kept(name) is not None for name in "abcd"] == [False, True, True, True]
    sessions.keep("e", sessions.call("e"), record(1000))
    assert [sessions.kept(name) is not None for name in "bcde"] == [False, False, False, True]


def test_sessions_bear_many_threads():
    sessions, failed = Sessions(most=5), []

    def use(i: int) -> None:
        try:
            for k in range(200):
                name = str((i + k) % 9)
                number = sessions.call(name)
                sessions.is_newest(name, number)
                sessions.keep(name, number, record(1))
                sessions.kept(name)
                if k % 7 == 0:
                    sessions.close(name)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failed
    assert len(sessions) <= 5
