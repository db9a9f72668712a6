"""The websocket, and who waits, in real servers; and wakers in both event loops."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest
import trio

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.store import Event, StorageError
from trio_smtp.inbox.waking import Waker

from .support import mail, put
from .web_support import open_socket, open_web


async def test_changes_are_told_as_mailpit_tells_them(inbox: Inbox) -> None:
    async with open_web(inbox) as (port, api), open_socket(port) as socket:
        assert (await socket.receive_type("stats"))["Total"] == 0
        row = await trio.to_thread.run_sync(put, inbox, mail("Live"))
        new = await socket.receive_type("new")
        assert (new["ID"], new["Subject"], new["Attachments"]) == (row.id, "Live", 0)
        stats = await socket.receive_type("stats")
        assert (stats["Total"], stats["Unread"]) == (1, 1)
        assert set(stats) == {"Total", "Unread", "Failures", "Version", "Problem"}
        await socket.send("what is said here is not heard")
        await api.get(f"/api/v1/message/{row.id}")
        assert await socket.receive_type("update") == {"ID": row.id, "Read": True}
        await api.request("DELETE", "/api/v1/messages", json={"IDs": [row.id]})
        assert await socket.receive_type("delete") == {"ID": row.id}
        await api.delete("/api/v1/messages")
        assert await socket.receive_type("truncate") is None
        inbox.store.events.publish([Event("prune")])
        assert await socket.receive_type("prune") is None
        await socket.close()
    assert len(inbox.store.events) == 0


async def test_a_listener_that_is_gone_is_forgotten(inbox: Inbox) -> None:
    async with open_web(inbox) as (port, _):
        async with open_socket(port) as socket:
            await socket.receive_type("stats")
            assert len(inbox.store.events) == 1
        await forgotten(inbox)


async def forgotten(inbox: Inbox) -> None:
    with trio.fail_after(10):
        while len(inbox.store.events):  # noqa: ASYNC110 - the end of another task, which nobody tells of
            await trio.sleep(0.01)


async def test_a_listener_goes_when_the_database_breaks(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("broken")

    async with open_web(inbox) as (port, _), open_socket(port) as socket:
        await socket.receive_type("stats")
        monkeypatch.setattr(inbox.store, "totals", fail)
        await trio.to_thread.run_sync(put, inbox)
        await forgotten(inbox)


async def test_who_waits_and_goes_is_forgotten(inbox: Inbox) -> None:
    async with open_web(inbox) as (port, _):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(b"GET /api/v1/wait?query=never HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        with trio.fail_after(10):
            while not len(inbox.store.events):  # noqa: ASYNC110 - likewise
                await trio.sleep(0.01)
        await stream.aclose()
        await forgotten(inbox)


async def test_who_waits_goes_on_when_the_database_cannot_be_read(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = inbox.store.latest
    calls = 0

    def latest(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            threading.Timer(0.05, put, (inbox,)).start()
            raise StorageError("busy")
        return real(*arguments)  # type: ignore[arg-type] # as the real one takes them

    monkeypatch.setattr(inbox.store, "latest", latest)
    async with open_web(inbox) as (_, api):
        assert (await api.get("/api/v1/wait?timeout=10")).status_code == 200
    assert "a client waits, and the database cannot be read: busy" in caplog.text


async def test_listeners_and_waiters_are_bounded(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_smtp.inbox.store.events._MAX_SUBSCRIBERS", 0)
    async with open_web(inbox) as (port, api):
        assert (await api.get("/api/v1/wait")).status_code == 503
        with pytest.raises(Exception, match="403"):
            async with open_socket(port):
                raise AssertionError


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_waker_wakes_from_other_threads(backend: str) -> None:
    async def main() -> None:
        waker = Waker()
        for _ in range(3):
            threading.Thread(target=waker.wake).start()
            with anyio.fail_after(10):
                await waker.wait()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_waker_whose_loop_has_ended(backend: str) -> None:
    async def main() -> Callable[[], None]:
        return Waker().wake

    wake = anyio.run(main, backend=backend)
    with pytest.raises(RuntimeError):
        wake()
