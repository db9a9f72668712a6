"""`linger` and `close`: the last reply arrives although the client goes on sending."""

from __future__ import annotations

import ssl

import trio
import trio.testing

from tests.transport_support import pair, reset
from trio_smtp.net.closing import close, linger


async def test_linger_with_unread_input_does_not_reset_before_the_reply_is_read() -> None:
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        await theirs.send_all(b"NOOP\r\n" * 1000)
        await ours.send_all(b"421 Enough\r\n")

        async def part() -> None:
            await linger(ours)
            ours.close()

        nursery.start_soon(part)
        await trio.testing.wait_all_tasks_blocked()
        await theirs.send_all(b"NOOP\r\n" * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert await theirs.receive_some() == b"421 Enough\r\n"
        assert await theirs.receive_some() == b""  # a reset would raise
        theirs.close()


async def test_linger_over_tls_with_unread_input_does_not_reset_either(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    ours, theirs = pair()
    server = trio.SSLStream(ours, server_ssl_context, server_side=True, https_compatible=True)
    client = trio.SSLStream(theirs, client_ssl_context, server_hostname="localhost", https_compatible=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    async with trio.open_nursery() as nursery:
        # More than the end of TLS takes in: what is left would make the system reset the connection.
        await client.send_all(b"NOOP\r\n" * 18_000)
        await server.send_all(b"421 Enough\r\n")

        async def part() -> None:
            await linger(server)
            await close(server)

        nursery.start_soon(part)
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"NOOP\r\n" * 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert await client.receive_some() == b"421 Enough\r\n"
        assert await client.receive_some() == b""
        assert await theirs.receive_some() == b""  # a reset would raise
        await close(client)


async def test_linger_over_tls_says_close_notify(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    server = trio.SSLStream(ours, server_ssl_context, server_side=True, https_compatible=True)
    # Not https_compatible: an end without close_notify would be a BrokenResourceError.
    client = trio.SSLStream(theirs, client_ssl_context, server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger, server)
        assert await client.receive_some() == b""
        await client.aclose()


async def test_linger_drops_64_kib_and_no_more() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"x" * 100_000)
    await linger(ours)
    left = await ours.receive_some()
    assert 100_000 - 65_536 - 16_384 < len(left) <= 100_000 - 65_536


async def test_linger_to_nobody() -> None:
    ours, theirs = pair()
    reset(theirs)
    await linger(ours)
    ours.close()
    await linger(ours)


async def test_linger_on_a_stream_that_cannot_be_half_closed() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()

    class Plain(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise AssertionError("nothing more is sent")

        async def wait_send_all_might_not_block(self) -> None:
            raise AssertionError("nothing more is sent")

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await ours.receive_some(max_bytes)

        async def aclose(self) -> None:
            await ours.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger, Plain())
        await theirs.send_all(b"ignored")
        await theirs.aclose()


async def test_close_does_not_wait_for_a_handshake(server_ssl_context: ssl.SSLContext) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await close(trio.SSLStream(ours, server_ssl_context, server_side=True))
    assert await theirs.receive_some() == b""


async def test_close_closes_sockets_without_a_checkpoint() -> None:
    ours, theirs = pair()
    with trio.testing.assert_no_checkpoints():
        await close(ours)
    assert await theirs.receive_some() == b""
    theirs.close()
