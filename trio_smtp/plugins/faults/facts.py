"""Facts: what filters are asked about."""

from __future__ import annotations

import attrs

__all__ = ["Facts"]


@attrs.frozen
class Facts:
    """What is known of an event.

    Attributes:
        peer: The client's IP address, or None.
        sender: The sender, ``""`` for the null sender; None before MAIL.
        to: The recipient of RCPT; later all recipients, in LMTP after the message each by itself.
        user: Who has authenticated, or tries to; None otherwise.
    """

    peer: str | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()
    user: str | None = None
