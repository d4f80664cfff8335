"""A mask in Chromium: painted on a picture of one's own, by pointer, touch and numbers."""

from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from browsing import PANEL, canvas, data, fill, run_of, says, until, violations
from PIL import Image

from deco_lab.data import open_picture
from deco_lab.workbench import from_query
from deco_lab.workbench.keeping import settings_from_png
from deco_lab.workbench.mask import keep_of, mask_text
from deco_lab.workbench.source import prepare

pytestmark = pytest.mark.browser

SHEET = "#controls .dl-mask [data-of=mask]"


@pytest.fixture
def picture(tmp_path):
    """A file whose colours, and whose sides, are all different."""
    rows, columns = np.mgrid[:150, :200]
    pixels = np.stack([columns * 255 // 199, rows * 255 // 149, 40 + 0 * rows], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "mine.png")
    return tmp_path / "mine.png"


def shades(path, size=64):
    """Return a picture as a model is given it, in bytes."""
    image = prepare(open_picture(path.read_bytes()), size)
    return ((image.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def start_from(page, picture):
    page.locator("#more").get_by_role("button", name="More").click()
    before = run_of(page)
    page.locator("#start-inlet input").set_input_files(picture)
    until(page, f"d.shownRun > {before} && d.status === 'done'")
    page.locator(SHEET).wait_for()
    page.locator(SHEET).scroll_into_view_if_needed()


def after(page, act):
    """Do something that starts a run; return when that has ended and is on the screen."""
    before = run_of(page)
    act()
    until(page, f"d.run > {before} && d.shownRun === d.run && d.status === 'done'")
    until(page, "d.step === d.newest")


def settings_of(page):
    return from_query(dict(parse_qsl(urlsplit(page.url).query)))


def drag(page, *points):
    """Move the pressed pointer over the picture, through points in shares of its sides."""
    page.locator(SHEET).scroll_into_view_if_needed()
    box = page.locator(SHEET).bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for point in at[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def shown_mask(page):
    """Return what stands on the picture, as bool."""
    red = page.evaluate(f"""() => {{
        const sheet = document.querySelector("{SHEET}"), {{ width, height }} = sheet;
        return [...sheet.getContext("2d").getImageData(0, 0, width, height).data]
            .filter((_, i) => i % 4 === 0);
    }}""")
    side = round(len(red) ** 0.5)
    return np.array(red).reshape(side, side) > 128


def images_of(page, key="noisy"):
    """Return the four images of a canvas."""
    sheet = canvas(page, key)
    ends = [slice(0, 64), slice(sheet.shape[0] - 64, sheet.shape[0])]
    return [sheet[rows][:, columns] for rows in ends for columns in ends]


def assert_stays(page, picture, keep):
    """What stays is the picture to its last bit, and of the rest nearly nothing is."""
    for key in ("noisy", "predicted"):  # the images, and the first screen's "All images"
        for image in images_of(page, key):
            off = np.abs(image.astype(int) - shades(picture)).max(-1)
            assert off[keep].max() <= 1
            assert (off[~keep] > 3).mean() > 0.9


def test_what_is_painted_is_drawn_anew_and_the_rest_stays(page, picture, tmp_path):
    fill(page, "Steps", 8)
    start_from(page, picture)
    editor = page.locator("#controls .dl-mask")
    assert "nothing painted: all is drawn" in editor.inner_text()
    assert "each step sets it back to the picture with the noise of its time" in editor.inner_text()
    off = np.abs(images_of(page)[0].astype(int) - shades(picture)).max(-1)
    assert (off > 3).mean() > 0.5  # without a mask none of it stays

    after(page, lambda: drag(page, (0.25, 0.5), (0.6, 0.5), (0.6, 0.8)))
    painted = ~keep_of(settings_of(page).mask).numpy()
    np.testing.assert_array_equal(shown_mask(page), painted)
    assert painted[32, 16:38].all()
    assert painted[32:51, 38].all()
    assert not painted[:27].any()
    assert not painted[46:, :32].any()
    assert_stays(page, picture, ~painted)
    share = f"{round(100 * painted.mean())}%"
    assert f"{share} of your picture is drawn anew, the rest stays." in says(page)
    assert f"{share} is drawn anew" in editor.inner_text()
    assert "Start from, Mask" in page.locator("#more-says").inner_text()

    # The picture that is kept brings the mask back.
    with page.expect_download() as download:
        page.locator("#keep-png").click()
    download.value.save_as(tmp_path / "kept.png")
    assert settings_from_png((tmp_path / "kept.png").read_bytes()).settings == settings_of(page)

    # What is erased stays again; Invert, Undo and Clear do what they say.
    page.get_by_role("button", name="Erase", exact=True).click()
    after(page, lambda: drag(page, (0.25, 0.5), (0.3, 0.5)))
    less = ~keep_of(settings_of(page).mask).numpy()
    assert not less[32, 16:20].any()
    assert not (less & ~painted).any()
    assert_stays(page, picture, ~less)
    after(page, page.get_by_role("button", name="Invert").click)
    np.testing.assert_array_equal(keep_of(settings_of(page).mask), less)
    assert_stays(page, picture, less)
    for _ in range(2):
        after(page, page.get_by_role("button", name="Undo").click)
    np.testing.assert_array_equal(keep_of(settings_of(page).mask), ~painted)
    after(page, editor.get_by_role("button", name="Clear").click)
    assert settings_of(page).mask == ""
    assert not shown_mask(page).any()
    # "To the form" of the run that is shown brings its own.
    page.get_by_role("button", name="Show run").all()[-6].click()
    until(page, "d.shownRun !== d.run")
    page.get_by_role("button", name="To the form").click()
    page.wait_for_function(
        f"document.querySelector('{SHEET}').parentElement.parentElement"
        f".querySelector('output').textContent.startsWith('{share}')"
    )
    np.testing.assert_array_equal(shown_mask(page), painted)


def test_a_mask_is_painted_with_keys_alone(page, picture):
    fill(page, "Steps", 6)
    start_from(page, picture)
    page.get_by_text("A rectangle, by numbers").focus()
    page.keyboard.press("Enter")
    run = run_of(page)
    for name, value in (("Left", 8), ("Top", 40), ("Width", 30), ("Height", 500)):
        field = page.locator(".dl-mask").get_by_label(name)
        field.fill(str(value))
        field.press("Tab")
    button = page.get_by_role("button", name="Paint it")
    button.focus()
    page.wait_for_timeout(300)
    assert run_of(page) == run  # a number that is left is no run yet
    after(page, lambda: page.keyboard.press("Enter"))
    painted = torch.zeros(64, 64, dtype=torch.bool)
    painted[40:, 8:38] = True
    assert settings_of(page).mask == mask_text(painted)
    assert_stays(page, picture, ~painted.numpy())
    # A step of it is gone on from, and what stays still does.
    page.get_by_label("Step to look at").fill("1")
    page.wait_for_function("window.painted.at(-1).step === 1")
    after(page, page.get_by_role("button", name="Go on from here").click)
    assert settings_of(page).mask == mask_text(painted)
    assert page.locator(SHEET).is_visible()
    assert_stays(page, picture, ~painted.numpy())
    page.get_by_role("button", name="Start from noise again").click()
    page.locator(SHEET).wait_for(state="hidden")


def test_a_finger_paints_on_a_phone(browser, address, picture):
    page = browser.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}?num_steps=4&start_from=own+picture")
    until(page, "d.status === 'refused'")
    assert "there is no picture of your own yet" in says(page)
    page.get_by_role("button", name="Settings").first.click()
    page.locator("#more").get_by_role("button", name="More").click()
    page.locator("#start-inlet input").set_input_files(picture)
    until(page, "d.status === 'done'")
    sheet = page.locator(SHEET)
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    assert abs(box["width"] - box["height"]) < 1
    before = run_of(page)
    client = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.3), ("touchMove", 0.5), ("touchMove", 0.7)):
        point = {"x": box["x"] + share * box["width"], "y": box["y"] + 0.5 * box["height"]}
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    until(page, f"d.run > {before} && d.status === 'done'")
    painted = shown_mask(page)
    assert painted[32, 20:44].all()
    assert 0.02 < painted.mean() < 0.25
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_a_mask_of_another_size_is_refused_at_its_field_and_painted_on_at_the_new(page, picture):
    fill(page, "Steps", 4)
    start_from(page, picture)
    after(page, lambda: drag(page, (0.4, 0.4), (0.6, 0.6)))
    painted = shown_mask(page)
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="fields", exact=True).click()
    until(page, "d.status === 'refused'")
    said = "Mask must have the size of the model's images, 32 x 32, got 64 x 64; paint it again"
    assert said in says(page)
    assert said in page.locator(".of-mask .dl-wrong").inner_text()
    page.wait_for_function(f"document.querySelector('{SHEET}').width === 32")
    np.testing.assert_array_equal(shown_mask(page), painted[1::2, 1::2])
    after(page, lambda: drag(page, (0.1, 0.1), (0.2, 0.1)))
    assert keep_of(settings_of(page).mask).shape == (32, 32)
    assert page.locator(".dl-wrong").count() == 0
    assert data(page, "status") == "done"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_editor_is_accessible_and_nothing_jumps_while_it_draws(
    browser, address, picture, theme
):
    page = browser.new_page()
    page.goto(f"{address}?num_steps=20&__theme={theme}")
    until(page, "d.status === 'done'")
    start_from(page, picture)
    page.get_by_text("A rectangle, by numbers").click()
    boxes = f"""() => [...document.querySelectorAll("#controls .block, {SHEET}, #panel figure")]
        .map((node) => node.getBoundingClientRect()).map(({{x, y, width}}) => [x, y, width])"""
    before, run = page.evaluate(boxes), run_of(page)
    drag(page, (0.4, 0.4), (0.6, 0.6))
    until(page, f"d.shownRun > {run} && d.step >= 1")
    during = page.evaluate(boxes)
    until(page, "d.status === 'done'")
    assert before == during == page.evaluate(boxes)
    assert violations(page) == []
    assert page.evaluate(f"{PANEL}.dataset.status") == "done"
    page.close()


def test_a_link_brings_the_mask_and_another_tab_its_ground(browser, address, picture):
    painted = torch.zeros(64, 64, dtype=torch.bool)
    painted[10:30, 20:50] = True
    page = browser.new_page()
    link = f"num_steps=4&num_images=1&start_from=own+picture&mask={mask_text(painted)}"
    page.goto(f"{address}?{link}")
    until(page, "d.status === 'refused'")
    page.locator("#more").get_by_role("button", name="More").click()
    page.locator(SHEET).wait_for()
    page.wait_for_function(f"document.querySelector('{SHEET}').width === 64")
    np.testing.assert_array_equal(shown_mask(page), painted.numpy())
    page.get_by_role("tab", name="Decompose").click()
    page.locator("#parts-inlet input").set_input_files(picture)
    page.wait_for_function("document.querySelector('#parts .dl').dataset.status === 'done'")
    page.get_by_role("tab", name="Sample").click()
    page.locator("#start").click()
    until(page, "d.status === 'done' && d.step === d.newest")
    assert settings_of(page).mask == mask_text(painted)
    # Of a single image, too, the first screen shows what stays.
    assert page.locator("#panel .dl-every").is_visible()
    off = np.abs(canvas(page, "predicted").astype(int) - shades(picture)).max(-1)
    assert off[~painted].max() <= 1
    ground = page.evaluate("""() => {
        const ground = document.querySelector("#controls .dl-mask [data-of=picture]");
        const { width, height } = ground;
        return [...ground.getContext("2d").getImageData(0, 0, width, height).data];
    }""")
    shown = np.array(ground, np.uint8).reshape(64, 64, 4)[..., :3]
    np.testing.assert_array_equal(shown, shades(picture))
    page.close()
