"""The doors before Gradio, asked without a server: what is let through, and what is answered."""

import asyncio
import json
from types import SimpleNamespace

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deco_lab.page.doors import MAX_BODY, MAX_CALL, Doors

EVENTS = {
    4: SimpleNamespace(inputs=[1, 2], api_name="sample", api_visibility="public"),
    5: SimpleNamespace(inputs=[1], api_name="decompose", api_visibility="public"),
    7: SimpleNamespace(inputs=[], api_name="draw", api_visibility="private"),
    8: SimpleNamespace(inputs=[gr.HTML()], api_name="take", api_visibility="private"),
}
KNOWN = "0123456789abcdef"
NESTED = json.loads("[" * 300 + "]" * 300)  # orjson reads it, and does not write it
QUEUE = SimpleNamespace(
    pending_messages_per_session={}, pending_event_ids_session={"a session": {KNOWN}}
)
BLOCKS = SimpleNamespace(fns=EVENTS, _queue=QUEUE)
JSON_BODY = (b"content-type", b"application/json")


def ask(path, method="POST", chunks=(b"",), headers=(JSON_BODY,), cookie=None):
    """Return the status and answer of a request, and the scope and body that reached the app."""
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
        reached.append((scope, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    gradio = SimpleNamespace(auth=None)
    if cookie is not None:
        gradio = SimpleNamespace(auth={}, cookie_id="x", tokens=["ada", "eve"])
        headers = [*headers, (b"cookie", f"access-token-unsecure-x={cookie}".encode())]
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "path": path, "query_string": query.encode(), "method": method,
        "headers": list(headers), "app": gradio,
    }  # fmt: skip
    asyncio.run(Doors(app, BLOCKS)(scope, receive, send))  # type: ignore[arg-type]
    answer = json.loads(sent[1]["body"])["detail"] if len(sent) > 1 else ""
    return SimpleNamespace(status=sent[0]["status"], answer=answer, reached=reached, read=read[0])


def call(said, path="/gradio_api/queue/join"):
    return ask(path, chunks=[json.dumps(said).encode()])


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/assets/index.js", "/gradio_api/info", f"/gradio_api/call/sample/{KNOWN}"],
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
        ("/gradio_api/heartbeat/a/b", "GET"),
        ("/", "DELETE"),
        ("/..//etc/passwd", "GET"),
    ],
)
def test_doors_shut_other_addresses(path, method):
    found = ask(path, method)
    assert (found.status, found.answer) == (404, "There is nothing at this address.")
    assert not found.reached


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/queue/data",
        "/gradio_api/queue/data?session_hash=unknown",
        "/gradio_api/call/sample/unknown",
        f"/gradio_api/call/sample/{KNOWN}0",
    ],
)
def test_doors_know_no_sessions_and_events_but_those_that_are_there(path):
    found = ask(path, "GET")
    assert (found.status, found.reached) == (404, [])
    assert found.answer in ("There is no such session.", "There is no such event.")


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "-1", "many", "9" * 30, "\xb2"])
def test_doors_refuse_a_body_that_is_said_to_be_too_large_unread(length):
    headers = [JSON_BODY, (b"content-length", length.encode("latin-1"))]
    found = ask("/gradio_api/queue/join", headers=headers, chunks=[b"{}"])
    assert found.status == 413
    assert found.read == 0


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/login", MAX_CALL),
        ("/gradio_api/cancel", MAX_CALL),
        ("/gradio_api/call/sample", MAX_CALL),
        ("/gradio_api/call/decompose", MAX_BODY),
        ("/gradio_api/queue/join", MAX_BODY),
    ],
)
def test_doors_read_no_more_of_a_body_than_the_address_needs(path, most):
    assert ask(path, chunks=[b"0" * 2**15] * 1000).read == most // 2**15 + 1


@pytest.mark.parametrize(("number", "status"), [(8, 200), (4, 400)])
def test_doors_let_long_calls_through_only_where_a_picture_is_asked_for(number, status):
    values = ["A" * MAX_CALL] * len(EVENTS[number].inputs)
    assert call({"fn_index": number, "data": values}).status == status


@pytest.mark.parametrize("part", [b"[],", b"{},", b"[[", b"0,", b'{"a":'])
def test_doors_refuse_a_body_of_very_many_values_before_they_see_that_it_is_cut(part):
    found = ask("/gradio_api/queue/join", chunks=[b'{"data": [' + part * 20_000])
    assert found.status == 400
    assert found.answer == "the request must have at most 10000 values."


def test_doors_refuse_a_call_that_another_sites_form_could_send():
    found = ask("/gradio_api/queue/join", headers=[(b"content-type", b"text/plain")])
    assert (found.status, found.read) == (415, 0)


def test_doors_refuse_a_body_of_unknown_length_once_it_is_too_large():
    found = ask("/gradio_api/queue/join", chunks=[b"0" * 2**20] * 100)
    assert found.status == 413
    assert found.read <= MAX_BODY // 2**20 + 1
    assert not found.reached


def test_doors_hand_on_of_a_good_call_what_they_looked_at():
    said = {"fn_index": 4, "data": [[1, 2], "é"]}
    body = json.dumps({**said, "event_id": "x", "batched": True, "trigger_id": {}}).encode()
    found = ask("/gradio_api/queue/join", chunks=[body[:9], body[9:]])
    assert found.status == 200
    assert json.loads(found.reached[0][1]) == {**said, "session_hash": None}


def test_doors_believe_no_header_about_the_apps_own_address():
    headers = [(b"x-forwarded-host", b"evil"), (b"x-gradio-server", b"evil"), (b"host", b"good")]
    found = ask("/", "GET", headers=headers)
    assert found.reached[0][0]["headers"] == [(b"host", b"good")]


def sessions_of(cookie):
    """Return what a visitor's session "abc" is called beyond the doors, wherever it is named."""
    join = {"fn_index": 7, "data": [], "session_hash": "abc"}
    cancel = {"fn_index": 7, "event_id": KNOWN, "session_hash": "abc"}
    for path, said in (("queue/join", join), ("call/sample", {**join, "data": [1, 2]}),
                       ("cancel", cancel)):  # fmt: skip
        found = ask(f"/gradio_api/{path}", chunks=[json.dumps(said).encode()], cookie=cookie)
        yield json.loads(found.reached[0][1])["session_hash"]
    found = ask("/gradio_api/heartbeat/abc", "GET", cookie=cookie)
    path = found.reached[0][0]["path"]
    assert path.startswith("/gradio_api/heartbeat/")
    name = path.rpartition("/")[2]
    yield name
    QUEUE.pending_messages_per_session[name] = None
    found = ask("/gradio_api/queue/data?session_hash=abc", "GET", cookie=cookie)
    yield found.reached[0][0]["query_string"].decode().removeprefix("session_hash=")


def test_doors_give_each_visitor_sessions_of_their_own():
    (ada,), (eve,) = (set(sessions_of(cookie)) for cookie in ("ada", "eve"))
    assert ada != eve


@pytest.mark.parametrize(("cookie", "event"), [("ada", KNOWN), ("eve", "")])
def test_doors_let_a_visitor_cancel_only_events_of_their_own(cookie, event, monkeypatch):
    (ada,) = set(sessions_of("ada"))
    monkeypatch.setattr(QUEUE, "pending_event_ids_session", {ada: {KNOWN}})
    said = {"fn_index": 7, "event_id": KNOWN, "session_hash": "abc"}
    found = ask("/gradio_api/cancel", chunks=[json.dumps(said).encode()], cookie=cookie)
    assert json.loads(found.reached[0][1])["event_id"] == event


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
        ("queue/join", {"fn_index": 7, "data": [], "session_hash": 7}, "session_hash must"),
        ("queue/join", {"fn_index": 4, "data": [1, "\ud800"]}, "the request must be a JSON"),
        ("cancel", {"fn_index": [], "event_id": "x"}, "fn_index must be a number, and event_id"),
        ("cancel", {"fn_index": 7, "event_id": NESTED}, "fn_index must be a number, and event_id"),
    ],
)
def test_doors_answer_a_wrong_call_in_a_sentence(path, said, sentence):
    found = call(said, f"/gradio_api/{path}")
    assert found.status == 400
    assert found.answer.startswith(sentence)
    assert found.answer.endswith(".")
    assert not found.reached


@pytest.mark.parametrize("name", ["draw", "nothing"])
def test_doors_know_no_endpoints_but_the_apis(name):
    found = call({"data": []}, f"/gradio_api/call/{name}")
    assert (found.status, found.answer) == (404, "There is no such endpoint.")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"data": NaN}', b'{"data": 1e999}', b'"\\ud800"', b"[" * 5000],
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


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    said=st.dictionaries(st.sampled_from(KEYS), JSON) | JSON,
    name=st.sampled_from(["queue/join", "call/sample", "call/draw", "run/predict", "api/sample"]),
)
def test_doors_let_through_plain_values_alone_whatever_is_sent(said, name):
    body = json.dumps(said).encode("utf-8", "surrogatepass")
    found = ask(f"/gradio_api/{name}", chunks=[body])
    assert found.status in (200, 400) or (name, found.status) == ("call/draw", 404)
    if found.status == 200:
        assert isinstance(said, dict)
        for value in said["data"]:
            parts = value if isinstance(value, list) else [value]
            assert not any(isinstance(part, list | dict) for part in parts)
    else:
        assert found.answer
        assert "\n" not in found.answer
