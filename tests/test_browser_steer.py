"""Steering a run in Chromium: what settled, a step gone on from, regions, curves, layers."""

import pytest
from browsing import PANEL, fill, wait_for_step

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
        assert mark.get_attribute("title").startswith(f"90% settled at t = {t:.2f}")
        strip, box = mark.locator("..").bounding_box(), mark.bounding_box()
        assert abs(box["x"] + box["width"] / 2 - strip["x"] - t * strip["width"]) < 1
    assert "▲ 90% settled" in page.locator("#panel .dl-rows .dl-note").inner_text()
