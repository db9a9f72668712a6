"""`Pool`: connections to one server that are kept and used again."""

from __future__ import annotations

import math
import select
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar, Unpack, final

import attrs
import trio

from trio_smtp import Address

from .client import Client
from .connecting import Options, make_connector
from .errors import DeliveryFailed, DeliveryRefused
from .results import Content, EnvelopeOptions, Recipients, SendResult, TransactionOptions
from .transaction import Transaction

__all__ = ["Pool"]


_T = TypeVar("_T")
#: What is said on a session that was kept before the server knows of a transaction.
_BEFORE = frozenset({"xclient", "xforward", "mail"})


@attrs.define(eq=False)
class _Kept:
    """A session, how many transactions it has had, and until when it may be used again."""

    client: Client
    messages: int = 0
    expires: float = 0

    def count(self) -> None:
        self.messages += 1

    def rest(self, seconds: float) -> None:
        self.expires = trio.current_time() + seconds


@final
class Pool:
    """Keeps sessions with one server: an async context manager; any number of tasks may use it.

    Example::

        async with Pool("smtp://mx.example:587", size=4) as pool:
            await pool.send("me@example.com", ["you@example.org"], message)

    A session that the server has ended meanwhile is noticed when it is used again: at the latest by a MAIL that gets
    no reply, or 421, which is then sent once more on a fresh session. Nothing else is tried again.

    Args:
        url: See `connect`.
        size: So many sessions at most; who needs one more waits.
        idle: A session that was not used for so many seconds is not used again. It is closed by the next use of the
            pool.
        max_messages: A session that had so many transactions is closed.
        options: See `connect`.

    Raises:
        ValueError: An argument is not allowed.
        TypeError: There is no such option.
    """

    __slots__ = ("_closed", "_connector", "_free", "_idle", "_max_messages", "_slots")

    def __init__(
        self, url: str, *, size: int = 10, idle: float = 30, max_messages: int = 100, **options: Unpack[Options]
    ) -> None:
        for name, value in (("size", size), ("max_messages", max_messages)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not idle > 0:
            raise ValueError(f"idle must be a number of seconds above 0, not {idle!r}")
        self._connector = make_connector(url, options)
        self._slots = trio.Semaphore(size)
        self._idle = idle
        self._max_messages = max_messages
        # The last one used is used first, so that those that are not needed grow old.
        self._free: deque[_Kept] = deque()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every session that is not in use, with QUIT; those in use end when they are given back."""
        self._closed = True
        while self._free:
            await self._free.pop().client.quit()

    async def send(
        self, sender: str | Address, recipients: Recipients, message: Content, **options: Unpack[EnvelopeOptions]
    ) -> SendResult:
        """Send one message: see `Client.send`, and `connect` for what opening a session raises."""

        async def send(kept: _Kept) -> SendResult:
            try:
                kept.count()
                return await kept.client.send(sender, recipients, message, **options)
            finally:
                await self._give_back(kept)

        async with self._slots:
            return await self._on_a_session(send)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A session for several steps; it goes back to the pool at the end of the block."""
        async with self._slots:
            kept = await self._take()
            kept.count()
            try:
                yield kept.client
            finally:
                await self._give_back(kept)

    @asynccontextmanager
    async def transaction(
        self,
        sender: str | Address,
        *,
        prepare: Callable[[Client], Awaitable[TransactionOptions]] | None = None,
        **options: Unpack[TransactionOptions],
    ) -> AsyncIterator[Transaction]:
        """A transaction step by step: see `Client.transaction`, and `connect` for what opening a session raises.

        Args:
            sender: See `Client.transaction`.
            prepare: Awaited with the session before MAIL, and again with a fresh session where the first turns out to
                be over. It may look at what the server offers, use `Client.xforward` and `Client.xclient`, and returns
                further options. What it raises comes out of this.
            options: See `TransactionOptions`.
        """

        async def begin(kept: _Kept) -> tuple[_Kept, Transaction]:
            try:
                kept.count()
                given: TransactionOptions = {**options, **(await prepare(kept.client))} if prepare else options
                return kept, await kept.client.transaction(sender, **given).__aenter__()
            except BaseException as error:
                if isinstance(error, DeliveryRefused) and error.reply.code == 521:
                    await kept.client.aclose()  # it takes no mail (RFC 7504)
                await self._give_back(kept)
                raise

        async with self._slots:
            kept, transaction = await self._on_a_session(begin)
            try:
                async with AsyncExitStack() as stack:
                    stack.push_async_exit(transaction)
                    yield transaction
            finally:
                await self._give_back(kept)

    async def _on_a_session(self, use: Callable[[_Kept], Awaitable[_T]]) -> _T:
        """Do something on a session; once more on a fresh one, where a session that was kept turns out to be over."""
        kept = await self._take()
        if kept.messages:
            try:
                return await use(kept)
            except (DeliveryFailed, DeliveryRefused) as error:
                if not _never_began(error):
                    raise
            kept = await self._take(fresh=True)
        return await use(kept)

    async def _take(self, *, fresh: bool = False) -> _Kept:
        """A session that can be used: a fresh one where none is left, or where that is asked for.

        One session that the server has ended means that the others are likely to be ended too.
        """
        if self._closed:
            raise trio.ClosedResourceError("this pool is closed")
        while self._free and (fresh or self._free[0].expires <= trio.current_time()):
            await self._free.popleft().client.quit()
        while self._free:
            kept = self._free.pop()
            if not _has_spoken(kept.client):
                return kept
            await kept.client.aclose()
        return _Kept(await self._connector.open())

    async def _give_back(self, kept: _Kept) -> None:
        """Keep a session for the next one who needs it.

        There is no checkpoint here for a session that is all right: its last result would be lost by a cancellation.
        """
        if not kept.client.usable:
            await kept.client.aclose()
        elif self._closed:
            await kept.client.quit()
        elif kept.messages >= self._max_messages:
            kept.rest(-math.inf)
            self._free.appendleft(kept)  # the next use of the pool says QUIT
        else:
            kept.rest(self._idle)
            self._free.append(kept)


def _never_began(error: DeliveryFailed | DeliveryRefused) -> bool:
    """The server has ended the session before it knew of this transaction."""
    return error.phase in _BEFORE and (isinstance(error, DeliveryFailed) or error.reply.code == 421)


def _has_spoken(client: Client) -> bool:
    """There is something to be read from a server that has nothing to say: a 421, or the end of the connection."""
    stream = client.stream
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream):
        return False
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
