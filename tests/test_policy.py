"""The headers of every answer, and the scripts that they let run."""

import asyncio
import base64
import hashlib

import pytest

from deco_lab.page.policy import Policy

HEAD = "<style>p {}</style><script>mount();</script>"
PAGE = (
    b'<script>one</script><script type="module" src="a.js"></script><script\nid="b">two\n</script>'
)


def answered(body, kind, path="/"):
    """Return the headers of an answer, and check that nothing else of it changed."""
    sent = []
    messages = [
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]},
        {"type": "http.response.body", "body": body, "more_body": True},
        {"type": "http.response.body", "body": b"the end"},
    ]

    async def app(scope, receive, send):
        for message in messages:
            await send({**message})

    async def send(message):
        sent.append(message)

    asyncio.run(Policy(app, HEAD)({"type": "http", "path": path}, None, send))  # type: ignore[arg-type]
    assert sent[1:] == messages[1:]
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def directives(headers):
    return dict(each.split(" ", 1) for each in headers["content-security-policy"].split("; "))


def hash_of(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"


def test_policy_lets_the_scripts_of_page_and_head_run_and_no_others():
    allowed = directives(answered(PAGE, b"text/html; charset=utf-8"))["script-src"].split()
    ours = {hash_of(script) for script in (b"mount();", b"one", b"two\n", b"")}
    assert set(allowed) == {"'self'", "'unsafe-eval'", *ours}


@pytest.mark.parametrize("kind", [b"text/html", b"application/json", b"text/event-stream"])
def test_policy_shuts_frames_and_other_hosts_out_of_every_answer(kind):
    headers = answered(PAGE, kind)
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    said = directives(headers)
    assert said["frame-ancestors"] == "'none'"
    assert said["object-src"] == "'none'"
    assert said["base-uri"] == "'self'"
    assert said["default-src"] == "'self'"
    assert "http" not in headers["content-security-policy"]
    assert "'unsafe-inline'" not in said["script-src"]


def test_policy_keeps_no_stream_waiting_for_its_first_message():
    sent = []

    async def app(scope, receive, send):
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        assert len(sent) == 1

    async def send(message):
        sent.append(message)

    asyncio.run(Policy(app, HEAD)({"type": "http"}, None, send))  # type: ignore[arg-type]
    assert directives({k.decode(): v.decode() for k, v in sent[0]["headers"]})["script-src"]


@pytest.mark.parametrize(
    ("path", "is_kept"),
    [
        ("/assets/index-DphvyggB.js", True),
        ("/assets/Index-Akn07EZk2.js", True),
        ("/assets/index.js", False),
        ("/static/img-DphvyggB.js", False),
        ("/", False),
        ("/config", False),
    ],
)
def test_policy_lets_a_browser_keep_what_is_named_by_its_content(path, is_kept):
    kept = answered(b"", b"text/javascript", path).get("cache-control")
    assert kept == ("public, max-age=31536000, immutable" if is_kept else None)
