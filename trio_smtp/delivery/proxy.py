"""Cut-through: mail goes on to the next server while it comes in, and the client gets that server's replies.

Nothing is stored. MAIL, each RCPT, DATA and the message go on one by one, so that a refusal comes at the command that
it answers, and **250 means that the next server has taken the message**. Back-pressure reaches from end to end: the
client is read as fast as the next server takes what it sends, and memory does not depend on the size of the message.

| what happens | what the client is told |
|---|---|
| the next server refuses | its reply, with its code; 421 and 521, and those that want a login of us, are 451 |
| it is down, hangs, answers nonsense, or is lost | 451, and 451 to the rest of the transaction |
| its answer to the message is lost | 451; counted as uncertain, because it may have the message |
| the client is gone within the message | the next server's connection is closed before the end of the message |
| it lacks SMTPUTF8, BINARYMIME, REQUIRETLS | 550 5.6.7, 554 5.6.1, 550 5.7.30 at MAIL |
| the size that the client declares is above its SIZE | 552 5.3.4 at MAIL |
| it lacks 8BITMIME or DSN | the octets go on as they are; parameters of DSN are dropped |

A message that comes by BDAT goes on by DATA, unless it is BINARYMIME. DATA cannot carry a CR or LF alone, which some
servers take for a line end: a message that has one is refused with 550 5.6.0. A last line without a line end gets one.
"""

from __future__ import annotations

from typing import Unpack

from ._announcing import Announce
from ._relay import Relay, RelayStats, make_relay
from ._settings import RelayOptions, Settings

__all__ = ["Announce", "Relay", "RelayOptions", "RelayStats", "proxy"]


def proxy(url: str, **options: Unpack[RelayOptions]) -> Relay:
    """Pass mail on to another SMTP server while it comes in. The module says what a client is told.

    Handlers of MAIL, RCPT and DATA that are registered before or after are asked first, and may refuse or rewrite; the
    next server is told what they have made of it. Those of `on_data` are to be registered before, as with any delivery.
    Where they change the sender or the recipients of a message that the next server waits for already, the transaction
    there is begun anew.

    AUTH ends here: `auth`, or a user in the URL, logs in at the next server. In LMTP a refusal of the message holds for
    all recipients who were accepted.

    Args:
        url: ``smtp://host:port``, ``smtps://host:port`` or ``smtp+unix:///path``; see `trio_smtp.client.connect`.
        options: See `RelayOptions`.

    Returns:
        A plugin; its `stats` count.

    Raises:
        ValueError: An argument is not allowed.
        TypeError: There is no such option.

    Example:
        >>> app.use(proxy("smtp://old-server.example:25", tls="opportunistic"))

    RFC: RFC 5321, RFC 1870, RFC 3030, RFC 3461, RFC 6531, RFC 8689.
    """
    return make_relay(Settings(url=url, name="proxy", protocol="smtp", given=options))
