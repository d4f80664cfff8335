"""Steering a run in Chromium: what settled, a step gone on from, regions, curves, layers."""

import re

import numpy as np
import pytest
from browsing import PANEL, canvas, data, fill, run_of, says, until, wait_for_step

pytestmark = pytest.mark.browser


def test_settled_marks_stand_on_the_strips_where_the_run_has_ended(page):
    marks = page.locator("#panel .dl-settled")
    fill(page, "Steps", 200)
    page.wait_for_function("window.painted.at(-1)?.step >= 3")
    assert all(mark.is_hidden() for mark in marks.all())
    wait_for_step(page, fill(page, "Steps", 20), 20)
    page.wait_for_function(f"{PANEL}.querySelector('.dl-settled:not([hidden])')")
    shown = [mark for mark in marks.all() if mark.is_visible()]
    assert len(shown) >= 3
    for mark in shown:
        t = float(mark.get_attribute("data-t"))
        title = mark.get_attribute("title")
        assert re.match(f"90% settled (already )?at t = {t:.2f}: from there on", title)
        strip, box = mark.locator("..").bounding_box(), mark.bounding_box()
        assert abs(box["x"] + box["width"] / 2 - strip["x"] - t * strip["width"]) < 1
    assert "▲ 90% settled" in page.locator("#panel .dl-rows .dl-note").inner_text()


def test_a_run_goes_on_from_the_step_that_is_shown_and_back_to_noise(page):
    wait_for_step(page, fill(page, "Steps", 10), 10)
    ended, button = canvas(page, "noisy"), page.get_by_role("button", name="Go on from here")
    assert button.is_disabled()  # nothing is left to draw
    page.get_by_label("Step to look at").fill("4")
    page.wait_for_function("window.painted.at(-1).step === 4")
    state, run = canvas(page, "noisy"), run_of(page)
    button.click()
    until(page, f"d.shownRun > {run} && d.status === 'done'")
    page.wait_for_function("window.painted.at(-1).step === 6")
    assert "Goes on from step 4 of a run, whatever the seed." in says(page)
    assert "start_from=earlier+run" in page.url
    # The rest is the run's own, and its start the state that was shown.
    np.testing.assert_array_equal(canvas(page, "noisy"), ended)
    until(page, "document.querySelector('.dl-settled:not([hidden])')")
    coarse = page.locator("#panel .dl-settled").first.get_attribute("title")
    assert coarse.startswith("90% settled already at t = 0.40")
    page.get_by_label("Step to look at").fill("0")
    page.wait_for_function("window.painted.at(-1).step === 0")
    np.testing.assert_array_equal(canvas(page, "noisy"), state)
    origin = page.locator(".dl-origin")
    assert "Goes on from step 4 of 10 of tiny, seed 0" in origin.inner_text()
    assert "Start from" in page.locator("#more-says").inner_text()
    # Another knob redraws the rest from there.
    run = run_of(page)
    slider = page.get_by_label("range slider for Guidance scale")
    slider.focus()
    page.keyboard.press("ArrowRight")
    until(page, f"d.shownRun > {run} && d.status === 'done'")
    page.wait_for_function("window.painted.at(-1).step === 6")
    assert np.abs(canvas(page, "noisy").astype(int) - ended).max() > 0
    page.get_by_label("Step to look at").fill("0")
    page.wait_for_function("window.painted.at(-1).step === 0")
    np.testing.assert_array_equal(canvas(page, "noisy"), state)
    run = run_of(page)
    origin.get_by_role("button").click()
    until(page, f"d.shownRun > {run} && d.status === 'done'")
    assert re.search(r"^Done: 10 steps, ", says(page))
    assert origin.is_hidden()
    assert data(page, "status") == "done"
