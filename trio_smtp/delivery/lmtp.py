"""Mail goes on to a mailbox server by LMTP (RFC 2033) while it comes in, which answers for each recipient.

What `trio_smtp.delivery.proxy` says holds here too: nothing is stored, and the mailbox server's replies come back,
those about a full mailbox included. In LMTP, recipients are told their own verdict, and **250 means that the mailbox
server has taken the message for this recipient**.

SMTP has one reply for all recipients. `mixed` says what becomes of a message that one recipient has got and another
not:

* ``"split"``: nothing, because a transaction has one recipient. Each further RCPT gets 452 4.5.3, and clients send the
  message again for those. 250 means that the recipient has it.
* ``"accept"``: 250. It means that *one* recipient has it. The others are in the log, and are handed to `on_refused`.
* ``"retry"``: 451, and the client sends the message again to all: those who have it get it again, and again until the
  client gives up, where a refusal stays. 250 means that all recipients have it.
"""

from __future__ import annotations

from typing import Unpack

from ._announcing import Announce
from ._relay import Relay, RelayStats, make_relay
from ._settings import Mixed, OnRefused, RelayOptions, Settings

__all__ = ["Announce", "Mixed", "OnRefused", "Relay", "RelayOptions", "RelayStats", "lmtp"]


def lmtp(
    url: str, *, mixed: Mixed = "split", on_refused: OnRefused | None = None, **options: Unpack[RelayOptions]
) -> Relay:
    """Pass mail on to a mailbox server by LMTP while it comes in. The module says what a client is told.

    Args:
        url: ``lmtp://host:port`` or ``lmtp+unix:///path``; see `trio_smtp.client.connect`.
        mixed: What becomes of a message from a client of SMTP that one recipient has got and another not.
        on_refused: Awaited where the client is told 250 and not all recipients have the message: with the others, each
            with the mailbox server's reply, and the context. With ``"split"`` these are recipients that a handler of
            `on_data` has added. What it raises is logged.
        options: See `RelayOptions`.

    Returns:
        A plugin; its `stats` count.

    Raises:
        ValueError: An argument is not allowed.
        TypeError: There is no such option.

    Example:
        >>> app.use(lmtp("lmtp+unix:///run/dovecot/lmtp"))

    RFC: RFC 2033.
    """
    settings = Settings(url=url, name="lmtp", protocol="lmtp", given=options, mixed=mixed, on_refused=on_refused)
    return make_relay(settings)
