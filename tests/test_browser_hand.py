"""Hand and eye on the page: keys, refusals at their field, large pictures, plots that are saved."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from browsing import PANEL, SLACK, data, fill, run_of, says, until, violations, wait_for_step
from safetensors.torch import save_file
from served import served

pytestmark = pytest.mark.browser

SVG = "{http://www.w3.org/2000/svg}"


def run_steps(page, steps=1000):
    """Start a run that does not end by itself here, and wait until it draws."""
    run = fill(page, "Steps", steps)
    until(page, f"+d.shownRun === {run} && d.status === 'running' && d.step >= 3")
    return run


def test_space_stops_and_starts_and_arrows_step_wherever_the_focus_is(page):
    run = run_steps(page)
    page.get_by_label("range slider for Guidance scale").focus()
    page.keyboard.press("Space")
    until(page, "d.status === 'stopped'")
    page.wait_for_timeout(300)
    last = int(data(page, "step"))
    page.get_by_role("button", name="SVG").first.focus()
    page.keyboard.press("ArrowLeft")
    until(page, f"+d.step === {last - 1}")
    page.get_by_role("tab", name="Sample").focus()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    until(page, f"+d.step === {last}")
    assert run_of(page) == run
    # A list that was chosen from is closed and keeps the focus.
    page.get_by_label("Model", exact=True).first.click()
    page.get_by_role("option", name="tiny-fm").click()
    until(page, f"+d.run > {run} && d.status === 'running'")
    page.keyboard.press("Space")
    until(page, "d.status === 'stopped'")
    run = run_of(page)
    page.keyboard.press("Space")
    until(page, f"+d.run > {run} && d.status === 'running'")


def test_controls_keep_the_keys_that_they_need(page):
    wait_for_step(page, fill(page, "Steps", 6), 6)
    run, step = run_of(page), data(page, "step")
    page.get_by_label("Seed", exact=True).first.focus()
    for key in ("Space", "ArrowLeft", "ArrowRight", "p"):
        page.keyboard.press(key)
    assert page.locator("[data-do=pin][aria-pressed=false]").is_visible()
    page.get_by_role("button", name="Pin this run").focus()
    page.keyboard.press("Space")  # what it does to any button
    page.wait_for_selector("[data-do=pin][aria-pressed=true]")
    page.get_by_label("Model", exact=True).first.focus()
    page.wait_for_selector("[role=listbox]")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    assert (run_of(page), data(page, "step")) == (run, step)


def test_start_and_stop_are_one_button(page):
    start, stop = page.locator("#start"), page.locator("#stop")
    fill(page, "Steps", 4)
    until(page, "d.status === 'done'")
    place = start.bounding_box()
    assert stop.is_hidden()
    page.get_by_label("Steps", exact=True).fill("1000")
    page.get_by_label("Steps", exact=True).press("Tab")
    until(page, "d.status === 'running' && d.step >= 3 && d.step !== '4'")
    assert start.is_hidden()
    assert stop.bounding_box() == place
    stop.focus()
    page.keyboard.press("Enter")
    until(page, "d.status === 'stopped'")
    assert stop.is_hidden()
    assert page.evaluate("document.activeElement.id") == "start"
    run = run_of(page)
    start.dblclick()  # the second click does not stop what the first has started
    until(page, f"+d.run === {run + 1} && d.status === 'running' && d.newest >= 3")
    assert page.evaluate("document.activeElement.id") == "stop"


def test_live_leads_back_to_the_newest_step(page):
    live = page.get_by_role("button", name="Live")
    run_steps(page)
    assert live.is_hidden()
    page.get_by_label("Step to look at").fill("1")
    until(page, "d.step === '1' && d.newest > 5")
    place = page.locator(".dl-scrub").bounding_box()
    live.click()
    until(page, "d.step === d.newest && d.step > 5")
    assert live.is_hidden()
    assert page.locator(".dl-scrub").bounding_box() == place
    page.get_by_label("Step to look at").fill("1")
    until(page, "d.step === '1'")
    page.locator("#stop").click()
    until(page, "d.status === 'stopped'")
    assert live.is_hidden()


def wrong(page):
    """Return each field that is marked: its label, and what is said under it."""
    return page.evaluate("""() => {
        const fields = [...document.querySelectorAll("[aria-invalid=true]")];
        return fields.map((input) => {
        const said = document.getElementById(input.getAttribute("aria-describedby"));
        return [input.getAttribute("aria-label"), said.textContent];
        });
    }""")


def test_refusals_say_labels_and_mark_the_field_until_it_is_mended(page):
    fill(page, "Steps", 0)
    until(page, "d.status === 'refused'")
    said = "Steps must be a whole number from 1 to 1000, got 0."
    assert says(page) == said
    assert wrong(page) == [["Steps", said]]
    fill(page, "Steps", 3)
    until(page, "d.status === 'done'")
    assert wrong(page) == []
    page.get_by_role("button", name="More", exact=False).click()
    fill(page, "Guided to t", 0.05)
    until(page, "d.status === 'refused'")
    said = "Guided from t must be before guided to t, got 0.1 and 0.05."
    assert says(page) == said
    assert wrong(page) == [["Guided from t", said]]
    fill(page, "Guided to t", 7)
    said = "Guided to t must be a number from 0 to 1, got 7."
    page.wait_for_function(f"{PANEL}.querySelector('.dl-says').textContent === {json.dumps(said)}")
    assert wrong(page) == [["Guided to t", said]]
    fill(page, "Guided to t", 1)
    fill(page, "number input for Decoder, 1/16 to 1/8", 2)
    page.get_by_label("Model", exact=True).first.click()
    page.get_by_role("option", name="tiny-dit").click()
    until(page, "d.status === 'refused'")
    said = (
        "DiT and decoder must be 1, since tiny-dit has no pixel decoder and so no parts; "
        "choose a DeCo model."
    )
    assert says(page) == said
    assert {text for _, text in wrong(page)} == {said}
    assert len({label.split(" for ")[-1] for label, _ in wrong(page)}) == 8
    assert violations(page) == []


def test_a_refused_link_says_labels_and_marks_nothing(browser, address):
    page = browser.new_page()
    page.goto(f"{address}?num_steps=0&num_images=2")
    until(page, "d.status === 'refused'")
    assert says(page) == "Steps must be a whole number from 1 to 1000, got 0."
    assert wrong(page) == []  # the form says something else
    page.close()


def test_refusals_of_another_tab_stand_at_its_fields(page):
    page.get_by_role("tab", name="Decompose").click()
    panel = "document.querySelector('#parts .dl')"
    page.wait_for_function(f"{panel}.dataset.status === 'done'")
    seed = (
        page.locator("#parts")
        .locator("xpath=ancestor::*[contains(@class, 'workbench')]")
        .get_by_label("Seed")
    )
    seed.fill("-1")
    seed.press("Tab")
    page.wait_for_function(f"{panel}.dataset.status === 'refused'")
    said = "Seed must be a whole number from 0 to 2147483648, got -1."
    assert page.locator("#parts .dl-says").inner_text() == said
    assert wrong(page) == [["Seed", said]]
    seed.fill("1")
    seed.press("Tab")
    page.wait_for_function(f"{panel}.dataset.status === 'done'")
    assert wrong(page) == []


@pytest.mark.parametrize(("count", "size"), [(2, (130, 64)), (3, (130, 130))])
def test_few_images_leave_no_band_that_looks_like_an_image(page, count, size):
    wait_for_step(page, fill(page, "Steps", 3), 3)
    run = fill(page, "Images", count)
    until(page, f"+d.shownRun === {run} && d.status === 'done'")
    page.wait_for_timeout(200)
    for key in ("predicted", "noisy"):
        node = page.locator(f"[data-canvas={key}]")
        width, height = node.evaluate("(canvas) => [canvas.width, canvas.height]")
        box = node.bounding_box()
        assert (width, height) == size
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)
        assert (
            node.evaluate("(canvas) => getComputedStyle(canvas).backgroundColor")
            == "rgba(0, 0, 0, 0)"
        )


@pytest.mark.parametrize("width", [390, 1280])
def test_a_click_enlarges_a_picture_and_escape_gives_the_focus_back(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    if width == 390:
        page.locator("#controls .fold button").click()
    wait_for_step(page, fill(page, "Steps", 4), 4)
    picture = page.locator("[data-canvas=whole]")
    picture.click()
    page.wait_for_selector("dialog[open]")
    large = page.locator("dialog[open] canvas")
    zoom = large.evaluate("(canvas) => canvas.getBoundingClientRect().width / canvas.width")
    assert zoom == round(zoom) >= 4
    assert large.evaluate("(canvas) => getComputedStyle(canvas).imageRendering") == "pixelated"
    pixels = "(canvas) => canvas.toDataURL()"
    assert large.evaluate(pixels) == picture.evaluate(pixels)
    before = large.evaluate(pixels)
    page.keyboard.press("ArrowLeft")  # steps go on in it
    until(page, "d.step === '3'")
    assert large.evaluate(pixels) == picture.evaluate(pixels) != before
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    assert page.evaluate("document.activeElement.dataset.canvas") == "whole"
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Close").click()
    assert page.evaluate("document.activeElement.dataset.canvas") == "whole"


def test_plots_that_do_not_apply_are_gone_from_the_beginning(page):
    plots = [".dl-share-plots", ".dl-guidance", "[data-signal=guidance_power]", "#panel .dl-stack"]
    shown = lambda: [page.locator(plot).first.is_visible() for plot in plots]  # noqa: E731
    legend = page.locator("#panel .dl-spectrum .dl-legend span:visible")
    until(page, "d.shownRun")
    assert shown() == [True] * 4
    assert legend.all_inner_texts() == ["predicted image", "velocity", "condition"]
    fill(page, "Steps", 3)
    run = fill(page, "number input for Guidance scale", 1)
    until(page, f"+d.shownRun === {run} && d.status === 'done'")
    assert shown() == [True, False, False, True]
    page.get_by_label("Model", exact=True).first.click()
    page.get_by_role("option", name="tiny-dit").click()
    until(page, f"+d.shownRun > {run} && d.status === 'done'")
    assert shown() == [False] * 4
    assert page.locator("#panel .dl-over-t").is_hidden()
    assert legend.all_inner_texts() == ["predicted image", "velocity"]
    run = fill(page, "number input for Guidance scale", 2)
    until(page, f"+d.shownRun === {run} && d.status === 'done'")
    assert shown() == [False, True, True, False]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_plot_is_saved_as_svg_that_stands_by_itself(browser, address, theme, tmp_path):
    page = browser.new_page()
    page.goto(f"{address}?num_steps=6&num_images=1&__theme={theme}")
    until(page, "d.status === 'done' && d.step === '6'")
    curve = page.locator("#panel .dl-spectrum polyline.dl-image:not(.dl-before)")
    drawn = curve.get_attribute("points")
    colour = curve.evaluate("(node) => getComputedStyle(node).stroke")
    headings = {
        "bands": "Who draws each band cycles/pixel",
        "spectrum": "DCT energy of 8 \N{MULTIPLICATION SIGN} 8 blocks",
        "power": "Power over t and frequency",
        "shares": "Who draws the predicted image, band by band",
        "guidance": "What guidance changes",
    }
    dark = page.evaluate("document.querySelectorAll('.dark').length")
    for name, heading in headings.items():
        with page.expect_download() as download:
            page.locator(f"#panel [data-svg={name}]").click()
        file = download.value.suggested_filename
        assert file == f"deco-lab-{name}-tiny-astronaut-seed-0-guidance-3-step-6.svg"
        text = Path(download.value.path()).read_text(encoding="utf-8")
        root = ET.fromstring(text)
        assert root.findtext(f"{SVG}title") == heading
        assert root[2].get("fill") == "#fff"
        assert not re.search(r'class=|var\(|href="(?!data:)|style="(?!image-rendering)', text)
        assert len(root.findall(f".//{SVG}image")) == {"power": 1, "bands": 4}.get(name, 0)
        (tmp_path / f"{name}.svg").write_text(text, encoding="utf-8")
        if name == "spectrum":
            (line,) = (n for n in root.iter(f"{SVG}polyline") if n.get("points") == drawn)
            assert line.get("fill") == "none"
            assert theme == "dark" or line.get("stroke") == colour
        # As a picture it is dark on white, whatever the theme.
        assert page.evaluate(
            """async (text) => {
                const picture = new Image();
                const bytes = new TextEncoder().encode(text);
                const code = btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
                picture.src = "data:image/svg+xml;base64," + code;
                await picture.decode();
                const canvas = document.createElement("canvas");
                const context = canvas.getContext("2d");
                context.drawImage(picture, 0, 0);
                const heading = context.getImageData(0, 0, 200, 30).data;
                return [heading[0], Math.min(...heading)];
            }""",
            text,
        ) == [255, pytest.approx(31, abs=25)]
    assert page.evaluate("document.querySelectorAll('.dark').length") == dark
    page.close()


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """The app where Hugging Face's name is not known, with a folder whose files have long names."""
    folder = tmp_path_factory.mktemp("models")
    long = folder / ("a" * 99) / ("b" * 88 + ".safetensors")
    long.parent.mkdir()
    save_file({"x": torch.zeros(1)}, long)
    log = tmp_path_factory.mktemp("offline") / "log"
    elsewhere = {"HF_ENDPOINT": "http://nowhere.invalid", "HF_HOME": str(folder / "hub")}
    with served("--port", "7965", "--models", str(folder), log=log, **elsewhere) as (address, _):
        yield address, long.relative_to(folder).as_posix()


def load_model(page, name):
    field = page.locator("#models").get_by_label("Model", exact=True)
    field.fill(name)
    field.press("Enter")
    page.get_by_role("button", name="Load and draw with it").click()


def test_a_load_that_fails_says_so_at_its_place_and_what_was_said_goes(browser, offline):
    address, long = offline
    page = browser.new_page()
    page.goto(f"{address}?num_steps=2&num_images=1")
    until(page, "d.status === 'done'")
    page.get_by_role("tab", name="Models").click()
    says = page.locator("#models-says p")
    page.evaluate("window.began = performance.now()")
    load_model(page, "hf://zehongma/DeCo/imagenet256_epoch320.ckpt")
    page.wait_for_function(
        "document.querySelector('#models-says p').textContent.includes('cannot be reached')"
    )
    seconds = page.evaluate("(performance.now() - window.began) / 1000")
    print(f"said after {seconds:.1f} s")
    assert seconds < 5 + (SLACK - 1)
    assert says.inner_text().endswith("What was loaded before goes on.")
    assert page.locator(".toast-body, #models-says .error:visible").count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    load_model(page, long)
    page.wait_for_function(
        f"document.querySelector('#models-says p').textContent.startsWith({json.dumps(long[:50])})"
    )
    assert "cannot be reached" not in says.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert says.evaluate("(node) => node.scrollWidth <= node.clientWidth")
    load_model(page, "tiny-dit")
    page.wait_for_function(
        "document.querySelector('#models-says p').textContent.startsWith('Loaded tiny-dit')"
    )
    page.close()
