"""The name a client asks for (SNI): who hears it, and that the context's own callback goes on working."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing
import trustme

from trio_smtp.net.server_names import hearing_server_name, note_server_names


@pytest.fixture
def context(server_certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context of its own."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(made)
    return made


def lax() -> ssl.SSLContext:
    """A client's context that checks nothing, so that no name has to be sent."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


async def shake_hands(context: ssl.SSLContext, name: str | None, heard: list[str | None] | None) -> None:
    """A handshake in memory, in which the client asks for this name; the server hears it, or does not listen."""
    ours, theirs = trio.testing.memory_stream_pair()
    server = trio.SSLStream(ours, context, server_side=True)
    client = trio.SSLStream(theirs, lax(), server_hostname=name)

    async def serve() -> None:
        if heard is None:
            await server.do_handshake()
            return
        with hearing_server_name(heard.append):
            await server.do_handshake()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(client.do_handshake)
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)


@pytest.mark.parametrize("name", ["localhost", "elsewhere.example", None])
async def test_the_task_that_shakes_hands_hears_it(context: ssl.SSLContext, name: str | None) -> None:
    note_server_names(context)
    heard: list[str | None] = []
    await shake_hands(context, name, heard)
    assert heard == [name]


async def test_each_task_hears_its_own(context: ssl.SSLContext) -> None:
    note_server_names(context)
    names = [f"host{number}.example" for number in range(10)]
    heard: dict[str, list[str | None]] = {name: [] for name in names}
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(shake_hands, context, name, heard[name])
        nursery.start_soon(shake_hands, context, "nobody.example", None)
    assert heard == {name: [name] for name in names}


async def test_afterwards_nothing_is_heard(context: ssl.SSLContext) -> None:
    note_server_names(context)
    heard: list[str | None] = []
    with hearing_server_name(heard.append):
        pass
    await shake_hands(context, "localhost", None)
    assert heard == []


async def test_a_context_whose_names_are_not_noted(context: ssl.SSLContext) -> None:
    heard: list[str | None] = []
    await shake_hands(context, "localhost", heard)
    assert heard == []


async def test_the_contexts_own_callback_goes_on_and_is_called_once(context: ssl.SSLContext) -> None:
    asked: list[str | None] = []

    def choose(sslobj: ssl.SSLObject, name: str | None, of: ssl.SSLContext) -> int | None:
        asked.append(name)
        assert of is context
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME if name == "unknown.example" else None

    context.sni_callback = choose
    for _ in range(3):
        note_server_names(context)
    heard: list[str | None] = []
    await shake_hands(context, "localhost", heard)
    assert heard == asked == ["localhost"]
    with pytest.raises(ExceptionGroup) as refused:
        await shake_hands(context, "unknown.example", heard)
    assert {type(exc) for exc in refused.value.exceptions} == {trio.BrokenResourceError}
    assert heard == asked == ["localhost", "unknown.example"]


def test_a_handshake_outside_of_trio(context: ssl.SSLContext) -> None:
    note_server_names(context)
    for_server, for_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(for_server, for_client, server_side=True)
    client = lax().wrap_bio(for_client, for_server, server_hostname="localhost")
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    client.do_handshake()
    server.do_handshake()
    assert client.version() == server.version()
