"""The blocks of the DiT in Chromium, for the step that is taken apart."""

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsing import fill, until, violations, wait_for_step
from gradio_client import Client
from test_browser import FIRST, assert_same_picture, wait_for_answer

import deco_lab
from deco_lab.workbench.layers import look_inside

pytestmark = pytest.mark.browser

LAYERS = "document.querySelector('#layers .dl')"


def take_apart(page, step):
    """Take a step of the last run apart; return once its blocks are shown."""
    page.get_by_role("tab", name="Sample").click()
    before = int(page.evaluate(f"{LAYERS}?.dataset.shown ?? 0"))
    page.get_by_label("Step to look at").fill(str(step))
    until(page, f"d.step === '{step}'")
    page.get_by_role("button", name="Take this step apart").click()
    wait_for_answer(page, "layers", before)


def expected(settings, step):
    """What the workbench says of that step, from Python."""
    model = deco_lab.load(settings.model, device="cpu")
    arguments = settings.sampling_arguments()
    began = list(deco_lab.sample_steps(model, **arguments))[step - 1]
    return look_inside(model, began.x[0], float(began.t), settings.labels[0], name=settings.model)


def column(page, key):
    return page.locator(f"#layers td.dl-of-{key}")


def shown(canvas):
    """Return a canvas as an array of bytes."""
    width, height, values = canvas.evaluate("""(canvas) => {
        const { width, height } = canvas;
        return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }""")
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def packed(pictures):
    data = np.frombuffer(base64.b64decode(pictures.pixels), np.uint8)
    return data.reshape(pictures.height, pictures.width, 3)


def number(text):
    return float(text.replace("\N{MINUS SIGN}", "-").replace("+", "").rstrip("%"))


def test_blocks_follow_the_step_that_is_taken_apart(page):
    wait_for_step(page, fill(page, "Steps", 8), 8)
    says = set()
    for step in (6, 2):
        take_apart(page, step)
        view = expected(replace(FIRST, num_steps=8), step)
        note = page.locator("#layers [data-note=says]").inner_text()
        assert note == view.says
        says.add(note)
        rows = page.get_by_role("table", name="Blocks of the DiT").get_by_role("row")
        assert rows.count() == 1 + len(view.blocks) == 9
        for i, block in enumerate(view.blocks):
            decoded = column(page, "decoded").nth(i).locator("canvas")
            assert_same_picture(shown(decoded), packed(block.decoded))
            tokens = shown(column(page, "map").nth(i).locator("canvas"))
            assert np.abs(tokens.astype(int) - packed(block.map)).max() <= 2
            adds = column(page, "adds").nth(i).locator("b").inner_text()
            assert number(adds) == pytest.approx(block.change, abs=0.006)
            energy = [
                number(t) for t in column(page, "energy").nth(i).locator("b").all_inner_texts()
            ]
            np.testing.assert_allclose(
                energy, 10 * np.log10(np.array(block.energy, float)), atol=0.06
            )
            grain = [number(t) for t in column(page, "grain").nth(i).locator("b").all_inner_texts()]
            np.testing.assert_allclose(grain, 100 * np.array(block.grain, float), atol=0.6)
    assert len(says) == 2


def test_blocks_are_one_click_from_the_parts_and_a_picture_enlarges(page):
    wait_for_step(page, fill(page, "Steps", 4), 4)
    take_apart(page, 3)
    page.get_by_role("button", name="Look inside by block").click()
    page.wait_for_timeout(300)
    heading = page.locator("#layers h2")
    assert 0 <= heading.bounding_box()["y"] < 100
    assert heading.evaluate("(node) => node === document.activeElement")
    column(page, "map").nth(4).locator("canvas").click()
    dialog = page.locator("dialog[open]")
    assert dialog.locator("h2").inner_text() == "Token map after block 5"
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.get_by_role("button", name="Numbers (CSV)").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == '"name","value"'
    assert any(line.startswith('"blocks.7.differs.3",') for line in lines)


def test_what_can_be_read_is_measured_when_asked_and_stays_with_its_t(page):
    wait_for_step(page, fill(page, "Steps", 4), 4)
    take_apart(page, 3)
    button = page.get_by_role("button", name="Measure what can be read")
    note = page.locator("#layers [data-note=read]")
    assert note.inner_text().startswith("What can be read is not measured yet")
    button.click()
    page.wait_for_function(f"{LAYERS}.dataset.read === '1'")
    assert note.inner_text().startswith(
        "Readable: ridge regression on the tokens of 17 crops of the bundled photographs at t = 0.5"
    )
    read = column(page, "read").all_inner_texts()
    first = [number(text) for text in column(page, "read").last.locator("b").all_inner_texts()]
    assert first[0] > 0.5  # of the coarsest band the last block knows most
    assert button.is_disabled()
    take_apart(page, 2)
    assert note.inner_text().startswith("What can be read is not measured yet")
    assert button.is_enabled()
    take_apart(page, 3)
    assert column(page, "read").all_inner_texts() == read


def test_a_single_dit_is_looked_into(browser, address):
    page = browser.new_page()
    page.goto(f"{address}?model=tiny-dit&num_steps=4&num_images=1")
    until(page, "d.status === 'done'")
    take_apart(page, 2)
    assert page.locator("#parts .dl-says").inner_text().startswith("tiny-dit has no pixel decoder")
    assert column(page, "decoded").count() == 9
    page.close()


def test_endpoint_answers_for_a_photograph(address):
    client = Client(address, verbose=False)
    view = client.predict(class_id=3, t=0.5, api_name="/look_inside")
    assert len(view["blocks"]) == 8
    assert view["says"].startswith("t = 0.50: decoded from block ")
    assert view["blocks"][-1]["energy"] == [1, 1, 1, 1]
    parts = client.predict(class_id=3, t=0.5, api_name="/decompose")
    assert view["blocks"][-1]["decoded"] == parts["predicted"]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_in_the_blocks(browser, address, theme, width):
    page = browser.new_page()
    page.goto(f"{address}?num_steps=3&__theme={theme}")
    until(page, "d.status === 'done'")
    take_apart(page, 2)
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(500)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_rows_stay_in_place_when_another_step_is_shown(page):
    wait_for_step(page, fill(page, "Steps", 6), 6)
    places = """() => [...document.querySelectorAll("#layers tr, #parts section")].map((node) => {
        const { left, top, width, height } = node.getBoundingClientRect();
        return [left, top + scrollY, width, height];
    })"""
    take_apart(page, 5)
    before = page.evaluate(places)
    take_apart(page, 2)
    page.evaluate("scrollTo(0, 0)")
    assert len(before) > 9
    assert page.evaluate(places) == before
