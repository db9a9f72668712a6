"""The end of a session whose client does not close: the server waits a moment for it, and no longer."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from trio_smtp import App, CloseContext, Config, ConnectContext, DataContext, MailFromContext, SMTPServer
from trio_smtp.net.transport import SocketTransport
from trio_smtp.testing import MemoryListener


async def discard(ctx: DataContext) -> None:
    await ctx.stream.discard()


class Ends:
    """An App that notes when and why sessions ended."""

    def __init__(self) -> None:
        self.app = App()
        self.app.on_data(discard)
        self.ended: list[tuple[float, str]] = []

        @self.app.on_close
        async def note(ctx: CloseContext) -> None:
            self.ended.append((trio.current_time(), ctx.reason))

    async def serve(self, *sent: bytes, **changes: float) -> tuple[float, bytes]:
        """Send all this and stay; returns when the server closed, and what it said."""
        server = SMTPServer(self.app, Config(hostname="mx.example.com", **changes))  # type: ignore[arg-type]
        client, theirs = memory_stream_pair()
        said = b""
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, theirs)
            for data in sent:
                await client.send_all(data)
                await wait_all_tasks_blocked()
            async for received in client:
                said += received
        return trio.current_time() - begun, said


async def test_after_quit(autojump_clock: MockClock) -> None:
    ends = Ends()
    seconds, said = await ends.serve(b"QUIT\r\n")
    assert said.endswith(b"221 Bye\r\n")
    assert 1 <= seconds <= 2
    assert [reason for _, reason in ends.ended] == ["quit"]


async def test_after_a_handler_has_disconnected(autojump_clock: MockClock) -> None:
    ends = Ends()

    @ends.app.on_mail_from
    async def refuse(ctx: MailFromContext) -> None:
        ctx.disconnect("Enough")

    seconds, said = await ends.serve(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n")
    assert said.endswith(b"421 4.3.0 Enough\r\n")
    assert 1 <= seconds <= 2
    assert [reason for _, reason in ends.ended] == ["refused"]


async def test_after_a_refused_greeting(autojump_clock: MockClock) -> None:
    ends = Ends()

    @ends.app.on_connect
    async def refuse(ctx: ConnectContext) -> None:
        ctx.reject("Not you")

    seconds, said = await ends.serve()
    assert said == b"550 Not you\r\n"
    assert seconds == 1
    assert [reason for _, reason in ends.ended] == ["refused"]


async def test_after_a_timeout(autojump_clock: MockClock) -> None:
    ends = Ends()
    seconds, said = await ends.serve(command_timeout=10)
    assert said.endswith(b"421 Timeout waiting for the client\r\n")
    assert 11 <= seconds <= 12
    assert [reason for _, reason in ends.ended] == ["timeout"]


async def test_a_drain_in_that_moment_cuts_it_short_and_changes_nothing(autojump_clock: MockClock) -> None:
    ends = Ends()
    server = SMTPServer(ends.app, Config(hostname="mx.example.com", drain_timeout=0.1))
    client, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, theirs)
        await client.send_all(b"QUIT\r\n")
        await wait_all_tasks_blocked()
        server.drain()
    assert ends.ended == [(trio.current_time(), "quit")]


async def test_a_refused_connection(autojump_clock: MockClock) -> None:
    ends = Ends()
    server = SMTPServer(ends.app, Config(max_connections=1))
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_listeners, [listener])
        async with await listener.connect() as first, await listener.connect() as second:
            assert await first.receive_some() != b""
            begun = trio.current_time()
            assert b"".join([data async for data in second]) == b"421 Too many connections\r\n"
            with suppress(trio.BrokenResourceError):
                while True:  # until the server has closed its end
                    await second.send_all(b"x")
                    await trio.sleep(0.1)
            assert 1 <= trio.current_time() - begun < 1.2
        nursery.cancel_scope.cancel()


class Stub(trio.abc.Stream):
    """A client that says one thing; what comes then is the subclass's."""

    def __init__(self, *said: bytes) -> None:
        self.said = list(said)
        self.heard = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.said.pop(0) if self.said else self.then()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.heard += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def then(self) -> bytes:
        raise trio.BrokenResourceError


class Deaf(Stub):
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if b"221" in data:
            raise trio.BrokenResourceError
        await super().send_all(data)


class Faulty(Stub):
    def then(self) -> bytes:
        raise RuntimeError("a stream with a bug")


async def test_a_client_that_does_not_wait_for_its_221_has_quit_all_the_same() -> None:
    ends = Ends()
    await SMTPServer(ends.app, Config()).serve_stream(Deaf(b"QUIT\r\n"))
    assert [reason for _, reason in ends.ended] == ["quit"]


async def test_a_stream_that_fails_in_that_moment_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    ends = Ends()
    client = Faulty(b"QUIT\r\n")
    await SMTPServer(ends.app, Config()).serve_stream(client)
    assert client.heard.endswith(b"221 Bye\r\n")
    assert [reason for _, reason in ends.ended] == ["quit"]
    assert "closing failed" in caplog.text
    assert "a stream with a bug" in caplog.text


async def test_a_client_that_breaks_off_in_its_proxy_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ends = Ends()
    server = SMTPServer(ends.app, Config(proxy_protocol=["127.0.0.1"]))
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs, _ = listener.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_stream, SocketTransport(theirs))
            await wait_all_tasks_blocked()
            client.close()
    assert "reason=lost" in caplog.text
