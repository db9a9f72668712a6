"""Pipelining (RFC 2920): replies gather, and leave before anybody would have to wait too long for them."""

from __future__ import annotations

import socket

import trio
import trio.testing

from trio_smtp import App, Config, RcptToContext, SMTPServer, VerifyContext
from trio_smtp.net.transport import SocketTransport
from trio_smtp.testing import Client, open_client


async def test_replies_that_are_a_second_old_leave_before_the_next_handler(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = App()

    @app.on_rcpt_to
    async def slow(ctx: RcptToContext) -> None:
        await trio.sleep(1.5)

    async with open_client(app) as client:
        await client.ehlo()
        begun = trio.current_time()
        await client.send_bytes(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\n")
        assert (await client.read_reply()).code == 250
        assert (await client.read_reply()).code == 250
        assert trio.current_time() - begun == 1.5  # not 3: they did not wait for the second recipient's handler
        assert (await client.read_reply()).code == 250
        assert trio.current_time() - begun == 3.0


async def test_64_kib_of_replies_leave_before_a_handler() -> None:
    app = App()
    go_on = trio.Event()

    @app.on_vrfy
    async def held_up(ctx: VerifyContext) -> None:
        await go_on.wait()

    async with open_client(app) as client:
        await client.ehlo()
        count, may_wait = 9000, 65_536 // len(b"250 2.0.0 OK\r\n")
        await client.send_bytes(b"NOOP\r\n" * count + b"VRFY somebody\r\n")
        with trio.fail_after(5):
            for _ in range(count - may_wait):
                assert (await client.read_reply()).code == 250
        go_on.set()
        for _ in range(may_wait + 1):
            assert (await client.read_reply()).code == 250


async def test_what_the_socket_does_not_take_at_once_follows() -> None:
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = SMTPServer(App(), Config(hostname="mx.example"))
    client = Client(SocketTransport(ours))
    count = 9000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_stream, SocketTransport(theirs))
        assert (await client.read_reply()).code == 220
        await client.send_bytes(b"NOOP\r\n" * count)
        with trio.fail_after(5):
            for _ in range(count):
                assert (await client.read_reply()).code == 250
        assert (await client.quit()).code == 221
        await client.aclose()
