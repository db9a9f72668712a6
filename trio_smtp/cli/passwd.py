"""`trio-smtp passwd`: makes and edits the files that `trio_smtp.plugins.password_file` reads."""

from __future__ import annotations

import fcntl
import getpass
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from trio_smtp.plugins.password_file import check_user_name, hasher, parse_users

from .errors import PROGRAM, RUNTIME, CommandError, reason_of
from .options import Parser
from .output import say

__all__ = ["Hasher", "passwd"]


class Hasher(Protocol):
    """Computes hashes of passwords, as argon2's PasswordHasher does."""

    def hash(self, password: str, /) -> str:
        """The hash of a password, in argon2's notation."""
        ...


def passwd(arguments: Sequence[str], *, hasher: Callable[[], Hasher] = hasher) -> int:
    """Run the command: set a user's password in a file, or take the user out of it.

    Args:
        arguments: What follows ``passwd`` on the command line.
        hasher: Gives what computes the hash.

    Returns:
        The exit code, 0.

    Raises:
        CommandError: The file cannot be changed, or the user or the password is not allowed; nothing was changed.
    """
    parser = Parser(
        prog=f"{PROGRAM} passwd",
        description="Set a user's password in a file for trio_smtp.plugins.password_file. It is asked for twice on a"
        " terminal, and else read as one line from standard input. A file that does not exist is made.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--delete", action="store_true", help="take the user out of the file instead")
    options = parser.parse_args(arguments)
    try:
        check_user_name(options.user)
        encoded = None if options.delete else hasher().hash(_password(options.user))
        changed = _edit(Path(options.file).resolve(), options.user, encoded)
    except ImportError as error:
        raise CommandError(str(error), RUNTIME) from error
    except OSError as error:
        raise CommandError(f"cannot change {options.file}: {reason_of(error)}", RUNTIME) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    say(sys.stdout, f"{options.user}: {changed}")
    return 0


def _password(user: str) -> str:
    """Ask for a new password.

    Raises:
        CommandError: No password was given, or two that differ.
        ValueError: The password is not allowed.
    """
    try:
        if sys.stdin.isatty():
            password = getpass.getpass(f"New password for {user}: ")
            if getpass.getpass("The same again: ") != password:
                raise CommandError("the two passwords differ")
        else:
            password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
        password.encode()
    except (EOFError, KeyboardInterrupt) as error:
        raise CommandError("no password was given", RUNTIME) from error
    except UnicodeError:
        raise ValueError("the password is not in the terminal's encoding") from None
    if not password or "\0" in password:
        raise ValueError("a password is neither empty nor has it a NUL in it")
    return password


def _edit(path: Path, user: str, encoded: str | None) -> str:
    """Set or delete one user's line, and leave all others as they are; returns what was done."""
    with _locked(path.parent) as directory:
        status = path.stat() if path.exists() else None
        data = b"" if status is None else path.read_bytes()
        known = user in parse_users(data, str(path))
        if encoded is None and not known:
            raise CommandError(f"{path}: there is no user {user}", RUNTIME)
        own = f"{user}:".encode()
        lines = data.removesuffix(b"\n").split(b"\n") if data else []
        at = next((n for n, line in enumerate(lines) if line.strip(b" \t\r").startswith(own)), len(lines))
        lines[at : at + 1] = [] if encoded is None else [own + encoded.encode()]
        _replace(path, b"".join(line + b"\n" for line in lines), status)
        os.fsync(directory)
    return "deleted" if encoded is None else "changed" if known else "added"


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the directory's lock, so that one process at a time edits in it; gives the directory's descriptor."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes, status: os.stat_result | None) -> None:
    """Write a new file and rename it over the old one: readers see the old content or the new one, never a part."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if status is not None:
                # The owner and a group that may read the file, such as the server's, stay; nobody else may read it.
                os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, 0o600 | status.st_mode & 0o040)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
