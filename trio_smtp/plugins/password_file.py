"""Users and the argon2 hashes of their passwords in a file, which `trio-smtp passwd` makes and edits."""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from trio_smtp import App, AuthContext, PlainCredentials, Plugin

if TYPE_CHECKING:
    from argon2 import PasswordHasher

__all__ = ["PasswordFile", "check_user_name", "hasher", "parse_users", "password_file"]

logger: logging.Logger = logging.getLogger(__name__)

_HASH = re.compile(
    r"(\$argon2(?:id|i|d)\$v=[0-9]{1,3}\$m=[0-9]{1,10},t=[0-9]{1,10},p=[0-9]{1,8})\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{16,}"
)


def password_file(path: str | Path, *, max_hashing: int = 2) -> Plugin:
    """Authenticate the users of a file by PLAIN and LOGIN.

    The file has a line ``user:hash`` for each user; empty lines, and lines that begin with ``#``, do not count. It is
    UTF-8, and names are compared exactly. The hashes are argon2's, in its usual notation (``$argon2id$v=19$...``), with
    any parameters, so that they stay valid when the defaults of argon2-cffi change. The server never writes the file.

    The right password is accepted, with the name as ``session.user``. Everything else is left to later handlers, which
    may accept other mechanisms or the users of a second file; the client gets 535 when none does. So a user in two
    files has two passwords. Credentials that an earlier handler has accepted stay accepted. An authorization identity
    other than the user's own name is never accepted here.

    Hashes are computed in threads with a limit of their own. An unknown user costs as much as a wrong password. The
    file is read again after a change; when it is broken or gone, the users read before stay, and the log has an error.

    Args:
        path: The file.
        max_hashing: How many hashes are computed at a time; a usual one takes 64 MiB.

    Returns:
        A plugin.

    Raises:
        ImportError: The extra ``argon2`` is not installed.
        OSError: The file cannot be read; the text names it.
        ValueError: The file is malformed, the text names it and the line; or `max_hashing` is less than 1.

    Example:
        >>> app.use(password_file("/etc/trio-smtp/users"))

    RFC: RFC 9106.
    """
    if max_hashing < 1:
        raise ValueError(f"max_hashing must be at least 1, not {max_hashing!r}")
    users = PasswordFile(Path(path).absolute())
    limiter = trio.CapacityLimiter(max_hashing)

    async def check_password(ctx: AuthContext) -> None:
        credentials = ctx.credentials
        if ctx.accepted or not isinstance(credentials, PlainCredentials):
            return
        name = credentials.username
        right = await trio.to_thread.run_sync(users.check, name, credentials.password, limiter=limiter)
        if right and not credentials.authzid:
            ctx.accept(name)

    def install(app: App) -> None:
        app.on_auth(check_password)

    return install


def hasher() -> PasswordHasher:
    """An object that computes hashes, with argon2-cffi's usual parameters.

    Raises:
        ImportError: The extra ``argon2`` is not installed; the text names it.
    """
    try:
        from argon2 import PasswordHasher
    except ImportError as error:
        raise ImportError("files of passwords need the extra argon2: pip install 'trio-smtp[argon2]'") from error
    return PasswordHasher()


def check_user_name(name: str) -> None:
    """Refuse a name that a line of the file cannot hold.

    Raises:
        ValueError: The name is not allowed.
    """
    if not name.isprintable() or ":" in name or name != name.strip() or name[:1] in ("", "#"):
        raise ValueError(
            f"{name!a} is no user name: it must be printable, without a colon, without space at its ends, and not"
            " begin with #"
        )


def parse_users(data: bytes, where: str) -> dict[str, str]:
    """Read a file of users.

    Args:
        data: The file's content.
        where: The file's name, for errors.

    Returns:
        Each user's hash.

    Raises:
        ValueError: A line is malformed, or a second one for the same user; the text names the file and the line.
    """
    users: dict[str, str] = {}
    for number, octets in enumerate(data.split(b"\n"), 1):
        try:
            line = octets.decode().strip(" \t\r")
            if not line or line.startswith("#"):
                continue
            name, colon, encoded = line.partition(":")
            if not colon:
                raise ValueError("not of the form user:hash")
            check_user_name(name)
            if not _HASH.fullmatch(encoded):
                raise ValueError("what follows the user name is no argon2 hash")
            if name in users:
                raise ValueError(f"{name!a} has a line already")
        except UnicodeDecodeError:
            raise ValueError(f"{where}, line {number}: not UTF-8") from None
        except ValueError as error:
            raise ValueError(f"{where}, line {number}: {error}") from None
        users[name] = encoded
    return users


@attrs.frozen
class _Users:
    """The file's content when it was last read."""

    hashes: dict[str, str] = attrs.field(repr=False)
    #: The hash of a random password: users who are not in the file are checked against it.
    pretence: str = attrs.field(repr=False)


class PasswordFile:
    """The file, read again when it has changed. Its methods block: call them in threads.

    Args:
        path: The file, absolute.

    Raises:
        ImportError: The extra ``argon2`` is not installed.
        OSError: The file cannot be read; the text names it.
        ValueError: The file is malformed; the text names it and the line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hasher = hasher()
        self._lock = threading.Lock()
        # The signature is taken before the file is read: the next check notices a change during the read.
        self._seen = self._signature()
        self._users = self._read()

    def check(self, name: str, password: str) -> bool:
        """Whether the file has this user with this password."""
        from argon2.exceptions import VerifyMismatchError

        users = self._current()
        encoded = users.hashes.get(name)
        try:
            self._hasher.verify(users.pretence if encoded is None else encoded, password)
        except VerifyMismatchError:
            return False
        # Any other failure, such as no memory, says nothing about the password. It goes on to the server: 454.
        return encoded is not None

    def _current(self) -> _Users:
        with self._lock:
            signature = self._signature()
            if signature != self._seen:
                self._seen = signature
                try:
                    self._users = self._read()
                except (OSError, ValueError) as error:
                    logger.error("the users read before stay in force: %s", error)
            return self._users

    def _signature(self) -> tuple[int, int, int] | None:
        """A value that changes with the file; None: there is no file."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> _Users:
        hashes = parse_users(self._path.read_bytes(), str(self._path))
        return _Users(hashes, self._pretence(hashes))

    def _pretence(self, hashes: dict[str, str]) -> str:
        """A hash that costs as much to check as most of these."""
        from argon2 import PasswordHasher, extract_parameters
        from argon2.exceptions import HashingError

        usual = self._hasher
        if hashes:
            most_common, _ = Counter(encoded.rsplit("$", 2)[0] for encoded in hashes.values()).most_common(1)[0]
            sample = next(encoded for encoded in hashes.values() if encoded.startswith(most_common + "$"))
            usual = PasswordHasher.from_parameters(extract_parameters(sample))
        try:
            return usual.hash(secrets.token_bytes())
        except HashingError as error:
            raise ValueError(f"{self._path}: hashes cannot be computed with these parameters: {error}") from error
