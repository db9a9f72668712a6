"""What a client raises: the server refused, the server gave no answer, or the server lacks what the message needs."""

from __future__ import annotations

from collections.abc import Mapping

from trio_smtp import Reply

__all__ = ["BadReply", "BareNewline", "DeliveryError", "DeliveryFailed", "DeliveryRefused", "ExtensionMissing"]

#: So much of a reply's text is shown in the text of an error.
_SHOWN = 200


class DeliveryError(Exception):
    """A message was not delivered, or nobody knows whether it was. The base of what this package raises.

    Attributes:
        phase: What the client was doing: ``"connect"``, ``"tls"``, ``"greeting"``, ``"hello"``, ``"starttls"``,
            ``"auth"``, ``"mail"``, ``"rcpt"``, ``"data"``, ``"body"``, ``"end"``, ``"rset"``, ``"quit"``.
    """

    def __init__(self, text: str, phase: str) -> None:
        super().__init__(text)
        self.phase: str = phase


class DeliveryRefused(DeliveryError):
    """The server said no: a later attempt may succeed where ``reply.code`` is below 500.

    Attributes:
        reply: The reply that decided: that to MAIL, to DATA, to the end of the message, or the last recipient's where
            all were refused.
        refused: The replies to the recipients that were refused.
        phase: See `DeliveryError`.
    """

    def __init__(self, reply: Reply, refused: Mapping[str, Reply] | None = None, *, phase: str) -> None:
        # A server may repeat what it was sent: in an exchange of secrets its words are not shown.
        words = "" if phase == "auth" else f" {' / '.join(reply.lines)}"[:_SHOWN]
        status = f" {reply.enhanced}" if reply.enhanced else ""
        super().__init__(f"{phase}: the server said {reply.code}{status}{words}", phase)
        self.reply: Reply = reply
        self.refused: Mapping[str, Reply] = dict(refused or {})


class DeliveryFailed(DeliveryError):
    """The server gave no answer, or one that is no SMTP. The connection is closed.

    Attributes:
        uncertain: The end of the message had been sent: the server may have taken the message or not. A second attempt
            may deliver it twice.
        reason: What went wrong, without the phase; nothing that the server said.
        phase: See `DeliveryError`.
    """

    def __init__(self, phase: str, reason: str, *, uncertain: bool = False) -> None:
        doubt = " (the message may have been delivered)" if uncertain else ""
        super().__init__(f"{phase}: {reason}{doubt}", phase)
        self.uncertain: bool = uncertain
        self.reason: str = reason


class ExtensionMissing(DeliveryError):
    """The server does not offer what the message, or the caller, needs. Nothing of the message was sent.

    Attributes:
        extension: The keyword, such as ``"SMTPUTF8"``.
        phase: See `DeliveryError`.
    """

    def __init__(self, extension: str, why: str, *, phase: str = "mail") -> None:
        super().__init__(f"the server does not offer {extension}: {why}", phase)
        self.extension: str = extension


class BadReply(ValueError):
    """What the server sent is no reply, or longer than a reply may be."""


class BareNewline(ValueError):
    """The message has a CR or LF alone, and was to be refused for that."""
