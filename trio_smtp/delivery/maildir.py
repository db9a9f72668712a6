r"""Delivery into a Maildir: one file per message, stored as a whole or not at all.

A Maildir is a directory with `tmp`, `new` and `cur`. A message is written to a file in `tmp`, where no reader looks, is
synced to the disk, and renamed into `new` when it is complete; then `new` itself is synced, so that the name survives a
power cut as well. The 250 leaves after that. When a step before fails, the files that were made are removed.

The file holds a `Return-Path:` field, a `Delivered-To:` field for each recipient of the folder (the message itself need
not name them: Bcc) with an `X-Original-To:` field before it for each address that a handler has rewritten to it, a
`Received:` field and then, octet for octet, what the client sent, with its CRLF line ends. A message that begins with a
space or a tab, which would go on with the `Received:` field, has an empty line before it. The reply names the file:
`250 2.0.0 Queued as 1732159200.M491223P812Q3R5f0c9a1e` is the first part of its name; a dot and the host's name (`/`
and `:` as `\057` and `\072`) follow.

Every call that can block runs in a worker thread, and messages that wait at the same time are committed together.

A step of the disk cannot be cancelled: a cancellation takes effect before it, or after the message is stored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import trio

from trio_smtp import Address, App, DataContext, Plugin, RcptToContext

from ._files import is_directory, make_directory
from ._storing import BATCH, Storing, make_maildir, unique_part
from ._trace import recipients_of

__all__ = ["BATCH", "Folder", "deliver", "folder_name", "folder_part", "maildir", "prepare"]

_Path = str | os.PathLike[str]
#: Gives a recipient's Maildir, or several, below the root; None: there is no such recipient.
Folder = Callable[[Address, RcptToContext | DataContext], Awaitable[_Path | Iterable[_Path] | None]]

_MAX_FOLDER_NAME = 200
# Every other octet is escaped: "%" because it begins an escape, "@" and "~" because folder_name adds them.
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789+-_.")
_NO_USER = "No such user here"

# The file systems of folders that `deliver` was given.
_devices: dict[str, int] = {}
_MAX_DEVICES = 10_000


def maildir(
    root: _Path | None = None,
    *,
    per_recipient: bool = False,
    folder: Folder | None = None,
    create: bool = True,
    path: _Path | None = None,
) -> Plugin:
    """Store every message in a Maildir. The module says what its file holds.

    A full disk or an exceeded quota is answered with 452 4.3.1, any other failure (a folder that vanished, a file
    system that became read-only) with 451 4.3.0; both are logged, and nothing is left behind.

    With `per_recipient` each recipient has a Maildir below `root`, which is named by `folder_name` and created with the
    recipient's first message: refuse unknown recipients beforehand, in a handler or with
    `trio_smtp.plugins.recipient_filter`. With `folder` your function says where a recipient's messages go, and who is
    none. Either way all recipients get the message or none does, and those with the same folder get one copy.

    In LMTP, recipients that an earlier handler has refused (`DataContext.reject_recipient`) get no copy; when all are
    refused the message is not stored.

    Messages that wait for the disk at the same time are synced together, each before its own 250. A failure is that of
    one message, except that of syncing a directory: all messages are refused that this would have made safe.

    Cancellation: a message whose files are being synced is stored. When `Config.handler_timeout` cancels the handler
    then, the client is told 421 all the same, and will send the message again.

    Args:
        root: The Maildir, or the directory of Maildirs. Created when the plugin is installed; directories have the
            mode 0700, messages 0600. The file system must be a POSIX one.
        per_recipient: A Maildir for each recipient.
        folder: Awaited with an address and the context at RCPT, after the handlers that were registered before; its
            answer is kept in `Address.data`. It is awaited again for recipients that handlers of `on_data` have added.
            No folder: 550 5.1.1. A relative path begins at `root`, an absolute one and ``..`` lead elsewhere.
        create: Make what is missing. Without it a root that is missing is an error when the plugin is installed, and a
            missing Maildir of a recipient one of the disk (451).
        path: Another name of `root`.

    Returns:
        A plugin. Installing it raises OSError when nothing can be written there, see `prepare`.

    Raises:
        ValueError: `root` is empty or has a NUL in it, or there is none; `folder` stands beside `per_recipient`.

    Example:
        >>> app.use(maildir("/var/mail/incoming"))

    RFC: RFC 5321 section 4.4 (Return-Path and Received), RFC 9228 (Delivered-To).
    """
    return _plugin(root if path is None else path, per_recipient=per_recipient, folder=folder, create=create)


def _plugin(path: _Path | None, *, per_recipient: bool, folder: Folder | None, create: bool) -> Plugin:
    root = _absolute(path or "", "root")
    if per_recipient and folder is not None:
        raise ValueError("folder says where a recipient's messages go: per_recipient cannot stand beside it")
    several = per_recipient or folder is not None

    def install(app: App) -> None:
        device = _prepare(root, several=several, create=create)
        storing = Storing(str(root), device, create=several and create)
        handlers = _Maildirs(root, storing, _by_name if per_recipient else folder)
        if folder is not None:
            app.on_rcpt_to(handlers.ask)
        app.on_data(handlers.store)

    return install


async def deliver(
    folders: _Path | Iterable[_Path] | Mapping[_Path, Iterable[Address]], ctx: DataContext, *, create: bool = True
) -> None:
    """Store a message in Maildirs, for a handler that decides by itself where messages go.

    All of them get it, or none does. `DataContext.reply` names the file afterwards.

    Args:
        folders: A Maildir, or several, whose files name all recipients that no handler has refused; or a mapping of
            Maildirs to the recipients that each file names.
        ctx: The message.
        create: Make a Maildir that is missing, but not its parents.

    Raises:
        SMTPError: 452 4.3.1 for a full disk, 451 4.3.0 for any other failure; logged, and nothing is left behind.
        ValueError: There is no folder, or a path is empty or has a NUL in it.
        MessageTooLarge, MessageMalformed, MessageIncomplete, StreamConsumed: As reading `DataContext.stream` does.

    Cancellation: a message whose files are being synced is stored. When `Config.handler_timeout` cancels the handler
    then, the client is told 421 all the same, and will send the message again.

    Example:
        >>> @app.on_data
        ... async def file(ctx):
        ...     await deliver("junk" if looks_like_junk(ctx) else "inbox", ctx)
    """
    if isinstance(folders, Mapping):
        found = {str(_absolute(path)): list(recipients) for path, recipients in folders.items()}
    else:
        paths = [folders] if isinstance(folders, str | os.PathLike) else folders
        found = {str(_absolute(path)): recipients_of(ctx) for path in paths}
    if not found:
        raise ValueError("folders: at least one is needed")
    first = next(iter(found))
    await Storing(first, await _device_of(first), create=create).store(ctx, found)


async def _device_of(folder: str) -> int:
    """The number of a folder's file system; it is asked for once."""
    device = _devices.get(folder)
    if device is None:
        try:
            device = (await trio.to_thread.run_sync(os.stat, folder)).st_dev
        except OSError:
            return 0  # It is made, or is an error, when the message is stored.
        if len(_devices) >= _MAX_DEVICES:
            _devices.clear()
        _devices[folder] = device
    return device


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
    _prepare(_absolute(path), several=per_recipient, create=True)


def _prepare(root: Path, *, several: bool, create: bool) -> int:
    """Do what `prepare` says; returns the number of the file system."""
    try:
        if create:
            for directory in [*reversed(root.parents), root]:
                if not is_directory(str(directory)):
                    make_directory(str(directory))
            if not several:
                make_maildir(str(root))
        if not several:
            _probe(root / "tmp")
        return _probe(root if several else root / "new")
    except OSError as error:
        cause = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise OSError(error.errno, f"cannot use the Maildir {str(root)!r}: {cause}") from error


def _probe(directory: Path) -> int:
    """Make a file in a directory and remove it; returns the number of the file system."""
    # Readers of a Maildir ignore names that begin with a dot.
    probe = directory / f".{unique_part()}"
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
    # An empty name would be the directory itself.
    name = _escape(_unquoted(address.local_part)) or "%"
    if address.domain:
        name = f"{name}@{_escape(address.domain)}"
    return _component(name)


def folder_part(text: str) -> str:
    """A local part or a domain as one component of a path, escaped as `folder_name` does.

    Args:
        text: The local part or the domain of a recipient.

    Returns:
        Such as ``"alice"``, ``"example.com"`` or ``"%2e%2e%2fetc"``; never empty, ``"."`` or ``".."``.
    """
    return _component(_escape(_unquoted(text)) or "%")


def _unquoted(local_part: str) -> str:
    if len(local_part) > 1 and local_part.startswith('"') and local_part.endswith('"'):
        characters = iter(local_part[1:-1])
        return "".join(next(characters, "") if character == "\\" else character for character in characters)
    return local_part


def _component(name: str) -> str:
    if name[0] in ".-":
        name = f"%{ord(name[0]):02x}{name[1:]}"
    if len(name) > _MAX_FOLDER_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()
        name = f"{name[: _MAX_FOLDER_NAME - len(digest) - 1]}~{digest}"
    return name


def _escape(text: str) -> str:
    octets = text.encode("utf-8", "surrogatepass").lower()
    return "".join(chr(octet) if octet in _PLAIN else f"%{octet:02x}" for octet in octets)


def _absolute(path: str | os.PathLike[str], name: str = "path") -> Path:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ValueError(f"{name} must be the path of a directory, not {text!r}")
    return Path(text).absolute()


async def _by_name(recipient: Address, _: object) -> str:
    return folder_name(recipient)


class _Maildirs:
    """The handlers of a plugin.

    Args:
        root: The Maildir, or the directory of Maildirs.
        storing: Stores messages there.
        folder: Gives the folders of a recipient; None: all recipients have `root`.
    """

    def __init__(self, root: Path, storing: Storing, folder: Folder | None) -> None:
        self._root = root
        self._storing = storing
        self._folder = folder
        #: Where answers are kept in `Address.data`: two plugins may ask for the same recipient.
        self._key = f"{__name__} {id(self)}"

    async def ask(self, ctx: RcptToContext) -> None:
        """Refuse a recipient who has no folder."""
        await self._folders_of(ctx.address, ctx)

    async def store(self, ctx: DataContext) -> None:
        """Store a message for the recipients that no handler has refused."""
        recipients = recipients_of(ctx)
        if not recipients:
            await ctx.stream.discard()
            return
        folders: dict[str, list[Address]] = {}
        if self._folder is None:
            folders[str(self._root)] = recipients
        else:
            for recipient in recipients:
                for folder in await self._folders_of(recipient, ctx):
                    folders.setdefault(folder, []).append(recipient)
        with ctx.delivering("maildir"):
            await self._storing.store(ctx, folders)

    async def _folders_of(self, recipient: Address, ctx: RcptToContext | DataContext) -> Sequence[str]:
        """The folders of a recipient; one who has none is refused."""
        found = recipient.data.get(self._key)
        if not isinstance(found, list):
            assert self._folder is not None
            answer = await self._folder(recipient, ctx)
            paths = [answer] if isinstance(answer, str | os.PathLike) else answer or []
            # The paths that differ, each once.
            found = recipient.data[self._key] = list(dict.fromkeys(str(self._root / path) for path in paths))
        if not found:
            ctx.reject(_NO_USER, 550, enhanced="5.1.1")
        return found
