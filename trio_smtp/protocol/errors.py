"""The exceptions that carry a reply, and the one for a parser that crashed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from .replies import Reply
from .verbs import Verb

__all__ = ["Aborted", "ParserCrashed", "ProtocolError", "SMTPError"]


@lru_cache(maxsize=256, typed=True)
def _reply(code: int, message: str, enhanced: str | None) -> Reply:
    """Most refusals say the same again and again: their texts are cleaned and encoded once."""
    return Reply(code, message, enhanced)


class SMTPError(Exception):
    """A refusal: when a handler raises it the client gets its reply, and learns nothing else.

    Args:
        message: The text for the client, a string or several (a multi-line reply).
        code: A 4xx or 5xx reply code. 421 and 521 close the connection after the reply.
        enhanced: The enhanced status code; None means the usual one for the code.

    Attributes:
        reply: The `Reply` made of the three.

    Raises:
        ValueError: The code is not 4xx or 5xx, or the enhanced code does not fit it.

    RFC: RFC 5321 section 4.2.1, RFC 3463.
    """

    def __init__(self, message: str | Iterable[str], code: int = 550, enhanced: str | None = None) -> None:
        reply = _reply(code, message, enhanced) if isinstance(message, str) else Reply(code, message, enhanced)
        if code < 400:
            raise ValueError(f"code must be a 4xx or 5xx reply code, not {code}")
        super().__init__(f"{code} {enhanced} {reply.text}" if enhanced else f"{code} {reply.text}")
        self.reply = reply

    @property
    def message(self) -> str:
        """The text for the client, cleaned; several lines are joined by newlines."""
        return self.reply.text

    @property
    def code(self) -> int:
        """The reply code."""
        return self.reply.code

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code, or None."""
        return self.reply.enhanced

    @property
    def temporary(self) -> bool:
        """True for 4xx: the client may try again."""
        return self.reply.code < 500


class Aborted(SMTPError):
    """A handler ends the connection without a word; `abort` of its context raises it.

    Let it pass. The connection ends also when it is swallowed, or is one of several exceptions of a group.
    """

    def __init__(self) -> None:
        super().__init__("Connection aborted", 421, "4.3.0")


class ProtocolError(SMTPError):
    """The peer broke the protocol. Raised by the protocol floor with the reply that says so.

    Args:
        message: The text for the client.
        code: The reply code.
        enhanced: The enhanced status code.
        counted: The error counts against ``max_errors``.
        close: The octets that follow cannot be trusted or located: close after the reply.

    Attributes:
        verb: The command whose arguments were wrong; None for other errors.
        hint: For the log: what would let the peer in.
    """

    verb: Verb | None = None
    hint: str = ""

    def __init__(
        self, message: str, code: int, enhanced: str | None = None, *, counted: bool = True, close: bool = False
    ) -> None:
        super().__init__(message, code, enhanced)
        self.counted = counted
        self.close = close


class ParserCrashed(Exception):
    """A parameter's parser, which may be a user's own, raised neither ValueError nor `SMTPError`.

    That is not the client's fault: the caller logs the crash and answers it like a handler's.

    Args:
        crash: What the parser raised.

    Attributes:
        crash: What the parser raised.
        verb: The command that the parameter stands in; None until `parse_command` has filled it in.
    """

    verb: Verb | None = None

    def __init__(self, crash: Exception) -> None:
        super().__init__("a parameter's parser crashed")
        self.crash = crash
