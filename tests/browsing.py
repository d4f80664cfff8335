"""The app in Chromium: how tests start the browser, wait for the panel and read what it shows."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
SLACK = 3  # times what is promised on an idle machine: tests may share theirs
NO_BACKGROUND = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip

PANEL = "document.querySelector('#panel .dl')"

# Note each painted step with the three pictures as they stand on the screen.
WATCH = f"""
    window.painted = [];
    new MutationObserver(() => {{
        const pictures = ["noisy", "predicted", "velocity"].map((key) =>
            {PANEL}.querySelector(`[data-canvas=${{key}}]`).toDataURL());
        window.painted.push({{run: +{PANEL}.dataset.shownRun, step: +{PANEL}.dataset.step, pictures,
            at: performance.now()}});
    }}).observe({PANEL}, {{attributeFilter: ["data-painted"]}});
"""


@contextmanager
def chromium(profile: Path, height: int, seconds: float) -> Iterator["BrowserContext"]:
    """Start Chromium with a profile of its own; what waits longer than `seconds` fails."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: install it, on Debian with `apt-get install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(profile),
            executable_path=CHROMIUM,
            args=NO_BACKGROUND,
            viewport={"width": 1280, "height": height},
        )
        browser.set_default_timeout(1000 * seconds)
        yield browser
        browser.close()


def until(page, condition):
    """Wait until a condition on the panel's dataset, d, holds."""
    ready = f"() => {{ const d = {PANEL}?.dataset; return d && ({condition}); }}"
    page.wait_for_function(ready)


def fill(page, label, value):
    """Put a value into a field and leave it, which starts a run; return that run's number."""
    before = run_of(page)
    page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_label(label, exact=True).press("Tab")
    until(page, f"+d.run > {before}")
    return run_of(page)


def wait_for_step(page, run, step):
    """Wait until a run has come to its end and its last step is on the screen."""
    until(page, "d.status === 'done'")
    page.wait_for_function(f"window.painted.some((p) => p.run === {run} && p.step === {step})")


def run_of(page):
    return int(page.evaluate(f"{PANEL}.dataset.run"))


def data(page, name):
    return page.evaluate(f"{PANEL}.dataset.{name}")


def says(page):
    return page.locator("#panel .dl-says").inner_text()


def canvas(page, key):
    """Return the images on a canvas, one by one, as arrays of bytes."""
    pixels = page.evaluate(f"""() => {{
        const canvas = {PANEL}.querySelector("[data-canvas={key}]");
        const {{ width, height }} = canvas;
        return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
    }}""")
    width, height, values = pixels
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def violations(page):
    """Return what axe finds wrong with the page as it stands: rules, and where first."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in found]
