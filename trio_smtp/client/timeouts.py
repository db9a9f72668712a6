"""How long a client waits for what."""

from __future__ import annotations

import math

import attrs

__all__ = ["Timeouts"]


def _seconds(default: float) -> float:
    def check(_: object, attribute: attrs.Attribute[float], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{attribute.name} must be a number of seconds above 0, not {value!r}")

    return attrs.field(default=default, validator=check)


@attrs.frozen(kw_only=True)
class Timeouts:
    """Seconds that a client waits, each for one answer as a whole: octets that trickle in do not prolong it.

    Attributes:
        connect: For the connection.
        tls: For a handshake.
        greeting: For the server's first reply.
        command: For the reply to any other command, and to each step of AUTH.
        mail: For the reply to MAIL.
        rcpt: For the reply to each RCPT.
        data: For the reply to DATA.
        block: For the server to take 64 KiB of what is sent.
        end: For the reply to the end of the message; in LMTP for each recipient.
        quit: For the goodbye, all of it.

    RFC: RFC 5321 section 4.5.3.2, whose values are the defaults.
    """

    connect: float = _seconds(60)
    tls: float = _seconds(60)
    greeting: float = _seconds(300)
    command: float = _seconds(300)
    mail: float = _seconds(300)
    rcpt: float = _seconds(300)
    data: float = _seconds(120)
    block: float = _seconds(180)
    end: float = _seconds(600)
    quit: float = _seconds(5)
