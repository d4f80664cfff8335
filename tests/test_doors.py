"""The doors before Gradio, asked without a server: what is let through, and what is answered."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deco_lab.page.doors import MAX_BODY, Doors

EVENTS = {
    4: SimpleNamespace(inputs=[1, 2], api_name="sample", api_visibility="public"),
    7: SimpleNamespace(inputs=[], api_name="draw", api_visibility="private"),
}
BLOCKS = SimpleNamespace(fns=EVENTS)


def ask(path, method="POST", chunks=(b"",), headers=()):
    """Return the status and answer of a request, and the body that reached the app."""
    reached, sent = [], []
    incoming = [
        {"type": "http.request", "body": chunk, "more_body": i < len(chunks) - 1}
        for i, chunk in enumerate(chunks)
    ]
    read = [0]

    async def receive():
        read[0] += 1
        return incoming[read[0] - 1]

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        body = (await receive())["body"] if method == "POST" else b""
        reached.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(Doors(app, BLOCKS)(scope, receive, send))  # type: ignore[arg-type]
    answer = json.loads(sent[1]["body"])["detail"] if len(sent) > 1 else ""
    return SimpleNamespace(status=sent[0]["status"], answer=answer, reached=reached, read=read[0])


def call(said, path="/gradio_api/queue/join"):
    return ask(path, chunks=[json.dumps(said).encode()])


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/data", "/gradio_api/info"]
)
def test_doors_let_the_page_be_read(path):
    assert ask(path, "GET").status == 200


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/gradio_api/file=/etc/passwd", "GET"),
        ("/gradio_api/file/etc/passwd", "GET"),
        ("/gradio_api/upload", "POST"),
        ("/gradio_api/proxy=https://example.com", "GET"),
        ("/gradio_api/stream/a/b/c/playlist.m3u8", "GET"),
        ("/gradio_api/component_server", "POST"),
        ("/monitoring", "GET"),
        ("/docs", "GET"),
        ("/", "DELETE"),
        ("/..//etc/passwd", "GET"),
    ],
)
def test_doors_shut_other_addresses(path, method):
    found = ask(path, method)
    assert (found.status, found.answer) == (404, "There is nothing at this address.")
    assert not found.reached


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "-1", "many", "9" * 30])
def test_doors_refuse_a_body_that_is_said_to_be_too_large_unread(length):
    found = ask(
        "/gradio_api/queue/join", headers=[(b"content-length", length.encode())], chunks=[b"{}"]
    )
    assert found.status == 413
    assert found.read == 0


def test_doors_refuse_a_body_of_unknown_length_once_it_is_too_large():
    found = ask("/gradio_api/queue/join", chunks=[b"0" * 2**20] * 100)
    assert found.status == 413
    assert found.read <= MAX_BODY // 2**20 + 1
    assert not found.reached


def test_doors_hand_a_good_call_on_as_it_came():
    body = json.dumps({"fn_index": 4, "data": [[1, 2], "é"], "session_hash": "abc"}).encode()
    found = ask("/gradio_api/queue/join", chunks=[body[:9], body[9:]])
    assert found.status == 200
    assert found.reached == [body]


@pytest.mark.parametrize(
    ("path", "said", "sentence"),
    [
        ("queue/join", {"fn_index": 99, "data": []}, "fn_index must be the number of an event"),
        ("queue/join", {"fn_index": True, "data": []}, "fn_index must be the number of an event"),
        ("queue/join", {"fn_index": 4, "data": [1]}, "data must be a list of 2 values"),
        ("queue/join", {"fn_index": 4, "data": {"path": "/etc/passwd"}}, "data must be a list"),
        ("queue/join", {"fn_index": 4, "data": [1, {"path": "/"}]}, "each value must be a number"),
        ("queue/join", {"fn_index": 4, "data": [1, [[1]]]}, "each value must be a number"),
        ("queue/join", {"fn_index": 4, "data": [1, [0] * 65]}, "a list must have at most 64"),
        ("queue/join", {"fn_index": 7, "data": [], "session_hash": "../x"}, "session_hash must"),
        ("queue/join", {"fn_index": 7, "data": [], "event_id": {}}, "event_id must be a number"),
        ("queue/join", {"fn_index": 7, "data": [], "batched": True}, "batched must be false"),
        ("call/draw", {"data": []}, "the address must be one of the API's endpoints"),
        ("call/nothing", {"data": []}, "the address must be one of the API's endpoints"),
        ("call/sample", {"data": [1, 2], "fn_index": 7}, "the address must be one of the API's"),
    ],
)
def test_doors_answer_a_wrong_call_in_a_sentence(path, said, sentence):
    found = call(said, f"/gradio_api/{path}")
    assert found.status == 400
    assert found.answer.startswith(sentence)
    assert found.answer.endswith(".")
    assert not found.reached


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"data": NaN}', b'{"data": 1e999}', b'"\\ud800"', b"[" * 10**5],
)  # fmt: skip
def test_doors_refuse_what_is_no_object_of_finite_numbers(body):
    found = ask("/gradio_api/call/sample", chunks=[body])
    assert found.status == 400
    assert found.answer == "the request must be a JSON object of finite numbers and valid text."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
KEYS = ["fn_index", "data", "session_hash", "event_id", "trigger_id", "batched", "event_data"]


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(
    said=st.dictionaries(st.sampled_from(KEYS), JSON) | JSON,
    name=st.sampled_from(["queue/join", "call/sample", "call/draw", "run/predict", "api/sample"]),
)
def test_doors_let_through_plain_values_alone_whatever_is_sent(said, name):
    body = json.dumps(said).encode("utf-8", "surrogatepass")
    found = ask(f"/gradio_api/{name}", chunks=[body])
    assert found.status in (200, 400)
    if found.status == 200:
        assert isinstance(said, dict)
        for value in said["data"]:
            parts = value if isinstance(value, list) else [value]
            assert not any(isinstance(part, list | dict) for part in parts)
    else:
        assert found.answer
        assert "\n" not in found.answer
