"""Replies and enhanced status codes (RFC 5321 section 4.2, RFC 2034, RFC 3463).

This is the one place that makes reply octets. People write ``ctx.reject(f"no such user {name}")``, and the
name came from the network: so every text is cleaned when a `Reply` is made. Line ends split it into the lines
of a multi-line reply, other control characters become ``?``, and a line that would pass 512 octets is folded.
What a `Reply` shows in ``lines`` is exactly what goes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from .values import ShowsFields

__all__ = ["MAX_REPLY_LINE", "Reply", "default_enhanced", "parse_reply"]

#: Longest reply line in octets, code and CRLF included (RFC 5321 section 4.5.3.1.5).
MAX_REPLY_LINE = 512
# The rest of a line is the code, its separator, the longest enhanced code with a space, and CRLF.
_MAX_TEXT = MAX_REPLY_LINE - len("250-") - len("5.999.999 ") - len("\r\n")

_LINE_BREAK = re.compile(r"\r\n|[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, characters that hide or reorder text on an operator's screen, and lone surrogates, which UTF-8 lacks.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_ENHANCED = re.compile(r"([245])\.(0|[1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,2})", re.ASCII)
_ENHANCED_TEXT = r"([245]\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))(?: (.*))?"

#: The enhanced code of a reply that names none (RFC 3463; RFC 5248's registry).
_DEFAULT_ENHANCED: Mapping[int, str] = {
    235: "2.7.0",
    251: "2.1.5",
    252: "2.5.0",
    421: "4.3.0",
    432: "4.7.12",
    450: "4.2.0",
    451: "4.3.0",
    452: "4.3.1",
    454: "4.7.0",
    500: "5.5.2",
    501: "5.5.4",
    502: "5.5.1",
    503: "5.5.1",
    504: "5.5.4",
    521: "5.3.2",
    530: "5.7.0",
    534: "5.7.9",
    535: "5.7.8",
    538: "5.7.11",
    550: "5.7.1",
    551: "5.1.6",
    552: "5.3.4",
    553: "5.1.3",
    555: "5.5.4",
    556: "5.1.10",
}


def default_enhanced(code: int) -> str | None:
    """The enhanced status code of a reply that was made without one; None for 3xx."""
    if 300 <= code < 400:
        return None
    return _DEFAULT_ENHANCED.get(code) or f"{code // 100}.0.0"


def _fold(text: str) -> Iterable[str]:
    """Cut a text into pieces of at most _MAX_TEXT octets of UTF-8, at spaces where possible."""
    while len(octets := text.encode()) > _MAX_TEXT:
        cut = len(octets[:_MAX_TEXT].decode("utf-8", "ignore"))
        space = text.rfind(" ", 1, cut + 1)
        yield text[: space if space > 0 else cut]
        text = text[space + 1 if space > 0 else cut :]
    yield text


def _clean(code: int, message: str | Iterable[str]) -> tuple[str, ...]:
    parts = [message] if isinstance(message, str) else list(message)
    lines: list[str] = []
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"message must be a string or several strings, not {part!r}")
        for line in _LINE_BREAK.split(part):
            text = _UNSAFE.sub("?", line.replace("\t", " "))
            # A challenge stays one line whatever its length: SASL clients do not join the lines of one.
            lines.extend([text] if code == 334 else _fold(text))
    # "Queued\n" was meant as one line.
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    if code == 334 and len(lines) > 1:
        raise ValueError("message: a 334 challenge is a single line")
    return tuple(lines) or ("",)


@attrs.frozen(init=False, repr=False)
class Reply(ShowsFields):
    """One reply of the server: a code, an enhanced status code and one or several lines of text.

    Args:
        code: The reply code, 200 to 599.
        message: A string (line ends in it make several lines) or several strings. Cleaned as described at
            the top of this module.
        enhanced: The enhanced status code, such as ``"5.7.1"``. Its class must equal the code's. None means
            the usual one for the code.

    Attributes:
        code: The reply code.
        lines: The text, a string a line, without code and enhanced code.
        enhanced: The enhanced status code as given, or None.

    Raises:
        ValueError: The code is out of range, or the enhanced code is malformed or of another class.
        TypeError: The message is neither a string nor several.

    RFC: RFC 5321 section 4.2, RFC 2034 section 4, RFC 3463 section 2.
    """

    code: int
    lines: tuple[str, ...]
    enhanced: str | None
    # The octets by form: plain, with the enhanced code, as UTF-8, with both.
    _encoded: list[bytes | None] = attrs.field(eq=False, repr=False)

    def __init__(self, code: int, message: str | Iterable[str], enhanced: str | None = None) -> None:
        if type(code) is not int or not 200 <= code <= 599:
            raise ValueError(f"code must be a reply code from 200 to 599, not {code!r}")
        if enhanced is not None:
            match = _ENHANCED.fullmatch(enhanced)
            if match is None:
                raise ValueError(f"enhanced must look like '5.7.1' (class 2, 4 or 5), not {enhanced!r}")
            if int(match[1]) != code // 100:
                raise ValueError(f"enhanced: the class of {enhanced!r} must equal the class of code {code}")
        self.__attrs_init__(code, _clean(code, message), enhanced, [None] * 4)

    @property
    def text(self) -> str:
        """The lines joined by newlines."""
        return "\n".join(self.lines)

    def encode(self, *, enhanced: bool = False, utf8: bool = False) -> bytes:
        """The octets of the reply, every line ended by CRLF.

        Args:
            enhanced: Put the enhanced status code on every line (the client said EHLO or LHLO).
            utf8: Non-ASCII text may go out as UTF-8 (the client asked for SMTPUTF8); otherwise each such
                character becomes ``?``.

        RFC: RFC 5321 section 4.2.1, RFC 2034 section 4, RFC 6531 section 3.7.4.
        """
        form = enhanced + 2 * utf8
        octets = self._encoded[form]
        if octets is None:
            status = (self.enhanced or default_enhanced(self.code)) if enhanced else None
            prefix = f"{status} " if status else ""
            charset = "utf-8" if utf8 else "ascii"
            last = len(self.lines) - 1
            octets = b"".join(
                f"{self.code}{' ' if i == last else '-'}{prefix}{line}\r\n".encode(charset, "replace")
                for i, line in enumerate(self.lines)
            )
            self._encoded[form] = octets
        return octets


def parse_reply(wire: bytes) -> Reply:
    """Read one whole reply back from its octets, for clients and tests.

    Args:
        wire: All lines of the reply, each ended by CRLF.

    Returns:
        The reply; an enhanced code that stands on every line and has the code's class is taken out of the text.

    Raises:
        ValueError: The octets are not one well-formed reply.

    RFC: RFC 5321 section 4.2.1.
    """
    if not wire.endswith(b"\r\n"):
        raise ValueError(f"a reply ends with CRLF: {wire!r}")
    code = b""
    texts: list[str] = []
    lines = wire[:-2].split(b"\r\n")
    for i, line in enumerate(lines):
        match = re.fullmatch(rb"([2-5][0-9]{2})(?:([ -])(.*))?", line, re.DOTALL)
        if match is None or b"\r" in line or b"\n" in line:
            raise ValueError(f"not a reply line: {line!r}")
        if code and match[1] != code:
            raise ValueError(f"two codes in one reply: {wire!r}")
        code = match[1]
        if (match[2] == b"-") == (i == len(lines) - 1):
            raise ValueError(f"the last line, and only it, has a space after the code: {wire!r}")
        texts.append((match[3] or b"").decode("utf-8", "surrogateescape"))
    found = [re.fullmatch(_ENHANCED_TEXT, text, re.DOTALL) for text in texts]
    statuses = {match[1] if match and match[1][0] == chr(code[0]) else None for match in found}
    status = statuses.pop() if len(statuses) == 1 else None
    if status is not None:
        texts = [match[2] or "" for match in found if match]
    return Reply(int(code), texts, status)
