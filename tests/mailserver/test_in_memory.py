"""TrioMailServer, and the fixture that serves one: no sockets, virtual time."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

from trio_smtp.testing import TrioMailServer
from trio_smtp.testing.certificates import certificates

from .support import HELLO


async def send(server: TrioMailServer) -> int:
    async with server.client() as client:
        await client.ehlo()
        return (await client.send_message("ann@example.com", ["bob@example.com"], HELLO)).code


async def test_it_captures_and_waits(trio_mailserver: TrioMailServer, nursery: trio.Nursery) -> None:
    nursery.start_soon(send, trio_mailserver)
    mail = await trio_mailserver.wait_for_async(to="bob@*")
    assert mail.code() == "123456"
    assert mail.session.peer == ("127.0.0.1", 50_000)
    assert "C: EHLO client.example" in trio_mailserver.transcript
    trio_mailserver.clear()
    assert trio_mailserver.messages == []


async def test_time_is_virtual(
    trio_mailserver: TrioMailServer, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    started = trio.current_time()
    await trio_mailserver.wait_for_none_async(within=3600)
    assert trio.current_time() - started == pytest.approx(3600)
    trio_mailserver.delay("end", 250, times=1)
    trio_mailserver.greylist(300)
    assert await send(trio_mailserver) == 451
    await trio.sleep(300)
    nursery.start_soon(send, trio_mailserver)
    assert (await trio_mailserver.wait_for_async(timeout=400)).subject == "Hello"
    with pytest.raises(AssertionError, match="came within 7200 s"):
        await trio_mailserver.wait_for_async(to="carol@*", timeout=7200)


@pytest.mark.mailserver(tls="implicit", auth={"bob": "secret"})
async def test_the_marker_counts_here_too(trio_mailserver: TrioMailServer) -> None:
    async with trio_mailserver.client() as client:
        client.stream = trio.SSLStream(client.stream, certificates().client_context(), server_hostname="localhost")
        assert (await client.read_reply()).code == 220
        await client.ehlo()
        assert (await client.auth_plain("bob", "wrong")).code == 535
        assert (await client.auth_plain("bob", "secret")).code == 235
    assert [session.tls is not None for session in trio_mailserver.sessions] == [True]


async def test_starttls(nursery: trio.Nursery) -> None:
    server = TrioMailServer(tls="starttls")
    nursery.start_soon(server.serve)
    server.bad_certificate("wrong-host", times=1)
    async with server.client() as client:
        await client.ehlo()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.starttls(certificates().client_context())
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    nursery.cancel_scope.cancel()
