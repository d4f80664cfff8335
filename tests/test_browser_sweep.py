"""The Sweep tab in Chromium: a grid is drawn, stopped, refused at its fields and kept."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsing import fill, until, violations
from test_browser import FIRST, assert_same_picture, sheet

from deco_lab.result import load_result
from deco_lab.workbench import Sweep, sweep
from deco_lab.workbench.keeping import settings_from_png

pytestmark = pytest.mark.browser

GRID = "document.querySelector('#sweep .dl')"


def open_tab(page):
    """Open the tab, with runs of six steps in its cells."""
    fill(page, "Steps", 6)
    until(page, "d.status === 'done'")
    page.get_by_role("tab", name="Sweep").click()


def write(page, columns, rows):
    page.get_by_label("Values of columns").fill(columns)
    page.get_by_label("Values of rows").fill(rows)


def draw(page, status="done"):
    """Draw the grid to its end."""
    before = page.evaluate(f"{GRID}.dataset.run") or 0
    page.locator("#sweep-start").click()
    page.wait_for_function(
        f"+{GRID}.dataset.run > {before} && {GRID}.dataset.status === '{status}'"
    )


def cell(page, row, column):
    """Return the pixels of a cell's picture, and its four numbers."""
    box = page.locator(f"[data-cell='{row} {column}']")
    values = box.locator("canvas").evaluate("""(canvas) => {
        const { width, height } = canvas;
        return [height, width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }""")
    height, width, data = values
    numbers = [text.replace("\N{MINUS SIGN}", "-") for text in box.locator("b").all_inner_texts()]
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3], [*map(float, numbers)]


def keep(page, kind):
    with page.expect_download() as download:
        page.locator(f"#sweep-{kind}").click()
    return download.value.suggested_filename, Path(download.value.path())


def test_sweep_draws_single_runs_and_keeps_them(page):
    open_tab(page)
    write(page, "1, 8", "0, 7")
    draw(page)
    assert page.locator("#sweep .dl-says").inner_text() == "Done: 4 cells."
    base = replace(FIRST, num_steps=6, num_images=1)
    found = sweep(base, ("guidance_scale", (1, 8)), ("seed", (0, 7)))
    for row, seed in enumerate((0, 7)):
        for column, scale in enumerate((1.0, 8.0)):
            pixels, numbers = cell(page, row, column)
            assert_same_picture(pixels, sheet(replace(base, seed=seed, guidance_scale=scale)))
            np.testing.assert_allclose(numbers, found.decibels[row, column], atol=0.06)
    heads = page.locator("#sweep th[scope=col]").all_inner_texts()
    assert heads == ["Seed", "1", "8"]
    assert page.locator("#sweep th[scope=row]").all_inner_texts() == ["0", "7"]
    finest = found.decibels[..., -1]
    row, column = np.unravel_index(finest.argmax(), finest.shape)
    most = f"most with guidance scale {(1, 8)[column]}, seed {(0, 7)[row]}"
    assert most in page.locator("#sweep .dl-sentence").inner_text()
    name, path = keep(page, "png")
    assert name.startswith("deco-lab-sweep-guidance-scale-seed-")
    assert settings_from_png(path.read_bytes()).settings == base
    _, path = keep(page, "npz")
    kept = load_result(path)
    assert isinstance(kept, Sweep)
    np.testing.assert_allclose(kept.bands, found.bands, rtol=1e-4)
    np.testing.assert_allclose(kept.images, found.images, atol=1e-4)
    assert kept.recipe["model"]["name"] == "tiny"
    _, path = keep(page, "csv")
    rows = [*csv.reader(io.StringIO(path.read_text()))]
    assert rows[0] == ["seed", "guidance_scale", "band", "mean_square", "decibels", "nfe"]
    assert len(rows) == 1 + 4 * 4
    page.locator("[data-cell='1 1'] canvas").click()
    title = page.locator("dialog[open] h2").inner_text()
    assert title == "guidance scale 8, seed 7"


def test_sweep_is_stopped_and_what_is_done_stays(page):
    open_tab(page)
    write(page, "1, 2, 3, 4, 5, 6", "0, 1, 2, 3, 4, 5")
    page.locator("#sweep-start").click()
    page.wait_for_function(f"+{GRID}.dataset.cells >= 2")
    assert page.locator("#sweep-start").is_hidden()
    assert page.locator("#sweep-csv").is_disabled()
    page.locator("#sweep-stop").click()
    page.wait_for_function(f"{GRID}.dataset.status === 'stopped'")
    cells = int(page.evaluate(f"{GRID}.dataset.cells"))
    assert 2 <= cells < 36
    said = page.locator("#sweep .dl-says").inner_text()
    assert said == f"Stopped: {cells} of 36 cells are kept."
    assert page.locator("#sweep-stop").is_hidden()
    _, path = keep(page, "csv")
    assert len(path.read_text().splitlines()) == 1 + 4 * cells


def test_sweep_takes_any_two_settings_and_says_what_is_wrong_at_its_field(page):
    open_tab(page)
    page.get_by_label("Columns", exact=True).first.click()
    page.get_by_role("option", name="Solver", exact=True).click()
    wait = "document.querySelector('.of-x_values :is(input, textarea)').value.startsWith('euler')"
    page.wait_for_function(wait)
    page.get_by_label("Rows", exact=True).first.click()
    page.get_by_role("option", name="Classes", exact=True).last.click()
    page.wait_for_function(
        "document.querySelector('.of-y_values :is(input, textarea)').value === '0, 1, 2, 3'"
    )
    write(page, "euler, heun", "3, 12")
    draw(page)
    pixels, _ = cell(page, 1, 1)
    settings = replace(FIRST, num_steps=6, num_images=1, solver="heun", class_ids=(12,))
    assert_same_picture(pixels, sheet(settings))
    write(page, "euler, leap", "3")
    draw(page, "refused")
    said = page.locator(".of-x_values .dl-wrong").inner_text()
    assert said.startswith("Values of columns must be one of euler, heun,")
    assert page.locator("#sweep .dl-says").inner_text() == said
    write(page, "euler", "3, 99")
    page.locator("#sweep-start").click()
    page.wait_for_function("document.querySelector('.dl-wrong')?.textContent.includes('got 99')")
    write(page, "euler", "3")
    draw(page)
    assert page.locator(".dl-wrong").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_a_sweep(browser, address, theme, width):
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{address}?num_steps=2&__theme={theme}")
    until(page, "d.status === 'done'")
    page.get_by_role("tab", name="Sweep").click()
    draw(page)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(500)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()
