"""The panel of blocks: it looks into what is taken apart, and measures readability when asked."""

import json
from typing import Any

import pytest
from test_app import ANYONE, built

from deco_lab.page import PartsTab
from deco_lab.page.controls import Controls
from deco_lab.spectra import layer_readout
from deco_lab.studies import crops_for
from deco_lab.workbench import Library, Settings, Workbench
from deco_lab.workbench.layers import look_inside


@pytest.fixture(scope="module")
def bench():
    bench = Workbench(Library("tiny", device="cpu"))
    list(bench.draw("a", [Settings(class_ids=(2, 3), num_images=2, num_steps=6, seed=4)]))
    return bench


@pytest.fixture(scope="module")
def tab(bench):
    facts = bench.library.facts("tiny")
    return built(lambda: PartsTab(bench, Controls(["tiny"], Settings(), facts)))


def both(tab, source="last run", step: Any = 3, model="tiny", t: Any = 0.1):
    """The last message of each panel; None where there was none."""
    values = (model, source, 0, 2, 0, step, t, 8, "predicted", "others", "others", "main")
    last: list[Any] = [None, None]
    for messages in tab._both(ANYONE, *values):
        last = [
            json.loads(message) if isinstance(message, str) else before
            for message, before in zip(messages, last, strict=True)
        ]
    return last


def test_blocks_are_of_the_step_that_is_taken_apart(bench, tab):
    shown = []
    for step in (2, 5):
        parts, layers = both(tab, step=step)
        x, t = bench.sessions.kept("a").began(step)[1]
        expected = look_inside(bench.library.get("tiny"), x[1], t, 3, name="tiny")
        view = layers["view"]
        assert (layers["status"], parts["status"]) == ("done", "done")
        assert view["settings"] == expected.settings
        assert view["settings"]["t"] == parts["view"]["settings"]["t"] == t
        assert view["says"] == expected.says
        assert [block["change"] for block in view["blocks"]] == [b.change for b in expected.blocks]
        assert view["blocks"][-1]["decoded"] == parts["view"]["predicted"]
        shown.append(view["says"])
    assert shown[0] != shown[1]


def test_blocks_of_a_photograph_are_of_what_the_parts_panel_is_given(tab):
    parts, layers = both(tab, source="photograph", t=0.4)
    assert layers["view"]["settings"]["t"] == 0.4
    assert layers["view"]["blocks"][-1]["decoded"] == parts["view"]["predicted"]


def test_a_single_dit_is_looked_into_although_it_has_no_parts(tab):
    parts, layers = both(tab, model="tiny-dit")
    assert parts["text"].startswith("tiny-dit has no pixel decoder")
    assert len(layers["view"]["blocks"]) == 9


def test_what_cannot_be_looked_into_is_said_once(tab):
    parts, layers = both(tab, step=99)
    assert parts["status"] == "refused"
    assert (layers["view"], layers["text"]) == (None, "")
    parts, layers = both(tab, source="photograph", t="0.5")
    assert [message["text"] for message in (parts, layers)] == [
        "t must be a number from 0 to 1, got '0.5'."
    ] * 2


def test_readability_is_the_study_at_the_steps_t(bench, tab):
    *_, message = map(json.loads, tab.layers.readability("tiny", "0.25"))
    read = message["read"]
    assert (read["name"], read["t"]) == ("tiny", 0.25)
    assert read["of"] == "17 crops of the bundled photographs"
    model = bench.library.get("tiny")
    expected = layer_readout(model, crops_for(model, 17, (0.25,)))
    assert len(read["r2"]) == len(expected) == 8
    for found, each in zip(read["r2"], expected, strict=True):
        target = each.targets.index("image")
        for k, band in enumerate(found):
            value = each.r2[0, 0, target, k]
            ends = dict(zip(("value", "low", "high"), value.ends, strict=True))
            assert band == pytest.approx(ends, rel=1e-3, nan_ok=True)


def test_readability_refuses_in_a_sentence(tab):
    for wrong in ("2", "much", None, ["0.5"], "nan"):
        *_, message = map(json.loads, tab.layers.readability("tiny", wrong))
        assert message["status"] == "refused"
        assert message["text"].startswith("t must be a number from 0 to 1, got ")
