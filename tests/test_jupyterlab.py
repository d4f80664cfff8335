"""A notebook in JupyterLab, in Chromium: all cells run, every slider moves its figure."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import matplotlib
import pytest
from browsing import chromium
from playwright.sync_api import BrowserContext, Locator, Page
from test_notebooks import IN_JUPYTERLAB

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1200)]

START_SECONDS, RUN_SECONDS, REDRAW_SECONDS = 120, 600, 120
"""For a loaded machine; an idle one needs a tenth."""

QUIET = {
    "@jupyterlab/apputils-extension/notification": '{"fetchNews": "false"}',
    "@jupyterlab/notebook-extension/tracker": '{"windowingMode": "none"}',
}
"""No news, and cells out of sight are drawn like the others."""

IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
SLIDER, LEGEND = ".widget-slider .noUi-handle", ".legendtoggle"
CONTROLS = f"{SLIDER}, {LEGEND}"

TROUBLE = ", ".join([
    "[data-mime-type='application/vnd.jupyter.error']",
    "[data-mime-type='application/vnd.jupyter.stderr']",
    ".jp-Dialog",
    ".jupyter-widgets-error-widget",
])  # fmt: skip

# The menu's "Run All Cells", which drops a click that comes before the kernel is connected.
RUN_ALL = """async () => {
    const {commands, shell} = window.jupyterapp;
    await shell.currentWidget.context.ready;
    await shell.currentWidget.sessionContext.ready;
    commands.execute("notebook:run-all-cells").then(() => { window.allRun = true; });
}"""

# What a cell shows: its PNGs as they came from the kernel, and plotly's curves.
PICTURES = """(cell) => JSON.stringify([
    ...[...cell.querySelectorAll(".jp-OutputArea-output img")].map((image) => image.src),
    ...[...cell.querySelectorAll(".cartesianlayer")].map((curves) => curves.innerHTML),
])"""
CHANGED = f"""([cell, before]) => {{
    const now = ({PICTURES})(cell);
    if (document.querySelector("{TROUBLE}")) return true;
    return now !== before && JSON.parse(now).length === JSON.parse(before).length;
}}"""
RESTORED = f"([cell, before]) => ({PICTURES})(cell) === before"
AT_END = "(control) => control.ariaValueNow === control.ariaValueMax"


class Server(NamedTuple):
    """Where JupyterLab answers, and what opens it."""

    address: str
    token: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("jupyterlab")
    copytree(Path(__file__).parents[1] / "notebooks", home / "notebooks")
    for plugin, settings in QUIET.items():
        file = home / f"settings/{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Server(f"http://127.0.0.1:{port}", "frequencies")
    options = [
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={home / 'notebooks'}", f"--IdentityProvider.token={found.token}",
        f"--LabApp.user_settings_dir={home / 'settings'}", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True",
        "--no-browser", "--allow-root",
    ]  # fmt: skip
    elsewhere = ("JUPYTER", "IPYTHON", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    # The cache of fonts, for building it anew says so on stderr.
    moved = {"HOME": str(home), "TMPDIR": str(home), "MPLCONFIGDIR": matplotlib.get_cachedir()}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=kept | moved, stdout=log, stderr=log
        )
    with process:
        wait_for(lambda: answers(found.address), START_SECONDS, home / "log")
        yield found
        process.terminate()  # and with it the kernels
    assert "Traceback" not in (home / "log").read_text()


def answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/api") as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_for(holds: Callable[[], bool], seconds: float, log: Path) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with chromium(tmp_path_factory.mktemp("profile"), 1000, REDRAW_SECONDS) as browser:
        yield browser


@pytest.fixture
def page(browser: BrowserContext, server: Server) -> Iterator[Page]:
    """A page; at the end, no error on the console and no request to elsewhere."""
    page, key = browser.new_page(), {"Authorization": f"token {server.token}"}
    errors, hosts = [], set()
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).hostname))
    yield page
    for kernel in page.request.get(f"{server.address}/api/kernels", headers=key).json():
        page.request.delete(f"{server.address}/api/kernels/{kernel['id']}", headers=key)
    page.close()
    assert errors == []
    assert hosts - {None} == {"127.0.0.1"}  # None: the pictures' data URIs


def step(control: Locator, by: int) -> None:
    """Move a slider by a step; click a name in a legend."""
    control.scroll_into_view_if_needed()
    if control.evaluate(f"(e) => e.matches('{SLIDER}')"):
        control.press("ArrowRight" if by > 0 else "ArrowLeft")
    else:
        control.click()


def test_notebook_runs_and_its_figures_follow_their_controls(
    server: Server, page: Page, tmp_path: Path
):
    page.goto(f"{server.address}/lab/tree/{IN_JUPYTERLAB}.ipynb?token={server.token}")
    page.locator(IDLE).wait_for()
    page.evaluate(RUN_ALL)
    page.wait_for_function("window.allRun", timeout=1000 * RUN_SECONDS, polling=500)
    page.locator(IDLE).wait_for()
    trouble = page.locator(TROUBLE)
    assert trouble.all_inner_texts() == []
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{count + 1}]:" for count in range(len(prompts))]
    cells = page.locator(".jp-CodeCell", has=page.locator(CONTROLS)).all()
    assert cells, "a notebook has something to move, and its figure follows"
    for cell in cells:
        for control in cell.locator(CONTROLS).all():
            before, by = cell.evaluate(PICTURES), -1 if control.evaluate(AT_END) else 1
            assert before != "[]"
            step(control, by)
            page.wait_for_function(CHANGED, arg=[cell.element_handle(), before])
            assert trouble.all_inner_texts() == []
            page.screenshot(path=tmp_path / "moved.png")
            step(control, -by)
            page.wait_for_function(RESTORED, arg=[cell.element_handle(), before])
    page.locator(IDLE).wait_for()
    assert trouble.all_inner_texts() == []
