"""Delivery into a Maildir: one file per message, stored as a whole or not at all.

A Maildir is a directory with `tmp`, `new` and `cur`. A message is written to a file in `tmp`, where no reader looks, is
synced to the disk, and renamed into `new` when it is complete; then `new` itself is synced, so that the name survives a
power cut as well. The 250 leaves after that. When a step before fails, the files that were made are removed.

Every call that can block runs in a worker thread. A message of up to `BATCH` octets is gathered first, and committed
together with the others that wait at the same time (see `_committer.py`). A larger one is streamed to its file with a
call for each `BATCH` octets, so that memory stays bounded whatever its size, and is synced by itself.

A step of the disk cannot be cancelled: a cancellation takes effect before it, or after the message is stored.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from trio_smtp import Address, App, DataContext, Plugin, Reply

from ._committer import committer_of
from ._files import NewFile, is_directory, make_directory
from ._refusing import refusal
from ._trace import delivered_fields, received_field, recipients_of

__all__ = ["BATCH", "folder_name", "maildir", "prepare"]

#: Octets that are gathered before a worker thread writes them, in octets of the message and of the fields before it.
BATCH = 262_144

_CLEANUP_SECONDS = 5.0
_MAX_FOLDER_NAME = 200
# Every other octet is escaped: "%" because it begins an escape, "@" and "~" because folder_name adds them.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789+-_.")

_counter = itertools.count()
_chance = os.urandom(4).hex()
_logger = logging.getLogger(__name__)


def maildir(path: str | os.PathLike[str], *, per_recipient: bool = False) -> Plugin:
    r"""Store every message in a Maildir.

    The file holds a `Return-Path:` field, a `Delivered-To:` field for each recipient (the message itself need not name
    them: Bcc) with an `X-Original-To:` field before it for each address that a handler has rewritten to it, a
    `Received:` field and then, octet for octet, what the client sent, with its CRLF line ends. A message that begins
    with a space or a tab, which would go on with the `Received:` field, has an empty line before it. The reply names
    the file: ``250 2.0.0 Queued as 1732159200.M491223P812Q3R5f0c9a1e`` is the first part of its name; a dot and the
    host's name (``/`` and ``:`` as ``\057`` and ``\072``) follow.

    A full disk or an exceeded quota is answered with 452 4.3.1, any other failure (a folder that vanished, a file
    system that became read-only) with 451 4.3.0; both are logged, and nothing is left behind.

    With `per_recipient` each recipient has a Maildir below `path`, which is named by `folder_name` and created with the
    recipient's first message: refuse unknown recipients beforehand, in a handler or with
    `trio_smtp.plugins.recipient_filter`. `Delivered-To:` names the recipients of the folder alone. All recipients get
    the message, or none does. Recipients with the same folder get one copy.

    In LMTP, recipients that an earlier handler has refused (`DataContext.reject_recipient`) get no copy; when all are
    refused the message is not stored.

    Messages that wait for the disk at the same time are synced together, each before its own 250. A failure is that of
    one message, except that of syncing a directory: all messages are refused that this would have made safe.

    Cancellation: a message whose files are being synced is stored.

    Args:
        path: The Maildir, or the directory of Maildirs. Created when the plugin is installed; directories
            have the mode 0700, messages 0600. The file system must be a POSIX one.
        per_recipient: A Maildir for each recipient.

    Returns:
        A plugin. Installing it raises OSError when nothing can be written there, see `prepare`.

    Raises:
        ValueError: `path` is empty or has a NUL in it.

    Example:
        >>> app.use(maildir("/var/mail/incoming"))

    RFC: RFC 5321 section 4.4 (Return-Path and Received), RFC 9228 (Delivered-To).
    """
    root = _absolute(path)

    def install(app: App) -> None:
        device = _prepare(root, per_recipient=per_recipient)
        app.on_data(_Store(root, device, per_recipient=per_recipient).store)

    return install


def prepare(path: str | os.PathLike[str], *, per_recipient: bool = False) -> None:
    """Create the Maildir where it is missing, and make sure that it can be written.

    Installing the plugin does this too. It blocks, for a moment.

    Args:
        path: The Maildir, or with `per_recipient` the directory of Maildirs.
        per_recipient: Make the directory only; its Maildirs are created as mail comes in.

    Raises:
        OSError: It cannot be created or written. `strerror` is one line that names the Maildir and the cause.
        ValueError: `path` is empty or has a NUL in it.
    """
    _prepare(_absolute(path), per_recipient=per_recipient)


def _prepare(root: Path, *, per_recipient: bool) -> int:
    """Do what `prepare` says; returns the number of the file system."""
    try:
        for directory in [*reversed(root.parents), root]:
            if not is_directory(str(directory)):
                make_directory(str(directory))
        if not per_recipient:
            _make_maildir(str(root))
            _probe(root / "tmp")
        return _probe(root if per_recipient else root / "new")
    except OSError as error:
        cause = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise OSError(error.errno, f"cannot use the Maildir {str(root)!r}: {cause}") from error


def _probe(directory: Path) -> int:
    """Make a file in a directory and remove it; returns the number of the file system."""
    # Readers of a Maildir ignore names that begin with a dot.
    probe = directory / f".{_unique_part()}"
    file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        probe.unlink()
        return os.fstat(file).st_dev
    finally:
        os.close(file)


def folder_name(address: Address) -> str:
    """The name of a recipient's folder: one component of a path, whatever the address holds.

    It is the address in lower case, with everything but ASCII letters, digits, ``+``, ``-``, ``_`` and ``.`` as ``%``
    and two hexadecimal digits for each octet of UTF-8, and so is a ``.`` or ``-`` at the start. Quotes around a local
    part are taken off, as they make no difference (RFC 5321 section 4.1.2). Where a name would be longer than 200
    characters its end gives way to ``~`` and a SHA-256. Two mailboxes never share a name, unless they differ in
    nothing but the case of ASCII letters.

    Args:
        address: A recipient; `postmaster` without a domain included.

    Returns:
        Such as ``"alice@example.com"``, ``"%2e%2e%2fetc@example.com"`` or ``"postmaster"``.
    """
    local_part = address.local_part
    if len(local_part) > 1 and local_part.startswith('"') and local_part.endswith('"'):
        characters = iter(local_part[1:-1])
        local_part = "".join(next(characters, "") if character == "\\" else character for character in characters)
    # An empty name would be the directory itself.
    name = _escape(local_part) or "%"
    if address.domain:
        name = f"{name}@{_escape(address.domain)}"
    if name[0] in ".-":
        name = f"%{ord(name[0]):02x}{name[1:]}"
    if len(name) > _MAX_FOLDER_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()
        name = f"{name[: _MAX_FOLDER_NAME - len(digest) - 1]}~{digest}"
    return name


def _escape(text: str) -> str:
    octets = text.encode("utf-8", "surrogatepass").lower()
    return "".join(chr(octet) if octet in _PLAIN else f"%{octet:02x}" for octet in octets)


def _absolute(path: str | os.PathLike[str]) -> Path:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"path must be the path of a directory, not {text!r}")
    return Path(text).absolute()


def _unique_part() -> str:
    """Seconds, microseconds, process, a counter and chance: no two deliveries share it, on any machine."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{seconds}.M{microseconds:06}P{os.getpid()}Q{next(_counter)}R{_chance}"


def _host_part() -> str:
    return socket.gethostname().replace("/", r"\057").replace(":", r"\072") or "localhost"


class _Store:
    """The handler: stores messages below a directory.

    Args:
        root: The Maildir, or with `per_recipient` the directory of Maildirs.
        device: The number of its file system.
        per_recipient: A Maildir for each recipient.
    """

    def __init__(self, root: Path, device: int, *, per_recipient: bool) -> None:
        self._root = str(root)
        self._device = device
        self._per_recipient = per_recipient
        # Asked once: a call that lets other threads run costs the event loop far more than it takes.
        self._host = _host_part()

    async def store(self, ctx: DataContext) -> None:
        """Store a message for the recipients that no handler has refused, and name its file in the reply."""
        recipients = recipients_of(ctx)
        if not recipients:
            await ctx.stream.discard()
            return
        folders: dict[str, list[Address]] = {}
        for recipient in recipients:
            folder = f"{self._root}/{folder_name(recipient)}" if self._per_recipient else self._root
            folders.setdefault(folder, []).append(recipient)
        unique = _unique_part()
        files = [self._new_file(folder, f"{unique}.{self._host}") for folder in folders]
        try:
            await self._deliver(ctx, files, [delivered_fields(ctx, its) for its in folders.values()])
        finally:
            # Unfinished: the disk failed, the client vanished, the message was refused, or the task is cancelled.
            if any(file.place is not None for file in files):
                await self._remove(ctx, files)
        ctx.reply = Reply(250, f"Queued as {unique}", "2.0.0")

    def _new_file(self, folder: str, name: str) -> NewFile:
        make_missing = partial(_make_maildir, folder) if self._per_recipient else None
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
                "session=%s cannot store the message in the Maildir %r: %s", ctx.session.id, self._root, error
            )
            raise refusal(error) from error

    async def _remove(self, ctx: DataContext, files: Sequence[NewFile]) -> None:
        def remove() -> None:
            for file in files:
                file.remove()

        with trio.CancelScope(deadline=trio.current_time() + _CLEANUP_SECONDS, shield=True) as scope:
            await trio.to_thread.run_sync(remove, abandon_on_cancel=True)
        if scope.cancelled_caught:
            _logger.warning(
                "session=%s the disk under %r does not answer: tmp may keep a file", ctx.session.id, self._root
            )


def _finish(data: bytearray, files: Sequence[NewFile], heads: Sequence[bytes]) -> None:
    """Write the last octets of a message that was streamed to the first file, and make the other files copies of it."""
    first = files[0]
    first.write([data])
    first.sync()
    for file, head in zip(files[1:], heads[1:], strict=True):
        file.write([head])
        file.copy(first.path, skip=len(heads[0]))
        file.sync()


def _make_maildir(folder: str) -> None:
    # new is made last: a folder that has it is complete.
    for directory in (folder, *(f"{folder}/{name}" for name in ("tmp", "cur", "new"))):
        if not is_directory(directory):
            make_directory(directory)
