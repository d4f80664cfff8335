"""The runs of a page in Chromium: shown again, pinned, and compared in three ways."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from browsing import PANEL, canvas, fill, run_of, until, violations, wait_for_step
from playwright.sync_api import expect
from test_browser import FIRST, assert_same_picture, keep, sheet, without_gaps

import deco_lab
from deco_lab.spectra import split_bands

pytestmark = pytest.mark.browser


def draw(page, label, value):
    """Draw with another value of a field to the end; return the run's number."""
    run = fill(page, label, value)
    until(page, f"+d.shownRun === {run} && d.status === 'done'")
    return run


def tiles(page):
    return page.locator(".dl-kept ol button")


def captions(page):
    return page.locator(".dl-kept ol span").all_inner_texts()


def show_again(page, tile, run):
    tiles(page).nth(tile).click()
    until(page, f"+d.shownRun === {run}")


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_timeout(100)


def three_runs(page):
    """Draw runs of 6 steps with the scales 2 and 8, then another seed; return their numbers."""
    first = draw(page, "Steps", 6)
    second = draw(page, "number input for Guidance scale", 8)
    return first, second, draw(page, "Seed", 7)


def final(settings):
    """Return the last predicted images, which are those drawn."""
    model = deco_lab.load(settings.model, device="cpu")
    return deco_lab.sample(model, **settings.sampling_arguments())


def decibels(now, before):
    """Return by how much the energy of each octave differs, computed from the images."""
    after, first = (split_bands(images).double().square() for images in (now, before))
    return 10 * torch.log10(after.mean((1, 2, 3, 4)) / first.mean((1, 2, 3, 4)))


def test_strip_says_what_differs_and_shows_any_run_again(page):
    first, second, third = three_runs(page)
    assert captions(page)[-3:] == ["steps 50→6", "w 2→8", "seed 0→7"]
    tile = tiles(page).nth(len(captions(page)) - 2)
    assert tile.get_attribute("aria-label").startswith(f"Show run {second} again: Guidance scale 2")
    box = page.locator(".dl-kept").bounding_box()
    assert box["y"] + box["height"] < 800
    curves = page.evaluate(f"{PANEL}.querySelector('.dl-bands path:nth-child(5)')?.outerHTML")
    for place, run in ((-3, first), (-2, second), (-3, first)):
        show_again(page, len(captions(page)) + place, run)
    assert tiles(page).nth(len(captions(page)) - 3).get_attribute("aria-pressed") == "true"
    settings = replace(FIRST, num_steps=6)
    assert_same_picture(without_gaps(canvas(page, "noisy")), sheet(settings))
    assert page.evaluate(f"{PANEL}.querySelector('.dl-bands path:nth-child(5)')?.outerHTML") != (
        curves or None
    )
    assert "guidance_scale=2.0" in page.url
    assert "seed=0" in page.url
    # By keys: the arrows go through its steps.
    page.keyboard.press("ArrowLeft")
    until(page, "d.step === '5'")
    # What is kept is of this run now.
    _, content = keep(page, "npz")
    with np.load(io.BytesIO(content)) as stored:
        assert json.loads(str(stored["recipe"]))["settings"]["seed"] == 0
        shown = stored["predicted_bands"][-1]
    energies = split_bands(final(settings)).square().mean((1, 2, 3, 4))
    np.testing.assert_allclose(shown, energies, rtol=1e-3)
    # The form still says the last run, until it is asked to say this one.
    seed = page.get_by_label("Seed", exact=True).first
    assert seed.input_value() == "7"
    press(page, "To the form")
    page.wait_for_function("document.querySelector('#controls .of-seed input').value === '0'")
    assert page.get_by_label("number input for Guidance scale").input_value() == "2"
    assert run_of(page) == third  # nothing was drawn


def test_strip_keeps_the_twelve_newest_runs_of_its_own_page(page, browser, address):
    fill(page, "Images", 1)
    for steps in range(1, 14):
        draw(page, "Steps", steps)
    assert captions(page) == [f"steps {steps - 1}→{steps}" for steps in range(2, 14)]
    other = browser.new_page()
    other.goto(f"{address}?num_steps=1")
    until(other, "d.status === 'done'")
    other.wait_for_timeout(200)
    assert captions(other) == ["first run"]
    other.close()


def test_older_run_is_looked_at_while_another_draws(page):
    run = draw(page, "Steps", 4)
    tile = len(captions(page)) - 1
    running = fill(page, "Steps", 1000)
    until(page, f"+d.shownRun === {running} && d.step >= 2")
    show_again(page, tile, run)
    assert page.locator("[data-fact=step]").inner_text() == "4/4"
    page.wait_for_timeout(300)
    assert page.locator("[data-fact=step]").inner_text() == "4/4"
    assert_same_picture(without_gaps(canvas(page, "noisy")), sheet(replace(FIRST, num_steps=4)))
    press(page, "Live")
    until(page, f"+d.shownRun === {running} && d.step === d.newest")
    page.locator("#keep-python").click()
    page.wait_for_function(
        "document.querySelector('#keeper p').textContent.includes('must have ended')"
    )
    page.locator("#stop").click()
    until(page, "d.status === 'stopped'")
    page.wait_for_function("document.querySelectorAll('.dl-kept ol span').length > 1")
    assert captions(page)[-1] == "steps 4→1000"


def test_pinned_runs_stand_beside_the_one_shown(page):
    first, second, third = three_runs(page)
    last = len(captions(page)) - 1
    for place, run in ((last - 2, first), (last - 1, second)):
        show_again(page, place, run)
        press(page, "Pin this run")
        assert page.get_by_role("button", name="Unpin").first.is_visible()
    show_again(page, last, third)
    page.wait_for_timeout(200)
    assert page.locator(".dl-answer").is_hidden()
    titles = page.locator(".dl-beside h2:visible").all_inner_texts()
    assert titles == ["Pinned: seed 0, w 2", "Pinned: seed 0", "Shown: seed 7"]
    every = [
        replace(FIRST, num_steps=6, seed=seed, guidance_scale=scale)
        for seed, scale in ((0, 2.0), (0, 8.0), (7, 8.0))
    ]
    for key, settings in zip(("pinned-0", "pinned-1", "beside"), every, strict=True):
        assert_same_picture(without_gaps(canvas(page, key)), sheet(settings))
    images = [final(settings) for settings in every]
    numbers = [
        [float(text.replace("\N{MINUS SIGN}", "-")) for text in row.locator("b").all_inner_texts()]
        for row in page.locator(".dl-changes tbody tr").all()
    ]
    expected = [decibels(images[2], before).tolist() for before in images[:2]]
    np.testing.assert_allclose(numbers, expected, atol=0.06)
    largest = max(expected[1], key=abs)
    word = "more" if largest > 0 else "less"
    said = page.locator("[data-note=compared]").inner_text()
    assert said.startswith("At t = 1.00 the run that is shown (seed 7) has ")
    assert f"{abs(largest):.1f} dB {word} energy" in said
    page.locator("[data-pinned='1'] button").click()
    page.locator("[data-pinned='0'] button").click()
    assert page.locator(".dl-pinned").is_hidden()
    assert page.locator(".dl-answer").is_visible()


def test_wipe_shows_the_left_of_one_run_and_the_right_of_the_other(page):
    draw(page, "Steps", 6)
    press(page, "Pin this run")
    draw(page, "number input for Guidance scale", 8)
    press(page, "Wipe")
    before, now = (sheet(replace(FIRST, num_steps=6, guidance_scale=scale)) for scale in (2.0, 8.0))

    def assert_wiped(cut):
        expected = now.copy()
        for left in (0, 64):
            expected[:, left : left + cut] = before[:, left : left + cut]
        assert_same_picture(without_gaps(canvas(page, "wiped-0")), expected)

    assert_wiped(32)
    slider = page.get_by_label(
        "Wipe: how much of the picture is the pinned run\N{RIGHT SINGLE QUOTATION MARK}s"
    )
    slider.focus()
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "75"
    assert_wiped(48)
    page.keyboard.press("Home")
    assert_wiped(0)
    box = page.locator("[data-canvas=wiped-0]").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (66 + 16) / 130, box["y"] + 40)
    page.mouse.up()
    assert_wiped(16)  # a quarter of the second image
    assert page.locator("dialog[open]").count() == 0


def test_difference_is_that_of_the_pictures_and_of_the_spectra(page):
    draw(page, "Steps", 6)
    press(page, "Pin this run")
    draw(page, "Seed", 7)
    press(page, "Difference")
    before, now = (sheet(replace(FIRST, num_steps=6, seed=seed)).astype(float) for seed in (0, 7))
    shown = without_gaps(canvas(page, "pinned-0"))
    assert np.abs(shown - (127.5 + 2 * (now - before)).clip(0, 255)).max() <= 4.5
    expect(page.locator(".dl-beside h2:visible")).to_have_text(
        ["seed 7 \N{MINUS SIGN} seed 0", "Shown: seed 7"]
    )
    page.get_by_role("button", name="dB over pinned").click()
    line = page.locator("#panel .dl-spectrum polyline.dl-image:not(.dl-before)")
    heights = [float(point.split(",")[1]) for point in line.get_attribute("points").split()]
    assert len(heights) == 64
    assert len(set(heights)) > 10
    page.get_by_label("Step to look at").fill("3")
    until(page, "d.step === '3'")
    said = page.locator("[data-note=compared]").inner_text()
    assert said.startswith("At t = 0.50 the run that is shown (seed 7) has ")


def test_what_cannot_be_compared_is_said(page):
    draw(page, "Steps", 3)
    press(page, "Pin this run")
    draw(page, "Images", 2)
    note = page.locator("[data-note=pinned]")
    assert "One run has 2 images, another 4: energies are means over all of each." in (
        note.inner_text()
    )
    press(page, "Difference")
    assert "The first 2 of 4 images are compared" in note.inner_text()
    page.get_by_label("Model", exact=True).first.click()
    run = run_of(page)
    page.get_by_role("option", name="fields", exact=True).click()
    until(page, f"+d.shownRun > {run} && d.status === 'done'")
    page.wait_for_timeout(100)
    said = "its pictures have 64 x 64 points here and those shown 32 x 32, so there is neither"
    assert said.replace(" x ", " \N{MULTIPLICATION SIGN} ") in note.inner_text()
    assert page.locator(".dl-beside h2:visible").count() == 2


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_comparisons(browser, address, theme, width):
    page = browser.new_page()
    page.goto(f"{address}?num_steps=3&__theme={theme}")
    until(page, "d.status === 'done'")
    press(page, "Pin this run")
    run = draw(page, "Seed", 4)
    page.set_viewport_size({"width": width, "height": 800})
    for mode in ("Side by side", "Wipe", "Difference"):
        press(page, mode)
        page.wait_for_timeout(500)
        assert violations(page) == [], mode
        assert page.evaluate("document.documentElement.scrollWidth") == width, mode
    assert run_of(page) == run
    page.close()


def test_comparing_leaves_everything_else_in_place(page):
    wait_for_step(page, fill(page, "Steps", 6), 6)
    places = """() => [".dl-scrub", ".dl-kept", ".dl-details"].map((part) =>
        document.querySelector(part).getBoundingClientRect().top)"""
    before = page.evaluate(places)
    press(page, "Pin this run")
    assert page.evaluate(places) == before
    draw(page, "number input for Guidance scale", 8)
    for mode in ("Answer", "Wipe", "Difference", "Side by side"):
        at = page.evaluate(places)
        press(page, mode)
        assert page.evaluate(places) == at, mode
