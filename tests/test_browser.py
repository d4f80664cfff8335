"""The page in Chromium: a run draws, stops and is refused, and nothing leaves the machine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
NO_BACKGROUND = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip

# Note each painted step with a hash of the two pictures as they stand on the screen.
WATCH = """
    window.painted = [];
    const panel = document.querySelector(".dl");
    new MutationObserver(() => {
        const pictures = [...panel.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL());
        window.painted.push({run: +panel.dataset.run, step: +panel.dataset.step, pictures});
    }).observe(panel, {attributeFilter: ["data-painted"]});
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    root = Path(__file__).parents[1]
    log = tmp_path_factory.mktemp("browser") / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, root / "app.py", "--port", "7960"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    with server:
        assert server.stdout is not None
        said = server.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, said + log.read_text()
        yield found[0]
        server.kill()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: install it, on Debian with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=NO_BACKGROUND,
            viewport={"width": 1280, "height": 800},
        )
        browser.set_default_timeout(120_000)  # two cores may be busy with other tests
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page, its first run cut short; at the end, no error and no request to elsewhere."""
    page = browser.new_page()
    errors, hosts = [], set()
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    browser.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(address)
    page.wait_for_function("document.querySelector('.dl')?.dataset.step >= 3")
    page.get_by_role("button", name="Stop").click()
    # A fast machine may have finished the run by now.
    page.wait_for_function(
        "['stopped', 'done'].includes(document.querySelector('.dl').dataset.status)"
    )
    page.evaluate(WATCH)
    yield page
    page.close()
    assert errors == []
    assert hosts - {None} == {"127.0.0.1"}  # None: the pictures' data URIs


def fill(page, **values):
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(str(value))


def says(page):
    return page.locator(".dl-says").inner_text()


def wait_for_status(page, status):
    page.wait_for_function(f"document.querySelector('.dl').dataset.status === '{status}'")


def test_page_draws_by_itself(page):
    page.reload()
    page.wait_for_function("document.querySelector('.dl')?.dataset.step === '50'")
    assert says(page).startswith("Done: 50 steps, ")
    lines = page.locator(".dl svg polyline").all()
    assert len(lines) == 3 + 4 * 3
    assert all(len(line.get_attribute("points").split()) >= 45 for line in lines)


def test_start_paints_many_different_steps(page):
    fill(page, Steps=30, Seed=3)
    page.get_by_role("button", name="Start").click()
    page.wait_for_function("window.painted.some((p) => p.step === 30)")
    painted = page.evaluate("window.painted.filter((p, _, all) => p.run === all.at(-1).run)")
    steps = [p["step"] for p in painted]
    assert steps == sorted(steps)
    assert len(set(steps)) >= 10
    assert len({p["pictures"][0] for p in painted}) == len(set(steps))
    assert len({p["pictures"][1] for p in painted}) == len(set(steps))


def test_stop_ends_within_two_steps(page):
    fill(page, Steps=1000, Images=16)
    page.get_by_role("button", name="Start").click()
    page.wait_for_function("window.painted.some((p) => p.step >= 5)")
    # From inside the page, so that the step is that of the very click.
    at = page.evaluate("""() => {
        document.querySelector("#stop").click();
        return +document.querySelector(".dl").dataset.newest;
    }""")
    wait_for_status(page, "stopped")
    page.wait_for_timeout(500)
    last = int(page.evaluate("document.querySelector('.dl').dataset.newest"))
    assert last <= at + 2
    assert says(page) == f"Stopped at step {last} of 1000."


def test_start_supersedes_the_run_before(page):
    fill(page, Steps=1000)
    page.get_by_role("button", name="Start").click()
    page.wait_for_function("window.painted.some((p) => p.step >= 3)")
    fill(page, Steps=12)
    page.get_by_role("button", name="Start").click()
    wait_for_status(page, "done")
    page.wait_for_function("document.querySelector('.dl').dataset.step === '12'")
    runs = [p["run"] for p in page.evaluate("window.painted")]
    assert runs == sorted(runs)
    assert says(page).startswith("Done: 12 steps, ")


def test_refusal_is_a_sentence_and_keeps_the_pictures(page):
    before = page.evaluate("document.querySelector('.dl canvas').toDataURL()")
    fill(page, Steps=0)
    page.get_by_role("button", name="Start").click()
    wait_for_status(page, "refused")
    expected = "num_steps must be a whole number from 1 to 1000, got 0."
    assert says(page) == expected
    assert page.evaluate("document.querySelector('.dl canvas').toDataURL()") == before


def test_look_back_shows_an_earlier_step(page):
    page.get_by_label("Step to look at").fill("2")
    page.wait_for_function("document.querySelector('.dl').dataset.step === '2'")
    assert page.locator("[data-fact=step]").inner_text() == "2/50"


@pytest.mark.parametrize("width", [390, 1280])
def test_page_does_not_move_while_it_draws(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("window.scrollTo(0, 0)")
    fixed = ".dl-picture, .dl h3, .dl h4, .dl svg[role=img], .dl input, .dl-note"
    boxes = (
        f"JSON.stringify([...document.querySelectorAll('{fixed}')]"
        ".map((e) => e.getBoundingClientRect()))"
    )
    places = {page.evaluate(boxes)}
    fill(page, Steps=20)
    page.get_by_role("button", name="Start").click()
    for step in (1, 10, 20):
        page.wait_for_function(f"window.painted.some((p) => p.step >= {step})")
        places.add(page.evaluate(boxes))
    assert len(places) == 1
    assert page.evaluate("document.documentElement.scrollWidth") == width
