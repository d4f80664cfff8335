"""Runs that go on from a step of another: the same state, bit for bit, wherever it comes from."""

import json
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
import torch
from going_on import drawn, on_from
from PIL import Image

from deco_lab.sampling import SOLVERS
from deco_lab.workbench import Library, Settings, Workbench, from_query, to_query, to_snippet
from deco_lab.workbench.keeping import settings_from_png, to_png
from deco_lab.workbench.resuming import REMEMBERING
from deco_lab.workbench.settings import MAX_LEGS, origin_of

RUN = Settings(class_ids=(2, 12), num_images=2, num_steps=6, seed=4, decompose=False)


@pytest.fixture(scope="module")
def bench():
    return Workbench(Library("tiny", device="cpu"))


@pytest.mark.parametrize("solver", SOLVERS)
def test_going_on_with_the_same_knobs_is_the_run_itself_where_the_solver_forgets(bench, solver):
    run = replace(RUN, solver=solver)
    first = drawn(bench, "a", run)
    state, texts = first.states[3], []
    for message in bench.draw("a", [on_from(run, 3)]):
        texts.append(message["text"])
    again = bench.sessions.kept("a")
    # The start is the state itself, and so is the time.
    assert bench.sessions.state("a", origin_of(run, 3)) is state
    assert again.curves["t"].values[0] == state.t == first.curves["t"].values[3]
    same = torch.equal(again.images, first.images)
    assert same == (solver not in REMEMBERING)
    assert ("begins there without earlier steps" in texts[-1]) == (solver in REMEMBERING)
    assert "Goes on from step 3 of a run, whatever the seed" in texts[-1]


def test_going_on_in_zero_star_skips_no_step_again(bench):
    run = replace(RUN, guidance="zero-star")
    first = drawn(bench, "a", run)
    assert torch.equal(drawn(bench, "a", on_from(run, 2)).images, first.images)


def test_a_state_is_drawn_again_where_it_is_not_kept(bench):
    run = replace(RUN, dit_gains=(1, 1, 0.5, 1), condition_reuse=2)
    drawn(bench, "a", run)
    changed = on_from(run, 2, guidance_scale=6.0, dit_gains=(1.0,) * 4)
    there = drawn(bench, "a", changed)
    elsewhere = drawn(bench, "of nobody", changed)
    assert torch.equal(there.images, elsewhere.images)
    further = on_from(changed, 1, num_steps=10)
    twice = drawn(bench, "a", further)
    assert torch.equal(twice.images, drawn(bench, "of nobody else", further).images)
    assert len(further.legs) == 2
    # A changed knob goes on from the state that the session keeps.
    other = replace(further, guidance_scale=1.0)
    state = bench.sessions.state("a", further.origin)
    drawn(bench, "a", other)
    assert bench.sessions.state("a", further.origin) is state


def test_link_picture_and_script_bring_it_back(bench, monkeypatch):
    settings = on_from(on_from(RUN, 2, guidance_scale=5.0), 1, solver="heun")
    record = drawn(bench, "a", settings)
    assert from_query(dict(parse_qsl(to_query(settings)))) == settings
    assert settings_from_png(to_png(record)).settings == settings
    found: dict[str, Any] = {}
    exec(to_snippet(settings), found)
    assert torch.equal(found["images"], record.images)


def test_what_starts_from_a_picture_is_gone_on_from(bench):
    bench.sessions.keep_picture("a", Image.linear_gradient("L").convert("RGB"))
    run = replace(RUN, start_from="own picture", start_t=0.5)
    first = drawn(bench, "a", run)
    again = on_from(run, 1)
    assert again.legs[0].settings.start_from == "own picture"
    assert torch.equal(drawn(bench, "a", again).images, first.images)


def test_origin_is_refused_in_a_sentence_and_gone_without_use(bench):
    assert replace(RUN, origin="anything").origin == ""
    good = json.loads(origin_of(RUN, 2))
    deep = RUN
    for _ in range(MAX_LEGS):
        deep = on_from(deep, 1)
    for bad in (
        "", "[", "3", "[]", "[3]", json.dumps([good[0] | {"step": 6}]),
        json.dumps([good[0] | {"start_from": "earlier run"}]), json.dumps(good * 2),
        json.dumps([good[0] | {"origin": ""}]), origin_of(deep, 1), "[" * 10**5,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="origin must be what “Go on from here” says"):
            replace(RUN, start_from="earlier run", origin=bad)
    with pytest.raises(ValueError, match="num_images must be 2, as many as the run"):
        on_from(RUN, 2, num_images=3)
    *_, last = bench.draw("b", [on_from(on_from(RUN, 5), 1)])  # which has only a last one
    assert last["status"] == "refused"
    assert last["text"].startswith("origin must name a step before the end of its run, got step 1")


def test_going_on_keeps_to_the_time_limit():
    slow = Workbench(Library("tiny", device="cpu"), time_limit=0)
    *_, last = slow.draw("a", [on_from(RUN, 3)])
    assert last["text"].startswith("the run that this one goes on from took longer than")
