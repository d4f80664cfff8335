"""The filter before Gradio, asked without a server: what is let through, and what is answered."""

import asyncio
import json
from types import SimpleNamespace

import gradio as gr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deco_lab.page.request_filter import MAX_BODY, MAX_CALL, RequestFilter

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
    asyncio.run(RequestFilter(app, BLOCKS)(scope, receive, send))  # type: ignore[arg-type]
    answer = json.loads(sent[1]["body"])["detail"] if len(sent) > 1 else ""
    return SimpleNamespace(status=sent[0]["status"], answer=answer, reached=reached, read=read[0])


def call(said, path="/gradio_api/queue/join"):
    return ask(path, chunks=[json.dumps(said).encode()])


NOTHING, NO_SESSION = "There is nothing at this address.", "There is no such session."
NO_EVENT = "There is no such event."


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        *[("GET", path, "") for path in ("/", "/config", "/assets/index.js", "/gradio_api/info")],
        ("GET", f"/gradio_api/call/sample/{KNOWN}", ""),
        ("GET", "/gradio_api/file=/etc/passwd", NOTHING),
        ("GET", "/gradio_api/file/etc/passwd", NOTHING),
        ("POST", "/gradio_api/upload", NOTHING),
        ("GET", "/gradio_api/proxy=https://example.com", NOTHING),
        ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8", NOTHING),
        ("POST", "/gradio_api/component_server", NOTHING),
        ("GET", "/monitoring", NOTHING),
        ("GET", "/docs", NOTHING),
        ("GET", "/gradio_api/heartbeat/a/b", NOTHING),
        ("DELETE", "/", NOTHING),
        ("GET", "/..//etc/passwd", NOTHING),
        ("GET", "/gradio_api/queue/data", NO_SESSION),
        ("GET", "/gradio_api/queue/data?session_hash=unknown", NO_SESSION),
        ("GET", "/gradio_api/call/sample/unknown", NO_EVENT),
        ("GET", f"/gradio_api/call/sample/{KNOWN}0", NO_EVENT),
        ("POST", "/gradio_api/call/draw", "There is no such endpoint."),  # it is private
        ("POST", "/gradio_api/call/nothing", "There is no such endpoint."),
    ],
)
def test_filter_lets_the_page_be_read_and_shuts_other_addresses(method, path, answer):
    headers = [JSON_BODY, (b"x-forwarded-host", b"evil"), (b"x-gradio-server", b"evil")]
    found = ask(path, method, headers=headers)
    assert (found.status, found.answer, len(found.reached)) == (
        (404, answer, 0) if answer else (200, "", 1)
    )
    assert all(scope["headers"] == [JSON_BODY] for scope, _ in found.reached)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        *[
            ((b"content-length", length), 413)
            for length in (b"%d" % (MAX_BODY + 1), b"-1", b"many", b"9" * 30, b"\xb2")
        ],
        ((b"content-type", b"text/plain"), 415),  # as another site's form could send
    ],
)
def test_filter_reads_nothing_of_a_body_whose_headers_are_wrong(header, status):
    headers = [header] if status == 415 else [JSON_BODY, header]
    found = ask("/gradio_api/queue/join", headers=headers, chunks=[b"{}"])
    assert (found.status, found.read) == (status, 0)


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
def test_filter_reads_no_more_of_a_body_than_the_address_needs(path, most):
    found = ask(path, chunks=[b"0" * 2**15] * 1000)
    assert (found.status, found.read, found.reached) == (413, most // 2**15 + 1, [])


@pytest.mark.parametrize(("number", "status"), [(8, 200), (4, 400)])
def test_filter_lets_long_calls_through_only_where_a_picture_is_asked_for(number, status):
    values = ["A" * MAX_CALL] * len(EVENTS[number].inputs)
    assert call({"fn_index": number, "data": values}).status == status


def test_filter_hands_on_of_a_good_call_what_it_looked_at():
    said = {"fn_index": 4, "data": [[1, 2], "é"]}
    body = json.dumps({**said, "event_id": "x", "batched": True, "trigger_id": {}}).encode()
    found = ask("/gradio_api/queue/join", chunks=[body[:9], body[9:]])
    assert found.status == 200
    assert json.loads(found.reached[0][1]) == {**said, "session_hash": None}


def sessions_of(cookie):
    """Return what a visitor's session "abc" is called beyond the filter, wherever it is named."""
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


def test_filter_gives_each_visitor_sessions_of_their_own():
    (ada,), (eve,) = (set(sessions_of(cookie)) for cookie in ("ada", "eve"))
    assert ada != eve


@pytest.mark.parametrize(("cookie", "event"), [("ada", KNOWN), ("eve", "")])
def test_filter_lets_a_visitor_cancel_only_events_of_their_own(cookie, event, monkeypatch):
    (ada,) = set(sessions_of("ada"))
    monkeypatch.setattr(QUEUE, "pending_event_ids_session", {ada: {KNOWN}})
    said = {"fn_index": 7, "event_id": KNOWN, "session_hash": "abc"}
    found = ask("/gradio_api/cancel", chunks=[json.dumps(said).encode()], cookie=cookie)
    assert json.loads(found.reached[0][1])["event_id"] == event


NUMBER, PLAIN = "fn_index must be the number of an event", "each value must be a number"
CANCEL, MANY = ("fn_index must be a number, and event_id", "the request must have at most 10000 ")
OBJECT = "the request must be a JSON object of finite numbers and valid text."


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("queue/join", {"fn_index": 99, "data": []}, NUMBER),
        ("queue/join", {"fn_index": True, "data": []}, NUMBER),
        ("queue/join", {"fn_index": 4, "data": [1]}, "data must be a list of 2 values"),
        ("queue/join", {"fn_index": 4, "data": {"path": "/etc/passwd"}}, "data must be a list"),
        ("queue/join", {"fn_index": 4, "data": [1, {"path": "/"}]}, PLAIN),
        ("queue/join", {"fn_index": 4, "data": [1, [[1]]]}, PLAIN),
        ("queue/join", {"fn_index": 4, "data": [1, [0] * 65]}, "a list must have at most 64"),
        ("queue/join", {"fn_index": 7, "data": [], "session_hash": "../x"}, "session_hash must"),
        ("queue/join", {"fn_index": 7, "data": [], "session_hash": 7}, "session_hash must"),
        ("queue/join", {"fn_index": 4, "data": [1, "\ud800"]}, OBJECT),
        ("cancel", {"fn_index": [], "event_id": "x"}, CANCEL),
        ("cancel", {"fn_index": 7, "event_id": NESTED}, CANCEL),
        *[("call/sample", body, OBJECT) for body in (b"", b"[]", b"{", b"\xff", b'"\\ud800"')],
        *[("call/sample", b'{"data": %s}' % body, OBJECT) for body in (b"NaN", b"1e999")],
        ("call/sample", b"[" * 5000, OBJECT),
        *[
            ("queue/join", b'{"data": [' + part * 20_000, MANY)  # before it sees that it is cut
            for part in (b"[],", b"{},", b"[[", b"0,", b'{"a":')
        ],
    ],
    ids=lambda value: str(value)[:40],
)
def test_filter_answers_a_wrong_call_in_a_sentence(path, body, sentence):
    chunk = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = ask(f"/gradio_api/{path}", chunks=[chunk])
    assert (found.status, found.reached) == (400, [])
    assert found.answer.startswith(sentence)
    assert found.answer.endswith(".")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
KEYS = ["fn_index", "data", "session_hash", "event_id", "trigger_id", "batched", "event_data"]


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    said=st.dictionaries(st.sampled_from(KEYS), JSON) | JSON,
    name=st.sampled_from(["queue/join", "call/sample", "call/draw", "run/predict", "api/sample"]),
)
def test_filter_lets_through_only_plain_values_whatever_is_sent(said, name):
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
