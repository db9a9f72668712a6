"""TLS alerts, and what else is no TLS, in place of every step of a session: it ends once, and nothing half is whole."""

from __future__ import annotations

import logging
import re
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.socket_support import port_of, serving
from tests.support import note_closes, start_data, start_transaction
from tests.tls_support import server_context
from trio_smtp import App, Config, DataContext, MessageIncomplete, SMTPServer
from trio_smtp.testing import Client

from .support import half_by_chunks, half_by_data, say_hello, watched_log

FATAL = b"\x15\x03\x03\x00\x02\x02\x28"
FAULTS = {
    "a fatal alert": FATAL,
    "a warning": b"\x15\x03\x03\x00\x02\x01\x5a",
    "a close_notify in the clear": b"\x15\x03\x03\x00\x02\x01\x00",
    "half an alert": FATAL[:-1],
    "an alert that is none": b"\x15\x03\x03\x00\x02\x07\xff",
    "commands in the clear": b"NOOP\r\nQUIT\r\n",
    "another hello": b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
    "nothing": b"",
}
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

by_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


class Noted:
    """A server that notes whole messages, halves and ends of sessions."""

    def __init__(self, context: ssl.SSLContext, *, implicit: bool = False) -> None:
        app = App()
        self.whole: list[bytes] = []
        self.halves: list[bytes] = []
        self.reasons = note_closes(app)

        @app.on_data
        async def take(ctx: DataContext) -> None:
            seen = b""
            try:
                async for chunk in ctx.stream:
                    seen += chunk
            except MessageIncomplete:
                self.halves.append(seen)
                raise
            self.whole.append(seen)

        self.server = SMTPServer(app, Config(hostname="mx.example", ssl_context=context, implicit_tls=implicit))

    def connect(self, nursery: trio.Nursery) -> trio.abc.HalfCloseableStream:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(self.server.serve_stream, theirs)
        return ours


@pytest.fixture(params=VERSIONS.values(), ids=list(VERSIONS))
def client_context(request: pytest.FixtureRequest, ca_file: Path) -> ssl.SSLContext:
    """A client's context that speaks one version."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = context.maximum_version = request.param
    return context


def endings(records: list[logging.LogRecord]) -> list[str]:
    """The lines that say why a session ended."""
    return re.findall(r"connection closed reason=(\w+)", "\n".join(record.getMessage() for record in records))


def records_of(flight: bytes) -> Iterator[bytes]:
    """TLS records, each with its header of five octets (RFC 8446 section 5.1)."""
    while flight:
        size = 5 + int.from_bytes(flight[3:5], "big")
        yield flight[:size]
        flight = flight[size:]


async def rest_of(stream: trio.abc.ReceiveStream) -> bytes:
    said = b""
    while data := await stream.receive_some(65_536):
        said += data
    return said


# --- in the handshake ---


class Handshake:
    """A client's side of it, record by record."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, context: ssl.SSLContext) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def flight(self) -> list[bytes]:
        """What the client would send now."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return list(records_of(self._outgoing.read()))

    async def send(self, records: list[bytes]) -> None:
        await self._stream.send_all(b"".join(records))
        await trio.testing.wait_all_tasks_blocked()

    async def hear(self) -> None:
        self._incoming.write(bytes(await self._stream.receive_some(65_536)))


@by_fault
@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
async def test_in_the_handshake(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    implicit: bool,
    fault: bytes,
) -> None:
    """In place of the client's hello, and of each record behind it, Finished the last of them."""
    place, finished = 0, False
    while not finished:
        noted = Noted(server_ssl_context, implicit=implicit)
        with watched_log(logging.INFO) as records:
            async with trio.open_nursery() as nursery:
                stream = noted.connect(nursery)
                if not implicit:
                    client = Client(stream)
                    await client.read_reply()
                    assert (await client.command("STARTTLS")).code == 220
                handshake = Handshake(stream, client_context)
                hello = handshake.flight()
                if place > 0:
                    await handshake.send(hello)
                    await handshake.hear()
                    flight = handshake.flight()
                    await handshake.send(flight[: place - 1])
                    finished = place == len(flight)
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(fault)
                    await stream.send_eof()
                said = await rest_of(stream)
        # Alerts, tickets and the server's hello are all there may be.
        assert {record[:1] for record in records_of(said)} <= {b"\x14", b"\x15", b"\x16", b"\x17"}
        stats = noted.server.stats
        assert (stats.tls_failures, stats.tls_handshakes) == (1, 0), place
        assert noted.reasons == ([] if implicit else ["tls"])
        assert endings(records) == ["tls"]
        warnings = [r.getMessage() for r in records if r.levelno >= logging.WARNING]
        if implicit and not place and not fault:
            assert warnings == []  # a health check of a TLS port
        else:
            (warning,) = warnings
            assert "TLS handshake failed" in warning
        assert noted.server.sessions == []
        place += 1
    assert place > 1


# --- in a session ---

Step = Callable[[Client], Awaitable[object]]


async def _greeted(client: Client) -> None:
    pass


async def _transaction(client: Client) -> None:
    await start_transaction(client)


async def _end_mark(client: Client) -> None:
    """All of it but the last octet."""
    await start_data(client)
    await client.send_bytes(b"Subject: half\r\n\r\nof it\r\n.\r")


async def _chunk(client: Client) -> None:
    await start_transaction(client)
    await client.send_bytes(b"BDAT 11 LAST\r\nhalf of it")


STEPS: list[Step] = [_greeted, say_hello, _transaction, half_by_data, _end_mark, _chunk, half_by_chunks]
by_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__.strip("_"))


def check(noted: Noted, records: list[logging.LogRecord], step: Step, reason: str = "lost") -> None:
    """It ended once, and nothing of it was taken for whole."""
    half = step in (half_by_data, _end_mark, _chunk, half_by_chunks)
    assert noted.whole == []
    # The handlers of a chunk that is the only one are asked when more of it has come.
    assert len(noted.halves) == (half and step is not _chunk)
    assert noted.reasons == [reason]
    assert endings(records) == [reason]
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []
    stats = noted.server.stats
    assert (stats.messages_accepted, stats.messages_refused, stats.messages_incomplete) == (0, 0, half)
    assert (noted.server.sessions, stats.connections_open) == ([], 0)


async def secure(stream: trio.abc.Stream, context: ssl.SSLContext, *, polite: bool = False) -> Client:
    """A client that has said STARTTLS; a polite one speaks TLS to its end."""
    client = Client(stream)
    await client.read_reply()
    await client.command("STARTTLS")
    client.stream = tls = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=not polite)
    await tls.do_handshake()
    return client


@by_step
@by_fault
async def test_in_a_session(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    step: Step,
    fault: bytes,
) -> None:
    noted = Noted(server_ssl_context)
    with watched_log(logging.INFO) as records:
        async with trio.open_nursery() as nursery:
            stream = noted.connect(nursery)
            await step(await secure(stream, client_context))
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(fault)
            await stream.send_eof()
            await rest_of(stream)
    check(noted, records, step)


@by_step
async def test_an_orderly_end_in_the_middle(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    step: Step,
) -> None:
    """A close_notify as it should be, but of a client that has not said QUIT."""
    noted = Noted(server_ssl_context)
    with watched_log(logging.INFO) as records:
        async with trio.open_nursery() as nursery:
            client = await secure(noted.connect(nursery), client_context, polite=True)
            await step(client)
            assert isinstance(client.stream, trio.SSLStream)
            with suppress(trio.BrokenResourceError):
                await client.stream.unwrap()
            await trio.aclose_forcefully(client.stream)
    check(noted, records, step)


@by_fault
async def test_in_place_of_close_notify(
    autojump_clock: trio.testing.MockClock,
    server_ssl_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    fault: bytes,
) -> None:
    noted = Noted(server_ssl_context)
    with watched_log(logging.INFO) as records:
        async with trio.open_nursery() as nursery:
            stream = noted.connect(nursery)
            client = await secure(stream, client_context)
            assert (await client.quit()).code == 221
            await stream.send_all(fault)
            await stream.send_eof()
            await rest_of(stream)
    check(noted, records, _greeted, "quit")


class Held(trio.abc.Stream):
    """The stream below a client's TLS; what is sent can be held back."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.holds = False
        self.held = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.holds:
            self.held += data
        else:
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_the_record_with_the_end_mark_is_cut_off(
    autojump_clock: trio.testing.MockClock, server_ssl_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Before its last octet nothing of it counts; behind that the end of TLS changes nothing."""
    cut = 0
    while True:
        noted = Noted(server_ssl_context)
        with watched_log(logging.INFO) as records:
            async with trio.open_nursery() as nursery:
                stream = noted.connect(nursery)
                held = Held(stream)
                client = await secure(held, client_context)
                await start_data(client)
                await client.send_bytes(b"Subject: half\r\n")
                await trio.testing.wait_all_tasks_blocked()
                held.holds = True
                await client.send_bytes(b"\r\n.\r\n")
                whole = cut == len(held.held)
                await stream.send_all(held.held[:cut])
                await trio.testing.wait_all_tasks_blocked()
                await stream.send_eof()
                await rest_of(stream)
        if whole:
            break
        check(noted, records, half_by_data)
        cut += 1
    assert noted.whole == [b"Subject: half\r\n\r\n"]
    assert (noted.halves, noted.reasons, endings(records)) == ([], ["lost"], ["lost"])
    assert cut > 25


# --- renegotiation (TLS 1.2 only) ---


@pytest.mark.program("openssl")
@pytest.mark.parametrize(
    "option",
    [
        pytest.param(0, id="as it is"),
        pytest.param(ssl.OP_NO_RENEGOTIATION, id="refused, as create_context has it"),
        pytest.param(1 << 8, id="allowed"),  # SSL_OP_ALLOW_CLIENT_RENEGOTIATION of OpenSSL 3, which ssl does not name
    ],
)
async def test_renegotiation(server_certificate: trustme.LeafCert, option: int) -> None:
    """A client that asks for it in the middle of a session hurts nobody else, whatever the context says to it."""
    context = server_context(server_certificate)
    context.options |= option
    noted = Noted(context)
    async with serving(noted.server.app, noted.server.config) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-starttls", "smtp", "-tls1_2"]
        # An "R" at the start of its input is what makes it ask.
        with trio.fail_after(60):
            client = await trio.run_process(
                command, stdin=b"R\r\n", capture_stdout=True, stderr=subprocess.STDOUT, check=False
            )
        assert b"RENEGOTIATING" in client.stdout
        while server.sessions:
            await trio.lowlevel.checkpoint()
        assert (server.stats.tls_handshakes, server.stats.tls_failures) == (1, 0)
        assert noted.reasons == ["lost"]
        async with await trio.open_tcp_stream("127.0.0.1", port_of(server)) as stream:
            another = Client(stream)
            assert (await another.read_reply()).code == 220
            await another.ehlo()
            assert (await another.send_message("a@example.org", ["b@example.com"], b"Hello\r\n")).code == 250
    assert noted.whole == [b"Hello\r\n"]
