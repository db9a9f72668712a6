"""Reading mail from a Redis stream, as one of the consumers of a group.

Redis gives each entry to one consumer of a group, and keeps it in that consumer's list of pending entries until it is
acknowledged. So a mail is lost by nobody's death:

* What a consumer held when it ended, it gets first when it begins again under the same name.
* What it held for `claim_after` seconds, another consumer claims.
* What was given out `tries` times and never acknowledged, or cannot be read, goes to the stream of dead letters.

So a mail is given out at least once, and again after a crash, or when the work on it takes longer than `claim_after`:
that should be work which may be done twice. ``mail.id`` is the same each time.

When Redis is away the consumer waits and goes on, in `Mail.ack` as well; the log has a WARNING.

`Mails` asks for one entry at a time, since what it held ready would wait in vain while the program works::

    async with consume("redis://redis.example.net", "mail", group="index", consumer="host1") as mails:
        async for mail in mails:
            await index(mail.envelope, mail.data)
            await mail.ack()
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from ._redis import Command, Connections, RedisFailure, Target, library, nonsense, open_connections, parse_target
from ._stream_entry import StoredEnvelope, decode_envelope

__all__ = ["Mail", "Mails", "consume"]

_BEGIN = b"0-0"
#: Seconds that a read waits at most for a new entry.
_LONGEST_READ = 5.0
#: Seconds between two looks for what dead consumers hold, at most.
_LONGEST_PAUSE = 30.0
#: Seconds before Redis is asked again when it has failed.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
#: One waits for an entry, the others acknowledge.
_CONNECTIONS = 8

_Result = TypeVar("_Result")
_logger = logging.getLogger("trio_smtp.delivery.redis_stream")


def consume(
    url: str,
    stream: str,
    *,
    group: str,
    consumer: str,
    claim_after: float = 60.0,
    tries: int = 5,
    dead_letters: str | None = None,
    delete: bool = True,
    timeout: float = 10.0,
    ssl_context: ssl.SSLContext | None = None,
) -> AbstractAsyncContextManager[Mails]:
    """Read mail that `redis_stream` has stored, each until it is acknowledged (`Mail.ack`). See the module.

    Args:
        url: As for `redis_stream`.
        stream: The stream's key.
        group: The consumer group: all programs that share the work have the same. Another group gets all mail too. It
            is made where it is missing, and begins with the oldest entry.
        consumer: A name that no other living consumer of the group has, such as the host's; the same after a restart.
        claim_after: Seconds after which a mail that was not acknowledged is given to whoever asks: longer than the
            work on one takes.
        tries: A mail that was given out so often and never acknowledged is a dead letter.
        dead_letters: The key of their stream; None: the stream's with ``:dead`` behind.
        delete: Acknowledging deletes the entry and its body. Where several groups read, each mail has to stay for the
            others: False, and whoever knows that all are through deletes.
        timeout: Seconds for Redis to answer.
        ssl_context: For ``rediss://``; None: the system's certificates, and the host's name is checked.

    Returns:
        What ``async with`` enters; it gives a `Mails`. At its end what was not acknowledged stays pending.

    Raises:
        ImportError: The extra ``redis`` is not installed.
        ValueError: An argument is out of range; the text names it.
    """
    keys = _Keys(stream, group, consumer, f"{stream}:dead" if dead_letters is None else dead_letters, delete)
    if claim_after <= 0 or timeout <= 0:
        raise ValueError("claim_after and timeout must be more than 0 seconds")
    if tries < 1:
        raise ValueError("tries must be at least 1")
    target = parse_target(url, ssl_context)
    library()
    return _entered(target, keys, timeout=timeout, claim_after=claim_after, tries=tries)


@asynccontextmanager
async def _entered(
    target: Target, keys: _Keys, *, timeout: float, claim_after: float, tries: int
) -> AsyncIterator[Mails]:
    async with open_connections(target, limit=_CONNECTIONS, timeout=timeout) as connections:
        yield Mails(connections, target, keys, claim_after=claim_after, tries=tries)


@attrs.frozen
class _Keys:
    """What is read, by whom, and where it goes."""

    stream: str
    group: str
    consumer: str
    dead_letters: str
    delete: bool

    def __attrs_post_init__(self) -> None:
        for name in ("stream", "group", "consumer", "dead_letters"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        if self.dead_letters == self.stream:
            raise ValueError("dead_letters must be another stream")


@attrs.frozen
class _Entry:
    """An entry: its id, and its fields and values in turn; None where it was deleted while it was pending."""

    id: bytes
    fields: list[bytes] | None
    fresh: bool

    def get(self, name: bytes) -> bytes | None:
        """The value of a field."""
        fields = self.fields or []
        return dict(zip(fields[::2], fields[1::2], strict=True)).get(name)


@attrs.frozen(eq=False)
class Mail:
    """A message out of the stream.

    Attributes:
        envelope: Who sent it to whom, and how it came.
        data: Its octets, with the fields that were put in front: Return-Path, Delivered-To, Received.
        id: The entry's id, which the reply to the client had: ``Queued as 1732159200123-0``.
        tries: How often it was given out, this time included.
    """

    envelope: StoredEnvelope
    data: bytes = attrs.field(repr=False)
    id: str
    tries: int
    _ack: Callable[[], Awaitable[None]] = attrs.field(repr=False)

    async def ack(self) -> None:
        """Tell Redis that the work is done: the mail is given to no consumer of the group again, and is deleted.

        Acknowledging twice does no harm. While Redis is away this waits.

        Raises:
            RedisFailure: Redis refuses it, and waiting does not help.

        Cancellation: the mail may be acknowledged, or may be given out again.
        """
        await self._ack()


class Mails:
    """The mail of a consumer, one after the other, without an end; `consume` makes it.

    One task iterates; mails may be acknowledged by any, in any order. Leaving the loop by ``break`` is fine, and so is
    entering another one afterwards.

    Raises:
        RedisFailure: Out of the iteration, where waiting does not help: a wrong password, a missing right, a key that
            is no stream.
    """

    def __init__(
        self, connections: Connections, target: Target, keys: _Keys, *, claim_after: float, tries: int
    ) -> None:
        self._connections = connections
        self._target = target
        self._keys = keys
        self._claim_after = claim_after
        self._tries = tries
        self._grouped = False
        #: Where the reading of what is pending for this consumer goes on; None: that is done.
        self._own: bytes | None = _BEGIN
        self._claimed = _BEGIN
        self._claim_at = trio.current_time()
        #: What was given out here and was not acknowledged: it is not read again as this consumer's own, but claimed.
        self._given: set[bytes] = set()
        self._away = False

    def __aiter__(self) -> Mails:
        return self

    async def __anext__(self) -> Mail:
        while True:
            entry = await self._steadily(self._next)
            mail = None if entry is None else await self._steadily(partial(self._opened, entry))
            if mail is not None:
                return mail

    # Redis may be away

    async def _steadily(self, step: Callable[[], Awaitable[_Result]]) -> _Result:
        """Do it, again and again where Redis cannot just now."""
        delay = _FIRST_DELAY
        while True:
            try:
                result = await step()
            except RedisFailure as failure:
                if failure.kind in {"refused", "type"}:
                    raise RedisFailure(failure.kind, f"{self._target.name}: {self._target.clean(failure)}") from None
                self._grouped &= failure.kind != "group"
                self._log_failure(failure)
            else:
                if self._away:
                    self._away = False
                    _logger.info("%s answers again", self._target.name)
                return result
            await trio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    def _log_failure(self, failure: RedisFailure) -> None:
        if not self._away:
            self._away = True
            _logger.warning(
                "cannot read the stream %r of %s: %s; trying again",
                self._keys.stream,
                self._target.name,
                self._target.clean(failure),
            )

    # The next entry

    async def _next(self) -> _Entry | None:
        """The next entry, or None: ask again."""
        if not self._grouped:
            await self._make_group()
        if self._own is not None:
            entry = await self._read(self._own)
            self._own = None if entry is None else entry.id
            if entry is not None:
                return None if entry.id in self._given else entry
        if trio.current_time() >= self._claim_at:
            return await self._claim()
        return await self._read(b">")

    async def _make_group(self) -> None:
        keys = self._keys
        (reply,) = await self._connections.call((b"XGROUP", b"CREATE", keys.stream, keys.group, b"0", b"MKSTREAM"))
        if isinstance(reply, RedisFailure) and reply.kind != "exists":
            raise reply
        self._grouped = True

    async def _read(self, start: bytes) -> _Entry | None:
        """Read one entry: a new one (``>``, waiting for it), or one that is pending for this consumer, after an id."""
        keys, fresh = self._keys, start == b">"
        patience = 0.0
        block: Command = ()
        if fresh:
            patience = min(max(self._claim_at - trio.current_time(), 0.001), _LONGEST_READ)
            block = (b"BLOCK", max(1, round(patience * 1000)))
        command = (
            b"XREADGROUP",
            b"GROUP",
            keys.group,
            keys.consumer,
            b"COUNT",
            1,
            *block,
            b"STREAMS",
            keys.stream,
            start,
        )
        try:
            (reply,) = await self._connections.call(command, patience=patience)
        except BaseException:
            # Redis may have given an entry in an answer that did not arrive: it is pending, and read as such.
            self._own = _BEGIN
            raise
        if isinstance(reply, RedisFailure):
            raise reply
        if reply is None:
            return None
        entries = reply.get(keys.stream.encode()) if isinstance(reply, dict) else None
        found = _entries(entries, fresh=fresh)
        return found[0] if found else None

    async def _claim(self) -> _Entry | None:
        """Take over an entry whose consumer has held it for too long."""
        keys = self._keys
        idle = round(self._claim_after * 1000)
        command = (b"XAUTOCLAIM", keys.stream, keys.group, keys.consumer, idle, self._claimed, b"COUNT", 1)
        (reply,) = await self._connections.call(command)
        if isinstance(reply, RedisFailure):
            raise reply
        if not isinstance(reply, list) or len(reply) < 2 or not isinstance(reply[0], bytes):
            raise nonsense(reply)
        self._claimed = reply[0]
        if self._claimed == _BEGIN:
            self._claim_at = trio.current_time() + min(self._claim_after / 2, _LONGEST_PAUSE)
        found = _entries(reply[1], fresh=False)
        return found[0] if found else None

    # What is in it

    async def _opened(self, entry: _Entry) -> Mail | None:
        """The mail of an entry; one that is none is put away."""
        if entry.fields is None:
            _logger.warning("%s of the stream %r was deleted before it was read", entry.id.decode(), self._keys.stream)
            await self._connections.call((b"XACK", self._keys.stream, self._keys.group, entry.id))
            return None
        tries = 1 if entry.fresh else await self._count(entry)
        if tries > self._tries:
            return await self._bury(entry, f"given out {tries - 1} times and never acknowledged")
        body = entry.get(b"body")
        data = entry.get(b"data")
        if data is None and body is not None:
            (found,) = await self._connections.call((b"GET", body))
            if isinstance(found, RedisFailure) and found.kind != "type":
                raise found
            data = found if isinstance(found, bytes) else None
        if data is None:
            return await self._bury(entry, "there is no data" if body is None else "its body is gone")
        try:
            envelope = decode_envelope(entry.get(b"envelope") or b"")
        except ValueError as error:
            return await self._bury(entry, str(error))
        self._given.add(entry.id)
        return Mail(envelope, data, entry.id.decode(), tries, partial(self._ack, entry.id, body))

    async def _count(self, entry: _Entry) -> int:
        """How often an entry that is pending was given out."""
        keys = self._keys
        (reply,) = await self._connections.call((b"XPENDING", keys.stream, keys.group, entry.id, entry.id, 1))
        match reply:
            case RedisFailure():
                raise reply
            case [[_, _, _, int(tries)]]:
                return tries
            case []:
                return 1  # another consumer has just acknowledged it
            case _:
                raise nonsense(reply)

    async def _bury(self, entry: _Entry, reason: str) -> Mail | None:
        """Put an entry into the stream of dead letters, whole; a body in a key of its own stays for it."""
        keys = self._keys
        assert entry.fields is not None
        _logger.warning(
            "%s of the stream %r goes to %r: %s",
            entry.id.decode(),
            keys.stream,
            keys.dead_letters,
            self._target.clean(reason),
        )
        notes = (b"dead-id", entry.id, b"dead-group", keys.group, b"dead-reason", reason)
        await self._connections.transact(
            (b"XADD", keys.dead_letters, b"*", *entry.fields, *notes), *self._removal(entry.id)
        )
        self._given.discard(entry.id)
        return None

    def _removal(self, entry: bytes) -> list[Command]:
        keys = self._keys
        commands: list[Command] = [(b"XACK", keys.stream, keys.group, entry)]
        if keys.delete:
            commands.append((b"XDEL", keys.stream, entry))
        return commands

    async def _ack(self, entry: bytes, body: bytes | None) -> None:
        commands = self._removal(entry)
        if self._keys.delete and body is not None:
            commands.append((b"UNLINK", body))
        await self._steadily(partial(self._connections.transact, *commands))
        self._given.discard(entry)


def _entries(found: object, *, fresh: bool) -> list[_Entry]:
    """Check entries as Redis gives them: lists of an id, and of fields and values or None."""
    entries = []
    for each in found if isinstance(found, list) else [None]:
        match each:
            case [bytes(identity), None]:
                entries.append(_Entry(identity, None, fresh))
            case [bytes(identity), [*fields]] if len(fields) % 2 == 0 and all(isinstance(one, bytes) for one in fields):
                entries.append(_Entry(identity, fields, fresh))
            case None if isinstance(found, list):
                pass  # Redis 6.2 gives this for an entry that was deleted while it was pending
            case _:
                raise nonsense(found)
    return entries
