"""The outermost layer: Host, Origin, slashes, mounts, headers; and users."""

from __future__ import annotations

import base64
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.password_support import CHEAP
from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api.safety import PAGE_POLICY, Safety
from trio_smtp.inbox.api.types import Message, Receive, Scope, Send
from trio_smtp.inbox.api.users import Users

from .support import open_api, put
from .web_support import Refused, open_socket, open_web

POLICY = "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8025",
        "localhost.",
        "inbox.localhost",
        "127.0.0.1",
        "192.0.2.7:80",
        "[::1]",
        "[::1]:8025",
        "mail",
        "Mail:8025",
    ],
)
async def test_hosts_that_are_this_server(inbox: Inbox, host: str) -> None:
    async with open_api(inbox, allowed_hosts=["mail"]) as api:
        assert (await api.get("/api/v1/info", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["example.com", "localhost.example.com", "evil", "", "a b", "127.0.0.1@evil.com", "1.2.3.4.5", "[::1", "mail"],
)
@pytest.mark.parametrize("path", ["/api/v1/info", "/%61pi/v1/info", "//api//v1/info", "/", "/nothing"])
async def test_hosts_that_are_not(inbox: Inbox, host: str, path: str) -> None:
    async with open_api(inbox) as api:
        response = await api.get(
            httpx.URL("http://localhost:8025").copy_with(raw_path=path.encode()), headers={"host": host}
        )
    assert response.status_code == 421
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_probes_answer_any_host_and_nothing_else_does(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        headers = {"host": "example.com"}
        assert (await api.get("/livez", headers=headers)).status_code == 200
        assert (await api.get("/readyz", headers=headers)).status_code == 200
        assert (await api.get("/livez/x", headers=headers)).status_code == 421
        assert (await api.post("/livez", headers=headers | {"origin": "http://example.com"})).status_code == 405


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:8025", 200),
        ("HTTP://LOCALHOST:8025", 200),
        ("http://localhost", 403),
        ("http://localhost:8026", 403),
        ("http://127.0.0.1:8025", 403),
        ("http://example.com", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
        ("http://localhost:x", 403),
        ("chrome-extension://localhost:8025", 403),
    ],
)
async def test_origins_of_changes(inbox: Inbox, origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"origin": origin}
    async with open_api(inbox) as api:
        for method in ("PUT", "DELETE"):
            body = {"Read": True}
            assert (await api.request(method, "/api/v1/messages", json=body, headers=headers)).status_code == status
        assert (await api.get("/api/v1/messages", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost", "http://localhost", 200),
        ("localhost", "http://localhost:80", 200),
        ("localhost", "https://localhost", 200),
        ("localhost:443", "https://localhost", 200),
        ("localhost:443", "http://localhost", 403),
        ("[::1]:8025", "http://[::1]:8025", 200),
    ],
)
async def test_ports_that_are_not_said(inbox: Inbox, host: str, origin: str, status: int) -> None:
    async with open_api(inbox) as api:
        response = await api.put("/api/v1/messages", json={}, headers={"host": host, "origin": origin})
    assert response.status_code == status


async def test_no_answer_has_cors_and_all_have_the_rest(inbox: Inbox) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        paths = (
            "/api/v1/messages",
            "/api/v1/message/latest/raw",
            "/view/latest.txt",
            "/api/nothing",
            "/view/latest.html",
        )
        for path in paths:
            headers = (await api.get(path, headers={"origin": "http://example.com"})).headers
            assert not any(name.startswith("access-control") for name in headers)
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"] == POLICY
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"


def test_the_policy_of_pages() -> None:
    assert PAGE_POLICY == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


async def test_slashes_are_collapsed(inbox: Inbox) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        assert (
            await api.get(httpx.URL("http://localhost:8025").copy_with(raw_path=b"//view//latest.txt"))
        ).status_code == 200


@pytest.mark.parametrize("path", ["/mail/api/v1/info", "/api/v1/info"])
async def test_a_root_that_a_proxy_leaves_or_takes_away(inbox: Inbox, path: str) -> None:
    async with open_api(inbox, root_path="/mail/") as api:
        assert (await api.get(path)).status_code == 200
        assert (await api.get("/mailbox/api/v1/info")).status_code == 404


@pytest.mark.parametrize("mounted", ["/a", "/a/mail"])
async def test_a_mount_inside_of_a_mount(inbox: Inbox, mounted: str) -> None:
    application = inbox.asgi(root_path="/mail")
    transport = httpx.ASGITransport(application, root_path=mounted)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
        assert (await api.get("/a/mail/api/v1/info")).status_code == 200


async def test_long_queries_are_refused(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        assert (await api.get("/api/v1/messages?x=" + "a" * 40_000)).status_code == 414


@pytest.mark.parametrize(
    "options", [{"root_path": "mail"}, {"root_path": "/a b"}, {"allowed_hosts": ["a b"]}, {"allowed_hosts": "mail"}]
)
def test_options_that_are_malformed(inbox: Inbox, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"root_path|allowed_hosts"):
        inbox.asgi(**options)


async def crash(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/late":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ZeroDivisionError


async def test_a_crash_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    safe = Safety(crash, root_path="", allowed_hosts=())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(safe), base_url="http://localhost") as api:
        response = await api.get("/x")
        assert (response.status_code, response.text) == (500, "Internal error; the log says more")
        with pytest.raises(ZeroDivisionError):
            await api.get("/late")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


async def test_a_lifespan_is_answered(inbox: Inbox) -> None:
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": next(events)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await inbox.asgi()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_websockets_of_others_are_refused(inbox: Inbox) -> None:
    async with open_web(inbox) as (port, _):
        for status, headers in (
            (421, {"host": "example.com"}),
            (403, {"origin": "http://example.com"}),
            (403, {"origin": "null"}),
        ):
            with pytest.raises(Refused, match=str(status)):
                async with open_socket(port, **headers):
                    raise AssertionError
        with pytest.raises(Refused, match="421"):
            async with open_socket(port, "/%61pi/events", host="example.com"):
                raise AssertionError
        async with open_socket(port, origin=f"http://127.0.0.1:{port}") as socket:
            assert (await socket.receive())["Type"] == "stats"


async def test_a_server_that_cannot_say_why_closes_the_websocket(inbox: Inbox) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/api/events", "headers": [(b"host", b"example.com")]}
    await inbox.asgi()(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# Users


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("users") / "users"
    file.write_text(f"joe:{CHEAP.hash('se:cret')}\n")
    return file


async def test_only_users_may_look(inbox: Inbox, users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api(inbox, users=users) as api:
        response = await api.get("/api/v1/info")
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Basic ")
        assert (await api.get("/api/v1/info", auth=("joe", "wrong"))).status_code == 401
        assert (await api.get("/api/v1/info", auth=("joe", "se:cret"))).status_code == 200
        assert (await api.get("/livez")).status_code == 200
        monkeypatch.setattr("trio_smtp.inbox.api.users.PasswordFile.check", lambda *_: False)
        # The right password is remembered for a minute.
        assert (await api.get("/api/v1/info", auth=("joe", "se:cret"))).status_code == 200
        sent = await api.post(
            "/api/v1/send", auth=("joe", "se:cret"), json={"From": {"Email": "a@example.com"}, "To": []}
        )
        assert sent.status_code == 200
    assert inbox.store.page().rows[0].username == "joe"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Basic",
        b"Basic ???",
        b"Bearer x",
        b"Basic " + base64.b64encode(b"joe"),
        b"Basic /w==",
        b"Basic " + b"x" * 3000,
    ],
)
async def test_credentials_that_are_none(inbox: Inbox, users: Path, header: bytes) -> None:
    async with open_api(inbox, users=users) as api:
        assert (await api.get("/api/v1/info", headers={"authorization": header.decode()})).status_code == 401


async def test_websockets_need_a_user_too(inbox: Inbox, users: Path) -> None:
    async with open_web(inbox, users=users) as (port, _):
        with pytest.raises(Refused, match="403"):
            async with open_socket(port):
                raise AssertionError
        right = "Basic " + base64.b64encode(b"joe:se:cret").decode()
        async with open_socket(port, authorization=right) as socket:
            assert (await socket.receive())["Type"] == "stats"


async def test_passwords_that_are_remembered_are_bounded(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_smtp.inbox.api.users._MAX_REMEMBERED", 1)
    checked: list[tuple[str, str]] = []

    def check(_: object, user: str, password: str) -> bool:
        checked.append((user, password))
        return True

    monkeypatch.setattr("trio_smtp.inbox.api.users.PasswordFile.check", check)

    async def fine(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(Users(fine, users))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as api:
        for user in ("a", "b", "a"):
            assert (await api.get("/", auth=(user, "x"))).status_code == 200
            await trio.lowlevel.checkpoint()
    assert [user for user, _ in checked] == ["a", "b", "a"]
