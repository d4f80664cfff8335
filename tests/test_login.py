"""The login before the filter, without a server: who is let in, and how often one may guess."""

import asyncio
from types import SimpleNamespace

import pytest

from deco_lab.page import login
from deco_lab.page.login import MAX_WRONG, MAX_WRONG_OF_ALL, WINDOW, Login, visitor

GRADIO = SimpleNamespace(auth={"ada": "right"}, cookie_id="x", tokens={"token": "ada"})


def scope_of(path, method="GET", cookies="", client="1.2.3.4", gradio=GRADIO):
    return {
        "type": "http", "path": path, "method": method, "app": gradio, "client": (client, 5),
        "headers": [(b"cookie", cookies.encode())],
    }  # fmt: skip


def ask(door, scope, status=200):
    """Return the status of an answer, where the app would answer with `status`."""
    sent = []

    async def receive():
        pytest.fail("the body was read")

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})

    door._app = app
    asyncio.run(door(scope, receive, send))
    return sent[0]["status"]


@pytest.fixture
def door():
    return Login(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("cookies", ["", "access-token-x=guess", "access-token-y=token"])
@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/gradio_api/queue/join", "POST"),
        ("/gradio_api/call/sample", "POST"),
        ("/gradio_api/cancel", "POST"),
        ("/gradio_api/heartbeat/abc", "GET"),
        ("/gradio_api/queue/data", "GET"),
        ("/gradio_api/info", "GET"),
        ("/config", "GET"),
        ("/live/" + "a" * 43, "GET"),
        ("/whatever", "DELETE"),
    ],
)
def test_login_is_asked_of_strangers_before_anything_is_read(door, path, method, cookies):
    assert ask(door, scope_of(path, method, cookies)) == 401


@pytest.mark.parametrize(
    ("path", "cookies", "gradio", "who"),
    [
        *[(path, "", GRADIO, None) for path in ("/", "/login", "/assets/a.js", "/theme.css")],
        ("/gradio_api/heartbeat/abc", "access-token-x=token", GRADIO, "token"),
        ("/gradio_api/heartbeat/abc", "access-token-unsecure-x=token", GRADIO, "token"),
        ("/gradio_api/info", "", SimpleNamespace(auth=None), ""),  # no password is set
    ],
)
def test_login_lets_in_who_knows_the_password_and_all_to_its_own_page(
    door, path, cookies, gradio, who
):
    scope = scope_of(path, cookies=cookies, gradio=gradio)
    assert (ask(door, scope), visitor(scope)) == (200, who)


def try_to_log_in(door, times, status, client="1.2.3.4"):
    scope = scope_of("/login", "POST", client=client)
    return [ask(door, scope, status) for _ in range(times)]


def test_login_makes_an_address_wait_after_a_few_wrong_ones(door, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(login.time, "monotonic", lambda: now)
    assert try_to_log_in(door, 10, 200) == [200] * 10  # right ones do not count
    assert try_to_log_in(door, MAX_WRONG + 2, 400) == [400] * MAX_WRONG + [429] * 2
    assert try_to_log_in(door, 1, 200) == [429]
    assert try_to_log_in(door, 1, 200, client="::1") == [200]
    now += WINDOW
    assert try_to_log_in(door, 1, 200) == [200]


def test_login_counts_those_that_come_at_once_as_they_are_answered():
    async def app(scope, receive, send):
        await asyncio.sleep(0)  # all are under way
        await send({"type": "http.response.start", "status": scope["would be"], "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def at_once(times, status):
        statuses = []

        async def send(message):
            statuses.append(message.get("status"))

        scopes = [{**scope_of("/login", "POST"), "would be": status} for _ in range(times)]
        await asyncio.gather(*(door(scope, None, send) for scope in scopes))  # type: ignore[arg-type]
        return [status for status in statuses if status]

    door = Login(app)
    assert asyncio.run(at_once(20, 200)) == [200] * 20
    assert asyncio.run(at_once(20, 400)) == [400] * MAX_WRONG + [429] * (20 - MAX_WRONG)


def test_login_bounds_the_guesses_of_all_addresses_together(door):
    guesses = [try_to_log_in(door, 1, 400, client=f"10.0.0.{i}")[0] for i in range(150)]
    assert guesses == [400] * MAX_WRONG_OF_ALL + [429] * 50
