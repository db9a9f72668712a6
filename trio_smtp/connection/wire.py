"""The doors of a connection: the only caller of receive_some and send_all.

Octets come in here and go into the framer; replies gather here and leave together. One cancel scope ends everything a
connection does; what is going on now has a deadline (`arm`), which the server's `Watch` holds it to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import trio

from trio_smtp.app.session import Session
from trio_smtp.dialogue.outcomes import EndSession, logger
from trio_smtp.net.closing import close
from trio_smtp.net.transport import SocketTransport
from trio_smtp.protocol.framing import MAX_CHUNK, Framer
from trio_smtp.protocol.networks import host_key
from trio_smtp.protocol.replies import Reply, default_enhanced
from trio_smtp.protocol.sasl import MECHANISMS

if TYPE_CHECKING:
    from trio_smtp.app.application import Chains
    from trio_smtp.app.config import Config
    from trio_smtp.app.stats import Stats
    from trio_smtp.protocol.commands import Syntax
    from trio_smtp.server.server import SMTPServer

__all__ = ["MAX_WAITING_OCTETS", "Activity", "Wire", "host_key"]

#: What the deadline is for.
Activity = Literal["command", "handler", "send", "data", "tls", "delay", "proxy", "leave"]

#: Octets of one receive: with the two a body may have kept back, one chunk.
RECEIVE_SIZE = MAX_CHUNK - 4
#: Waiting replies leave before a handler runs when there are so many octets, or the oldest waits so many seconds.
MAX_WAITING_OCTETS = 65_536
_MAX_WAITING_SECONDS = 1.0


class Wire:
    """The stream of one connection, and the clock that holds for it.

    Args:
        server: Whose App, Config and counters it uses.
        stream: The client's stream.
        session: The client's session.
    """

    __slots__ = (
        "_debug",
        "_expires",
        "_out",
        "_out_octets",
        "_out_since",
        "_raw",
        "_transport",
        "activity",
        "chains",
        "config",
        "enhanced",
        "framer",
        "host",
        "now",
        "opened",
        "scope",
        "server",
        "session",
        "session_end",
        "stats",
        "stream",
        "syntax",
    )

    def __init__(self, server: SMTPServer, stream: trio.abc.Stream, session: Session) -> None:
        self.server: SMTPServer = server
        self.chains: Chains = server.chains
        self.config: Config = server.config
        self.stats: Stats = server.stats
        self.stream: trio.abc.Stream = stream
        self.session: Session = session
        #: What it counts as for `max_connections_per_host`.
        self.host: str = host_key(session.remote_address)
        self.activity: Activity = "command"
        #: Replies carry enhanced status codes.
        self.enhanced: bool = False
        self._debug = logger.isEnabledFor(logging.DEBUG)
        self._out: list[bytes] = []
        self._out_octets = 0
        self._out_since = 0.0
        # Closed at the end: an SSLStream would shake hands before it closes, or has let go of it.
        self._raw = stream
        while isinstance(self._raw, trio.SSLStream):
            self._raw = self._raw.transport_stream
        self._transport = self._raw if isinstance(self._raw, SocketTransport) else None
        # A method of the run's clock: asking it directly costs a third of trio.current_time().
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self._expires = math.inf
        self.opened: float = self.now()
        self.session_end: float = self.opened + (self.config.session_timeout or math.inf)
        self.scope: trio.CancelScope = trio.CancelScope(deadline=self.session_end)
        self.reset_wire(stream)

    @property
    def flush_is_due(self) -> bool:
        """Replies have waited long enough: no handler may hold them up."""
        return bool(self._out) and (
            self._out_octets > MAX_WAITING_OCTETS or self.now() - self._out_since > _MAX_WAITING_SECONDS
        )

    def reset_wire(self, stream: trio.abc.Stream) -> None:
        """Begin anew on this stream: nothing that came before is kept (RFC 3207 section 4.2)."""
        config = self.config
        self.stream = stream
        self.framer: Framer = Framer(
            max_line=config.max_command_line,
            max_auth_line=config.max_auth_line,
            max_data_line=config.max_data_line,
            normalize=config.bare_newline == "normalize",
        )
        self.syntax: Syntax = self.server.offer.syntax(self.session)

    def arm(self, activity: Activity, timeout: float) -> float:
        """Set the deadline for what begins now; the server's watch holds to it (`expire`). Returns the time."""
        self.activity = activity
        now = self.now()
        self._expires = now + timeout
        return now

    def disarm(self) -> None:
        """No deadline but the session's own."""
        self._expires = math.inf

    def expire(self, now: float) -> None:
        """Cancel what goes on when its time is over, or the client has not read its replies in time."""
        transport = self._transport
        if transport is not None and transport.is_overdue(now, self.config.send_timeout):
            self.activity, self._expires = "send", now
        if self._expires <= now:
            self._expires = math.inf
            self.scope.cancel()

    async def receive(self) -> int:
        """Wait for octets and feed them to the framer; returns how many came.

        Raises:
            EndSession: The client is gone.
        """
        data = await self.receive_raw(RECEIVE_SIZE)
        self.framer.feed(data)
        return len(data)

    async def receive_raw(self, most: int) -> bytes:
        """Wait for at most so many octets, and return them.

        Raises:
            EndSession: The client is gone.
        """
        try:
            data = await self.stream.receive_some(most)
        except trio.BrokenResourceError:
            raise EndSession("lost") from None
        return self._count(data)

    def _count(self, data: bytes | bytearray) -> bytes:
        if not data:
            raise EndSession("lost")
        self.stats.octets_received += len(data)
        return bytes(data)

    def write(self, reply: Reply, *, enhanced: bool = True) -> None:
        """Put a reply into the outgoing buffer."""
        code = reply.code
        self.stats.replies[code] += 1
        enhanced = enhanced and self.enhanced and code != 334
        if code >= 400:
            status = (reply.enhanced or default_enhanced(code)) if enhanced else None
            self.session.error = f"{code} {status} {reply.text}" if status else f"{code} {reply.text}"
        wire = reply.encode(enhanced=enhanced, utf8=self.session.envelope.smtp_utf8)
        if not self._out:
            self._out_since = self.now()
        self._out.append(wire)
        self._out_octets += len(wire)
        if self._debug:
            self._trace("S", b"334 ***" if code == 334 else wire)

    def take_replies(self) -> bytes:
        """What waits to be sent, which waits no more."""
        data = b"".join(self._out)
        self._out.clear()
        self._out_octets = 0
        return data

    def close_at_once(self) -> bool:
        """Close when that needs no waiting; False: use `close`."""
        if self._transport is None:
            return False
        self._transport.close()
        return True

    async def close(self) -> None:
        """Close without a word."""
        await close(self._raw)

    def flush_soon(self) -> bool:
        """Have what waits sent when this pass of the scheduler ends; False: that takes `flush`."""
        if not self._out:
            return True
        transport = self._transport
        if transport is None or transport is not self.stream or not transport.send_soon(b"".join(self._out)):
            return False
        self._out.clear()
        self._out_octets = 0
        return True

    async def flush(self) -> None:
        """Send what waits.

        Raises:
            EndSession: The client is gone.
        """
        if self.flush_soon():
            return
        data = self.take_replies()
        try:
            activity = self.activity
            self.arm("send", self.config.send_timeout)
            await self.stream.send_all(data)
            self.activity = activity
        except trio.BrokenResourceError:
            raise EndSession("lost") from None

    async def flush_through(self) -> None:
        """Send what waits, until the socket has taken it: nothing does when the connection is closed.

        Raises:
            EndSession: The client is gone.
        """
        await self.flush()
        if self.unsent:
            self.arm("send", self.config.send_timeout)
            await self.send_waiting()

    @property
    def unsent(self) -> bool:
        """Octets wait for the socket."""
        return self._transport is not None and self._transport.waiting

    async def send_waiting(self) -> None:
        """Wait until the socket has taken what waits for it.

        Raises:
            EndSession: The client is gone.
        """
        try:
            if self._transport is not None:
                await self._transport.send_waiting()
        except trio.BrokenResourceError:
            raise EndSession("lost") from None

    # The log

    def log(self, level: int, event: str, details: str = "") -> None:
        """One line about this session."""
        if logger.isEnabledFor(level):
            session = self.session
            seconds = trio.current_time() - self.opened
            logger.log(
                level,
                "session=%s peer=%s helo=%s %s%s seconds=%.3f",
                session.id,
                session.remote_address,
                session.host_name_appears_as,
                event,
                f" {details}" if details else "",
                seconds,
            )

    def _trace(self, who: str, wire: bytes) -> None:
        """The dialogue, for DEBUG: secrets masked, control octets escaped."""
        if who == "C":
            wire = self._masked(wire)
        for line in wire.removesuffix(b"\r\n").split(b"\r\n"):
            logger.debug("session=%s %s: %s", self.session.id, who, ascii(line.decode("utf-8", "replace"))[1:-1])

    def _masked(self, line: bytes) -> bytes:
        """A line that may hold a secret, without it: AUTH, and what is no command at all.

        The lines of an AUTH exchange do not come here.
        """
        words = line.split(b" ")
        verb = words[0].strip().upper()
        if verb == b"AUTH":
            # A client may forget the mechanism: the word after AUTH is a secret then.
            known = [word for word in words[1:2] if word.decode("ascii", "replace").upper() in MECHANISMS]
            return b" ".join([words[0], *known, b"***"][: len(words)])
        if verb.decode("ascii", "replace") not in self.syntax.verbs:
            # A client that was refused AUTH may send its password all the same.
            return b"(unrecognized, %d octets)" % len(line)
        return line
