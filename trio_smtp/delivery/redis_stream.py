"""Delivery into a Redis stream, which programs on any number of machines read.

Each message is an entry of the stream. Its field ``envelope`` is JSON: docs/redis.md describes it, and so does
`trio_smtp.delivery._stream_entry`. Its field ``data`` has the octets: Return-Path, Delivered-To and Received fields as
in a Maildir, the fields that handlers have added, then what the client sent. A message with more than `inline` octets
is the value of a key of its own, which is written in one MULTI with the entry; the entry names it in ``body`` and has
no ``data``.

**250 means that Redis has the entry.** Whether it survives a power cut is Redis' matter: that takes ``appendonly yes``
and ``appendfsync always``, and ``maxmemory-policy noeviction``, since any other may evict mail. The server warns where
it can see, when it starts, that it is not so. With `replicas`, 250 means also that so many replicas have it.

What Redis refuses, or does not answer in time, is answered with 451 4.3.0, and with 452 4.3.1 where Redis has no memory
or disk left; a WARNING names the target, without the password. When the answer of Redis is lost, too few replicas have
the message, or the handler is cancelled, the client is told 451 or 421 although Redis may have the message: the client
sends it again, so that it is there twice, and never not at all.

A message is held in memory as a whole while it comes in, up to ``Config.max_message_size`` octets; 512 MiB are the most
that Redis takes (552 5.3.4). In LMTP, recipients that an earlier handler has refused (`DataContext.reject_recipient`)
are not in the envelope.

Nothing removes an entry but who has read it: `consume` does by `Mail.ack`.
"""

from __future__ import annotations

import logging
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial

from trio_smtp import Address, App, DataContext, MessageTooLarge, Plugin, Reply, Running, SMTPError

from ._consuming import Mail, Mails, consume
from ._redis import Command, Connections, RedisFailure, Target, library, nonsense, open_connections, parse_target
from ._stream_entry import StoredEnvelope, StoredRecipient, StoredSession, encode_envelope
from ._trace import delivered_fields, received_field, recipients_of

__all__ = [
    "Mail",
    "Mails",
    "RedisFailure",
    "StoredEnvelope",
    "StoredRecipient",
    "StoredSession",
    "consume",
    "redis_stream",
]

_logger = logging.getLogger(__name__)
_ID = re.compile(rb"[0-9]+-[0-9]+")
#: Redis takes no longer string, unless it is told to (proto-max-bulk-len).
_LONGEST = 536_870_912
#: What the octets in front of a message take at most, with a wide margin.
_FIELDS = 1_048_576


def redis_stream(
    url: str,
    stream: str,
    *,
    inline: int = 65_536,
    replicas: int = 0,
    replica_timeout: float = 1.0,
    trim: int | None = None,
    timeout: float = 10.0,
    connections: int = 32,
    ssl_context: ssl.SSLContext | None = None,
) -> Plugin:
    """Add every message to a Redis stream. The module says what an entry holds, and what a 250 and a 451 mean.

    Args:
        url: ``redis://user:password@host:port/db``, ``rediss://`` for TLS, or ``unix:///path?db=0``.
        stream: The stream's key; it is made with the first message.
        inline: A message with more octets has a key of its own, so that reading many entries takes little memory.
        replicas: So many replicas must have the message, or the client is told 451. The entry stays.
        replica_timeout: Seconds that the replicas have.
        trim: Keep about so many entries, and drop the oldest when there are more, **read or not: with it a 250 is no
            promise any more.** Messages are then always in the entry itself.
        timeout: Seconds for Redis to take a message, connecting included.
        connections: So many are opened at most, by each process that serves.
        ssl_context: For ``rediss://``; None: the system's certificates, and the host's name is checked.

    Returns:
        A plugin. Its connections are there while the App is served.

    Raises:
        ImportError: The extra ``redis`` is not installed.
        ValueError: An argument is out of range; the text names it.

    Example:
        >>> app.use(redis_stream("redis://redis.example.net", "mail"))

    RFC: RFC 5321 section 4.4 (Return-Path and Received), RFC 9228 (Delivered-To).
    """
    _check(stream, inline=inline, replicas=replicas, trim=trim, connections=connections)
    if timeout <= 0 or replica_timeout <= 0:
        raise ValueError("timeout and replica_timeout must be more than 0 seconds")
    target = parse_target(url, ssl_context)
    library()
    writer = _Writer(target, stream, inline=inline, replicas=replicas, replica_timeout=replica_timeout, trim=trim)
    return _plugin(writer, target, partial(open_connections, target, limit=connections, timeout=timeout))


def _plugin(
    writer: _Writer, target: Target, connections: Callable[[], AbstractAsyncContextManager[Connections]]
) -> Plugin:
    @asynccontextmanager
    async def lifespan(_: Running) -> AsyncIterator[None]:
        async with connections() as opened:
            await _warn(opened, target)
            with writer.using(opened):
                yield

    def install(app: App) -> None:
        app.lifespan(lifespan)
        app.on_data(writer.store)

    return install


def _check(stream: str, *, inline: int, replicas: int, trim: int | None, connections: int) -> None:
    if not stream:
        raise ValueError("stream must not be empty")
    if inline < 0 or replicas < 0:
        raise ValueError("inline and replicas must be at least 0")
    if connections < 1 or (trim is not None and trim < 1):
        raise ValueError("connections must be at least 1, and so must trim where it is given")


async def _warn(connections: Connections, target: Target) -> None:
    """Say when Redis may lose mail, where it lets us see that."""
    names = (b"appendonly", b"appendfsync", b"maxmemory-policy")
    try:
        replies = await connections.call(*((b"CONFIG", b"GET", name) for name in names))
    except RedisFailure as failure:
        _logger.warning("%s cannot be used: %s; messages are refused until it can", target.name, target.clean(failure))
        return
    appendonly, appendfsync, policy = (
        reply.get(name) if isinstance(reply, dict) else None for name, reply in zip(names, replies, strict=True)
    )
    # CONFIG may be forbidden: what is not known is no reason to warn.
    if appendonly == b"no" or (appendfsync is not None and appendfsync != b"always"):
        _logger.warning(
            "%s may lose mail in a crash: a 250 needs `appendonly yes` and `appendfsync always`", target.name
        )
    if policy is not None and policy != b"noeviction":
        _logger.warning("%s may evict mail when it is full: set `maxmemory-policy noeviction`", target.name)


class _Writer:
    """Adds messages to a stream; the arguments are those of `redis_stream`."""

    def __init__(
        self, target: Target, stream: str, *, inline: int, replicas: int, replica_timeout: float, trim: int | None
    ) -> None:
        self._target = target
        self._stream = stream
        self._inline = inline
        self._replicas = replicas
        self._replica_timeout = replica_timeout
        self._trim = trim
        self._connections: Connections | None = None

    @contextmanager
    def using(self, connections: Connections) -> Iterator[None]:
        """Write over these connections until the end of the block."""
        self._connections = connections
        try:
            yield
        finally:
            self._connections = None

    async def store(self, ctx: DataContext) -> None:
        """Add the message for the recipients that no handler has refused."""
        recipients = recipients_of(ctx)
        if not recipients:
            await ctx.stream.discard()
            return
        data = await _read(ctx, recipients)
        with ctx.delivering("redis_stream"):
            entry = await self._add_or_refuse(ctx, encode_envelope(ctx, recipients), data)
        ctx.reply = Reply(250, f"Queued as {entry}", "2.0.0")

    async def _add_or_refuse(self, ctx: DataContext, envelope: bytes, data: bytes) -> str:
        """Add an entry; returns its id, or raises what the client is told."""
        try:
            return await self.add(envelope, data)
        except RedisFailure as failure:
            _logger.warning(
                "session=%s cannot add the message to the stream %r of %s: %s",
                ctx.session.id,
                self._stream,
                self._target.name,
                self._target.clean(failure),
            )
            if failure.kind == "full":
                raise SMTPError("Insufficient system storage", 452, "4.3.1") from failure
            raise SMTPError("Local error in processing", 451, "4.3.0") from failure

    async def add(self, envelope: bytes, data: bytes) -> str:
        """Add an entry; returns its id.

        Raises:
            RedisFailure: It is not there, or it is not known to be, or too few replicas have it.
        """
        if self._connections is None:
            raise RuntimeError("redis_stream: the App's lifespans are not entered; serve it, or use `app.running()`")
        head: Command = (b"XADD", self._stream)
        if self._trim is not None:
            head += (b"MAXLEN", b"~", self._trim)
        head += (b"*", b"envelope", envelope)
        wait: tuple[Command, ...] = ()
        if self._replicas:
            wait = ((b"WAIT", self._replicas, round(self._replica_timeout * 1000)),)
        patience = self._replica_timeout if wait else 0.0
        if len(data) <= self._inline or self._trim is not None:
            entry, *waited = await self._connections.call((*head, b"data", data), *wait, patience=patience)
        else:
            body = f"{self._stream}:body:{secrets.token_hex(16)}"
            try:
                # The body comes first: the writing of both is one step for everybody else.
                _, entry, *waited = await self._connections.transact(
                    (b"SET", body, data), (*head, b"body", body), then=wait, patience=patience
                )
            except RedisFailure as failure:
                if failure.kind != "lost":
                    await self._connections.call((b"UNLINK", body))  # MULTI goes on after a command that fails
                raise
        if isinstance(entry, RedisFailure):
            raise entry
        if not isinstance(entry, bytes) or not _ID.fullmatch(entry):
            raise nonsense(entry)
        for found in waited:
            _check_replicas(found, self._replicas, entry.decode())
        return entry.decode()


def _check_replicas(found: object, wanted: int, entry: str) -> None:
    if isinstance(found, RedisFailure):
        raise found
    if not isinstance(found, int):
        raise nonsense(found)
    if found < wanted:
        raise RedisFailure("other", f"only {found} of {wanted} replicas have {entry}, which stays in the stream")


async def _read(ctx: DataContext, recipients: list[Address]) -> bytes:
    """The message with the fields in front of it."""
    data = bytearray()
    async for chunk in ctx.stream:
        data += chunk
        if len(data) > _LONGEST - _FIELDS:
            raise MessageTooLarge
    # A message that begins with a blank would go on with the Received field.
    separator = b"\r\n" if data.startswith((b" ", b"\t")) else b""
    return b"".join((delivered_fields(ctx, recipients), received_field(ctx), separator, data))
