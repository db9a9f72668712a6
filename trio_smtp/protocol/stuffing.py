"""A message as a client sends it: lines that end with CRLF, and dots stuffed (RFC 5321 section 4.5.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message

__all__ = ["octets_of", "stuff"]


def octets_of(message: bytes | Message) -> bytes:
    """The octets of a message, its lines ended by CRLF.

    Args:
        message: Octets, or a message of the package `email`. Octets in which every line ends with LF alone have it
            replaced by CRLF; octets that mix both are left as they are.
    """
    if not isinstance(message, bytes):
        return message.as_bytes(policy=message.policy.clone(linesep="\r\n"))
    return message if b"\r" in message else message.replace(b"\n", b"\r\n")


def stuff(data: bytes) -> bytes:
    """Write a message as it is sent after DATA: leading dots are doubled, and the end mark follows."""
    if data and not data.endswith(b"\r\n"):
        data += b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", data) + b".\r\n"
