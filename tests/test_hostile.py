"""Honest and hostile clients of one app at once, behind a login: who is served, what is left."""

import base64
import json
import re
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import served

import deco_lab
from deco_lab.page.login import MAX_WRONG
from deco_lab.workbench import Settings
from deco_lab.workbench.pictures import to_pictures

AUTH = ("ada", "long enough")
CLIENTS = 8
TIME_LIMIT = 6
HONEST = Settings(class_ids=(3,), num_images=1, num_steps=20, decompose=False)

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50)
    | st.sampled_from(["../../etc/passwd", "hf://a/b/c.ckpt", "tiny", "data:image/png;base64,AAAA"])
    | st.lists(st.integers() | st.text(max_size=9) | st.none(), max_size=70)
    | st.dictionaries(st.sampled_from(["path", "url", "meta"]), st.text(max_size=20), max_size=2)
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The app's address, its process, its log and its folder of temporary files."""
    folder = tmp_path_factory.mktemp("hostile")
    log, temporary = folder / "log", folder / "gradio"
    arguments = ["--device", "cpu", "--port", "7970", "--time-limit", str(TIME_LIMIT)]
    environment = {"DECO_LAB_AUTH": ":".join(AUTH), "GRADIO_TEMP_DIR": str(temporary)}
    with served(*arguments, "--models", str(folder), log=log, **environment) as (address, server):
        yield address, psutil.Process(server.pid), log, temporary


@contextmanager
def logged_in(address):
    with httpx.Client(base_url=address, timeout=60) as web:
        web.post("login", data={"username": AUTH[0], "password": AUTH[1]}).raise_for_status()
        yield web


def messages_of(client, **arguments) -> list[Any]:
    return list(client.submit(**arguments, api_name="/sample"))


def draw(address, runs):
    """Draw a run some times; return each last picture, and all that was said."""
    client = Client(address, verbose=False, auth=AUTH)
    pictures, said = [], []
    for _ in range(runs):
        messages = messages_of(client, class_ids=[3], num_images=1, num_steps=20, decompose=False)
        frames = [frame for message in messages for frame in message["frames"]]
        assert [frame["index"] for frame in frames] == list(range(21))
        pictures.append(frames[-1]["noisy"]["pixels"])
        said += [message["text"] for message in messages]
    client.close()
    return pictures, said


def bytes_of(pixels):
    return np.frombuffer(base64.b64decode(pixels), np.uint8).astype(int)


@pytest.mark.slow
def test_login_guards_page_and_api(app):
    address, *_ = app
    config = httpx.get(address + "config")
    assert config.status_code == 401
    assert "Sample" not in httpx.get(address).text
    for path, body in (
        ("gradio_api/call/models", {"data": []}),
        ("gradio_api/queue/join", {"fn_index": 0, "data": [], "session_hash": "a"}),
        ("gradio_api/cancel", {"fn_index": 0, "event_id": "a", "session_hash": "a"}),
    ):
        assert httpx.post(address + path, json=body).status_code == 401
    assert httpx.get(address + "gradio_api/heartbeat/a").status_code == 401
    wrong = httpx.post(address + "login", data={"username": "ada", "password": "guess"})
    assert wrong.status_code == 400
    with logged_in(address) as web:
        assert web.get("config").status_code == 200


def test_guessing_a_password_has_to_wait(app):
    forwarded = {"X-Forwarded-For": "203.0.113.9"}  # an address of its own, as behind a proxy
    said = {"username": AUTH[0], "password": "guess"}
    guesses = [
        httpx.post(app[0] + "login", data=said, headers=forwarded).status_code for _ in range(8)
    ]
    assert guesses == [400] * MAX_WRONG + [429] * (8 - MAX_WRONG)


@pytest.mark.slow
def test_a_known_session_ends_nobody_elses_run(app):
    address = app[0]
    owner = Client(address, verbose=False, auth=AUTH)
    session = {"session_hash": owner.session_hash}
    job: Any = owner.submit(num_images=16, num_steps=1000, api_name="/sample")
    while not any(message["frames"] for message in job.outputs()):
        time.sleep(0.01)
    number = next(e.fn_index for e in owner.endpoints.values() if e.api_name == "/sample")
    (known,) = owner.pending_event_ids
    with logged_in(address) as eve:
        assert eve.get("gradio_api/queue/data", params=session).status_code == 404
        for path, said in (
            ("cancel", {"fn_index": number, "event_id": known}),
            ("run/stop", {"data": []}),
            ("call/stop", {"data": []}),
        ):
            assert eve.post(f"gradio_api/{path}", json=said | session).is_success
        with eve.stream("GET", f"gradio_api/heartbeat/{owner.session_hash}") as heartbeat:
            assert next(heartbeat.iter_text()).startswith("data: ALIVE")
    (*_, last) = job
    owner.close()
    assert last["text"].endswith(f"at the time limit of {TIME_LIMIT} s.")


@pytest.mark.parametrize("knows", [False, True], ids=["before login", "after login"])
def test_a_body_of_eight_million_values_holds_up_nobody(app, web, knows):
    address, process, *_ = app
    body = b'{"fn_index": 0, "data": [' + b"[]," * (8 * 2**20 - 20) + b"[]]}"
    before = process.memory_info().rss
    waits, is_over = [], Event()

    def other_client():
        while not is_over.wait(0.01):
            started = time.monotonic()
            web.get("gradio_api/app_id").raise_for_status()
            waits.append(time.monotonic() - started)

    sender = web if knows else httpx.Client(base_url=address)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(other_client)
        for _ in range(3):
            answer = sender.post(
                "gradio_api/queue/join", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == (400 if knows else 401)
        is_over.set()
        other.result()
    grown = process.memory_info().rss - before
    print(f"others waited {max(waits):.3f} s at most; memory grew by {grown / 2**20:.0f} MiB")
    assert statistics.median(waits) < 0.1
    assert max(waits) < 1.5  # 0.5 is the aim, for machines that are busy; to parse it took 17 s
    assert grown < 100 * 2**20


@pytest.mark.parametrize("endpoint", ["/sample", "/decompose"])
def test_programs_start_no_download(app, endpoint):
    client = Client(app[0], verbose=False, auth=AUTH)
    with pytest.raises(AppError, match="must be loaded before it draws"):
        client.predict(model="hf://someone/something/huge.ckpt", api_name=endpoint)
    client.close()


@pytest.mark.slow
def test_a_run_ends_at_its_deadline(app):
    client = Client(app[0], verbose=False, auth=AUTH)
    started = time.monotonic()
    messages = messages_of(client, num_images=16, num_steps=1000)
    seconds = time.monotonic() - started
    client.close()
    assert messages[-1]["status"] == "stopped"
    assert re.fullmatch(
        rf"Stopped at step \d+ of 1000, at the time limit of {TIME_LIMIT} s\.", messages[-1]["text"]
    )
    assert seconds < TIME_LIMIT * 4


@pytest.fixture
def web(app):
    with logged_in(app[0]) as web:
        yield web


@pytest.mark.slow
def test_honest_clients_are_served_while_others_send_what_they_like(app, web):
    address, process, log, temporary = app
    endpoints = web.get("gradio_api/info").json()["named_endpoints"]
    lengths = {name[1:]: len(about["parameters"]) for name, about in endpoints.items()}
    statuses, memory = [], []

    def send(name, data):
        said = {"data": data}
        if name == "sample" and len(data) > 4:
            data[4] = "never"  # num_steps: none of these may hold the model
        answer = web.post(f"gradio_api/call/{name}", json=said)
        statuses.append(answer.status_code)
        memory.append(process.memory_info().rss)
        assert answer.status_code in (200, 400, 413), answer.text
        if answer.status_code == 200:
            event = answer.json()["event_id"]
            with web.stream("GET", f"gradio_api/call/{name}/{event}") as stream:
                text = "".join(stream.iter_text())
            assert "Traceback" not in text
            assert str(Path(deco_lab.__file__).parent) not in text

    @settings(
        max_examples=1000,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def fuzz(data):
        name = data.draw(st.sampled_from(sorted(lengths)))
        length = data.draw(st.just(lengths[name]) | st.integers(0, 30))
        send(name, data.draw(st.lists(VALUES, min_size=length, max_size=length)))

    with ThreadPoolExecutor(CLIENTS) as pool:
        honest = [pool.submit(draw, address, 4) for _ in range(CLIENTS)]
        fuzz()
        served = [future.result() for future in honest]

    shown = [pixels for pictures, _ in served for pixels in pictures]
    assert len(shown) == CLIENTS * 4
    assert len(set(shown)) == 1
    model = deco_lab.load("tiny", device="cpu")
    image = deco_lab.sample(model, **HONEST.sampling_arguments())
    assert np.abs(bytes_of(shown[0]) - bytes_of(to_pictures(image).pixels)).max() <= 1
    told = [any("before this." in text for text in said) for _, said in served]
    assert sum(told) >= CLIENTS - 1  # one may always have come first

    before = memory[100]  # what is loaded once is there, and room for as many clients
    deadline = time.monotonic() + 20
    while (after := process.memory_info().rss) > before * 1.05 and time.monotonic() < deadline:
        time.sleep(0.5)
    print(
        f"{len(statuses)} calls, {statuses.count(200)} of them to the workbench; memory "
        f"{before / 2**20:.0f} MiB before, {after / 2**20:.0f} after ({after / before - 1:+.1%})"
    )
    assert len(statuses) >= 1000
    assert after < before * 1.05
    assert "Traceback" not in log.read_text()
    kept = [path for path in temporary.rglob("*") if path.is_file()] if temporary.exists() else []
    assert kept == []


def test_callers_that_vanish_leave_the_model_free(app, web):
    address, _, log, _ = app
    host, port = httpx.URL(address).host, httpx.URL(address).port
    cookies = "; ".join(f"{name}={value}" for name, value in web.cookies.items())
    known = web.get("gradio_api/info").json()["named_endpoints"]["/sample"]["parameters"]
    arguments = {each["parameter_name"]: each["parameter_default"] for each in known}
    arguments |= {"num_steps": 1000, "num_images": 16}
    body = json.dumps({"data": list(arguments.values())}).encode()
    for sent in (body, body[:3]):  # whole, and cut off
        with socket.create_connection((host, port)) as line:
            head = [
                "POST /gradio_api/call/sample HTTP/1.1",
                f"Host: {host}",
                f"Cookie: {cookies}",
                f"Content-Length: {len(body)}",
            ]
            line.sendall("\r\n".join([*head, "", ""]).encode() + sent)
    started = time.monotonic()
    pictures, _ = draw(address, 1)
    assert len(pictures) == 1
    assert time.monotonic() - started < 20  # their 1000 steps would take minutes
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("path", ["/etc/passwd", "app.py", str(Path(__file__).resolve())])
def test_files_stay_unread(web, path):
    for way in ("gradio_api/file=", "gradio_api/file/", "file=", "static/../../../"):
        answer = web.get(way + path)
        assert answer.status_code in (400, 403, 404), way
        assert "root:" not in answer.text
