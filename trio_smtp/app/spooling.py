"""Spooling: how the message of one transaction gets fields in front, and into a `SpooledMessage`."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import final

import trio

from trio_smtp.protocol.errors import SMTPError

from .body import Body
from .config import Config
from .fields import Head, check_name, encode_field, line_end_of
from .layers import Prefixed, Replay
from .message import MessageMalformed, MessageStream, StreamConsumed, has_begun
from .spool import SpooledMessage
from .store import Store

__all__ = ["Spooling"]

#: The longest header section of a message that is spooled, in octets: it is kept in memory.
_MAX_SECTION = 1_048_576
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

_logger = logging.getLogger("trio_smtp")


@final
class Spooling:
    """What `DataContext.add_field` and `DataContext.spool` do.

    Args:
        sent: The stream as it is received.
        body: The message's; it is told what to give back at the end of the transaction.
        config: How much is kept in memory, and where files are made.
        session_id: For the log.
        utf8: The client said SMTPUTF8.

    Attributes:
        stream: What handlers are to read.
    """

    __slots__ = ("_added", "_body", "_config", "_guard", "_lock", "_message", "_sent", "_stores", "_utf8", "stream")

    def __init__(self, sent: MessageStream, body: Body, config: Config, session_id: str, *, utf8: bool) -> None:
        self._sent = sent
        self._body = body
        self._config = config
        self._guard = partial(_guard, session_id, config.spool_directory)
        self._utf8 = utf8
        # Name and value, in the order in which they were added.
        self._added: list[tuple[str, str]] = []
        self._message: SpooledMessage | None = None
        self._stores: list[Store] = []
        self._lock = trio.Lock()
        self.stream: MessageStream = sent

    def add_field(self, name: str, value: str) -> MessageStream:
        """Add a field in front; returns the stream to be read from now on."""
        if self._message is not None:
            self._message.add_field(name, value)
            return self.stream
        check_name(name)
        if has_begun(self.stream) or has_begun(self._sent):
            raise RuntimeError("the message is being read: add fields before, or spool it first")
        self._added.append((name, value))
        if self.stream is self._sent:
            self.stream = Prefixed(self._body, self._sent, partial(_write_fields, self._added, self._utf8))
        return self.stream

    async def spool(self) -> SpooledMessage:
        """Spool the message, or return it where that was done; `stream` is one that was not begun."""
        async with self._lock:
            if self._message is None:
                if self._body.error is not None:
                    raise self._body.error
                if has_begun(self.stream) or has_begun(self._sent):
                    raise StreamConsumed
                self._message = await self._read_in()
                self.stream = Replay(self._body, self._message)
            elif has_begun(self.stream):
                self.stream = Replay(self._body, self._message)
            return self._message

    async def _read_in(self) -> SpooledMessage:
        body, head, store = self._body, Head(_MAX_SECTION), self._new_store()
        async for chunk in self._sent:
            head.feed(chunk)
            if head.too_long:
                error = MessageMalformed("its header section is too long")
                body.fail(error)
                raise error
            await self._guard(store.append(chunk))
        # Spooling is not taking: what was read to its end here was not read by a handler.
        body.finished = False
        body.close()
        head.finish()
        await self._guard(store.finish())
        message = SpooledMessage(store, head, body, self._guard, self._new_store, utf8=self._utf8)
        for name, value in self._added:
            message.add_field(name, value)
        return message

    def _new_store(self) -> Store:
        store = Store(self._config.spool_memory, self._config.spool_directory)
        self._stores.append(store)
        self._body.release = self.release
        return store

    def release(self) -> None:
        """The transaction is over: give memory and files back."""
        for store in self._stores:
            store.close()
        # Both hold this object: a cycle.
        self._message = None
        self.stream = self._sent


def _write_fields(added: Sequence[tuple[str, str]], utf8: bool, head: Head) -> bytes:
    """The fields that were added, the last one first, for a message that begins so."""
    line_end = line_end_of(head.octets) or b"\r\n"
    fields = [encode_field(*field, utf8=utf8, line_end=line_end) for field in reversed(added)]
    # In front of a field, or an empty line, nothing is needed.
    stands_alone = head.end == 0 and not head.octets.startswith((b"\r\n", b"\n"))
    return b"".join(fields) + (line_end if stands_alone else b"")


async def _guard(session_id: str, directory: str | None, call: Awaitable[bytes]) -> bytes:
    """Await a call for a store; an error of the system becomes a refusal, and is logged."""
    try:
        return await call
    except OSError as error:
        where = directory or "the system's directory of temporary files"
        _logger.error("session=%s cannot spool the message in %r: %s", session_id, where, error)
        if error.errno in _NO_SPACE:
            raise SMTPError("Insufficient system storage", 452, "4.3.1") from error
        raise SMTPError("Local error in processing", 451, "4.3.0") from error
