"""The app's endpoints through gradio_client, its page's header and its closed doors."""

import asyncio
import html
import importlib.util
import json
import os
import re
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from served import served

import deco_lab
from deco_lab.page import ModelsTab, PartsTab, check_access, header, serve
from deco_lab.page.controls import Controls, class_choice
from deco_lab.page.mask import MaskGround
from deco_lab.page.server import free_port
from deco_lab.proxies import past_proxies
from deco_lab.spectra import frequency_weights
from deco_lab.workbench import Library, Settings, Workbench
from deco_lab.workbench.library import ModelFacts
from deco_lab.workbench.settings import origin_of


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


class SlowLibrary:
    """The one model, in place of a `Library`."""

    model = SlowField()

    def names(self):
        return ["slow & steady"]

    def found(self):
        return []

    def get(self, name):
        if name not in self.names():
            raise ValueError(f"model must be one of {self.names()}, got {name!r}")
        return self.model

    def entry(self, name):
        return self.get(name), self.facts(name)

    def all_facts(self):
        return [self.facts(name) for name in self.names()]

    def facts(self, name):
        return ModelFacts(
            name=name, kind=type(self.get(name)).__name__, parameters=1, image_size=16,
            patch_size=2, num_classes=3, class_names=("a", "b", "c"), depth=1, hidden_size=1,
            num_heads=1, decoder="none", trained_on="<script>", steps=None, device="cpu",
            dtype="float32", weights="",
        )  # fmt: skip


def serve_slow_field():
    """Serve SlowField until killed, and print the address first: what `address` starts."""
    app = load_app()
    bench = Workbench(SlowLibrary(), time_limit=20)  # type: ignore[arg-type]
    blocks, live = app.build_app(bench, Settings(model="slow & steady"))
    print(serve(blocks, live, "127.0.0.1", 7900, prevent_thread_lock=True), flush=True)
    blocks.block_thread()


@pytest.fixture(scope="module")
def app():
    return load_app()


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("app") / "log"


@pytest.fixture(scope="module")
def address(log):
    with served(log=log, script=Path(__file__)) as (address, _):
        yield address


@pytest.fixture
def client(address):
    client = Client(address, verbose=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def asking(address):
    """A client that starts no run; it takes a second to close."""
    client = Client(address, verbose=False)
    yield client
    client.close()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.01)


SLOW: dict[str, Any] = {"model": "slow & steady", "num_images": 1, "api_name": "/sample"}


def steps_of(job):
    return [frame["index"] for message in job.outputs() for frame in message["frames"]]


@pytest.mark.slow
def test_sample_streams_every_step(client):
    job = client.submit(class_ids=[2], num_steps=12, **SLOW)
    messages = list(job)
    begun = [m for m in messages if m["status"] != "waiting"]
    assert [m["status"] for m in begun] == ["running"] * (len(begun) - 1) + ["done"]
    assert len(begun) > 6  # streamed, and not all at the end
    frames = [frame for m in messages for frame in m["frames"]]
    assert [frame["index"] for frame in frames] == list(range(13))
    assert len({frame["noisy"]["pixels"] for frame in frames}) == 13
    # (1 - 1/12)**n of the noise is left after n Euler steps, and so (1 - 1/12)**2n of its energy.
    energies = [frame["curves"]["velocity_energy"][0] for frame in frames[1:]]
    assert energies[11] / energies[0] == pytest.approx((11 / 12) ** 22, rel=1e-3)
    assert begun[-1]["begin"]["num_steps"] == 12


def test_sample_takes_its_defaults_from_settings(asking):
    endpoints = asking.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {
        "/sample", "/stop", "/decompose", "/look_inside", "/frequency_weights", "/models",
    }  # fmt: skip
    parameters = endpoints["/sample"]["parameters"]
    defaults = {p["parameter_name"]: p["parameter_default"] for p in parameters}
    expected = {n: list(v) if isinstance(v, tuple) else v for n, v in vars(Settings()).items()}
    assert defaults == expected


def test_stop_ends_the_run_within_two_steps(client):
    job = client.submit(num_steps=300, guidance_scale=1, **SLOW)
    wait_for(lambda: len(steps_of(job)) > 3)
    client.predict(api_name="/stop")
    stopped_at = steps_of(job)[-1]
    wait_for(job.done)
    last = steps_of(job)[-1]
    assert last <= stopped_at + 2
    assert job.outputs()[-1]["status"] == "stopped"
    assert job.outputs()[-1]["text"] == f"Stopped at step {last} of 300."


@pytest.mark.parametrize(
    "values",
    [
        {"model": "no such"},
        {"class_ids": [3]},
        {"class_ids": 1},
        {"num_images": [1]},
        {"num_steps": 0},
        {"num_steps": None},
        {"guidance_scale": "much"},
        {"guidance_interval": [0.9, 0.1]},
        {"solver": ["euler"]},
        {"seed": 2**63},
        {"seed": "x" * 5000},
        {"start_from": "own picture", "mask": "8.no mask"},
        {"dit_gains": [0, 1, 1, 1]},  # the model has no parts
    ],
    ids=lambda values: " ".join(f"{k}={str(v)[:10]}" for k, v in values.items()),
)
def test_sample_refuses_bad_values_in_a_sentence(asking, log, values):
    with pytest.raises(AppError) as refused:
        asking.predict(**{**SLOW, "num_steps": 1, **values})
    message = refused.value.message
    assert re.fullmatch(r"[a-z_ ]+ must [^\n]+\.", message), message
    assert len(message) < 320
    assert "Traceback" not in log.read_text()


def test_other_endpoints_answer_or_refuse_in_a_sentence(asking):
    found = asking.predict(quality=50, gamma=2.0, api_name="/frequency_weights")
    expected = frequency_weights(50, 2.0)
    for channel, weights in zip(found["channels"], expected, strict=True):
        assert torch.allclose(torch.tensor(channel["weights"]), weights.float(), rtol=1e-3)
    with pytest.raises(AppError, match=r"^quality must be a whole number from 1 to 100, got 0\.$"):
        asking.predict(quality=0, api_name="/frequency_weights")
    (facts,) = asking.predict(api_name="/models")
    assert (facts["name"], facts["kind"]) == ("slow & steady", "SlowField")
    with pytest.raises(AppError, match=r"^slow & steady has no pixel decoder, .*\.$"):
        asking.predict(model="slow & steady", api_name="/decompose")
    with pytest.raises(AppError, match=r"^slow & steady has no blocks to look into; .*\.$"):
        asking.predict(model="slow & steady", api_name="/look_inside")
    with pytest.raises(AppError, match=r"^t must be a number from 0 to 1, got 2\.$"):
        asking.predict(model="slow & steady", t=2, api_name="/look_inside")


ANYONE: Any = SimpleNamespace(session_hash="a")
"""A request of the session "a"."""


def built(make):
    """Build a part of the page where there is an event loop: Gradio leaves none behind then."""

    async def build():
        with gr.Blocks():
            return make()

    return asyncio.run(build())


@pytest.mark.filterwarnings("ignore:.* does not say the size of its images")
def test_models_tab_says_an_assumed_size_and_takes_the_right_one(tmp_path):
    name = "ImageNet512.safetensors"  # without a configuration
    save_file(deco_lab.load("tiny", device="cpu").state_dict(), tmp_path / name)
    bench = Workbench(Library("tiny", device="cpu", folder=tmp_path))
    tab = built(lambda: ModelsTab(bench))
    for told, said in ((None, "64 px (assumed)"), (0, "64 px (assumed)"), (128, "128 px")):
        *_, last = tab.loads(name, told, [])
        says, table, *_, head = last
        assert f"Loaded {name}, which draws images of {said}." in says
        assert f"{said}, patches of 8" in table
        assert f"{said}, patches of 8" in head


def test_models_tab_shows_what_a_file_says_as_text(tmp_path):
    image = '<img src="http://example.org/a.png">'
    tiny = Path(deco_lab.__file__).parent / "weights/tiny.safetensors"
    with safe_open(tiny, "pt") as file:
        tensors = load_file(tiny) | {image: torch.zeros(1)}
        save_file(tensors, tmp_path / "<b>.safetensors", file.metadata())
    bench = Workbench(Library("tiny", device="cpu", folder=tmp_path))
    loading = built(lambda: ModelsTab(bench)).loads("<b>.safetensors", None, [0])
    said = []
    with pytest.raises(gr.Error) as refused:
        said.extend(update[0] for update in loading)
    shown = said[-1].removeprefix('<p role="status" class="dl-wrong">')
    for text in (refused.value.message, shown):
        assert "&lt;img src=" in text
        assert "<" not in text.removesuffix("</p>")
    assert shown.removesuffix("</p>") == refused.value.message
    assert not refused.value.visible  # its place says it


def test_toasts_are_made_at_one_place():
    page = Path(deco_lab.__file__).parent / "page"
    shows = re.compile(r"gr\.(Error|Warning|Info|Success)\(")
    makers = {path.name for path in page.glob("*.py") if shows.search(path.read_text())}
    assert makers == {"assets.py", "api.py"}  # what the API raises goes to programs


def test_shown_scales_are_the_rules_and_of_other_values_none():
    controls = built(lambda: Controls(["tiny"], Settings(), SlowLibrary().facts("slow & steady")))
    for rule, expected in (
        ("plain", [True, False]), ("by band", [False, True]), ("x", [False, False]),
        (["plain"], [False, False]),
    ):  # fmt: skip
        assert [update["visible"] for update in controls.shown_scales(rule)] == expected


def test_what_a_mask_is_painted_on_is_the_sessions_picture_at_the_models_size():
    bench = Workbench(Library("tiny", device="cpu"))
    controls = lambda: Controls(["tiny"], Settings(), bench.library.facts("tiny"))  # noqa: E731
    ground = built(lambda: MaskGround(bench, controls()))

    def shown(start_from: Any, origin: Any = "", model: Any = "tiny") -> Any:
        return json.loads(ground.shown(ANYONE, start_from, origin, model))

    none = {"wanted": False, "side": 0, "picture": None}
    own = Settings(start_from="own picture")
    assert shown("own picture") == {"wanted": True, "side": 64, "picture": None}
    bench.sessions.keep_picture("a", Image.linear_gradient("L").convert("RGB").resize((90, 70)))
    found = shown("own picture", model="fields")
    assert (found["side"], found["picture"]["width"], found["picture"]["height"]) == (32, 32, 32)
    assert shown("earlier run", origin_of(own, 3))["picture"]["width"] == 64
    assert shown("earlier run", origin_of(Settings(), 3)) == none
    for wrong in ("noise", "x", None, 3, ["own picture"], "earlier run"):
        assert shown(wrong, "[") == none
    for model in ("nobody's", None, 3, ["tiny"], "../../etc/passwd"):
        assert shown("own picture", model=model)["picture"] is None


def test_curves_of_the_form_come_back_and_are_reset_with_more():
    facts = SlowLibrary().facts("slow & steady")
    controls = built(lambda: Controls(["tiny"], Settings(), facts))
    curves: Any = {"guidance_curve": (0.0, 1.0), "decoder_curves": (1.0, 0.5) * 4}
    values = controls.filled(replace(Settings(), **curves), facts)
    values[list(controls.parts).index("class_ids")] = [0]
    settings = controls.settings(values)
    assert {name: getattr(settings, name) for name in curves} == curves
    assert controls.settings(controls.without_more(values)) == Settings()
    place = list(controls.parts).index("curves")
    for text in ("[", "3", "[" * 10**5, None, 1):
        with pytest.raises(ValueError, match="guidance_curve must be curves by name, as JSON, got"):
            controls.settings([*values[:place], text, *values[place + 1 :]])
    wrong = json.dumps({"band_curves": [1, 2, 3]})
    with pytest.raises(ValueError, match="band_curves must be 4 curves, one a band"):
        controls.settings([*values[:place], wrong, *values[place + 1 :]])


@pytest.mark.parametrize(
    ("chosen", "value"),
    [([2, 1], [2, 1]), ([2, 3], [2]), (["a", None, -1, 2], [2]), (None, [0]), (1, [0]), ("x", [0])],
)
def test_class_choice_keeps_the_classes_that_the_model_has(chosen, value):
    assert class_choice(SlowLibrary().facts("slow & steady"), chosen).value == value


def taken_apart(tab, step):
    """Return the Decompose tab's view of the last run's second image at a step."""
    values = ("last run", 0, 2, 0, step, 0.1, 8, "predicted", "others", "others", "main")
    return json.loads(list(tab.answers(ANYONE, "tiny", *values))[-1])["view"]


@pytest.mark.parametrize("stopped", [True, False])
def test_decompose_takes_the_last_run_as_it_was(stopped):
    bench = Workbench(Library("tiny", device="cpu"))
    controls = lambda: Controls(["tiny"], Settings(), bench.library.facts("tiny"))  # noqa: E731
    tab = built(lambda: PartsTab(bench, controls()))
    running = bench.draw("a", [Settings(class_ids=(2, 3), num_images=2, num_steps=20)])
    for message in running:
        if stopped and message["frames"] and message["frames"][-1].index > 3:
            bench.sessions.stop("a")
    record = bench.sessions.kept("a")
    x, t = record.paused
    assert t == record.curves["t"].values[-1 if stopped else -2]
    view = taken_apart(tab, None)
    assert (view["settings"]["class_name"], view["settings"]["t"]) == ("coffee", t)
    model = bench.library.get("tiny")
    with torch.no_grad():
        predicted = x[1:] + (1 - t) * model(x[1:], torch.tensor([t]), torch.tensor([3]))
    assert view["rms"]["whole"] == pytest.approx(float(predicted.square().mean().sqrt()), rel=1e-3)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_decompose_takes_any_step_where_it_began_bit_for_bit(solver, monkeypatch):
    bench = Workbench(Library("tiny", device="cpu"))
    controls = lambda: Controls(["tiny"], Settings(), bench.library.facts("tiny"))  # noqa: E731
    tab = built(lambda: PartsTab(bench, controls()))
    settings = Settings(class_ids=(2, 3), num_images=2, num_steps=12, solver=solver, seed=4)
    list(bench.draw("a", [settings]))
    model: Any = bench.library.get("tiny")
    steps = list(deco_lab.sample_steps(model, **settings.sampling_arguments()))
    asked: list[Any] = []
    original = model.condition
    monkeypatch.setattr(
        model, "condition", lambda *inputs: (asked.append(inputs), original(*inputs))[1]
    )
    for step in range(13):
        asked.clear()
        view = taken_apart(tab, step)
        began = steps[max(0, step - 1)]
        x, t, label = asked[0]
        assert torch.equal(x, began.x[1:])
        assert torch.equal(t, torch.tensor([began.t]))
        assert label.tolist() == [3]
        assert view["settings"]["t"] == began.t
        assert view["settings"]["of"] == (
            f"Image 2 of the last run, where step {max(1, step)} began."
        )
    assert taken_apart(tab, None)["settings"]["of"].endswith("where step 12, its last, began.")


def test_decompose_is_told_which_step_is_wanted():
    bench = Workbench(Library("tiny", device="cpu"))
    controls = lambda: Controls(["tiny"], Settings(), bench.library.facts("tiny"))  # noqa: E731
    tab = built(lambda: PartsTab(bench, controls()))
    with pytest.raises(gr.Error, match="there is no run yet; draw one first"):
        tab._step(ANYONE, "3", "tiny")
    list(bench.draw("a", [Settings(class_ids=(5, 2), num_images=2, num_steps=4)]))
    assert tab._step(ANYONE, "3", "tiny") == ["last run", 1, 3, 5]
    *others, label = tab._step(ANYONE, "3", "tiny-fm")
    assert (others, label) == (["last run", 1, 3], gr.skip())
    for wrong in (None, 3, "-1", "1.5", "9" * 5000, ["3"]):
        with pytest.raises(gr.Error, match="the step must be a whole number"):
            tab._step(ANYONE, wrong, "tiny")


def test_page_is_compressed_and_its_assets_are_kept(address):
    page = httpx.get(address)
    assert page.headers["content-encoding"] == "gzip"
    assert page.num_bytes_downloaded < len(page.content) / 3
    config = httpx.get(f"{address}config")
    assert config.headers["content-encoding"] == "gzip"
    asset = re.findall(r"assets/index-[\w-]+\.js", page.text)[0]
    script = httpx.get(f"{address}{asset}")
    assert script.headers["content-encoding"] in ("br", "gzip")
    assert "immutable" in script.headers["cache-control"]


def test_page_says_what_is_loaded(address):
    assert "DeCo Lab" in httpx.get(address).text
    said = header(SlowLibrary().facts("slow & steady"))
    assert "<script>" not in said
    assert html.unescape(said) == (
        '<p class="facts"><b>slow & steady</b> · SlowField, 0.0 M parameters · 16 px, patches of 2 '
        "· cpu, float32 · <script></p>"
    )
    guess = replace(SlowLibrary().facts("slow & steady"), image_size_assumed=True)
    assert "16 px (assumed), patches of 2" in header(guess)


def test_server_closes_what_it_does_not_need(address):
    assert httpx.get(address, headers={"Host": "example.com"}).status_code == 400
    for path in ("openapi.json", "docs", "redoc"):
        assert httpx.get(address + path).status_code == 404
    assert httpx.get(address + "monitoring/summary").status_code != 200
    upload = httpx.post(address + "gradio_api/upload", files={"files": ("a.bin", b"0" * 5000)})
    assert upload.status_code == 404
    large = httpx.post(
        address + "gradio_api/queue/join",
        content=b"0" * (25 * 2**20),
        headers={"content-type": "application/json"},
    )
    assert large.status_code == 413
    forged = {"X-Forwarded-Host": "evil.example", "X-Gradio-Server": "http://evil.example"}
    for path in ("", "config", "nothing here"):
        answer = httpx.get(address + path, headers=forged)
        assert "evil.example" not in answer.text
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.fixture
def refusing_proxy():
    """The address of a proxy that answers 503, and what it was asked."""
    asked = []

    class Refuse(StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline())
            self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Refuse) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "proxies"),
    [
        (
            "127.0.0.1",
            {"http_proxy": "REFUSING", "all_proxy": "socks://127.0.0.1:9", "no_proxy": "127.0.0.1"},
        ),
        ("::1", {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}),
    ],
    ids=["refusing and socks", "dead and socks5, on IPv6"],
)
def test_app_starts_past_any_proxy(host, proxies, refusing_proxy, tmp_path):
    if ":" in host and not can_bind(host):
        pytest.skip("this machine has no IPv6: switch it on for the loopback device")
    proxy, asked = refusing_proxy
    named = {name: proxy if value == "REFUSING" else value for name, value in proxies.items()}
    arguments = ["--device", "cpu", "--plain", "--host", host, "--port", "7980"]
    with served(*arguments, log=tmp_path / "log", **named) as (address, _):
        assert address.startswith("http://[::1]:" if ":" in host else "http://127.0.0.1:")
        assert httpx.get(address, trust_env=False).status_code == 200
    assert asked == []


@pytest.mark.parametrize("before", [{}, {"no_proxy": "example.com"}])
def test_past_proxies_lets_clients_be_made_and_leaves_the_environment(monkeypatch, before):
    monkeypatch.delenv("no_proxy", raising=False)
    for name, value in {"all_proxy": "socks://127.0.0.1:9", **before}.items():
        monkeypatch.setenv(name, value)
    environment = dict(os.environ)
    with past_proxies():
        httpx.Client().close()
    assert dict(os.environ) == environment
    with pytest.raises(ValueError, match="Unknown scheme for proxy URL"):
        httpx.Client()


def can_bind(host):
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_free_port_skips_a_taken_one(host):
    if ":" in host and not can_bind(host):
        pytest.skip("this machine has no IPv6: switch it on for the loopback device")
    with socket.socket() as taken:  # Gradio wants the port free on 127.0.0.1, whatever the host
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(host, port) < port + 100


def test_check_access_wants_a_password_where_others_can_reach():
    assert check_access("127.0.0.1", None) is None
    assert check_access("0.0.0.0", "ada:long enough: yes") == ("ada", "long enough: yes")
    with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0 lets others .* needs --auth"):
        check_access("0.0.0.0", None)
    for auth in ("ada", "ada:short", ":password"):
        with pytest.raises(ValueError, match="--auth must be NAME:PASSWORD"):
            check_access("127.0.0.1", auth)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "no-such"],
        ["--image-size", "32"],
        ["--device", "abacus"],
        ["--host", "0.0.0.0"],
        ["--auth", "me"],
    ],
    ids=" ".join,
)
def test_main_ends_with_a_sentence(app, monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    with pytest.raises(SystemExit, match=r"^app\.py: [^\n]+$"):
        app.main()


if __name__ == "__main__":
    serve_slow_field()
