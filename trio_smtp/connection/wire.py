"""The octets of one connection, in and out, while its session lasts; knows neither the server nor SMTP's grammar.

Replies gather in the dialogue's `Output` and are sent together. The last words, and refusals of whole connections, are
sent elsewhere (ending.py, server.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import final

import trio

from trio_smtp.app.stats import Stats
from trio_smtp.dialogue.output import Output
from trio_smtp.dialogue.steps import EndSession
from trio_smtp.net.acknowledging import acknowledge_at_once
from trio_smtp.net.transport import SocketTransport
from trio_smtp.protocol.framing import MAX_CHUNK

from .clock import SEND, Clock

__all__ = ["RECEIVE_SIZE", "Wire"]

#: Octets of one receive: with the two that a body may have kept back, one chunk.
RECEIVE_SIZE = MAX_CHUNK - 4


@final  # where the module is compiled, nothing can inherit from it
class Wire:
    """The stream of one connection.

    Args:
        stream: The client's stream.
        output: The replies that wait.
        clock: Holds sends to their time.
        stats: Counts octets.
        send_timeout: How long the client may take to read its replies, in seconds.
        show: Shows the replies that are held to `on_reply`; None: none are.

    Attributes:
        stream: The stream that is spoken on: as given, and the encrypted one after STARTTLS.
    """

    __slots__ = ("_clock", "_output", "_raw", "_send_timeout", "_show", "_soon", "_stats", "_transport", "stream")

    def __init__(
        self,
        stream: trio.abc.Stream,
        output: Output,
        clock: Clock,
        stats: Stats,
        send_timeout: float,
        *,
        show: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.stream: trio.abc.Stream = stream
        self._output = output
        self._clock = clock
        self._stats = stats
        self._send_timeout = send_timeout
        # Close this one, not the SSLStream: its `aclose` may wait for a handshake, or it no longer owns the socket.
        self._raw = stream
        while isinstance(self._raw, trio.SSLStream):
            self._raw = self._raw.transport_stream
        self._transport = self._raw if isinstance(self._raw, SocketTransport) else None
        self._show = show
        # Takes replies without waiting, unless they are shown first, which may take a while.
        self._soon = self._transport if show is None else None

    def replace(self, stream: trio.SSLStream[trio.abc.Stream]) -> None:
        """Speak on this stream, which is wrapped around the one before."""
        self.stream = stream

    def acknowledge(self) -> None:
        """Have what has come acknowledged at once: the client may wait for that before it goes on."""
        acknowledge_at_once(self._raw)

    def expire(self, now: float) -> None:
        """Cancel when the client has not read its replies in time, or the time of what is awaited is over."""
        transport = self._transport
        if transport is not None and transport.is_overdue(now, self._send_timeout):
            self._clock.give_up_sending()
        else:
            self._clock.expire(now)

    async def receive(self, most: int = RECEIVE_SIZE) -> bytes:
        """Wait for octets, and return them.

        Raises:
            EndSession: The client is gone.
        """
        try:
            data = await self.stream.receive_some(most)
        except trio.BrokenResourceError:
            raise EndSession("lost") from None
        if not data:
            raise EndSession("lost")
        self._stats.octets_received += len(data)
        return data if type(data) is bytes else bytes(data)  # memory streams give a bytearray

    async def receive_while(self, take: Callable[[bytes], bool], *, alone: bool) -> None:
        """Wait for octets, and hand them on, until `take` returns False.

        Args:
            take: Is given octets.
            alone: It needs no task: it may be called while none runs.

        Raises:
            EndSession: The client is gone.
            BaseException: What `take` raises.
        """
        transport = self._transport
        if not alone or transport is None or transport is not self.stream or not transport.register():
            while take(await self.receive()):
                pass
            return

        def count_and_take(octets: bytes) -> bool:
            self._stats.octets_received += len(octets)
            return take(octets)

        try:
            open_ = await transport.receive_while(count_and_take, RECEIVE_SIZE)
        except trio.BrokenResourceError:
            raise EndSession("lost") from None
        if not open_:
            raise EndSession("lost")

    def flush_soon(self) -> bool:
        """Have the replies that wait sent when this pass of the scheduler ends; False: that takes `flush`."""
        if not self._output.octets:
            return True
        transport = self._soon
        if transport is None or transport is not self.stream:
            return False
        octets = self._output.take()
        if transport.send_soon(octets):
            return True
        self._output.put_back(octets)
        return False

    async def flush(self) -> None:
        """Send the replies that wait, within the time that the client has to read them.

        Those that need not wait for the client leave when this pass of the scheduler ends.

        Raises:
            EndSession: The client is gone.
        """
        if self.flush_soon():
            return
        if self._show is not None:
            await self._show()
        octets, clock = self._output.take(), self._clock
        activity = clock.activity
        clock.arm(SEND, self._send_timeout)
        try:
            await self.stream.send_all(octets)
        except trio.BrokenResourceError:
            raise EndSession("lost") from None
        clock.resume(activity)

    @property
    def aborted(self) -> bool:
        """A handler has aborted the connection: nothing more is said."""
        return self._clock.aborted is not None

    async def show_replies(self) -> None:
        """Show the replies that are held to `on_reply`; does nothing where there are no handlers of it."""
        if self._show is not None:
            await self._show()

    async def flush_through(self) -> None:
        """Send the replies that wait, until the socket has taken them: nothing sends them when it is closed.

        Raises:
            EndSession: The client is gone.
        """
        await self.flush()
        if self.unsent:
            self._clock.arm(SEND, self._send_timeout)
            try:
                await self.send_rest()
            except trio.BrokenResourceError:
                raise EndSession("lost") from None

    @property
    def unsent(self) -> bool:
        """The socket has not taken all octets that were to be sent soon."""
        return self._transport is not None and self._transport.waiting

    async def send_rest(self) -> None:
        """Wait until the socket has taken the octets that were to be sent soon.

        Raises:
            trio.BrokenResourceError: The client is gone.
        """
        if self._transport is not None:
            await self._transport.send_waiting()

    def close_at_once(self) -> bool:
        """Close when that needs no waiting; False: use `close`."""
        if self._transport is None:
            return False
        aborted = self._clock.aborted
        if aborted is None:
            self._transport.close()
        else:
            self._transport.abort(reset=aborted)
        return True

    async def close(self) -> None:
        """Close without a word."""
        if not self.close_at_once():
            await trio.aclose_forcefully(self._raw)
