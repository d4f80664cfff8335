"""The Sample tab in Chromium: runs draw, stop, restart, are pinned, kept and restored."""

import io
import json
import re
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browsing import (
    PANEL,
    SLACK,
    canvas,
    data,
    fill,
    run_of,
    says,
    until,
    violations,
    wait_for_step,
)
from PIL import Image, ImageSequence

import deco_lab
from deco_lab.data import to_picture
from deco_lab.workbench import Settings
from deco_lab.workbench.examples import EXAMPLES
from deco_lab.workbench.keeping import settings_from_png
from deco_lab.workbench.settings import settings_from

pytestmark = pytest.mark.browser

FIRST = Settings(class_ids=(2, 3, 10, 12), guidance_scale=2.0)
"""What the page opens with."""


def sheet(settings):
    """Return what `sample` draws of the settings, on one picture without gaps."""
    model = deco_lab.load(settings.model, device="cpu")
    images = deco_lab.sample(model, **settings.sampling_arguments())
    return np.array(to_picture(images, int(np.ceil(len(images) ** 0.5))))


def without_gaps(pixels, size=64):
    """Return a canvas of 2 x 2 images without the gaps between them."""
    keep = [*range(size), *range(pixels.shape[0] - size, pixels.shape[0])]
    return pixels[keep][:, keep]


def assert_same_picture(shown, drawn):
    """Allow one step of rounding: another number of threads sums in another order."""
    assert shown.shape == drawn.shape
    assert np.abs(shown.astype(int) - drawn).max() <= 1


def test_page_draws_by_itself_within_two_seconds(browser, address):
    page = browser.new_page()
    page.goto(address)
    until(page, "d.painted >= 1")
    first = page.evaluate("performance.now()")
    print(f"first picture after {first:.0f} ms")
    until(page, "d.step === '50'")
    assert says(page).startswith("Done: 50 steps, ")
    lines = page.locator("#panel .dl-bands svg path:not(.dl-before)").all()
    assert len(lines) == 5 * 4  # mean and octaves, by part
    counts = [line.get_attribute("d").count(",") for line in lines]
    assert max(counts) == 50  # a part has no share where parts cancel
    assert min(counts[4:]) > 25
    assert_same_picture(without_gaps(canvas(page, "noisy")), sheet(FIRST))
    page.close()
    assert first < 2000 * SLACK


def test_stop_ends_within_two_steps(page):
    fill(page, "Images", 16)
    run = fill(page, "Steps", 1000)
    page.wait_for_function(f"window.painted.some((p) => p.run === {run} && p.step >= 5)")
    # From inside the page, so that the step is that of the very click.
    at = page.evaluate(f"""() => {{
        document.querySelector("#stop").click();
        return +{PANEL}.dataset.newest;
    }}""")
    until(page, "d.status === 'stopped'")
    page.wait_for_timeout(500)
    last = int(data(page, "newest"))
    assert last <= at + 2
    assert says(page) == f"Stopped at step {last} of 1000."


def test_a_knob_released_restarts_the_run_at_once(page):
    fill(page, "Images", 1)
    fill(page, "Steps", 1000)
    page.wait_for_function("window.painted.at(-1).step >= 5")
    slider = page.get_by_label("range slider for Guidance scale")
    waits = []
    for _ in range(5):
        slider.focus()
        page.evaluate(f"""() => {{
            const run = {PANEL}.dataset.run;
            document.addEventListener("change", () => {{ window.released = performance.now(); }},
                {{ capture: true, once: true }});
            window.restarted = new Promise((resolve) => new MutationObserver((_, observer) => {{
                if ({PANEL}.dataset.run === run || +{PANEL}.dataset.newest > 20) return;
                observer.disconnect();
                resolve(performance.now() - window.released);
            }}).observe({PANEL}, {{ attributeFilter: ["data-newest"] }}));
        }}""")
        page.keyboard.press("ArrowRight")
        waits.append(page.evaluate("window.restarted"))
        page.wait_for_timeout(300)
    step = float(page.locator("[data-fact=ms]").inner_text())
    print(f"restarts after {sorted(round(wait) for wait in waits)} ms, {step:.0f} ms a step")
    assert sorted(waits)[2] < (200 + step) * SLACK
    assert "guidance_scale=3.25" in page.url


def test_refusal_is_a_sentence_and_keeps_the_pictures(page):
    before = canvas(page, "noisy")
    fill(page, "Steps", 0)
    until(page, "d.status === 'refused'")
    assert says(page) == "Steps must be a whole number from 1 to 1000, got 0."
    assert (canvas(page, "noisy") == before).all()


def test_look_back_shows_an_earlier_step_as_it_was(page):
    first = fill(page, "Steps", 1000)  # which the next supersedes
    page.wait_for_function(f"window.painted.some((p) => p.run === {first} && p.step >= 3)")
    run = fill(page, "Steps", 10)
    wait_for_step(page, run, 10)
    painted = page.evaluate("window.painted")
    assert [p["run"] for p in painted] == sorted(p["run"] for p in painted)
    then = {p["step"]: p["pictures"] for p in painted if p["run"] == run}
    assert list(then) == sorted(then)
    for kind in range(3):
        assert len({pictures[kind] for pictures in then.values()}) == len(then) >= 5
    page.get_by_label("Step to look at").fill("2")
    page.wait_for_function("window.painted.at(-1).step === 2")
    assert page.locator("[data-fact=step]").inner_text() == "2/10"
    assert page.evaluate("window.painted.at(-1).pictures") == then.get(
        2, page.evaluate("window.painted.at(-1).pictures")
    )
    page.get_by_label("Step to look at").fill("10")
    page.wait_for_function("window.painted.at(-1).step === 10")
    assert page.evaluate("window.painted.at(-1).pictures") == then[10]


def test_a_click_on_the_heatmap_goes_to_its_step(page):
    wait_for_step(page, fill(page, "Steps", 10), 10)
    heatmap = page.locator(".dl-heatmap canvas")
    box = heatmap.bounding_box()
    heatmap.click(position={"x": 0.34 * box["width"], "y": box["height"] / 2})
    page.wait_for_function("window.painted.at(-1).step === 4")  # from t = 0.3 to 0.4
    assert page.locator("[data-fact=t]").inner_text() == "0.400"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_jumps(browser, address, width):
    page = browser.new_page()
    page.set_viewport_size({"width": width, "height": 800})
    page.add_init_script("""
        window.shifts = [];
        new PerformanceObserver((list) => list.getEntries().forEach((shift) => window.shifts.push({
            value: shift.value, at: shift.startTime,
            nodes: shift.sources.map(({ node }) => node?.outerHTML?.slice(0, 80)),
        }))).observe({ type: "layout-shift", buffered: true });
    """)
    # On the page: a click may scroll it, and its last frame be on its way.
    boxes = """() => {
        const origin = document.querySelector("gradio-app").getBoundingClientRect().top;
        return [...document.querySelectorAll(
                "#panel :is(section, figure, [role=img]), .side .block")]
            .map((node) => node.getBoundingClientRect()).filter(({ width }) => width)
            .map(({ left, top, width, height }) => [left, top - origin, width, height]);
    }"""
    page.goto(f"{address}?num_steps=40")
    until(page, "d.step >= 1")
    before = page.evaluate(boxes)
    until(page, "d.step >= 20")
    during = page.evaluate(boxes)
    first = run_of(page)  # the server counts all pages' runs
    until(page, "d.status === 'done'")  # Start is there again
    page.locator("#start").click()
    until(page, f"d.shownRun > {first} && d.status === 'done'")
    page.wait_for_timeout(500)
    after = page.evaluate(boxes)
    second = run_of(page)
    page.get_by_role("button", name="Watch it settle").click()
    until(page, f"d.shownRun > {second} && d.step >= 1")
    begun = page.evaluate(boxes)
    until(page, "d.status === 'done'")
    page.wait_for_timeout(500)
    ended = page.evaluate(boxes)
    shifts = page.evaluate("window.shifts")
    page.close()
    print([shift for shift in shifts if shift["value"] > 0.001])
    assert before == during == after
    # Without guidance, its plot is gone from the run's first step on; what is left stays in place.
    assert begun == ended
    places = [box[:3] for box in before]
    assert [box for box in ended if box[:3] not in places] == []
    assert len(before) - len(ended) == 1
    assert sum(shift["value"] for shift in shifts) < 0.02


def test_answer_stands_on_the_first_screen_and_its_pictures_sum(page):
    wait_for_step(page, fill(page, "Steps", 10), 10)
    for part in (".dl-answer .dl-sentence", ".dl-equation", ".dl-rows", ".dl-scrub", ".dl-kept"):
        box = page.locator(f"#panel {part}").bounding_box()
        assert box["y"] + box["height"] < 800, part
    page.get_by_label("Step to look at").fill("6")
    page.wait_for_function("window.painted.at(-1).step === 6")
    whole, drawn, added = (
        canvas(page, key).astype(float) for key in ("whole", "of-condition", "of-pixels")
    )
    known = (added > 0) & (added < 255)
    assert known.mean() > 0.9
    assert np.abs(drawn + (added - 127.5) / 2 - whole)[known].max() <= 2
    widths = page.evaluate(f"""() => [...{PANEL}.querySelectorAll(".dl-stack span")].map((bar) =>
        [...bar.children].map((part) => parseFloat(part.style.width)))""")
    assert np.shape(widths) == (4, 4)
    np.testing.assert_allclose(np.sum(widths, 1), 100, atol=12)  # without what lies below 0


def test_sentence_is_that_of_the_curves_that_are_kept(page):
    wait_for_step(page, fill(page, "Steps", 20), 20)
    _, content = keep(page, "npz")
    with np.load(io.BytesIO(content)) as stored:
        shares, starts = stored["predicted_shares"][1:], stored["t_start"][1:]
        power, frequency = stored["predicted_power"][-1], stored["axis_frequency"]
    page.get_by_label("Step to look at").fill("11")
    page.wait_for_function("window.painted.at(-1).step === 11")
    said = page.locator("[data-note=says]").inner_text()
    condition = shares[10, 1]
    assert said.startswith(f"t = 0.50: the condition draws {condition[-1]:.0%} of what")
    bars = page.locator("#panel [data-share]").all_inner_texts()
    # Sent with four digits, shown with none of a percent.
    shown = [float(bar.rstrip("%")) for bar in bars]
    np.testing.assert_allclose(shown, 100 * condition[1:], atol=0.55)
    ahead = np.flatnonzero(shares[:, 1, -1] >= shares[:, 2, -1])[-1]
    assert f"They swap near t = {starts[ahead + 1]:.2f};" in said
    fine = frequency >= 1 / 4
    mean = np.average(power[fine], weights=frequency[fine])
    assert f"outweighs its noise there from t = {1 / (1 + mean**0.5):.2f} on." in said


def test_a_click_on_a_strip_goes_to_its_step(page):
    wait_for_step(page, fill(page, "Steps", 10), 10)
    strip = page.locator(".dl-strip").nth(2)
    box = strip.bounding_box()
    strip.click(position={"x": 0.34 * box["width"], "y": box["height"] / 2})
    page.wait_for_function("window.painted.at(-1).step === 4")  # from t = 0.3 to 0.4


def test_more_says_what_is_not_at_its_default_and_takes_it_back(page):
    said = page.locator("#more-says p")
    assert said.inner_text() == "All else is at its default."
    page.get_by_role("button", name="More", exact=False).click()
    run = fill(page, "Guided from t", 0.3)
    page.wait_for_function("document.querySelector('#more-says p').textContent.includes('Guided')")
    assert said.inner_text() == "Not at its default: Guided."
    page.get_by_role("button", name="Reset all of these").click()
    until(page, f"+d.run > {run}")
    page.wait_for_function("document.querySelector('#more-says p').textContent.startsWith('All')")
    assert page.get_by_label("Guided from t", exact=True).input_value() == "0.1"


def test_a_run_starts_from_a_picture_of_ones_own(page, tmp_path):
    wait_for_step(page, fill(page, "Steps", 10), 10)
    page.get_by_role("button", name="More", exact=False).click()
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "mine.png")
    run = run_of(page)
    page.locator("#start-inlet input").set_input_files(tmp_path / "mine.png")
    until(page, f"+d.run > {run} && d.status === 'done' && d.step === '5'")
    assert page.locator("[data-fact=step]").inner_text() == "5/5"
    assert "kept for every tab" in page.locator("#start-inlet").inner_text()
    said = page.locator("#more-says p").inner_text()
    assert said == "Not at its default: Start from."
    page.get_by_label("Step to look at").fill("0")
    page.wait_for_function("window.painted.at(-1).step === 0")
    top, *_, bottom = canvas(page, "noisy")[:64, :64].mean((1, 2))
    assert bottom - top > 60  # half of the gradient, from black to white


def test_a_single_dit_has_a_row_without_parts(browser, address):
    page = browser.new_page()
    page.goto(f"{address}?model=%22tiny-dit%22&num_steps=4&num_images=1".replace("%22", ""))
    until(page, "d.status === 'done'")
    page.wait_for_timeout(300)
    assert page.locator("#panel .dl-of-condition").is_hidden()
    assert page.locator("#panel .dl-every").is_hidden()
    assert canvas(page, "whole").std() > 10
    note = page.locator("#panel .dl-rows .dl-note").inner_text()
    assert note == "This model has no pixel decoder: there is nothing to divide."
    page.close()


def test_on_a_phone_settings_are_folded_above_the_pictures(browser, address):
    page = browser.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{address}?num_steps=3")
    until(page, "d.status === 'done'")
    steps, settings = page.get_by_label("Steps", exact=True), page.locator("#controls .fold button")
    picture = page.locator("[data-canvas=whole]").bounding_box()
    assert picture["y"] + picture["height"] < 800
    assert not steps.is_visible()
    settings.click()
    assert settings.get_attribute("aria-expanded") == "true"
    steps.fill("5")
    steps.blur()
    until(page, "d.step === '5' && d.status === 'done'")
    assert steps.is_visible()
    settings.click()
    assert not steps.is_visible()
    page.set_viewport_size({"width": 1280, "height": 800})
    assert steps.is_visible()
    assert not settings.is_visible()
    page.close()


def test_keys_reach_lists_and_leave_them(page):
    for key in ("Tab", "Shift+Tab"):
        page.get_by_label("Model", exact=True).first.focus()
        page.wait_for_selector("[role=listbox]")
        page.keyboard.press(key)
        page.wait_for_selector("[role=listbox]", state="detached")
    wait_for_step(page, fill(page, "Steps", 6), 6)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("window.painted.at(-1).step === 5")
    page.keyboard.press("p")
    page.wait_for_selector("[data-do=pin][aria-pressed=true]")
    run = run_of(page)
    page.keyboard.press("Space")
    until(page, f"+d.run > {run} && d.status === 'done'")


def test_preset_says_what_it_shows_and_pins_the_first_of_its_two_runs(page):
    for example in EXAMPLES:
        button = page.get_by_role("button", name=example.name)
        assert button.get_attribute("title") == example.help
        assert button.get_attribute("aria-description") == example.help
    first = run_of(page)
    page.get_by_role("button", name="Baseline against DeCo").click()
    until(page, f"+d.run === {first + 2} && d.status === 'done'")
    until(page, "d.step === '50'")
    assert page.locator("[data-pinned='0'] h2").inner_text() == "Pinned: model tiny-dit"
    settings = FIRST
    assert_same_picture(without_gaps(canvas(page, "noisy")), sheet(settings))
    baseline = replace(FIRST, model="tiny-dit")
    assert_same_picture(without_gaps(canvas(page, "pinned-0")), sheet(baseline))


def keep(page, kind):
    with page.expect_download() as download:
        page.locator(f"#keep-{kind}").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_a_run_comes_back_from_its_picture_and_from_its_link(page, browser, address, tmp_path):
    fill(page, "number input for Guidance scale", 5)
    fill(page, "Seed", 11)
    wait_for_step(page, fill(page, "Steps", 9), 9)
    drawn = canvas(page, "noisy")
    settings = replace(FIRST, guidance_scale=5.0, seed=11, num_steps=9)
    assert_same_picture(without_gaps(drawn), sheet(settings))
    name, picture = keep(page, "png")
    assert settings_from_png(picture).settings == settings
    assert (np.array(Image.open(io.BytesIO(picture))) == without_gaps(drawn)).all()
    link = page.url

    other = browser.new_page()
    other.goto(link)
    until(other, "d.step === '9'")
    assert (canvas(other, "noisy") == drawn).all()
    assert other.get_by_label("Seed", exact=True).first.input_value() == "11"

    other.goto(address)
    until(other, "d.step === '50'")
    # Dropped anywhere on the page, as a person drops it.
    other.evaluate(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            for (const kind of ["dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(kind,
                    { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [list(picture), name],
    )
    until(other, "d.step === '9' && d.status === 'done'")
    assert (canvas(other, "noisy") == drawn).all()
    assert other.get_by_label("Steps", exact=True).input_value() == "9"
    other.close()


def test_what_is_kept_is_what_was_drawn(page):
    wait_for_step(page, fill(page, "Steps", 6), 6)
    _, content = keep(page, "npz")
    with np.load(io.BytesIO(content)) as stored:
        assert settings_from(json.loads(str(stored["recipe"]))["settings"]) == replace(
            FIRST, num_steps=6
        )
        pixels = np.array(to_picture(torch.from_numpy(stored["images"]), 2))
    assert (pixels == without_gaps(canvas(page, "noisy"))).all()
    _, table = keep(page, "csv")
    rows = [line.split(",") for line in table.decode().splitlines()]
    energies = [row for row in rows if row[0] == "velocity_energy"]
    assert len(energies) == 7 * 64
    page.locator("#keep-python").click()
    page.wait_for_selector("dialog[open]")
    script = page.locator("dialog pre").inner_text()
    assert "num_steps=6" in script
    page.keyboard.press("Escape")
    page.locator("#keep-link").click()
    page.wait_for_selector("dialog[open]")
    assert page.locator("dialog pre").inner_text() == page.url


def canvas_of(page, panel, key):
    """Return what a canvas of a panel shows, as bytes."""
    height, width, values = page.evaluate(f"""() => {{
        const canvas = document.querySelector("#{panel} [data-canvas={key}]");
        const {{ width, height }} = canvas;
        return [height, width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }}""")
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def wait_for_answer(page, panel, more_than=0):
    """Wait until a panel has shown more than so many answers; return how many."""
    found = f"document.querySelector('#{panel} .dl')?.dataset"
    page.wait_for_function(f"{found}?.status === 'done' && +{found}.shown > {more_than}")
    return int(page.evaluate(f"{found}.shown"))


def test_a_step_that_is_shown_is_taken_apart_where_it_began(page):
    button = page.get_by_role("button", name="Take this step apart")
    run = fill(page, "Steps", 1000)
    page.wait_for_function(f"window.painted.some((p) => p.run === {run} && p.step >= 3)")
    assert button.is_disabled()  # until the run has ended
    wait_for_step(page, fill(page, "Steps", 10), 10)
    page.get_by_label("Step to look at").fill("6")
    page.wait_for_function("window.painted.at(-1).step === 6")
    said, whole = page.locator("#panel [data-note=says]").inner_text(), canvas(page, "whole")
    button.click()
    shown = wait_for_answer(page, "parts")
    assert page.get_by_role("tab", name="Decompose").get_attribute("aria-selected") == "true"
    assert page.get_by_label("Last run").first.is_checked()
    assert page.get_by_label("Step", exact=True).input_value() == "6"
    assert page.get_by_label("Image", exact=True).first.input_value() == "1"
    assert page.locator("#parts .dl-says").inner_text() == (
        "Image 1 of the last run, where step 6 began."
    )
    settings = replace(FIRST, num_steps=10)
    model = deco_lab.load("tiny", device="cpu")
    began = list(deco_lab.sample_steps(model, **settings.sampling_arguments()))[5]
    assert f"chelsea, t = {began.t:.4g}," in page.locator("#parts [data-note=made]").inner_text()
    assert_same_picture(canvas_of(page, "parts", "noisy"), np.array(to_picture(began.x[:1])))
    assert_same_picture(canvas_of(page, "parts", "predicted"), whole)
    assert page.locator("#parts [data-note=says]").inner_text()[:8] == said[:8] == "t = 0.50"
    step = page.get_by_label("Step", exact=True)
    step.fill("")
    step.press("Tab")
    wait_for_answer(page, "parts", shown)
    assert page.locator("#parts .dl-says").inner_text() == (
        "Image 1 of the last run, where step 10, its last, began."
    )


def test_film_of_a_run_is_its_predicted_images(page):
    wait_for_step(page, fill(page, "Steps", 8), 8)
    name, film = keep(page, "gif")
    assert name.startswith("deco-lab-tiny-class-2-3-10-12-seed-0-w-2-")
    assert name.endswith(".gif")
    with Image.open(io.BytesIO(film)) as file:
        frames = [
            (frame.info["duration"], np.array(frame.convert("RGB")).astype(int))
            for frame in ImageSequence.Iterator(file)
        ]
    times = [milliseconds for milliseconds, _ in frames]
    assert len(times) == 8
    assert (sum(times), times[-1]) == (4000, 1000)
    shown = without_gaps(canvas(page, "predicted"))
    assert np.abs(frames[-1][1] - shown).mean() < 6


def test_own_picture_of_one_tab_is_there_on_the_other(page, tmp_path):
    colours = Image.new("RGB", (120, 80), (200, 60, 20))
    colours.save(tmp_path / "own.png")
    page.get_by_role("tab", name="Decompose").click()
    shown = wait_for_answer(page, "parts")
    page.locator("#parts-inlet input").set_input_files(tmp_path / "own.png")
    wait_for_answer(page, "parts", shown)
    said = "Yours, 120 by 80 pixels, is kept for every tab."
    assert page.locator("#parts-inlet p").inner_text() == said
    assert (canvas_of(page, "parts", "clean") == (200, 60, 20)).all()
    page.get_by_role("tab", name="Loss weights").click()
    wait_for_answer(page, "loss")
    assert page.get_by_label("Own picture").last.is_checked()
    assert page.locator("#loss-inlet p").inner_text() == said
    assert (canvas_of(page, "loss", "original") == (200, 60, 20)).all()


def test_no_script_runs_that_text_has_brought_into_the_page(browser, address):
    page = browser.new_page()
    page.goto(address)
    until(page, "d.painted >= 1")
    page.evaluate("""() => {
        document.addEventListener("securitypolicyviolation", (event) => {
            window.blocked = event.effectiveDirective;
        });
        const text = '<img src="data:," onerror="window.ran = true">';
        document.body.insertAdjacentHTML("beforeend", text);
    }""")
    page.wait_for_function("window.blocked === 'script-src-attr'")
    assert page.evaluate("window.ran") is None
    page.close()


def test_closing_the_tab_frees_the_model(page, browser, address):
    other = browser.new_page()
    other.goto(f"{address}?num_steps=1000&num_images=16")
    until(other, "d.newest >= 3")
    other.close()
    started = time.monotonic()
    fill(page, "Steps", 1)
    until(page, "d.status === 'done'")
    waited = time.monotonic() - started
    print(f"the model was free {waited:.1f} s after the tab was closed")
    assert waited < 10  # its 1000 steps would take minutes


@pytest.mark.parametrize(
    ("tab", "name", "knob", "row"),
    [
        ("Decompose", "parts", "t", '"settings.t","0.49"'),
        ("Loss weights", "loss", "Quality", '"weights.quality","84"'),
    ],
)
def test_tab_answers_when_it_is_opened_and_when_a_knob_moves_and_keeps_it(
    page, tab, name, knob, row
):
    panel = f"document.querySelector('#{name} .dl')"
    page.get_by_role("tab", name=tab).click()
    page.wait_for_function(f"+{panel}.dataset.shown >= 1 && {panel}.dataset.status === 'done'")
    shown = page.evaluate(f"{panel}.dataset.shown")
    page.get_by_label(f"range slider for {knob}", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"{panel}.dataset.shown > {shown} && {panel}.dataset.status === 'done'")
    with page.expect_download() as download:
        page.locator(f"#{name}-csv").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == '"name","value"'
    assert row in lines
    assert not any('pixels"' in line.split(",")[0] for line in lines)


def test_measure_shows_a_figure_and_keeps_its_archive(page):
    page.get_by_role("tab", name="Measure").click()
    page.locator("#measure-zip").click()
    shown = page.locator("#measure .dl-says")
    assert shown.text_content() == "There is nothing to keep yet."
    page.get_by_label("Parts by band").click()  # asks it at once
    ready = "document.querySelector('#measure .dl').dataset.status === 'done'"
    page.wait_for_function(f"{ready} && document.querySelector('#measure img').naturalWidth > 0")
    assert page.locator("#measure h2").text_content().startswith("What share of each band")
    with page.expect_download() as download:
        page.locator("#measure-zip").click()
    assert download.value.suggested_filename == "deco-lab-parts.zip"
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert names == ["parts.svg", "parts-0-BandEffects.npz"]
    page.get_by_label("Seed").last.fill("1")
    page.get_by_role("button", name="Measure", exact=True).click()  # the same study again
    page.wait_for_function(
        "document.querySelector('#measure .dl-note').textContent.includes('seed 1')"
    )
    page.get_by_label("Patch grid of samples").click()
    page.wait_for_function(
        "document.querySelector('#measure h2').textContent.startsWith('Do samples show')"
    )


def test_readmes_script_runs_against_the_app(address, capsys):
    readme = (Path(__file__).parents[1] / "deco_lab" / "page" / "README.md").read_text()
    (script,) = re.findall(r"```python\n(from gradio_client.*?)```", readme, re.DOTALL)
    exec(script.replace("http://127.0.0.1:7860/", address), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 0.0 0 64"
    assert len(lines) == 21 + 4
    assert lines[21].startswith("t = 0.50: the condition draws ")
    assert "'above 1/4'" in lines[22]
    assert lines[-1] == "['tiny', 'tiny-fm', 'tiny-dit', 'fields', 'fields-dit']"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(browser, address, theme, width):
    page = browser.new_page()
    page.goto(f"{address}?num_steps=3&__theme={theme}")
    until(page, "d.status === 'done'")
    for tab in ("Sample", "Sweep", "Decompose", "Measure", "Loss weights", "Models"):
        page.set_viewport_size({"width": 1280, "height": 800})  # a phone has tabs in a menu
        page.get_by_role("tab", name=tab).click()
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(1500)
        assert violations(page) == [], tab
        assert page.evaluate("document.documentElement.scrollWidth") == width, tab
    page.close()
