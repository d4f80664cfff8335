"""When a run's bands are settled: the analysis's times, found again in what is kept."""

import io

import numpy as np
import pytest
import torch
from test_workbench_bench import SHORT

import deco_lab
from deco_lab.sampling import sample_steps
from deco_lab.spectra.settling import settling_times
from deco_lab.workbench import Library, Settings, Workbench
from deco_lab.workbench.keeping import to_npz
from deco_lab.workbench.settled import LEAST, LEVEL, MOST, Settling

RUN = Settings(class_ids=(2, 3), num_images=2, num_steps=20, decompose=False)


@pytest.fixture(scope="module")
def bench():
    return Workbench(Library("tiny", device="cpu"))


def first_for_good(times, curve):
    """When a curve reaches the level for good, by a walk back from the end."""
    place = len(curve) - 1
    while place > 0 and curve[place - 1] >= LEVEL:
        place -= 1
    if place == 0:
        return times[0]
    if place == len(curve) - 1:
        return None
    return np.interp(LEVEL, curve[place - 1 : place + 1], times[place - 1 : place + 1])


def test_marks_are_those_of_the_kept_curves_and_of_the_analysis(bench):
    *_, last = bench.draw("a", [RUN])
    with np.load(io.BytesIO(to_npz(bench.sessions.kept("a"))), allow_pickle=False) as stored:
        likeness, starts = stored["predicted_likeness"][1:], stored["t_start"][1:]
        assert stored["axis_share_band"][0] == "mean"
    expected = [first_for_good(starts, curve) for curve in likeness.T]
    assert last["settled"] == [None if t is None else pytest.approx(t, rel=1e-3) for t in expected]
    assert sum(t is not None for t in last["settled"]) >= 3
    model = deco_lab.load("tiny", device="cpu")
    steps = sample_steps(model, **RUN.sampling_arguments())
    analysis = settling_times(steps, levels=(LEVEL,))
    np.testing.assert_allclose(likeness, analysis.correlation[0], rtol=1e-6)
    np.testing.assert_allclose(
        np.array(last["settled"], float), analysis.settled[0, :, 0], rtol=1e-3
    )


def test_a_run_that_was_stopped_or_is_short_has_no_mark(bench):
    *_, last = bench.draw("a", [SHORT])
    assert last["status"] == "done"
    assert "settled" not in last
    running = bench.draw("b", [RUN])
    messages = [next(running) for _ in range(3)]
    bench.sessions.stop("b")
    messages += running
    assert messages[-1]["status"] == "stopped"
    assert not any("settled" in message for message in messages)


def test_settling_of_a_long_run_keeps_an_even_choice_and_the_last():
    noise, image = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator())
    settling, count = Settling(), 501
    for step in range(1, count + 1):
        t = (step - 1) / count
        settling.add(step, t, image if t >= 0.4 else noise)
    found = settling.found()
    assert found is not None
    assert LEAST <= len(found.steps) <= MOST + 1
    assert (found.steps[0], found.steps[-1]) == (1, count)
    assert np.abs(found.times - 0.4).max() < 8 / count
    assert Settling().found() is None
