"""A message on its way into Maildirs: gathered or streamed, and committed together with others.

A message of up to `BATCH` octets is gathered first, and committed together with the others that wait at the same time
(see `_committer.py`). A larger one is streamed to its file with a call in a worker thread for each `BATCH` octets, so
that memory stays bounded whatever its size, and is synced by itself.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

import trio

from trio_smtp import Address, DataContext, Reply

from ._committer import committer_of
from ._files import NewFile, is_directory, make_directory
from ._refusing import refusal
from ._trace import delivered_fields, received_field

__all__ = ["BATCH", "Storing", "host_part", "make_maildir", "unique_part"]

#: Octets that are gathered before a worker thread writes them.
BATCH = 262_144

_CLEANUP_SECONDS = 5.0
#: So many threads remove files at the same time.
_MAX_REMOVALS = 8

_removals: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("trio_smtp.delivery.removals")

_counter = itertools.count()
_chance = os.urandom(4).hex()
_logger = logging.getLogger("trio_smtp.delivery.maildir")


def unique_part() -> str:
    """Seconds, microseconds, process, a counter and chance: no two deliveries share it, on any machine."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{seconds}.M{microseconds:06}P{os.getpid()}Q{next(_counter)}R{_chance}"


@lru_cache(maxsize=1)
def host_part() -> str:
    """The host's name as a file's name may hold it. Asked once: the call would let other threads delay the loop."""
    return socket.gethostname().replace("/", r"\057").replace(":", r"\072") or "localhost"


class Storing:
    """Stores messages in Maildirs.

    Args:
        place: What the log calls the place where they go.
        device: The number of its file system.
        create: Maildirs that are missing are made.
    """

    def __init__(self, place: str, device: int, *, create: bool) -> None:
        self._place = place
        self._device = device
        self._create = create

    async def store(self, ctx: DataContext, folders: Mapping[str, Sequence[Address]]) -> None:
        """Store the message in every folder, and name its file in the reply.

        Args:
            ctx: The message.
            folders: The Maildirs, at least one, and the recipients whom each is for.
        """
        unique = unique_part()
        files = [self._new_file(folder, f"{unique}.{host_part()}") for folder in folders]
        try:
            await self._deliver(ctx, files, [delivered_fields(ctx, its) for its in folders.values()])
        finally:
            # Unfinished: the disk failed, the client vanished, the message was refused, or the task is cancelled.
            if any(file.place is not None for file in files):
                await self._remove(ctx, files)
        ctx.reply = Reply(250, f"Queued as {unique}", "2.0.0")

    def _new_file(self, folder: str, name: str) -> NewFile:
        make_missing = partial(make_maildir, folder) if self._create else None
        in_tmp = f"{folder}/tmp/{name}"  # noqa: S108 - that of the Maildir
        return NewFile(in_tmp, f"{folder}/new", name, make_missing=make_missing)

    async def _deliver(self, ctx: DataContext, files: Sequence[NewFile], heads: Sequence[bytes]) -> None:
        """Write the message into all files, each after its head, and commit them."""
        received, first, begun = received_field(ctx), files[0], False
        # A bytearray and not a list of chunks: a client that sends single octets would make an object of each.
        data = bytearray()
        async for chunk in ctx.stream:
            if not begun and chunk.startswith((b" ", b"\t")):
                received += b"\r\n"
            begun = True
            data += chunk
            if len(data) >= BATCH:
                fields = (heads[0], received) if first.place is None else ()
                with self._refusing(ctx):
                    await trio.to_thread.run_sync(first.write, [*fields, data])
                data.clear()
        with self._refusing(ctx):
            if first.place is None:
                for file, head in zip(files, heads, strict=True):
                    file.hold((head, received, data))
            else:
                await trio.to_thread.run_sync(_finish, data, files, heads)
            await committer_of(self._device).commit(files)

    @contextmanager
    def _refusing(self, ctx: DataContext) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _logger.error(
                "session=%s cannot store the message in the Maildir %r: %s", ctx.session.id, self._place, error
            )
            raise refusal(error) from error

    async def _remove(self, ctx: DataContext, files: Sequence[NewFile]) -> None:
        def remove() -> None:
            for file in files:
                file.remove()

        with trio.CancelScope(deadline=trio.current_time() + _CLEANUP_SECONDS, shield=True) as scope:
            await trio.to_thread.run_sync(remove, abandon_on_cancel=True, limiter=_limiter_of_removals())
        if scope.cancelled_caught:
            _logger.warning(
                "session=%s the disk under %r does not answer: tmp may keep a file", ctx.session.id, self._place
            )


def _limiter_of_removals() -> trio.CapacityLimiter:
    """Of its own: other work of the program, which may occupy all threads, leaves no file behind in tmp."""
    try:
        return _removals.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_MAX_REMOVALS)
        _removals.set(limiter)
        return limiter


def _finish(data: bytearray, files: Sequence[NewFile], heads: Sequence[bytes]) -> None:
    """Write the last octets of a message that was streamed to the first file, and make the other files copies of it."""
    first = files[0]
    first.write([data])
    first.sync()
    for file, head in zip(files[1:], heads[1:], strict=True):
        file.write([head])
        file.copy(first.path, skip=len(heads[0]))
        file.sync()


def make_maildir(folder: str) -> None:
    """Make a Maildir where it is missing, or what of it is missing. Blocks."""
    # new is made last: a folder that has it is complete.
    for directory in (folder, *(f"{folder}/{name}" for name in ("tmp", "cur", "new"))):
        if not is_directory(directory):
            make_directory(directory)
