"""Connections to a Redis server, each lent to one task at a time, and what may go wrong with them.

coredis opens a connection, logs in, packs commands and reads replies. Who has which connection is decided here:

* A connection runs in a task of its own, in the nursery of `open_connections`, and belongs to one call at a time: the
  reply to WAIT is about the write before it.
* A call that ends in any other way than with its replies (cancelled, late, nonsense in an answer) closes its
  connection: the next call never reads the replies to this one.
* Nothing is sent twice. Whether Redis has done what it did not answer is for the caller to judge.
"""

from __future__ import annotations

import importlib
import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

import attrs
import trio

__all__ = ["Command", "Connections", "RedisFailure", "Target", "nonsense", "open_connections", "parse_target"]

#: A command's name and arguments.
Command = tuple[bytes | str | int, ...]
#: lost: no connection, or no answer to be trusted; refused: a wrong password, a missing right or an unknown command, so
#: waiting does not help; type: the key holds something else; full: no memory or disk left; group: there is no such
#: consumer group; exists: there is one already; other: an error that may pass.
Kind = Literal["lost", "refused", "type", "full", "group", "exists", "other"]

_SCHEMES = "redis://, rediss:// or unix://"
_DEFAULT_PORT = 6379
_LONGEST_TEXT = 200
#: coredis logs a traceback for a connection that fails while it is made; the caller logs the same in one line.
_quiet: ContextVar[bool] = ContextVar("trio_smtp.delivery.redis.quiet", default=False)


class RedisFailure(Exception):
    """Redis has not done what it was asked for, or has not said that it did.

    Args:
        kind: What this means for the caller.
        text: What Redis said, or what happened; shown in logs.

    Attributes:
        kind: As given.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind: Kind = kind


@attrs.frozen
class Target:
    """Where a Redis is, and who logs in there.

    Attributes:
        name: Its URL without user, password and options: what logs say.
        url: The same as coredis reads it.
        options: What coredis is told besides.
    """

    name: str
    url: str
    options: dict[str, Any] = attrs.field(repr=False)

    def clean(self, error: object) -> str:
        """The text of an error as a log may have it: one line, not long, without the password."""
        text = str(error) or type(error).__name__
        for secret in (self.options["password"], self.options["username"]):
            if secret:
                text = text.replace(secret, "***")
        text = "".join(character if character.isprintable() else " " for character in text)
        return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def parse_target(url: str, ssl_context: ssl.SSLContext | None = None) -> Target:
    """Read a URL.

    Args:
        url: ``redis://user:password@host:port/db``, the same with ``rediss://`` for TLS, or
            ``unix://user:password@/path?db=0``. All but the scheme and the place may be left out.
        ssl_context: For ``rediss://``; None: the system's certificates, and the host's name is checked.

    Raises:
        ValueError: It is no such URL. The text does not show it, as it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORT
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(
            "url cannot be read; in a user name or password write %40 for @, %2F for / and so on"
        ) from None
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(f"url must begin with {_SCHEMES}")
    unix = parts.scheme == "unix"
    if parts.fragment or options.keys() - ({"db"} if unix else set()):
        raise ValueError("url: nothing but ?db= of unix:// may follow the path; the other options are arguments")
    database = options.get("db", ["0"])[0] if unix else parts.path.strip("/") or "0"
    if not (database.isascii() and database.isdigit()):
        raise ValueError("url: the database must be a number")
    path = unquote(parts.path)
    if unix and (not path.startswith("/") or parts.hostname):
        raise ValueError("url: unix:// needs an absolute path, such as unix:///run/redis/redis.sock")
    if not unix and not parts.hostname:
        raise ValueError("url: the host is missing")
    if ssl_context is not None and parts.scheme != "rediss":
        raise ValueError("ssl_context needs a url that begins with rediss://")
    if parts.scheme == "rediss" and ssl_context is None:
        ssl_context = ssl.create_default_context()
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"unix://{quote(path)}" if unix else f"{parts.scheme}://{host}:{port}"
    return Target(
        f"{place}?db={database}" if unix else f"{place}/{database}",
        place,
        {
            "username": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
            "db": int(database),
            "ssl_context": ssl_context,
        },
    )


def library() -> ModuleType:
    """The module coredis.

    Raises:
        ImportError: It is not installed, or older than version 6; the text names the extra to install.
    """
    try:
        coredis = importlib.import_module("coredis")
        importlib.import_module("coredis.pool")
    except ImportError as error:
        raise ImportError("Redis needs the extra redis: pip install 'trio-smtp[redis]'") from error
    if int(str(coredis.__version__).partition(".")[0]) < 6:
        raise ImportError(f"Redis needs coredis 6 or newer, not {coredis.__version__}: pip install 'trio-smtp[redis]'")
    logging.getLogger("coredis").addFilter(_is_wanted)  # one that is there already is not added again
    return coredis


def _is_wanted(_: logging.LogRecord) -> bool:
    return not _quiet.get()


def nonsense(reply: object) -> RedisFailure:
    """The failure for a reply that Redis would never give."""
    return RedisFailure("lost", f"an answer that makes no sense: {reply!r:.80}")


def _failure(error: Exception) -> RedisFailure:
    """What an exception of coredis, of the network or of a parser means."""
    from coredis import exceptions

    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    text = str(error) or type(error).__name__
    kind: Kind = "other"
    match error:
        case exceptions.StreamDuplicateConsumerGroupError():
            kind = "exists"
        case exceptions.StreamConsumerGroupError():
            kind = "group"
        case exceptions.AuthenticationError() | exceptions.AuthorizationError() | exceptions.UnknownCommandError():
            kind = "refused"
        case exceptions.WrongTypeError():
            kind = "type"
        case exceptions.ResponseError() if text.startswith("OOM") or "No space left" in text:
            kind = "full"
        case exceptions.ResponseError() | exceptions.BusyLoadingError():
            pass
        case _:
            kind = "lost"
            if error.__cause__ is not None:
                text = f"{text}: {str(error.__cause__) or type(error.__cause__).__name__}"
    return RedisFailure(kind, text)


class _Connection:
    """One connection.

    Args:
        link: Sends and receives.
        scope: Ends the task that keeps the connection.
    """

    def __init__(self, link: Any, scope: trio.CancelScope) -> None:
        self._link = link
        self._scope = scope

    @property
    def usable(self) -> bool:
        """Neither side has closed it, as far as is known."""
        return bool(self._link.usable)

    def close(self) -> None:
        """End it, whatever is under way."""
        self._scope.cancel()

    async def send(self, commands: Sequence[Command]) -> list[object]:
        """Send commands together; returns a reply for each, what Redis refuses as a `RedisFailure`.

        Raises:
            RedisFailure: There is no reply to one of them.
        """
        try:
            requests = [
                self._link.create_request(*command, raise_exceptions=False, decode=False) for command in commands
            ]
        except Exception as error:
            raise _failure(error) from error
        replies = []
        for request in requests:
            reply = await request
            replies.append(_failure(reply) if isinstance(reply, Exception) else reply)
        for reply in replies:
            if isinstance(reply, RedisFailure) and reply.kind == "lost":
                raise reply
        return replies


class Connections:
    """Up to so many connections, opened when they are needed and kept.

    Args:
        target: Where they lead.
        nursery: Where they run.
        limit: So many at a time; further calls wait.
        timeout: Seconds for a call, waiting and connecting included.
    """

    def __init__(self, target: Target, nursery: trio.Nursery, *, limit: int, timeout: float) -> None:
        self._target = target
        self._nursery = nursery
        self._slots = trio.Semaphore(limit)
        self._timeout = timeout
        self._idle: list[_Connection] = []

    async def call(self, *commands: Command, patience: float = 0.0) -> list[object]:
        """Send commands together over one connection, and wait for all replies.

        Args:
            commands: What is sent.
            patience: Seconds more than usual that Redis may take.

        Returns:
            A reply for each, in RESP3's types; for one that Redis refused, the `RedisFailure`.

        Raises:
            RedisFailure: There is no reply, whether or not Redis has done it.
        """
        try:
            with trio.fail_after(self._timeout + patience):
                async with self._lent() as connection:
                    return await connection.send(commands)
        except trio.TooSlowError:
            raise RedisFailure("lost", f"no answer within {self._timeout + patience:g} s") from None

    async def transact(self, *commands: Command, then: Sequence[Command] = (), patience: float = 0.0) -> list[object]:
        """Have Redis do all of these or none, by MULTI and EXEC.

        Args:
            commands: What is done.
            then: Commands that are sent behind, over the same connection.
            patience: Seconds more than usual that Redis may take.

        Returns:
            A reply for each command, those of `then` included, where a refusal is a `RedisFailure`.

        Raises:
            RedisFailure: Redis refused one of `commands`; or there is no reply, whether or not Redis has done it.
        """
        replies = await self.call((b"MULTI",), *commands, (b"EXEC",), *then, patience=patience)
        begun, *queued = replies[: len(commands) + 1]
        done, *rest = replies[len(commands) + 1 :]
        for reply in (begun, *queued, done):
            if isinstance(reply, RedisFailure):
                raise reply
        if begun != b"OK" or any(reply != b"QUEUED" for reply in queued):
            raise nonsense([begun, *queued])
        if not isinstance(done, list) or len(done) != len(commands):
            raise nonsense(done)
        for reply in done:
            if isinstance(reply, Exception):
                raise _failure(reply)
        return [*done, *rest]

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[_Connection]:
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        found = await self._nursery.start(self._keep)
        if isinstance(found, RedisFailure):
            raise found
        assert isinstance(found, _Connection)
        return found

    async def _keep(self, *, task_status: trio.TaskStatus[_Connection | RedisFailure]) -> None:
        """Open a connection and keep it until it is closed."""
        from coredis.pool import ConnectionPool

        _quiet.set(True)
        with trio.CancelScope() as scope:
            try:
                async with ConnectionPool.from_url(
                    self._target.url, decode_components=True, max_connections=1, **self._target.options
                ) as pool:
                    link = await pool.get_connection()
                    task_status.started(_Connection(link, scope))
                    await trio.sleep_forever()
            except Exception as error:  # noqa: BLE001 - whatever a connection fails with is told to the call
                with suppress(RuntimeError):  # it was given out before: then the call that has it notices
                    task_status.started(_failure(error))


@asynccontextmanager
async def open_connections(target: Target, *, limit: int, timeout: float) -> AsyncIterator[Connections]:
    """Hold connections; at the end all are closed.

    Args:
        target: Where they lead.
        limit: So many at a time.
        timeout: Seconds for a call.

    Raises:
        ImportError: The extra ``redis`` is not installed.
    """
    library()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Connections(target, nursery, limit=limit, timeout=timeout)
        except Exception as error:  # noqa: BLE001 - raised again, outside of the nursery's group
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
