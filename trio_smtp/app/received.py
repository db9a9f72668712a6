"""The Received header field (RFC 5321 section 4.4)."""

from __future__ import annotations

import re
import time
from email.utils import format_datetime, localtime
from functools import lru_cache

from .session import Envelope, Session

__all__ = ["received_header"]

# A HELO name is any word the client chooses; in a header field it may not open a comment or end a clause.
_NOT_IN_DOMAIN = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
# An address that a handler has made may hold anything; the client's own cannot hold these.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _peer(session: Session) -> str:
    """The TCP-info of RFC 5321 section 4.4: the client's address and name as the connection has them."""
    address = session.remote_address
    if address is None:
        return _NOT_IN_DOMAIN.sub("?", session.client_hostname)
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    if session.client_hostname.startswith("["):
        return literal
    return f"{_NOT_IN_DOMAIN.sub('?', session.client_hostname)} {literal}"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """The date (RFC 5322 section 3.3) for this second, which is now: messages of the same second share it."""
    return format_datetime(localtime())


def received_header(session: Session, envelope: Envelope, hostname: str) -> bytes:
    """Build the field, folded, CRLF included.

    The field has a ``for`` clause only when there is one recipient, so that no recipient learns of another
    (RFC 5321 section 7.6).
    """
    helo = _NOT_IN_DOMAIN.sub("?", session.host_name_appears_as or "unknown")
    parts = [
        f"Received: from {helo} ({_peer(session)})",
        f"by {hostname} with {session.transmission_type} id {session.id}-{session.transaction + 1}",
    ]
    if len(envelope.rcpt_to) == 1 and (envelope.smtp_utf8 or envelope.rcpt_to[0].address.isascii()):
        parts.append(f"for <{_CONTROL.sub('?', envelope.rcpt_to[0].address)}>")
    if session.tls_options is not None:
        parts.append(f"tls {session.tls_options.standard_name}")
    parts[-1] += ";"
    parts.append(_date(int(time.time())))
    return "\r\n\t".join(parts).encode() + b"\r\n"
