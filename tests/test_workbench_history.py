"""What a run keeps of its steps: all of them, or an even choice that fits."""

from itertools import pairwise

import torch

from deco_lab.workbench.history import MOST_FRAMES, History
from deco_lab.workbench.record import Paused

NUMBERS = 100


def kept(most_bytes: int, steps: int, of_film: int = NUMBERS) -> History:
    """A history of states of 400 bytes, and predicted images of one byte a pixel."""
    history = History(most_bytes)
    for step in range(steps + 1):
        x = torch.full((NUMBERS,), float(step))
        if history.wants(step):
            history.add_state(step, Paused(x, step / (steps + 1)))
        if step:
            history.add_frame(step, torch.full((of_film,), step % 256, dtype=torch.uint8))
    return history


def size(history: History) -> int:
    states = sum(state.x.nbytes for state in history.states.values())
    return states + sum(frame.nbytes for frame in history.film.values())


def test_history_keeps_every_step_of_a_small_run():
    history = kept(most_bytes=50_000, steps=60)
    assert list(history.states) == list(range(61))
    assert list(history.film) == list(range(1, 61))
    for step, (x, t) in history.states.items():
        assert (x == step).all()
        assert t == step / 61
    assert all((frame == step).all() for step, frame in history.film.items())


def test_history_keeps_even_steps_within_its_bytes():
    for most_bytes in (500, 1000, 5000, 20_000):
        for steps in (5, 37, 200):
            history = kept(most_bytes, steps)
            assert size(history) <= most_bytes
            for places, first in ((history.states, 0), (history.film, 1)):
                indices = list(places)
                assert indices[0] == first
                gaps = {b - a for a, b in pairwise(indices)}
                assert len(gaps) <= 1
                assert all(gap & (gap - 1) == 0 for gap in gaps)
                if gaps:
                    assert steps - indices[-1] < gaps.pop()
    # As much as fits, but for what halving costs: 25 states and 50 frames would fill it.
    assert size(kept(20_000, 200)) > 5000


def test_history_lets_go_of_what_takes_most():
    history = kept(most_bytes=40_000, steps=40, of_film=3000)
    assert len(history.states) == 41
    assert 2 <= len(history.film) < 10


def test_history_keeps_one_of_each_that_are_too_large():
    history = kept(most_bytes=10, steps=9)
    assert list(history.states) == [0]
    assert list(history.film) == [1]


def test_history_wants_no_state_that_has_no_place():
    history = kept(most_bytes=2000, steps=9)
    every = list(history.states)[1]
    assert every > 1
    assert [step for step in range(10, 40) if history.wants(step)] == [
        step for step in range(10, 40) if step % every == 0
    ]


def test_history_keeps_as_many_frames_as_a_film_shows():
    history = kept(most_bytes=10**7, steps=1000)
    assert len(history.states) == 1001
    assert MOST_FRAMES / 2 <= len(history.film) <= MOST_FRAMES
