"""Runs' streams: a page reads each message once, and what nobody reads ends."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from deco_lab.page import Live
from deco_lab.workbench import Settings, Workbench
from deco_lab.workbench.job_queue import Reader


def messages(count, ended=None):
    try:
        for i in range(count):
            yield {"run": i, "text": "a\nb", "frames": []}
    finally:
        if ended is not None:
            ended.append(True)


@pytest.fixture
def live():
    return Live(most=2)


@pytest.fixture
def web(live):
    with TestClient(Starlette(routes=[live.route])) as client:
        yield client


async def stream_of(live, address):
    request = Request(
        {"type": "http", "path_params": {"name": address.removeprefix("live/")}, "headers": []}
    )
    return (await live._stream(request)).body_iterator


def events(text):
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


def test_offer_gives_the_first_message_and_the_stream_the_others(live, web):
    ended = []
    first = live.offer(messages(4, ended), Reader())
    assert first["run"] == 0
    answer = web.get(f"/{first['stream']}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(said)["run"] for said in events(answer.text)] == [1, 2, 3]
    assert json.loads(events(answer.text)[0])["text"] == "a\nb"
    assert answer.text.endswith("event: end\ndata:\n\n")
    assert ended == [True]


def test_a_stream_is_read_once(live, web):
    address = live.offer(messages(2), Reader())["stream"]
    assert web.get(address).status_code == 200
    assert web.get(address).status_code == 204  # an EventSource stays away after that
    assert web.get("live/" + "a" * 43).status_code == 204


def test_offer_forgets_what_was_asked_for_first(live, web):
    addresses = [live.offer(messages(2), Reader())["stream"] for _ in range(3)]
    assert [web.get(address).status_code for address in addresses] == [204, 200, 200]


def test_a_reader_that_goes_ends_the_run(live):
    ended = []
    address = live.offer(messages(10**9, ended), Reader())["stream"]

    async def read_two_and_go():
        stream = await stream_of(live, address)
        read = [await anext(stream) for _ in range(2)]
        await stream.aclose()
        return read

    assert len(asyncio.run(read_two_and_go())) == 2
    assert ended == [True]


class Field(torch.nn.Module):
    """dx/dt = -x, fast, of images whose frames take several pieces."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(image_size=64, patch_size=8, num_classes=1, class_names=())

    def forward(self, x, t, class_ids):
        time.sleep(0.01)
        return -x


def read_all(pause, num_steps):
    """Return a run's messages, its patience 0.3 s; pause(read, new) is after new of read bytes."""
    bench = Workbench(SimpleNamespace(entry=lambda name: (Field(), Settings())))  # type: ignore
    live, reader = Live(), Reader(0.3)
    settings = Settings(num_images=2, num_steps=num_steps)
    address = live.offer(bench.draw("a", [settings], reader=reader), reader)["stream"]

    async def read():
        text = ""
        async for piece in await stream_of(live, address):
            text += piece
            await asyncio.sleep(pause(len(text), len(piece)))
        return text

    return [json.loads(said) for said in events(asyncio.run(read())) if said]


@pytest.mark.slow
def test_a_slow_reader_misses_frames_and_no_last_word():
    said = read_all(lambda read, new: new / 150_000, 150)  # 1 s a frame, the run 3 s
    assert (said[-1]["status"], said[-1]["text"][:15]) == ("done", "Done: 150 steps")
    indices = [frame["index"] for message in said for frame in message["frames"]]
    assert indices == sorted(set(indices))
    assert indices[-1] == 150
    assert 3 < len(indices) < 75


def test_a_fast_reader_misses_no_frame():
    said = read_all(lambda read, new: 0, 30)
    assert [f["index"] for message in said for f in message["frames"]] == list(range(31))


def test_a_reader_that_comes_back_hears_that_its_run_was_stopped():
    said = read_all(lambda read, new: 1.5 * (read - new < 10**5 <= read), 1000)
    assert said[-1]["status"] == "stopped"
    assert said[-1]["text"] == "Stopped: for 0.3 s nobody read what was drawn."
