"""Listeners whose sockets the process gets when it starts: the keys ``listen`` and ``fd``."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from trio_smtp import Config
from trio_smtp.cli.errors import CommandError

__all__ = ["KEYS", "SocketConfig", "Source", "common_source", "source_of"]

KEYS = ("listen", "fd")
#: FileDescriptorName= allows 255 characters, without control characters and colons.
_LISTEN = re.compile(r"systemd(?::([^:\x00-\x1f\x7f]{1,255}))?")


@attrs.frozen
class Source:
    """Which sockets a listener takes.

    Attributes:
        fd: The file descriptor; None: those of the service manager.
        name: Those of this FileDescriptorName= alone; None: all of them.
        where: Names the listener in errors.
    """

    fd: int | None
    name: str | None
    where: str

    def __str__(self) -> str:
        if self.fd is not None:
            return f"fd {self.fd}"
        return "listen systemd" if self.name is None else f"listen systemd:{self.name}"


@attrs.frozen(kw_only=True, repr=False)
class SocketConfig(Config):
    """The Config of a listener that opens no socket itself; host, port and unix_path mean nothing."""

    source: Source


def source_of(settings: Mapping[str, object], where: str) -> Source | None:
    """The source that a listener's settings name; None: the listener opens its sockets itself.

    Args:
        settings: Of the listener.
        where: Names the listener in errors.

    Raises:
        CommandError: `listen` is neither ``systemd`` nor ``systemd:NAME``.
    """
    listen, fd = settings.get("listen"), settings.get("fd")
    if isinstance(fd, int):
        return Source(fd, None, where)
    if listen is None:
        return None
    match = _LISTEN.fullmatch(str(listen))
    if match is None:
        raise CommandError(f'{where}listen must be "systemd" or "systemd:NAME", not {listen!r}')
    return Source(None, match[1], where)


def common_source(one: Config, other: Config) -> str | None:
    """What two listeners both take, for people; None: nothing, as far as the settings tell."""
    if not (isinstance(one, SocketConfig) and isinstance(other, SocketConfig)):
        return None
    first, second = one.source, other.source
    if first.fd is not None or second.fd is not None:
        return f"file descriptor {first.fd}" if first.fd == second.fd else None
    if first.name is None or second.name is None:
        return "the sockets of systemd"
    return f"the sockets systemd:{first.name}" if first.name == second.name else None
