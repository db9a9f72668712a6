r"""Test mail handlers in memory, without sockets: a client, transcripts, and a listener.

Example::

    async def test_refuses_strangers() -> None:
        async with open_client(app) as client:
            await client.ehlo()
            reply = await client.send_message("a@example.org", ["b@elsewhere.example"], b"Hello\r\n")
            assert reply.code == 550

With trio's ``autojump_clock`` timeouts take no time.
"""

from __future__ import annotations

import base64
import ipaddress
import random
import re
import ssl
import textwrap
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from email.message import Message
from typing import Any, Literal

import attrs
import trio.testing

from .app.application import App
from .app.config import Config
from .app.session import Session
from .net.endpoints import Endpoints, PlacedStream
from .protocol.replies import Reply, parse_reply
from .protocol.stuffing import octets_of
from .protocol.stuffing import stuff as stuff  # noqa: PLC0414 - tests write messages with it
from .server.server import SMTPServer

__all__ = ["Client", "Cut", "MemoryListener", "open_client", "play"]

#: How a transcript's client lines are cut into segments.
Cut = Literal["whole", "line", "octet", "random"]


class Client:
    """A small SMTP client on any trio stream, for tests.

    Args:
        stream: The client's end.

    Attributes:
        stream: The client's end; after `starttls` the encrypted stream around it.
        greeting: The server's greeting: the first reply that was read.
        server: The server, when `open_client` made it.
        session: The server's Session, when `open_client` made it.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream: trio.abc.Stream = stream
        self.greeting: Reply
        self.server: SMTPServer
        self.session: Session
        self._buffer = b""

    async def send_bytes(self, data: bytes) -> None:
        """Send octets as they are."""
        await self.stream.send_all(data)

    async def read_line(self) -> bytes:
        """Read the next line; its CRLF is returned too.

        Raises:
            trio.EndOfChannel: The server closed the connection.
        """
        while b"\r\n" not in self._buffer:
            data = await self.stream.receive_some(65_536)
            if not data:
                raise trio.EndOfChannel(f"the server closed the connection after {self._buffer!r}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    async def read_reply(self) -> Reply:
        """Read the next reply.

        Raises:
            trio.EndOfChannel: The server closed the connection.
            ValueError: What the server sent is not a well-formed reply.
        """
        wire = b""
        while True:
            line = await self.read_line()
            wire += line
            if line[3:4] != b"-":
                reply = parse_reply(wire)
                if not hasattr(self, "greeting"):
                    self.greeting = reply
                return reply

    async def read_to_end(self) -> bytes:
        """Read everything up to the end of the connection."""
        data, self._buffer = self._buffer, b""
        while more := await self.stream.receive_some(65_536):
            data += more
        return data

    async def command(self, line: str | bytes) -> Reply:
        """Send a line (CRLF is added) and read the reply."""
        await self.send_bytes((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.read_reply()

    async def ehlo(self, name: str = "client.example") -> Reply:
        """Say EHLO."""
        return await self.command(f"EHLO {name}")

    async def starttls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = "localhost") -> Reply:
        """Say STARTTLS and shake hands; the caller says EHLO again.

        Args:
            ssl_context: A client-side context.
            server_hostname: The name that is asked for (SNI), and that the certificate must have where the context
                checks that. None asks for no name; from Python 3.14 on that needs a context that checks none.

        Raises:
            trio.BrokenResourceError: The handshake failed.
        """
        reply = await self.command("STARTTLS")
        if reply.code == 220:
            self.stream = trio.SSLStream(
                self.stream, ssl_context, server_hostname=server_hostname, https_compatible=True
            )
            await self.stream.do_handshake()
        return reply

    async def auth_plain(self, username: str, password: str, authzid: str = "") -> Reply:
        """Authenticate by PLAIN with an initial response."""
        response = base64.b64encode(f"{authzid}\0{username}\0{password}".encode()).decode()
        return await self.command(f"AUTH PLAIN {response}")

    async def send_message(self, sender: str, recipients: Iterable[str], data: bytes | Message) -> Reply:
        """Send one message, dots stuffed.

        Args:
            sender: The reverse-path, without brackets.
            recipients: Without brackets.
            data: A message of the package `email`, or octets; lines that all end with LF alone are ended by CRLF, and
                a missing last line end is added.

        Returns:
            The reply to the message. When it was refused before, the reply that refused it: MAIL's, DATA's, or the
            last recipient's when all were refused.
        """
        reply = await self.command(f"MAIL FROM:<{sender}>")
        if reply.code >= 400:
            return reply
        replies = [await self.command(f"RCPT TO:<{recipient}>") for recipient in recipients]
        if replies and min(reply.code for reply in replies) >= 400:
            return replies[-1]
        reply = await self.command("DATA")
        if reply.code != 354:
            return reply
        await self.send_bytes(stuff(octets_of(data)))
        return await self.read_reply()

    async def quit(self) -> Reply:
        """Say QUIT."""
        return await self.command("QUIT")

    async def aclose(self) -> None:
        """Close the stream without saying QUIT."""
        await trio.aclose_forcefully(self.stream)


def _configured(config: Config | None, changes: dict[str, Any]) -> Config:
    return attrs.evolve(config, **changes) if config is not None else Config(**{"hostname": "mx.example"} | changes)


def _stream_pair(
    peer: tuple[str, int] | None, local: tuple[str, int] | None = None
) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
    """The client's and the server's end of a connection in memory; the server's has the addresses, if there are any."""
    ours, theirs = trio.testing.memory_stream_pair()
    if peer is not None:
        ip = _ip_address("peer", peer)
        local = local or ("127.0.0.1" if ip.version == 4 or ip.ipv4_mapped else "::1", 25)
    elif local is None:
        return ours, theirs
    _ip_address("local", local)
    return ours, PlacedStream(theirs, Endpoints(peer, local))


def _ip_address(argument: str, endpoint: tuple[str, int]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address, _port = endpoint
        return ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{argument} must be an IP address and a port, not {endpoint!r}") from None


@asynccontextmanager
async def open_client(
    app: App, config: Config | None = None, *, peer: tuple[str, int] | None = None, **config_changes: Any
) -> AsyncIterator[Client]:
    """Start a server and connect a client to it in memory; the greeting has been read.

    Args:
        app: The handlers.
        config: None: defaults, and ``mx.example`` as the host name.
        peer: The address and port that the client seems to come from; see `MemoryListener.connect`.
        config_changes: Fields of Config that differ.

    Yields:
        The client. At the end of the block its stream is closed, and the end of the session is waited for.

    Raises:
        ValueError: `peer` is no IP address and port.
    """
    ours, theirs = _stream_pair(peer)
    async with _serving(SMTPServer(app, _configured(config, config_changes)), ours, theirs) as client:
        if not client.server.config.implicit_tls:
            await client.read_reply()
        yield client


@asynccontextmanager
async def _serving(server: SMTPServer, ours: trio.abc.Stream, theirs: trio.abc.Stream) -> AsyncIterator[Client]:
    """Serve the stream beside the block. What either raises comes out bare: a failing test shows its own error."""
    client = Client(ours)
    failures: list[Exception] = []

    async def serve(*, task_status: trio.TaskStatus[Session]) -> None:
        try:
            await server.serve_stream(theirs, task_status=task_status)
        except Exception as exc:
            failures.insert(0, exc)  # what the block raises may be a consequence
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        try:
            client.server, client.session = server, await nursery.start(serve)
            yield client
        except Exception as exc:
            failures.append(exc)
            nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await client.aclose()
    if failures:
        raise failures[0]


_ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|([rnt0\\]))")
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def _unescape(text: str) -> bytes:
    return _ESCAPE.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else _ESCAPES[m[2]], text.encode())


@attrs.frozen
class _Turn:
    sent: tuple[bytes, ...]
    expected: tuple[tuple[int, str], ...]


def _parse(transcript: str) -> list[_Turn]:
    """Cut a transcript into turns: what the client says, then what the server answers."""
    turns: list[_Turn] = []
    sent: list[bytes] = []
    expected: list[tuple[int, str]] = []
    for number, line in enumerate(textwrap.dedent(transcript).splitlines(), 1):
        mark, text = line[:2], line[2:].removeprefix(" ")
        if not line.strip() or line.startswith("#"):
            continue
        if mark not in ("C:", "C=", "S:"):
            raise ValueError(f"line {number}: a transcript's lines begin with 'C:', 'C=', 'S:' or '#', not {line!r}")
        if mark == "S:":
            expected.append((number, text))
            continue
        if expected:
            turns.append(_Turn(tuple(sent), tuple(expected)))
            sent, expected = [], []
        sent.append(_unescape(text) + (b"\r\n" if mark == "C:" else b""))
    return [*turns, _Turn(tuple(sent), tuple(expected))]


def _segments(lines: Sequence[bytes], cut: Cut, dice: random.Random) -> list[bytes]:
    whole = b"".join(lines)
    if cut == "whole":
        return [whole] if whole else []
    if cut == "line":
        return list(lines)
    segments = []
    while whole:
        n = 1 if cut == "octet" else dice.randint(1, 12)
        segments.append(whole[:n])
        whole = whole[n:]
    return segments


async def play(
    app: App,
    transcript: str,
    config: Config | None = None,
    *,
    cut: Cut = "whole",
    seed: int = 0,
    peer: tuple[str, int] | None = None,
    **config_changes: Any,
) -> None:
    r"""Play a transcript against a server in memory and compare what it answers.

    ``C:`` is a line the client sends, CRLF added; ``C=`` the same without CRLF; both know the escapes ``\r``, ``\n``,
    ``\t``, ``\0``, ``\\`` and ``\xNN``. ``S:`` is a line the server must answer, the greeting included; ``...`` in it
    stands for any text, and ``S: <close>`` for the end of the connection. ``#`` begins a comment. Client lines that
    follow each other are pipelined. What all lines are indented by does not count.

    Args:
        app: The handlers.
        transcript: The text.
        config: None: defaults, and ``mx.example`` as the host name.
        cut: How the client's octets are cut into segments.
        seed: For ``cut="random"``.
        peer: The address and port that the client seems to come from; see `MemoryListener.connect`.
        config_changes: Fields of Config that differ.

    Raises:
        AssertionError: The server said something else, or more; the text names the transcript's line.
        ValueError: The transcript is malformed, or `peer` is no IP address and port.
    """
    ours, theirs = _stream_pair(peer)
    async with _serving(SMTPServer(app, _configured(config, config_changes)), ours, theirs) as client:
        await _take_turns(client, _parse(transcript), cut, seed)
        await ours.send_eof()
        if rest := await client.read_to_end():
            raise AssertionError(f"after the last line: the server said {rest!r}")


async def _take_turns(client: Client, turns: Iterable[_Turn], cut: Cut, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - cuts a transcript
    for turn in turns:
        for segment in _segments(turn.sent, cut, dice):
            await client.send_bytes(segment)
            if cut != "whole":
                await trio.testing.wait_all_tasks_blocked()
        for number, text in turn.expected:
            await _expect(client, number, text)


async def _expect(client: Client, number: int, text: str) -> None:
    if text == "<close>":
        rest = await client.read_to_end()
        if rest:
            raise AssertionError(f"line {number}: expected the end of the connection, the server said {rest!r}")
        return
    try:
        line = (await client.read_line()).decode().removesuffix("\r\n")
    except trio.EndOfChannel:
        raise AssertionError(f"line {number}: expected {text!r}, the server closed the connection") from None
    pattern = ".*".join(re.escape(part) for part in text.split("..."))
    if not re.fullmatch(pattern, line):
        raise AssertionError(f"line {number}: expected {text!r}, the server said {line!r}")


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """A listener without sockets, for `SMTPServer.serve_listeners`: each `connect` gives a client's stream."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](0)

    async def connect(
        self, peer: tuple[str, int] | None = None, *, local: tuple[str, int] | None = None
    ) -> trio.abc.Stream:
        """Connect; returns the client's end.

        With addresses, whatever goes by them can be tested: lists of addresses, trusted front ends, limits by host::

            stream = await listener.connect(("192.0.2.1", 4711), local=("198.51.100.1", 25))

        Args:
            peer: The IP address and port that the client seems to come from; None: from nowhere, as on a Unix socket.
            local: Where it seems to come in; None: port 25 of ``127.0.0.1`` (of ``::1`` for an IPv6 `peer`), and
                nowhere when there is no `peer`.

        Raises:
            trio.BrokenResourceError: The listener was closed.
            ValueError: An address is no IP address and port.
        """
        ours, theirs = _stream_pair(peer, local)
        await self._send.send(theirs)
        return ours

    async def accept(self) -> trio.abc.Stream:
        """See `trio.abc.Listener`."""
        return await self._receive.receive()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self._receive.close()
        await trio.lowlevel.checkpoint()
