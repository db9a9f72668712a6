"""A small SMTP client on any trio stream."""

from __future__ import annotations

import base64
import ssl
import sys
from collections.abc import Iterable
from email.message import Message

import trio

from trio_smtp.app.session import Session
from trio_smtp.client.replies import ReplyParser
from trio_smtp.client.sasl import plain_response
from trio_smtp.protocol.replies import Reply, parse_reply
from trio_smtp.protocol.stuffing import octets_of, stuff
from trio_smtp.server.server import SMTPServer

__all__ = ["Client"]


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
        # What a test reads is its own server's: its replies may have any size.
        self._parser = ReplyParser(max_line=sys.maxsize, max_lines=sys.maxsize, max_octets=sys.maxsize)

    async def send_bytes(self, data: bytes) -> None:
        """Send octets as they are."""
        await self.stream.send_all(data)

    async def read_line(self) -> bytes:
        """Read the next line; its CRLF is returned too.

        Raises:
            trio.EndOfChannel: The server closed the connection.
        """
        while (line := self._parser.next_line()) is None:
            await self._read_more()
        return line

    async def _read_more(self) -> None:
        data = await self.stream.receive_some(65_536)
        if not data:
            rest = self._parser.take()
            self._parser.feed(rest)
            raise trio.EndOfChannel(f"the server closed the connection after {rest!r}")
        self._parser.feed(data)

    async def read_reply(self) -> Reply:
        """Read the next reply.

        Raises:
            trio.EndOfChannel: The server closed the connection.
            ValueError: What the server sent is not a well-formed reply.
        """
        while (wire := self._parser.next_wire()) is None:
            await self._read_more()
        reply = parse_reply(wire)
        if not hasattr(self, "greeting"):
            self.greeting = reply
        return reply

    async def read_to_end(self) -> bytes:
        """Read everything up to the end of the connection."""
        data = self._parser.take()
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
        response = base64.b64encode(plain_response(username, password, authzid)).decode()
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
