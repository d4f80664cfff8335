"""What the live panels cost: runs in Chromium against the same sampling without page and panels."""

import re
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from browsing import CHROMIUM, NO_BACKGROUND, PANEL, SLACK
from playwright.sync_api import sync_playwright
from served import served
from test_app import load_app

import deco_lab
from deco_lab.page import serve
from deco_lab.workbench import Library, Settings, Workbench

pytestmark = [pytest.mark.browser, pytest.mark.alone]

SHARE, SECONDS = 0.15, 0.004
"""What panels may cost: this share of the run, or so many seconds a step where a step takes less
than 27 ms, as in `tiny`, with which the browser shares two cores."""
REPEATS = 7
ROUNDS = 3  # another round of repeats where the machine was busy with something else

# Start a run; return the seconds it says it took, and its painted screens a second.
DRAW = f"""async () => {{
    const panel = {PANEL}, run = +panel.dataset.run;
    let began = null, before = 0;
    document.getElementById("start").click();
    while (!(+panel.dataset.shownRun > run && panel.dataset.step === "50")) {{
        if (began === null && +panel.dataset.shownRun > run) {{
            began = performance.now();
            before = +panel.dataset.painted;
        }}
        await new Promise((done) => setTimeout(done, 1));
    }}
    const seconds = /([0-9.]+) s[.]$/.exec(panel.querySelector(".dl-says").textContent)[1];
    return [+seconds, 1000 * (+panel.dataset.painted - before) / (performance.now() - began)];
}}"""


def serve_and_sample():
    """Serve the app, print its address, and sample without it at each line: what `cost` starts."""
    app = load_app()
    app.use_machine()
    library = Library("tiny", device="cpu", fast=True)
    blocks, live = app.build_app(Workbench(library), Settings())
    print(serve(blocks, live, "127.0.0.1", 7930, prevent_thread_lock=True), flush=True)
    model = library.get("tiny")
    for line in sys.stdin:
        arguments = Settings(num_images=int(line), decompose=False).sampling_arguments()
        started = time.perf_counter()
        deco_lab.sample(model, **arguments)
        print(time.perf_counter() - started, flush=True)


def measure(server, page, num_images):
    """Sample without and with the page, by turns: seconds of each, screens a second (medians)."""
    alone, shown, rates = [], [], []
    for _ in range(REPEATS):
        server.stdin.write(f"{num_images}\n")
        server.stdin.flush()
        alone.append(float(server.stdout.readline()))
        seconds, rate = page.evaluate(DRAW)
        shown.append(seconds)
        rates.append(rate)
    plain, live, rate = (statistics.median(values) for values in (alone, shown, rates))
    print(
        f"{num_images} images, 50 guided steps: {plain:.2f} s alone, {live:.2f} s with live panels "
        f"({live / plain - 1:+.0%}), {rate:.0f} screens a second"
    )
    return plain, live, rate


def most(plain):
    """Return how long a run of 50 steps may take with panels, in seconds, of one without."""
    return plain + SLACK * max(SHARE * plain, 50 * SECONDS)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `apt-get install chromium`")
@pytest.mark.parametrize("num_images", [1, 4])
def test_panels_cost_little_of_sampling(num_images, tmp_path):
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    plain = live = rate = 0.0
    with server, sync_playwright() as playwright:
        assert server.stdin is not None
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=NO_BACKGROUND)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{address}?decompose=false&num_images={num_images}")
        page.wait_for_function(f"{PANEL}?.dataset.step === '50'")
        for _ in range(ROUNDS):
            plain, live, rate = measure(server, page, num_images)
            if live < most(plain) and rate > min(20, 50 / live) / SLACK:
                break
        browser.close()
        server.kill()
    assert not re.search("Traceback", (tmp_path / "log").read_text())
    assert live < most(plain)
    assert rate > min(20, 50 / live) / SLACK


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: `apt-get install chromium`")
def test_a_cold_load_is_light(tmp_path):
    """Over loopback, with nothing in the browser's cache; the first run has three steps."""
    with served("--port", "7930", log=tmp_path / "log") as (address, _), sync_playwright() as p:
        loads = [cold_load(p, f"{address}?num_steps=3") for _ in range(3)]
    megabytes, requests, paint, picture = np.median(loads, axis=0)
    print(
        f"{megabytes:.2f} MB in {requests:.0f} requests, first paint after {paint:.1f} s, "
        f"first picture after {picture:.1f} s"
    )
    assert megabytes < 0.5
    assert paint < 1 * SLACK
    assert picture < 2 * SLACK


def cold_load(playwright, address):
    """Return megabytes received, requests, and seconds to the first paint and the first picture."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=NO_BACKGROUND)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    addresses, sizes = {}, {}
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on(
        "Network.responseReceived",
        lambda event: addresses.update({event["requestId"]: event["response"]["url"]}),
    )
    network.on(
        "Network.loadingFinished",
        lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}),
    )
    page.goto(address)
    page.wait_for_function(f"{PANEL}?.dataset.painted > 0")
    picture = page.evaluate("performance.now()")
    paint = page.evaluate("performance.getEntriesByName('first-paint')[0].startTime")
    page.wait_for_timeout(1000)
    browser.close()
    # All but what the run itself sends.
    page_sizes = [size for key, size in sizes.items() if "/live/" not in addresses.get(key, "")]
    return sum(page_sizes) / 1e6, len(page_sizes), paint / 1000, picture / 1000


if __name__ == "__main__":
    serve_and_sample()
