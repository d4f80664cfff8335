"""The app's endpoints through gradio_client, its page's header and its closed doors."""

import html
import importlib.util
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from deco_lab.live import Settings


def load_app():
    """Import app.py, which is no part of the package."""
    path = Path(__file__).parents[1] / "app.py"
    spec = importlib.util.spec_from_file_location("app", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SlowField(torch.nn.Module):
    """dx/dt = -x, a twentieth of a second a pass, so that a run lasts as long as a test needs."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(image_size=16, patch_size=2, num_classes=3, class_names="abc")
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t, class_ids):
        time.sleep(0.05)
        return -x


def serve_slow_field():
    """Serve SlowField until killed, and print the address first: what `address` starts."""
    app = load_app()
    blocks = app.build_app(SlowField(), "slow & steady", time_limit=20)
    print(app.serve(blocks, "127.0.0.1", 7900, prevent_thread_lock=True), flush=True)
    blocks.block_thread()


@pytest.fixture(scope="module")
def app():
    return load_app()


# In a process of its own: Gradio leaves sockets and event loops to the garbage collector, which
# would warn in whatever test runs then.
@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("app") / "log"


@pytest.fixture(scope="module")
def address(log):
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, __file__], stdout=subprocess.PIPE, stderr=file, text=True
        )
    with server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


@pytest.fixture
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.01)


def steps_of(job):
    return [update["frame"]["index"] for update in job.outputs() if update["frame"]]


def test_sample_streams_every_step(client):
    job = client.submit(class_id=2, num_images=1, num_steps=12, api_name="/sample")
    updates = list(job)
    assert [u["status"] for u in updates] == ["running"] * 13 + ["done"]
    assert [u["frame"]["index"] for u in updates[1:]] == list(range(13))
    pictures = {u["frame"]["noisy"] for u in updates[1:]}
    assert len(pictures) == 13
    # (1 - 1/12)**n of the noise is left after n Euler steps, and so (1 - 1/12)**2n of its energy.
    energies = [u["frame"]["velocity_spectrum"]["energy"][0] for u in updates[2:]]
    assert energies[11] / energies[0] == pytest.approx((11 / 12) ** 22, rel=1e-3)


def test_sample_takes_its_defaults_from_settings(client):
    (endpoint,) = [v for k, v in client.view_api(return_format="dict")["named_endpoints"].items()
                   if k == "/sample"]  # fmt: skip
    defaults = {p["parameter_name"]: p["parameter_default"] for p in endpoint["parameters"]}
    assert defaults == vars(Settings())


def test_stop_ends_the_run_within_two_steps(client):
    job = client.submit(num_images=1, num_steps=300, guidance_scale=1, api_name="/sample")
    wait_for(lambda: len(steps_of(job)) > 3)
    client.predict(api_name="/stop")
    stopped_at = steps_of(job)[-1]
    wait_for(job.done)
    last = job.outputs()[-1]
    assert last["status"] == "stopped"
    assert last["frame"]["index"] <= stopped_at + 2
    assert last["text"] == f"Stopped at step {last['frame']['index']} of 300."


def test_stop_leaves_other_sessions_alone(client, address):
    job = client.submit(num_images=1, num_steps=15, api_name="/sample")
    wait_for(lambda: len(steps_of(job)) > 1)
    other = Client(address, verbose=False)
    other.predict(api_name="/stop")
    other.close()
    wait_for(job.done)
    assert job.outputs()[-1]["status"] == "done"


def test_a_client_that_leaves_frees_the_model(client, address):
    leaver = Client(address, verbose=False)
    job = leaver.submit(num_images=1, num_steps=300, guidance_scale=1, api_name="/sample")
    wait_for(lambda: len(steps_of(job)) > 1)
    job.cancel()
    leaver.close()
    started = time.monotonic()
    assert client.predict(num_images=1, num_steps=1, api_name="/sample")["status"] == "done"
    assert time.monotonic() - started < 10  # its 300 steps would take 15 s


@pytest.mark.parametrize(
    "values",
    [
        {"class_id": 3},
        {"class_id": -1},
        {"class_id": "cat"},
        {"num_images": 0},
        {"num_images": 17},
        {"num_images": [1]},
        {"num_steps": 0},
        {"num_steps": 1001},
        {"num_steps": 2.5},
        {"num_steps": None},
        {"guidance_scale": -1},
        {"guidance_scale": "much"},
        {"guidance_low": 0.9, "guidance_high": 0.1},
        {"guidance_high": 1.5},
        {"solver": "rk4"},
        {"solver": 7},
        {"solver": ["euler"]},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": "x" * 5000},
    ],
    ids=lambda values: " ".join(f"{k}={str(v)[:10]}" for k, v in values.items()),
)
def test_sample_refuses_bad_values_in_a_sentence(client, log, values):
    with pytest.raises(AppError) as refused:
        client.predict(**{"num_images": 1, "num_steps": 1, **values}, api_name="/sample")
    message = refused.value.message
    assert re.fullmatch(r"[a-z_ ]+ must [^\n]+\.", message), message
    assert len(message) < 320
    assert "Traceback" not in log.read_text()


def test_page_says_what_is_loaded(app, address):
    assert "DeCo Lab" in httpx.get(address).text
    assert (
        "slow & steady · SlowField, 0.0 M parameters · 16 \N{MULTIPLICATION SIGN} 16 pixels"
        in html.unescape(app.header(SlowField(), "slow & steady"))
    )
    assert "fourteen photographs" in app.header(SlowField(), "tiny")
    assert "<script>" not in app.header(SlowField(), "<script>")


def test_server_closes_what_it_does_not_need(address):
    assert httpx.get(address, headers={"Host": "example.com"}).status_code == 400
    for path in ("openapi.json", "docs", "redoc"):
        assert httpx.get(address + path).status_code == 404
    assert httpx.get(address + "monitoring/summary").status_code != 200
    upload = httpx.post(address + "gradio_api/upload", files={"files": ("a.bin", b"0" * 5000)})
    assert upload.status_code == 413
    for path in ("/etc/hostname", str(Path(__file__).resolve())):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code == 403


def test_free_port_skips_a_taken_one(app):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < app.free_port("127.0.0.1", port) < port + 100


def test_parse_arguments_defaults_to_this_machine_alone(app):
    arguments = app.parse_arguments([])
    assert (arguments.model, arguments.host, arguments.port) == ("tiny", "127.0.0.1", 7860)


@pytest.mark.parametrize("arguments", [["--model", "no-such"], ["--device", "abacus"]])
def test_main_ends_with_a_sentence(app, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    with pytest.raises(SystemExit, match=r"^app\.py: [^\n]+$"):
        app.main()


if __name__ == "__main__":
    serve_slow_field()
