"""Curves over t in Chromium: drawn by pointer and keys, they change the picture, and come back."""

import re
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from browsing import PANEL, canvas, fill, run_of, says, until, violations, wait_for_step

from deco_lab.workbench import from_query

pytestmark = pytest.mark.browser


def settings_of(page):
    return from_query(dict(parse_qsl(urlsplit(page.url).query, keep_blank_values=True)))


def point(page, name, t):
    return page.get_by_role("slider", name=f"{name}, at t = {t:g}", exact=True)


def place(page, name, t):
    box = point(page, name, t).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def wait_for_next(page, run, step):
    """Wait until a run after another has come to its end and is on the screen."""
    until(page, f"+d.run > {run} && d.status === 'done'")
    wait_for_step(page, run_of(page), step)
    return run_of(page)


def test_a_curve_that_is_drawn_guides_the_run_and_changes_the_picture(page, browser, address):
    run = fill(page, "Steps", 10)
    wait_for_step(page, run, 10)
    guided = canvas(page, "noisy")
    page.locator("#more > button").click()
    changed = page.locator(".dl-curves [data-say=changed]")
    assert changed.inner_text() == "All curves are flat at 1."
    # From the first point to that at t = 0.6 along the bottom: no guidance there.
    point(page, "Guidance, all bands", 1).scroll_into_view_if_needed()
    slope = [place(page, "Guidance, all bands", t) for t in (0, 0.6)]
    down = slope[0][1] - place(page, "Guidance, all bands", 0)[1] + 300
    page.mouse.move(*slope[0])
    page.mouse.down()
    page.mouse.move(slope[0][0], slope[0][1] + down)
    page.mouse.move(slope[1][0], slope[1][1] + down, steps=3)
    page.mouse.up()
    run = wait_for_next(page, run, 10)
    curve = settings_of(page).guidance_curve
    assert curve == (0,) * 7 + (1,) * 4
    assert np.abs(canvas(page, "noisy").astype(int) - guided).mean() > 1
    assert page.locator("[data-fact=nfe]").inner_text() == "13"  # guided from t = 0.7, 0.8, 0.9
    assert changed.inner_text() == "● Not flat: Guidance: all bands."
    assert "Guidance over t" in page.locator("#more-says").inner_text()
    begins = page.locator("#panel .dl-strip .dl-begins").first
    assert float(begins.get_attribute("x1")) == pytest.approx(0.6 * 400)
    # Keys: up, and on to the neighbour.
    point(page, "Guidance, all bands", 1).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    run = wait_for_next(page, run, 10)
    assert settings_of(page).guidance_curve == (0,) * 7 + (1, 1, 0, 1.1)
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused == "Guidance, all bands, at t = 0.9"
    assert page.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "0"
    # The link brings the curve back, and "Reset" takes it away.
    other = browser.new_page()
    other.goto(page.url)
    until(other, "d.status === 'done'")
    other.locator("#more > button").click()
    assert point(other, "Guidance, all bands", 1).get_attribute("aria-valuetext") == "1.1"
    np.testing.assert_array_equal(canvas(other, "noisy"), canvas(page, "noisy"))
    other.close()
    page.get_by_role("button", name="Reset all curves").click()
    wait_for_next(page, run, 10)
    assert settings_of(page).guidance_curve == ()
    np.testing.assert_array_equal(canvas(page, "noisy"), guided)


def test_bands_and_gains_have_curves_of_their_own(page):
    run = fill(page, "Steps", 6)
    wait_for_step(page, run, 6)
    plain = canvas(page, "noisy")
    page.locator("#more > button").click()
    select = page.get_by_label("Curve to draw")
    bands = select.locator("optgroup[label='Guidance by band']")
    assert bands.evaluate("(node) => node.disabled")
    select.select_option(label="Decoder, above 1/4")
    point(page, "Decoder, above 1/4", 0.5).focus()
    page.keyboard.press("PageDown")
    run = wait_for_next(page, run, 6)
    curves = np.reshape(settings_of(page).decoder_curves, (4, 11))
    assert curves[3].tolist() == [1] * 5 + [0.5] + [1] * 5
    assert (curves[:3] == 1).all()
    assert np.abs(canvas(page, "noisy").astype(int) - plain).max() > 0
    assert select.locator("option:checked").inner_text() == "● Decoder, above 1/4"
    # Guidance by band has its curves where that is the rule.
    page.get_by_label("Guidance", exact=True).first.click()
    page.get_by_role("option", name=re.compile("By band")).click()
    run = wait_for_next(page, run, 6)
    page.wait_for_function(
        "!document.querySelector(\"optgroup[label='Guidance by band']\").disabled"
    )
    select.select_option(label="Guidance, below 1/16")
    point(page, "Guidance, below 1/16", 0.1).focus()
    page.keyboard.press("End")
    wait_for_next(page, run, 6)
    assert settings_of(page).band_curves[:3] == (1, 2, 1)
    assert says(page).startswith("Done: 6 steps")
    page.get_by_role("button", name="Reset all of these").click()
    until(page, f"+d.run > {run_of(page)} || d.status === 'done'")
    page.wait_for_function("document.querySelector('#more-says p').textContent.startsWith('All')")
    assert page.locator(".dl-curves [data-say=changed]").inner_text() == "All curves are flat at 1."


def test_a_single_dit_refuses_curves_of_parts_at_the_plot(page):
    page.locator("#more > button").click()
    page.get_by_label("Curve to draw").select_option(label="DiT, below 1/16")
    point(page, "DiT, below 1/16", 0).focus()
    run = run_of(page)
    page.keyboard.press("ArrowDown")
    until(page, f"+d.run > {run}")
    page.get_by_label("Model", exact=True).first.click()
    page.get_by_role("option", name="tiny-dit", exact=True).click()
    until(page, "d.status === 'refused'")
    said = page.locator(".of-dit_curves .dl-wrong").inner_text()
    assert said.startswith("Curves over t must be 1, since tiny-dit has no pixel decoder")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_curves(browser, address, theme, width):
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{address}?num_steps=3&guidance_curve=[0,1,2]&__theme={theme}")
    until(page, "d.status === 'done'")
    if width < 900:
        page.get_by_role("button", name="Settings").click()
    page.locator("#more > button").click()
    point(page, "Guidance, all bands", 0.5).focus()
    page.wait_for_timeout(500)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(f"{PANEL}.querySelector('.dl-begins').style.visibility") == "visible"
    page.close()
