"""Sessions: the newest run of each, and what is kept until others need the room."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deco_lab.workbench.record import Curve, Paused, Record
from deco_lab.workbench.sessions import Sessions
from deco_lab.workbench.settings import Settings


def record(numbers: int = 4) -> Record:
    """A run whose images and curve take 24 bytes a number."""
    return Record(
        settings=Settings(),
        model={},
        images=torch.zeros(numbers, 1, 1, 2),
        num_steps=1,
        axes={"step": np.arange(numbers)},
        curves={"t": Curve(("step",), np.zeros(numbers), "one")},
        paused=Paused(torch.zeros(numbers, 1, 1, 2), 0.5),
    )


def has_kept(sessions: Sessions, name: str) -> bool:
    try:
        return sessions.kept(name) is not None
    except ValueError:
        return False


def test_sessions_newest_run_makes_older_ones_stale():
    sessions = Sessions()
    first, other = sessions.call("a"), sessions.call("b")
    assert sessions.is_newest("a", first)
    second = sessions.call("a", Settings(seed=1))
    assert second > first
    assert not sessions.is_newest("a", first)
    assert sessions.is_newest("a", second)
    assert sessions.is_newest("b", other)
    assert sessions.asked("a") == Settings(seed=1)
    sessions.stop("a")
    sessions.stop("never called")
    assert not sessions.is_newest("a", second)
    assert sessions.is_newest("a", sessions.call("a"))
    assert len(sessions) == 2


def test_sessions_keep_the_newest_that_is_shown_or_has_ended():
    sessions, left = Sessions(), record()
    old = sessions.call("a")
    sessions.show("a", old)
    with pytest.raises(ValueError, match="the run that is shown must have ended; stop it, or wait"):
        sessions.kept("a")
    sessions.stop("a")
    sessions.keep("a", old, left)
    assert sessions.kept("a") is left
    new = sessions.call("a")
    sessions.show("a", new)
    sessions.keep("a", old, record())  # comes late
    with pytest.raises(ValueError, match="must have ended"):
        sessions.kept("a")
    sessions.keep("a", new, newer := record())
    assert sessions.kept("a") is newer
    with pytest.raises(ValueError, match="there is no run yet; draw one first"):
        sessions.kept("b")


def test_sessions_closed_ends_the_run_and_keeps_nothing():
    sessions = Sessions()
    number = sessions.call("a")
    sessions.close("a")
    sessions.keep("a", number, record())
    assert not sessions.is_newest("a", number)
    assert not has_kept(sessions, "a")
    assert len(sessions) == 0


def test_sessions_show_any_of_their_newest_runs_again():
    sessions, records = Sessions(), [record() for _ in range(15)]
    numbers = []
    for one in records:
        numbers.append(sessions.call("a"))
        sessions.show("a", numbers[-1])
        sessions.keep("a", numbers[-1], one)
    assert sessions.kept("a") is records[-1]
    for number, one in zip(numbers[3:], records[3:], strict=True):
        sessions.show_again("a", number)
        assert sessions.kept("a") is one
    for number in (numbers[2], 10**6, -1):
        sessions.show_again("a", number)
        with pytest.raises(ValueError, match=r"this run is no longer kept, .*; draw it again"):
            sessions.kept("a")
    stranger = sessions.call("b")
    with pytest.raises(ValueError, match="there is no run yet"):
        sessions.kept("b")
    sessions.show_again("b", numbers[5])
    with pytest.raises(ValueError, match="no longer kept"):  # nothing of another session
        sessions.kept("b")
    sessions.show("b", stranger)
    with pytest.raises(ValueError, match="must have ended"):
        sessions.kept("b")


def test_sessions_show_an_older_run_while_a_newer_draws():
    sessions, left = Sessions(), record()
    old = sessions.call("a")
    sessions.keep("a", old, left)
    new = sessions.call("a")
    sessions.show("a", new)
    sessions.show_again("a", old)
    sessions.show("a", new)  # its next step
    assert sessions.kept("a") is left
    sessions.keep("a", new, record())
    assert sessions.kept("a") is left
    sessions.show("a", sessions.call("a"))
    with pytest.raises(ValueError, match="must have ended"):
        sessions.kept("a")


def test_sessions_forget_what_a_newer_run_cut_short():
    sessions, left, cut = Sessions(), record(), record()
    first, second = sessions.call("a"), 0
    sessions.keep("a", first, left)
    second = sessions.call("a")
    sessions.show("a", second)
    third = sessions.call("a")
    sessions.keep("a", second, cut)
    assert sessions.kept("a") is cut  # as long as it is what is shown
    sessions.show("a", third)
    sessions.keep("a", third, record())
    sessions.show_again("a", first)
    assert sessions.kept("a") is left
    sessions.show_again("a", second)
    with pytest.raises(ValueError, match="no longer kept"):
        sessions.kept("a")


def test_sessions_let_go_of_a_sessions_older_steps_then_of_its_older_runs():
    sessions = Sessions(most_of_one=24 * 320)
    x = torch.zeros(100, 1, 1, 2)
    whole = replace(record(100), states={0: Paused(x, 0.0)})
    numbers = [sessions.call("a")]
    sessions.keep("a", numbers[0], whole)
    assert sessions.kept("a") is whole
    for _ in range(3):
        numbers.append(sessions.call("a"))
        sessions.keep("a", numbers[-1], record(100))
    for number in numbers[1:]:
        sessions.show_again("a", number)
        assert sessions.kept("a").size == record(100).size
    sessions.show_again("a", numbers[0])
    with pytest.raises(ValueError, match="no longer kept"):
        sessions.kept("a")
    sessions.keep("a", sessions.call("a"), large := record(1000))
    assert sessions.kept("a") is large
    sessions.show_again("a", numbers[-1])
    with pytest.raises(ValueError, match="no longer kept"):
        sessions.kept("a")


def test_sessions_keep_a_persons_picture():
    sessions, picture = Sessions(), Image.new("RGB", (2, 2))
    with pytest.raises(ValueError, match="there is no picture of your own yet; choose a file"):
        sessions.picture("a")
    sessions.keep_picture("a", picture)
    assert sessions.picture("a") is picture


def test_sessions_of_a_crowd_end_no_run_under_way():
    sessions = Sessions(most=4)
    number = other = sessions.call("honest")
    for i in range(50):
        other = sessions.call(f"stranger {i}")
        assert sessions.is_newest("honest", number)  # a run under way uses its session
    assert len(sessions) == 4
    assert sessions.is_newest("stranger 49", other)
    assert not sessions.is_newest("stranger 40", other)


def test_sessions_keep_no_more_than_their_bytes():
    sessions = Sessions(most_bytes=3 * 24 * 100)
    for name in "abcd":
        sessions.keep(name, sessions.call(name), record(100))
    assert [has_kept(sessions, name) for name in "abcd"] == [False, True, True, True]
    sessions.keep("e", sessions.call("e"), record(1000))
    assert [has_kept(sessions, name) for name in "bcde"] == [False, False, False, True]


def test_sessions_let_go_of_steps_before_they_let_go_of_runs():
    sessions = Sessions(most_bytes=24 * 300)
    x, frame = torch.zeros(100, 1, 1, 2), torch.zeros(1600, dtype=torch.uint8)
    whole = replace(record(100), states={0: Paused(x, 0.0)}, film={1: frame})
    assert whole.size == record(100).size + 800 + 1600
    for name in "ab":
        sessions.keep(name, sessions.call(name), whole)
    assert sessions.kept("a").states == sessions.kept("a").film == {}
    assert sessions.kept("a").size == record(100).size
    assert sessions.kept("b") is whole


def test_sessions_bear_many_threads():
    sessions = Sessions(most=5)

    def use(i: int) -> None:
        for k in range(200):
            name = str((i + k) % 9)
            number = sessions.call(name)
            sessions.is_newest(name, number)
            sessions.keep(name, number, record(1))
            has_kept(sessions, name)
            if k % 7 == 0:
                sessions.close(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert len(sessions) <= 5
