"""Runs' streams: a page reads each message once, and what nobody reads ends."""

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from deco_lab.page import Live


def messages(count, ended=None):
    try:
        for i in range(count):
            yield {"run": i, "text": "a\nb"}
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


def events(text):
    return [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]


def test_offer_gives_the_first_message_and_the_stream_the_others(live, web):
    ended = []
    first = live.offer(messages(4, ended))
    assert first["run"] == 0
    answer = web.get(f"/{first['stream']}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(said)["run"] for said in events(answer.text)] == [1, 2, 3]
    assert json.loads(events(answer.text)[0])["text"] == "a\nb"
    assert answer.text.endswith("event: end\ndata:\n\n")
    assert ended == [True]


def test_a_stream_is_read_once(live, web):
    address = live.offer(messages(2))["stream"]
    assert web.get(address).status_code == 200
    assert web.get(address).status_code == 204  # an EventSource stays away after that
    assert web.get("live/" + "a" * 43).status_code == 204


def test_offer_forgets_what_was_asked_for_first(live, web):
    addresses = [live.offer(messages(2))["stream"] for _ in range(3)]
    assert [web.get(address).status_code for address in addresses] == [204, 200, 200]


def test_a_reader_that_goes_ends_the_run(live):
    ended = []
    address = live.offer(messages(10**9, ended))["stream"]
    request = Request(
        {"type": "http", "path_params": {"name": address.removeprefix("live/")}, "headers": []}
    )

    async def read_two_and_go():
        stream = (await live._stream(request)).body_iterator  # type: ignore[attr-defined]
        read = [await anext(stream) for _ in range(2)]
        await stream.aclose()
        return read

    assert len(asyncio.run(read_two_and_go())) == 2
    assert ended == [True]
