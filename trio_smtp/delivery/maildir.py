"""Delivery into a Maildir: one file per message, stored as a whole or not at all.

A Maildir is a directory with `tmp`, `new` and `cur`. A message is written to a file in `tmp`, where no reader looks, is
synced to the disk, and renamed into `new` when it is complete; then `new` itself is synced, so that the name survives a
power cut as well. The 250 leaves after that. When a step before fails, the files that were made are removed.

Every call that can block runs in a worker thread, and the steps are batched, because a hop to a thread costs more than
most of the calls: a message of up to `BATCH` octets is gathered first and costs one hop, a larger one is
streamed with one hop for each batch, so that memory stays bounded whatever its size.

A step of the disk cannot be cancelled: a cancellation takes effect after it, and removes the file.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio

from trio_smtp import Address, App, DataContext, Plugin, Reply, SMTPError

__all__ = ["BATCH", "folder_name", "maildir", "prepare"]

#: Octets that are gathered before a worker thread writes them.
BATCH = 262_144

_CLEANUP_SECONDS = 5.0
_MAX_FOLDER_NAME = 200
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
# Every other octet is escaped: "%" because it begins an escape, "@" and "~" because folder_name adds them.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789+-_.")

_counter = itertools.count()
_logger = logging.getLogger(__name__)


def maildir(path: str | os.PathLike[str], *, per_recipient: bool = False) -> Plugin:
    r"""Store every message in a Maildir.

    The file holds a `Return-Path:` field, a `Delivered-To:` field for each recipient (the message itself need not name
    them: Bcc), a `Received:` field and then, octet for octet, what the client sent, with its CRLF line ends. A message
    that begins with a space or a tab, which would go on with the `Received:` field, has an empty line before it. The
    reply names the file: ``250 2.0.0 Queued as 1732159200.M491223P812Q3R5f0c9a1e`` is the first part of its name; a dot
    and the host's name (``/`` and ``:`` as ``\057`` and ``\072``) follow.

    A full disk or an exceeded quota is answered with 452 4.3.1, any other failure (a folder that vanished, a file
    system that became read-only) with 451 4.3.0; both are logged, and nothing is left behind.

    With `per_recipient` each recipient has a Maildir below `path`, which is named by `folder_name` and created with the
    recipient's first message: refuse unknown recipients beforehand, in a handler or with
    `trio_smtp.plugins.recipient_filter`. `Delivered-To:` names the recipients of the folder alone. All recipients get
    the message, or none does. Recipients with the same folder get one copy.

    In LMTP, recipients that an earlier handler has refused (`DataContext.reject_recipient`) get no copy; when all are
    refused the message is not stored.

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

    async def store(ctx: DataContext) -> None:
        await _store(ctx, root, per_recipient=per_recipient)

    def install(app: App) -> None:
        prepare(root, per_recipient=per_recipient)
        app.on_data(store)

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
    root = _absolute(path)
    try:
        for directory in [*reversed(root.parents), root]:
            if not directory.is_dir():
                _make_directory(directory)
        if not per_recipient:
            _make_maildir(root)
        for directory in [root] if per_recipient else [root / "tmp", root / "new"]:
            # Readers of a Maildir ignore names that begin with a dot.
            probe = directory / f".{_unique_part()}"
            file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                probe.unlink()
            finally:
                os.close(file)
    except OSError as error:
        cause = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise OSError(error.errno, f"cannot use the Maildir {str(root)!r}: {cause}") from error


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
    return f"{seconds}.M{microseconds:06}P{os.getpid()}Q{next(_counter)}R{os.urandom(4).hex()}"


def _host_part() -> str:
    return socket.gethostname().replace("/", r"\057").replace(":", r"\072") or "localhost"


def _head(ctx: DataContext, recipients: Iterable[Address]) -> bytes:
    """What the file in a folder begins with: Return-Path (RFC 5321 section 4.4), then Delivered-To (RFC 9228)."""
    sender = ctx.envelope.mail_from
    fields = [b"Return-Path: <%s>\r\n" % (_octets(sender) if sender is not None else b"")]
    fields += [b"Delivered-To: %s\r\n" % name for name in dict.fromkeys(map(_octets, recipients))]
    return b"".join(fields)


def _octets(address: Address) -> bytes:
    # The address grammar refuses control octets, but a handler may have put an Address of its own there: with a line
    # end in it, it would add header fields.
    octets = address.address.encode("utf-8", "replace")
    return bytes(octet if octet >= 0x20 and octet != 0x7F else 0x3F for octet in octets)


async def _store(ctx: DataContext, root: Path, *, per_recipient: bool) -> None:
    """Store a message for the recipients that no handler has refused, and name its file in the reply."""
    unique = _unique_part()
    recipients = [recipient for recipient in ctx.envelope.rcpt_to if recipient not in ctx.recipient_replies]
    if not recipients:
        await ctx.stream.discard()
        return
    folders: dict[Path, list[Address]] = {}
    for recipient in recipients:
        folders.setdefault(root / folder_name(recipient) if per_recipient else root, []).append(recipient)
    heads = {folder: _head(ctx, its) for folder, its in folders.items()}
    delivery = _Delivery(heads, f"{unique}.{_host_part()}", create=per_recipient)
    await _deliver(ctx, delivery, root)
    ctx.reply = Reply(250, f"Queued as {unique}", "2.0.0")


async def _deliver(ctx: DataContext, delivery: _Delivery, root: Path) -> None:
    # A bytearray and not a list of chunks: a client that sends single octets would make an object of each.
    data = bytearray(delivery.head)
    data += ctx.received_header().rstrip(b"\r\n") + b"\r\n"
    begun = False
    try:
        async for chunk in ctx.stream:
            if not begun and chunk.startswith((b" ", b"\t")):
                data += b"\r\n"
            begun = True
            data += chunk
            if len(data) >= BATCH:
                await _in_thread(ctx, root, delivery.write, data)
                data.clear()
        await _in_thread(ctx, root, delivery.commit, data)
    finally:
        # Unfinished: the disk failed, the client vanished, the message was refused, or the task is cancelled.
        if delivery.unfinished:
            with trio.CancelScope(deadline=trio.current_time() + _CLEANUP_SECONDS, shield=True) as scope:
                await trio.to_thread.run_sync(delivery.abort, abandon_on_cancel=True)
            if scope.cancelled_caught:
                _logger.warning(
                    "session=%s the disk under %r does not answer: tmp may keep a file", ctx.session.id, str(root)
                )


async def _in_thread(ctx: DataContext, root: Path, step: Callable[[bytearray], None], data: bytearray) -> None:
    try:
        await trio.to_thread.run_sync(step, data)
    except OSError as error:
        _logger.error("session=%s cannot store the message in the Maildir %r: %s", ctx.session.id, str(root), error)
        if error.errno in _NO_SPACE:
            raise SMTPError("Insufficient system storage", 452, "4.3.1") from error
        raise SMTPError("Local error in processing", 451, "4.3.0") from error


class _Delivery:
    """One message on its way into one or more Maildirs.

    Its methods block and belong in a worker thread, one at a time. After one that failed only `abort` may follow.

    Args:
        heads: The folders, and what the file begins with in each of them.
        file_name: Its name in all of them.
        create: Make folders that are missing.
    """

    __slots__ = ("_create", "_file", "_file_name", "_folders", "_heads", "_made")

    def __init__(self, heads: Mapping[Path, bytes], file_name: str, *, create: bool) -> None:
        self._heads = heads
        self._folders = list(heads)
        self._file_name = file_name
        self._create = create
        self._file: int | None = None
        # The message's files as they are now, at most one in each folder.
        self._made: list[Path] = []

    @property
    def head(self) -> bytes:
        """What the first data to be written begins with."""
        return self._heads[self._folders[0]]

    @property
    def unfinished(self) -> bool:
        """Whether there are files to remove."""
        return bool(self._made)

    def write(self, data: bytearray) -> None:
        """Append to the file in tmp, which is made with the first octets."""
        _write(self._open(), data)

    def commit(self, data: bytearray) -> None:
        """Append the last octets, and put the whole message into every folder's new, for good."""
        file = self._open()
        _write(file, data)
        os.fsync(file)
        self._close()
        # Copy first, because copying may fail: nobody reads tmp, so that nothing of the message has been seen then.
        for folder in self._folders[1:]:
            self._copy(self._made[0], folder)
        for index, folder in enumerate(self._folders):
            self._made[index] = self._made[index].rename(folder / "new" / self._file_name)
        for folder in self._folders:
            _sync_directory(folder / "new")
        self._made.clear()

    def abort(self) -> None:
        """Remove every file of the message."""
        try:
            self._close()
        except OSError as error:
            _logger.warning("closing %r: %s", self._file_name, error)
        for path in self._made:
            try:
                # Missing when a mail reader has moved it from new to cur.
                path.unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("a file of a message that was refused stays behind: %s", error)
        self._made.clear()

    def _open(self) -> int:
        if self._file is None:
            if self._create:
                for folder in self._folders:
                    # new is made last: a folder that has it is complete.
                    if not (folder / "new").is_dir():
                        _make_maildir(folder)
            self._file = self._make(self._folders[0] / "tmp" / self._file_name)
        return self._file

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _make(self, path: Path) -> int:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._made.append(path)
        return file

    def _copy(self, source: Path, folder: Path) -> None:
        """Copy what follows the head of the first folder's file."""
        file = self._make(folder / "tmp" / self._file_name)
        try:
            _write(file, self._heads[folder])
            with source.open("rb", buffering=0) as original:
                original.seek(len(self.head))
                while data := original.read(BATCH):
                    _write(file, data)
            os.fsync(file)
        finally:
            os.close(file)


def _write(file: int, data: bytes | bytearray) -> None:
    with memoryview(data) as rest:
        written = 0
        while written < len(rest):
            written += os.write(file, rest[written:])


def _make_maildir(folder: Path) -> None:
    for directory in (folder, folder / "tmp", folder / "cur", folder / "new"):
        if not directory.is_dir():
            _make_directory(directory)


def _make_directory(directory: Path) -> None:
    # Without its parents: when a whole Maildir has vanished, its disk is probably not mounted.
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        # Another delivery has made it in the meantime, or it is not a directory.
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from None
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a directory: there the server decides how safe names are.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(file)
