"""TLS, by STARTTLS or from the first octet: what a session knows afterwards, and how handshakes fail."""

from __future__ import annotations

import logging
import ssl

import pytest
import trio
import trio.testing
import trustme

from trio_smtp import Config, Session, SMTPServer
from trio_smtp.testing import Client, open_client

from .tls_support import (
    NAME,
    Log,
    agreed,
    connect,
    der,
    lax_client_context,
    presented,
    server_context,
    shake_hands,
)

CALLS = ["secure TLSv1.3", "mail from a@example.org", "data ESMTPS", "close quit"]


async def send(client: Client) -> None:
    reply = await client.send_message("a@example.org", ["b@example.com"], b"Hello\r\n")
    assert reply.code == 250


# What a session knows


async def test_starttls(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    log = Log()
    async with open_client(log.app, ssl_context=server_ssl_context) as client:
        session = client.session
        assert "STARTTLS" in (await client.ehlo()).lines
        assert (session.secure, session.tls_options, session.servername) == (False, None, None)
        assert (await client.starttls(client_ssl_context, NAME)).code == 220
        assert "STARTTLS" not in (await client.ehlo()).lines
        tls = session.tls_options
        assert session.secure
        assert session.servername == NAME
        assert tls is not None
        assert tls is session.tls
        assert (tls.name, tls.version, tls.bits) == agreed(client)
        assert tls.standard_name == tls.name  # from TLS 1.3 on there is one name only
        assert tls.peer_certificate is None
        await send(client)
        assert (await client.quit()).code == 221
    assert log.calls == ["connect secure=False", *CALLS]


async def test_implicit_tls(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    log = Log()
    async with open_client(log.app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        await shake_hands(client, client_ssl_context)
        assert client.greeting.code == 220
        assert client.session.secure
        assert client.session.servername == NAME
        assert "STARTTLS" not in (await client.ehlo()).lines
        assert (await client.command("STARTTLS")).code == 503
        await send(client)
        assert (await client.quit()).code == 221
    assert log.calls == ["connect secure=True", *CALLS]


@pytest.mark.parametrize("implicit", [True, False])
async def test_over_sockets(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, implicit: bool
) -> None:
    log = Log()
    server = SMTPServer(log.app, Config(ssl_context=server_ssl_context, implicit_tls=implicit))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
        client = await connect(server)
        if implicit:
            await shake_hands(client, client_ssl_context)
        else:
            await client.read_reply()
            await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        (session,) = server.sessions
        assert session.tls is not None
        assert (session.tls.name, session.tls.version, session.tls.bits) == agreed(client)
        assert session.servername == NAME
        await send(client)
        assert (await client.quit()).code == 221
        assert await client.read_to_end() == b""
        await client.aclose()
        server.drain()
    assert log.calls == [f"connect secure={implicit}", *CALLS]
    assert server.stats.tls_handshakes == 1


async def test_tls_1_2_has_two_names_for_a_suite(server_ssl_context: ssl.SSLContext, ca: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        await client.starttls(context, NAME)
        await client.ehlo()
        tls = client.session.tls
        assert tls is not None
        assert (tls.name, tls.version, tls.bits) == agreed(client)
        kind = tls.name.split("-")[1]
        assert tls.name == f"ECDHE-{kind}-AES128-GCM-SHA256"
        assert tls.standard_name == f"TLS_ECDHE_{kind}_WITH_AES_128_GCM_SHA256"
        assert (tls.version, tls.bits) == ("TLSv1.2", 128)


async def test_a_stream_that_is_tls_already(
    server_certificate: trustme.LeafCert, client_ssl_context: ssl.SSLContext
) -> None:
    log = Log()
    server = SMTPServer(log.app)
    ours, theirs = trio.testing.memory_stream_pair()
    stream = trio.SSLStream(theirs, server_context(server_certificate), server_side=True, https_compatible=True)
    async with trio.open_nursery() as nursery:
        session: Session = await nursery.start(server.serve_stream, stream)
        client = Client(ours)
        await shake_hands(client, client_ssl_context)
        assert session.secure
        assert session.servername == NAME
        assert "STARTTLS" not in (await client.ehlo()).lines
        await send(client)
        await client.quit()
        await client.aclose()
    assert log.calls == ["connect secure=True", *CALLS]


async def test_an_end_of_tls_is_said_as_such(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        # Not https_compatible: an end without close_notify could be an attacker's, and would be an error.
        client.stream = trio.SSLStream(client.stream, client_ssl_context, server_hostname=NAME)
        await client.read_reply()
        await client.quit()
        assert await client.read_to_end() == b""


# The name that is asked for


async def test_no_name_is_asked_for(server_ssl_context: ssl.SSLContext) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        await client.starttls(lax_client_context(), None)
        await client.ehlo()
        assert client.session.secure
        assert client.session.servername is None


async def test_a_callback_for_names_that_the_context_has_goes_on_working(
    ca: trustme.CA, client_ssl_context: ssl.SSLContext
) -> None:
    leaves = {name: ca.issue_cert(name) for name in ("one.example", "two.example")}
    contexts = {name: server_context(leaf) for name, leaf in leaves.items()}

    def choose(sslobj: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        if name not in contexts:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        sslobj.context = contexts[name]
        return None

    context = server_context(ca.issue_cert("default.example"))
    context.sni_callback = choose
    log = Log()
    server = SMTPServer(log.app, Config(ssl_context=context, implicit_tls=True))
    async with trio.open_nursery() as nursery:
        for name, leaf in leaves.items():
            ours, theirs = trio.testing.memory_stream_pair()
            session: Session = await nursery.start(server.serve_stream, theirs)
            client = Client(ours)
            await shake_hands(client, client_ssl_context, name)
            assert session.servername == name
            assert presented(client) == der(leaf)
            await client.aclose()
        ours, theirs = trio.testing.memory_stream_pair()
        await nursery.start(server.serve_stream, theirs)
        with pytest.raises(trio.BrokenResourceError):
            await shake_hands(Client(ours), client_ssl_context, "three.example")
    assert (server.stats.tls_handshakes, server.stats.tls_failures) == (2, 1)


async def test_several_servers_share_a_context(
    server_certificate: trustme.LeafCert, client_ssl_context: ssl.SSLContext
) -> None:
    context = server_context(server_certificate)
    app = Log().app
    async with open_client(app, ssl_context=context) as one:
        callback = context.sni_callback
        async with open_client(app, ssl_context=context) as two:
            assert context.sni_callback is callback  # not a chain that grows
            for client in (one, two):
                await client.starttls(client_ssl_context, NAME)
                await client.ehlo()
                assert client.session.servername == NAME


async def test_the_context_used_elsewhere_too(
    server_certificate: trustme.LeafCert, client_ssl_context: ssl.SSLContext
) -> None:
    context = server_context(server_certificate)
    SMTPServer(Log().app, Config(ssl_context=context))
    ours, theirs = trio.testing.memory_stream_pair()
    server = trio.SSLStream(theirs, context, server_side=True)
    client = trio.SSLStream(ours, client_ssl_context, server_hostname=NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)


# The client's certificate


async def test_the_clients_certificate(
    ca: trustme.CA, server_certificate: trustme.LeafCert, client_ssl_context: ssl.SSLContext
) -> None:
    context = server_context(server_certificate)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    leaf = ca.issue_cert("client@example.org")
    with_certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(with_certificate)
    leaf.configure_cert(with_certificate)
    app = Log().app
    for client_context, expected in ((with_certificate, der(leaf)), (client_ssl_context, None)):
        async with open_client(app, ssl_context=context) as client:
            await client.starttls(client_context, NAME)
            await client.ehlo()
            assert client.session.tls is not None
            assert client.session.tls.peer_certificate == expected
            assert "peer_certificate" not in repr(client.session.tls)


async def test_a_client_without_a_certificate_where_one_is_required(
    ca: trustme.CA,
    server_certificate: trustme.LeafCert,
    client_ssl_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = server_context(server_certificate)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    log = Log()
    async with open_client(log.app, ssl_context=context) as client:
        await client.ehlo()
        # In TLS 1.3 the client is done before the server looks at its certificate, or at the lack of it.
        await client.starttls(client_ssl_context, NAME)
        with pytest.raises((trio.BrokenResourceError, trio.EndOfChannel)):
            await client.ehlo()
        assert not client.session.secure
    assert client.server.stats.tls_failures == 1
    assert log.calls == ["connect secure=False", "close tls"]
    assert any("TLS handshake failed: [SSL: PEER_DID_NOT_RETURN" in r.getMessage() for r in caplog.records)


# Handshakes that fail


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"EHLO client.example\r\nMAIL FROM:<evil@example.org>\r\n", id="plain commands"),
        pytest.param(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", id="a broken ClientHello"),
        pytest.param(b"\x80\x2e\x01\x00\x02" + b"\0" * 64, id="SSL 2"),
    ],
)
@pytest.mark.parametrize("implicit", [True, False])
async def test_what_is_no_handshake(
    server_ssl_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture, octets: bytes, implicit: bool
) -> None:
    log = Log()
    async with open_client(log.app, ssl_context=server_ssl_context, implicit_tls=implicit) as client:
        if not implicit:
            await client.command("STARTTLS")
        await client.send_bytes(octets)
        said = await client.read_to_end()
        assert b"\r\n" not in said  # an alert at most
        stats = client.server.stats
        assert (stats.tls_handshakes, stats.tls_failures) == (0, 1)
    # on_close is for sessions that on_connect saw.
    assert log.calls == ([] if implicit else ["connect secure=False", "close tls"])
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"session={client.session.id} peer=None TLS handshake failed: " in warning
    assert "SSL" in warning


@pytest.mark.parametrize("implicit", [True, False])
async def test_a_client_that_leaves_instead(
    server_ssl_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture, implicit: bool
) -> None:
    log = Log()
    async with open_client(log.app, ssl_context=server_ssl_context, implicit_tls=implicit) as client:
        if not implicit:
            await client.command("STARTTLS")
        await client.aclose()
    assert client.server.stats.tls_failures == 1
    assert log.calls == ([] if implicit else ["connect secure=False", "close tls"])
    # On a TLS port it may be a health check.
    warnings = [r.levelno for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ([] if implicit else [logging.WARNING])


@pytest.mark.parametrize("octets", [b"", b"\x16", b"\x16\x03\x01\x02"], ids=["silent", "one octet", "half a header"])
@pytest.mark.parametrize("implicit", [True, False])
async def test_a_handshake_that_hangs(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    octets: bytes,
    implicit: bool,
) -> None:
    log = Log()
    async with open_client(log.app, ssl_context=server_ssl_context, implicit_tls=implicit) as client:
        if not implicit:
            await client.command("STARTTLS")
        start = trio.current_time()
        await client.send_bytes(octets)
        assert await client.read_to_end() == b""
        assert 30 <= trio.current_time() - start <= 31
        stats = client.server.stats
        assert (stats.tls_handshakes, stats.tls_failures) == (0, 1)
    assert log.calls == ([] if implicit else ["connect secure=False", "close tls"])
    assert ["the TLS handshake did not end in time" in r.getMessage() for r in caplog.records] == [True]


async def test_a_handshake_that_drips(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        start = trio.current_time()
        await client.send_bytes(b"\x16\x03\x01\x40\x00")

        async def drip() -> None:
            while True:
                await trio.sleep(0.7)
                await client.send_bytes(b"\x01")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert await client.read_to_end() == b""
            assert 30 <= trio.current_time() - start <= 31
            nursery.cancel_scope.cancel()


async def test_a_drain_during_the_handshake_says_nothing(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context, implicit_tls=True) as client:
        await trio.testing.wait_all_tasks_blocked()
        client.server.drain()
        start = trio.current_time()
        assert await client.read_to_end() == b""
        assert trio.current_time() == start
        assert client.server.stats.tls_failures == 0


# On the plaintext port


async def test_a_client_hello_on_a_plaintext_port(
    client_ssl_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    server = SMTPServer(log.app)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
        client = await connect(server)
        greeting = await client.read_line()
        with pytest.raises(trio.BrokenResourceError):
            await shake_hands(client, client_ssl_context)
        await client.aclose()
        server.drain()
    assert greeting.startswith(b"220 ")
    assert server.stats.replies == {220: 1}  # nothing was said to it
    assert log.calls == ["connect secure=False", "close abuse"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "a TLS ClientHello on a plaintext port" in warning


async def test_a_client_hello_where_a_command_could_be_is_one_only_at_the_start(
    server_ssl_context: ssl.SSLContext,
) -> None:
    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        await client.ehlo()
        assert (await client.command(b"\x16\x03\x01")).code == 500
        assert (await client.command("NOOP")).code == 250
