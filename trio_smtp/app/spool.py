"""SpooledMessage: a whole message, to be read as often as one likes, and to be changed.

What was sent stands in a `Store` and never changes. An edit touches a list of header fields, or puts another store in
place of the body; a reader goes along a plan of pieces, each of which is octets in memory or a range of a store. So all
octets that no edit touches are those that were sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TYPE_CHECKING, final
from weakref import WeakSet

import trio
from trio.lowlevel import checkpoint_if_cancelled

from .body import Body
from .fields import Head, HeaderField, check_name, encode_field, line_end_of, parse_fields
from .message import MessageTooLarge
from .parsing import parse_message
from .store import Store

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["Chunks", "SpooledMessage"]

_CHUNK = 65_536

#: Octets, or a store and the range of it from one position to another.
_Piece = bytes | tuple[Store, int, int]
#: Awaits a call for a store; turns an error of the system into a refusal.
_Guard = Callable[[Awaitable[bytes]], Awaitable[bytes]]


@final
class Chunks:
    """Reads a spooled message, or its original, once, in chunks of 1 to 65,536 octets: an async iterator.

    Several may be read at once; each has its own position.
    """

    __slots__ = ("__weakref__", "_begin", "_guard", "_position", "_rest", "_store")

    def __init__(self, store: Store, begin: Callable[[Chunks], list[_Piece]], guard: _Guard) -> None:
        self._store = store
        self._begin = begin
        self._guard = guard
        self._rest: list[_Piece] | None = None
        self._position = 0

    @property
    def reading(self) -> bool:
        """Reading has begun and is not over."""
        return bool(self._rest)

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        await checkpoint_if_cancelled()
        if self._store.closed:
            raise trio.ClosedResourceError
        if self._rest is None:
            self._rest = self._begin(self)[::-1]
        while self._rest:
            piece = self._rest[-1]
            if isinstance(piece, bytes):
                chunk = piece[self._position : self._position + _CHUNK]
                over = self._position + len(chunk) == len(piece)
            else:
                store, start, end = piece
                start += self._position
                stop = min(end, start + _CHUNK)
                chunk = await self._guard(store.read(start, stop))
                over = stop == end
            self._position += len(chunk)
            if over:
                self._rest.pop()
                self._position = 0
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the reading, so that the message may be changed."""
        self._rest = []
        await trio.lowlevel.checkpoint()


@final
class SpooledMessage:
    """A whole message. `DataContext.spool` makes it; it ends with the transaction.

    Error handling: what cannot be read from the disk, or written to it, is an `SMTPError`: 452 4.3.1 where it is full,
    451 4.3.0 otherwise. After the transaction everything that reads raises `trio.ClosedResourceError`.
    """

    __slots__ = (
        "_body",
        "_fields",
        "_guard",
        "_head",
        "_new_body",
        "_new_store",
        "_readers",
        "_store",
        "_utf8",
    )

    def __init__(
        self, store: Store, head: Head, body: Body, guard: _Guard, new_store: Callable[[], Store], *, utf8: bool
    ) -> None:
        self._store = store
        self._head = head
        self._body = body
        self._guard = guard
        self._new_store = new_store
        self._utf8 = utf8
        # None: as sent.
        self._fields: list[HeaderField] | None = None
        self._new_body: Store | None = None
        self._readers: WeakSet[Chunks] = WeakSet()

    # Reading

    @property
    def size(self) -> int:
        """Octets of the message as edited."""
        return sum(len(piece) if isinstance(piece, bytes) else piece[2] - piece[1] for piece in self._plan())

    @property
    def fields(self) -> tuple[HeaderField, ...]:
        """The header fields as edited, in order."""
        return tuple(self._all_fields())

    def chunks(self) -> Chunks:
        """Read the message as edited: an async iterator of chunks of 1 to 65,536 octets."""
        return Chunks(self._store, self._begin, self._guard)

    def original(self) -> Chunks:
        """Read the message as the client sent it, likewise."""
        return Chunks(self._store, lambda _: _range(self._store, 0, self._store.size), self._guard)

    async def read(self, limit: int | None = None) -> bytes:
        """Read the whole message as edited into memory.

        Args:
            limit: The most octets to take; None: no limit.

        Raises:
            MessageTooLarge: There are more than `limit`.
        """
        if limit is not None and self.size > limit:
            raise MessageTooLarge
        return b"".join([chunk async for chunk in self.chunks()])

    async def parse(self) -> EmailMessage:
        """Parse the message as edited, as `MessageStream.read_message` does.

        Raises:
            MessageUnparsable: Its parts are nested too deeply, or the parser failed.
        """
        return await parse_message(await self.read())

    # Editing

    def add_field(self, name: str, value: str, index: int = 0) -> None:
        """Add a header field.

        Args:
            name: Printable ASCII without a colon.
            value: Cleaned, folded and encoded (RFC 5322, RFC 2047; UTF-8 stays where the client said SMTPUTF8).
            index: How many fields stand before it.

        Raises:
            ValueError: The name is not that of a field, or there are less fields than `index`.
            RuntimeError: A reading has begun and is not over, or a handler has read `ctx.stream` to its end.
        """
        self._check_edit()
        fields = self._all_fields()
        if not 0 <= index <= len(fields):
            raise ValueError(f"index must be from 0 to {len(fields)}, not {index}")
        neighbours = (*fields[index : index + 1], *fields[max(0, index - 1) : index])
        ends = [line_end_of(field.raw) for field in neighbours]
        line_end = next(filter(None, ends), None) or line_end_of(self._head.octets[self._head.end :]) or b"\r\n"
        fields.insert(index, self._encode(name, value, line_end))
        self._fields = fields

    def replace_field(self, name: str, value: str, occurrence: int = 0) -> None:
        """Write another value into a header field, which stays where it is.

        Args:
            name: The field's name; upper and lower case are the same. It is written as given.
            value: As with `add_field`.
            occurrence: Which of several, from the first one on; -1: the last.

        Raises:
            KeyError: There is no such field.
            ValueError: The name is not that of a field.
            RuntimeError: As with `add_field`.
        """
        fields, index = self._find(name, occurrence)
        line_end = line_end_of(fields[index].raw) or line_end_of(fields[index - 1].raw) or b"\r\n"
        fields[index] = self._encode(name, value, line_end)
        self._fields = fields

    def remove_field(self, name: str, occurrence: int = 0) -> None:
        """Remove a header field.

        Args:
            name: The field's name; upper and lower case are the same.
            occurrence: Which of several, from the first one on; -1: the last.

        Raises:
            KeyError: There is no such field.
            ValueError: The name is not that of a field.
            RuntimeError: As with `add_field`.
        """
        fields, index = self._find(name, occurrence)
        del fields[index]
        self._fields = fields

    async def replace_body(self, body: bytes | AsyncIterable[bytes]) -> None:
        """Put another body in place of what follows the header section and its empty line.

        Args:
            body: Octets as they are to be stored, lines ended by CRLF; or what gives them, piece by piece. It may be
                made of `chunks` of this message: the old body is there until the new one is whole.

        Raises:
            RuntimeError: As with `add_field`.
        """
        if self._store.closed:
            raise trio.ClosedResourceError
        if isinstance(body, bytes):
            self._check_edit()
        store = self._new_store()
        try:
            if isinstance(body, bytes):
                await self._guard(store.append(body))
            else:
                async for chunk in body:
                    await self._guard(store.append(chunk))
            await self._guard(store.finish())
            self._check_edit()
        except BaseException:
            store.close()
            raise
        old, self._new_body = self._new_body, store
        if old is not None:
            old.close()

    # How it is done

    def _check_edit(self) -> None:
        if self._body.finished:
            raise RuntimeError("a handler has read the message to its end: it cannot be changed any more")
        if any(reader.reading for reader in self._readers):
            raise RuntimeError("the message is being read: read it to its end before it is changed")

    def _all_fields(self) -> list[HeaderField]:
        return list(parse_fields(bytes(self._head.octets[: self._head.end])) if self._fields is None else self._fields)

    def _find(self, name: str, occurrence: int) -> tuple[list[HeaderField], int]:
        self._check_edit()
        check_name(name)
        fields = self._all_fields()
        found = [index for index, field in enumerate(fields) if field.name.lower() == name.lower()]
        try:
            return fields, found[occurrence]
        except IndexError:
            raise KeyError(name) from None

    def _encode(self, name: str, value: str, line_end: bytes) -> HeaderField:
        return HeaderField(name, encode_field(name, value, utf8=self._utf8, line_end=line_end))

    def _begin(self, reader: Chunks) -> list[_Piece]:
        self._readers.add(reader)
        return self._plan()

    def _plan(self) -> list[_Piece]:
        """The pieces of the message as edited."""
        if self._fields is None and self._new_body is None:
            return _range(self._store, 0, self._store.size)
        end = self._head.end
        assert end is not None
        after = bytes(self._head.octets[end:])
        separator = after if after in (b"\r\n", b"\n") else b""
        section = b"".join(field.raw for field in self._all_fields())
        if self._new_body is None:
            tail = _range(self._store, end + len(separator), self._store.size)
            # A body that begins with a blank, "From " or plain text must not go on with the added fields.
            needs_empty_line = section != b"" and end == 0 and not separator
        else:
            tail = _range(self._new_body, 0, self._new_body.size)
            needs_empty_line = not separator
        # The last field of a message that ends with it may have no line end; it may stand before others now.
        line_end = line_end_of(section) or line_end_of(after) or b"\r\n"
        if needs_empty_line:
            separator = line_end
        head = self._with_line_ends(line_end, followed=bool(tail or separator)) + separator
        return [head, *tail] if head else tail

    def _with_line_ends(self, line_end: bytes, *, followed: bool) -> bytes:
        fields = self._all_fields()
        raws = [field.raw if field.raw.endswith(b"\n") else field.raw + line_end for field in fields]
        if fields and not followed:
            raws[-1] = fields[-1].raw
        return b"".join(raws)


def _range(store: Store, start: int, end: int) -> list[_Piece]:
    return [(store, start, end)] if start < end else []
