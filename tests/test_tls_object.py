"""Many small TLS records at a time, the alert of a handshake that fails, and what is acknowledged at once."""

from __future__ import annotations

import logging
import socket
import ssl
import tempfile
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from trio_smtp import Config, SMTPServer
from trio_smtp.net import acknowledging
from trio_smtp.net.acknowledging import acknowledge_at_once
from trio_smtp.net.tls_object import improve, shaking_hands
from trio_smtp.net.transport import SocketTransport
from trio_smtp.testing import Client, open_client

from .socket_support import port_of
from .tls_support import NAME, Log, lax_client_context, server_context, shake_hands

QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class Pair:
    """Both ends of TLS in memory, without an event loop."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.client = client.wrap_bio(self.to_client, self.to_server, server_hostname=NAME)

    def shake_hands(self) -> None:
        for _ in range(3):
            for end in (self.client, self.server):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue


@pytest.fixture
def improved(server_certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = server_context(server_certificate)
    improve(context)
    improve(context)
    return context


# Records


def test_all_records_that_have_come_are_read_at_once(
    improved: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    pair = Pair(improved, client_ssl_context)
    pair.shake_hands()
    for number in range(100):
        pair.client.write(b"line %2d\r\n" % number)
    lines = b"".join(b"line %2d\r\n" % number for number in range(100))
    assert pair.server.read(14) == lines[:14]  # never more than asked for, across the border of a record
    buffer = bytearray(4)
    pair.server.read(4, buffer)  # as before
    assert bytes(buffer) == lines[14:18]
    assert pair.server.read(65_536) == lines[18:]
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.read(65_536)
    pair.client.write(b"one")
    assert pair.server.read(3) == b"one"
    assert pair.server.version() == "TLSv1.3"


def test_a_look_for_more_records_that_found_none_waits_eight_calls(
    improved: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    pair = Pair(improved, client_ssl_context)
    pair.shake_hands()
    pair.client.write(b"NOOP")
    assert pair.server.read(100) == b"NOOP"
    for number in range(12):
        pair.client.write(b"%2d" % number)
    assert [pair.server.read(100) for _ in range(9)] == [*(b"%2d" % number for number in range(8)), b" 8 91011"]
    pair.client.write(b"a")
    pair.client.write(b"b")
    assert pair.server.read(100) == b"ab"  # the last look found some


@pytest.mark.parametrize("ending", ["end of stream", "garbage"])
def test_an_error_comes_after_the_octets_before_it(
    improved: ssl.SSLContext, client_ssl_context: ssl.SSLContext, ending: str
) -> None:
    pair = Pair(improved, client_ssl_context)
    pair.shake_hands()
    pair.client.write(b"a")
    pair.client.write(b"b")
    if ending == "garbage":
        pair.to_server.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    else:
        pair.to_server.write_eof()
    assert pair.server.read(100) == b"ab"
    for _ in range(2):
        with pytest.raises(ssl.SSLError) as caught:
            pair.server.read(100)
        assert not isinstance(caught.value, ssl.SSLWantReadError)


def test_close_notify_comes_after_the_octets_before_it(
    improved: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    pair = Pair(improved, client_ssl_context)
    pair.shake_hands()
    pair.client.write(b"a")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    assert pair.server.read(100) == b"a"
    assert pair.server.read(100) == b""
    assert pair.server.read(100) == b""


async def test_a_message_of_many_records_takes_few_passes(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    class Steps(trio.abc.Instrument):
        def __init__(self) -> None:
            self.count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    async with open_client(Log().app, ssl_context=server_ssl_context) as client:
        await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        for command in ("MAIL FROM:<a@example.org>", "RCPT TO:<b@example.com>", "DATA"):
            await client.command(command)
        # The records are made first, so that what is counted is the server's work (and one send).
        stream = client.stream
        assert isinstance(stream, trio.SSLStream)
        below, stream.transport_stream = stream.transport_stream, Gathering()
        for number in range(1000):
            await stream.send_all(b"line %d\r\n" % number)
        await stream.send_all(b".\r\n")
        gathered, stream.transport_stream = stream.transport_stream.octets, below
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        await below.send_all(gathered)
        assert (await client.read_reply()).code == 250
        trio.lowlevel.remove_instrument(steps)
        assert steps.count < 50


class Gathering(trio.abc.SendStream):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.octets = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.octets += bytes(data)

    async def wait_send_all_might_not_block(self) -> None: ...

    async def aclose(self) -> None: ...


# Alerts


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def with_ciphers(context: ssl.SSLContext, ciphers: str) -> ssl.SSLContext:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    return context


ALERTS = {
    "old": "TLSV1_ALERT_PROTOCOL_VERSION",
    "ciphers": "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "certificate, TLS 1.2": "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "certificate, TLS 1.3": "TLSV13_ALERT_CERTIFICATE_REQUIRED",
}


async def secure(client: Client, context: ssl.SSLContext, *, implicit: bool) -> None:
    if implicit:
        await shake_hands(client, context)
    else:
        await client.starttls(context, NAME)
        await client.ehlo()


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("kind", ALERTS)
async def test_a_handshake_that_fails_sends_its_alert(
    ca: trustme.CA, server_certificate: trustme.LeafCert, caplog: pytest.LogCaptureFixture, implicit: bool, kind: str
) -> None:  # fmt: skip
    context, mine = server_context(server_certificate), lax_client_context()
    if kind == "old":
        old(mine)
    elif kind == "ciphers":
        with_ciphers(context, "ECDHE-RSA-AES256-GCM-SHA384")
        with_ciphers(mine, "ECDHE-RSA-AES128-GCM-SHA256")
    else:
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        if kind.endswith("1.2"):
            mine.maximum_version = ssl.TLSVersion.TLSv1_2
    async with open_client(Log().app, ssl_context=context, implicit_tls=implicit) as client:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await secure(client, mine, implicit=implicit)
        assert isinstance(caught.value.__cause__, ssl.SSLError)
        assert caught.value.__cause__.reason == ALERTS[kind]
    assert client.server.stats.tls_failures == 1
    assert "TLS handshake failed: [SSL: " in caplog.text


async def test_handshakes_of_others_with_the_same_context_raise(improved: ssl.SSLContext) -> None:
    mine, its = trio.testing.memory_stream_pair()
    stream = trio.SSLStream(its, improved, server_side=True)
    await mine.send_all(b"EHLO client.example\r\n")
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()
    with shaking_hands() as handshake:
        pass
    assert not handshake.failed
    assert not handshake.nothing_came


def test_handshakes_without_an_event_loop_raise(improved: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    pair = Pair(improved, client_ssl_context)
    pair.to_server.write(b"EHLO client.example\r\n")
    with pytest.raises(ssl.SSLError):
        pair.server.do_handshake()


def test_a_class_of_the_users_own_is_kept(server_certificate: trustme.LeafCert) -> None:
    class Own(ssl.SSLObject):
        pass

    context = server_context(server_certificate)
    context.sslobject_class = Own
    improve(context)
    assert context.sslobject_class is Own


# Health checks


@pytest.mark.parametrize("reset", [True, False])
async def test_a_health_check_on_a_tls_port_is_no_warning(
    server_ssl_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture, reset: bool
) -> None:
    caplog.set_level(logging.INFO)
    server = SMTPServer(Log().app, Config(ssl_context=server_ssl_context, implicit_tls=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, await server.listen_tcp(port=0))
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        while not server.stats.tls_failures:  # noqa: ASYNC110 - the server has no event for it
            await trio.sleep(0.01)
        server.drain()
    (record,) = [each for each in caplog.records if "TLS handshake" in each.getMessage()]
    assert record.levelno == logging.INFO
    assert record.getMessage().endswith("peer=127.0.0.1 closed before the TLS handshake")


# Acknowledging


class Noting(socket.socket):
    """Notes when it receives, and which options are set."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, fileno=sock.detach())
        self.notes: list[str] = []

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        data = super().recv(bufsize, flags)
        self.notes.append("received")
        return data

    def setsockopt(self, level: int, option: int, value: object, length: object = None, /) -> None:
        assert (level, value) == (socket.IPPROTO_TCP, 1)
        super().setsockopt(level, option, 1)
        self.notes.append("acknowledged" if option == QUICKACK else str(option))


@pytest.mark.skipif(QUICKACK is None, reason="the system has no TCP_QUICKACK")
@pytest.mark.parametrize("implicit", [True, False])
async def test_the_end_of_a_handshake_is_acknowledged_before_the_next_octets_are_awaited(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext, implicit: bool
) -> None:
    config = Config(ssl_context=server_ssl_context, implicit_tls=implicit)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await trio.open_tcp_stream(*listener.getsockname())
        sock = Noting(listener.accept()[0])
    client = Client(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SMTPServer(Log().app, config).serve_stream, SocketTransport(sock))
        if implicit:
            await shake_hands(client, client_ssl_context)
        else:
            await client.read_reply()
            await client.ehlo()
            await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        await client.quit()
        await client.aclose()
    assert sock.notes.count("acknowledged") == 1
    at = sock.notes.index("acknowledged")
    # Behind it: EHLO, QUIT and the end of the stream; at most two receives for each.
    assert 3 <= len(sock.notes) - at - 1 <= 6


async def test_streams_that_know_of_no_acknowledging(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledge_at_once(trio.testing.memory_stream_pair()[0])
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(Path(directory, "socket")))
        listener.listen()
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(listener.getsockname())
            acknowledge_at_once(SocketTransport(end))
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        stream = await trio.open_tcp_stream(*tcp.getsockname())
        acknowledge_at_once(stream)
        monkeypatch.setattr(acknowledging, "_QUICKACK", None)
        acknowledge_at_once(stream)
        await stream.aclose()
