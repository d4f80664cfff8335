"""The recorded outputs, and the models whose outputs they are."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsing import WATCH, chromium, until
from safetensors.torch import load_file
from served import served

from deco_lab.checkpoints import published_name
from deco_lab.config import DeCoConfig, DiTConfig, ModelConfig
from deco_lab.fast.build import KernelError, library
from deco_lab.models import DeCo, DiT, Model, build

_SHAPE: Any = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 10,
    "hidden_size": 64,
    "num_heads": 4,
}


def _recorded_model(file: Path, config: ModelConfig, kind: str) -> Model:
    recorded = load_file(file)
    model = build(config)
    names = model.state_dict().keys()
    model.load_state_dict({n: recorded[f"weights.{published_name(n, kind)}"] for n in names})
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def golden() -> Path:
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_deco(golden: Path) -> DeCo:
    config = DeCoConfig(**_SHAPE, depth=3, decoder_depth=2, decoder_width=16)
    model = _recorded_model(golden / "deco_c2i.safetensors", config, "DeCo")
    assert isinstance(model, DeCo)
    return model


@pytest.fixture(scope="session")
def golden_dit(golden: Path) -> DiT:
    config = DiTConfig(**_SHAPE, depth=4)
    model = _recorded_model(golden / "baseline_dit.safetensors", config, "DiT")
    assert isinstance(model, DiT)
    return model


@pytest.fixture(scope="session")
def kernels() -> None:
    """Skip where native kernels cannot be had; CI has a compiler."""
    try:
        for source in ("dct", "model"):
            library(source)
    except KernelError as error:
        pytest.skip(str(error))


FullDisk = Callable[[int], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def full_disk() -> FullDisk:
    """Make `with full_disk(size):`, in which no file of this process grows beyond so many bytes."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    log = tmp_path_factory.mktemp("browser") / "log"
    with served("--port", "7960", log=log) as (address, _):
        yield address
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    # Two cores may be busy with other tests.
    with chromium(tmp_path_factory.mktemp("profile"), 800, 60) as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """The page, its first run cut short; at the end, no error and no request to elsewhere."""
    page = browser.new_page()
    errors, hosts = [], set()
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(address)
    until(page, "d.step >= 3")
    page.evaluate("document.getElementById('stop').click()")
    # A fast machine may have finished the run by now.
    until(page, "['stopped', 'done'].includes(d.status)")
    page.evaluate(WATCH)
    yield page
    page.close()
    # The tests' own reading of canvases.
    assert [text for text in errors if not text.startswith("Canvas2D: Multiple readback")] == []
    assert hosts - {None} == {"127.0.0.1"}  # None: what the page makes itself
