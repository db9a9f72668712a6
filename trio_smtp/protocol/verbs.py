"""Verb: the verbs and events that move the state machine.

Looking a member up in its Enum (``Verb.BDAT``) takes ten times as long as looking a name up in the module. Code that
runs for every command or every piece of a body therefore uses aliases: ``_BDAT = Verb.BDAT`` at the top of its module.
This holds for every Enum here, and is explained in this place only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar

__all__ = ["Verb"]


class Verb(enum.Enum):
    """Verbs and events that move the state machine; an event is named in angle brackets and is no command."""

    # Members are compared by identity. Enum's own __hash__ would hash the member's name at each look-up in a dict.
    __hash__: ClassVar[Callable[[object], int]] = object.__hash__

    HELO = "HELO"
    EHLO = "EHLO"
    LHLO = "LHLO"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    RSET = "RSET"
    NOOP = "NOOP"
    HELP = "HELP"
    VRFY = "VRFY"
    EXPN = "EXPN"
    QUIT = "QUIT"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    BDAT = "BDAT"
    XCLIENT = "XCLIENT"
    XFORWARD = "XFORWARD"
    #: A verb of an `Extension`.
    EXTENSION = "<extension>"
    #: The greeting was sent.
    GREETING = "<greeting>"
    #: The SASL exchange is over.
    END_OF_AUTH = "<end of AUTH>"
    #: The message was received and answered.
    END_OF_DATA = "<end of data>"
    #: The TLS handshake after STARTTLS is done.
    HANDSHAKE = "<TLS handshake>"
