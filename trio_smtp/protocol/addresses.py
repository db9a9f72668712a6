"""Address, and the grammar of paths and mailboxes (RFC 5321 section 4.1.2, RFC 6531 section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from .dsn import DSNRecipient
from .errors import ProtocolError
from .values import KeepsData, ShowsFields

__all__ = ["Address", "common_path", "is_domain", "parse_path", "rewritten", "split_path"]

_NO_ARGS: Mapping[str, str | bool] = MappingProxyType({})

# RFC 6531 adds every non-ASCII character to atext, qtext and sub-domain; characters that must not be shown are refused
# separately (_hides). Each set is written as the ASCII characters that it leaves out, because a set that reaches up to
# U+10FFFF takes a millisecond to compile, each time it occurs.
_ATEXT = r'[^\0- "(),.:;<>@\[\\\]\x7f]'
_DOT_STRING = rf"{_ATEXT}+(?:\.{_ATEXT}+)*"
_QUOTED = r'"(?:[^\0-\x1f"\\\x7f]|\\[ -~])*"'
_LET_DIG = r"[^\0-/:-@\[-`{-\x7f]"
_LABEL = rf"{_LET_DIG}(?:[^\0-,./:-@\[-`{{-\x7f]*{_LET_DIG})?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[!-Z^-~]+\]"

# Patterns that are seldom used are not compiled here: re compiles them at their first use, and keeps them.
_MAILBOX = rf"({_DOT_STRING}|{_QUOTED})@({_DOMAIN}|{_LITERAL})"
# Seen in the wild: dots where RFC 5321 has none, underscores in host names.
_LENIENT_LABEL = r"[^\0-,./:-@\[-^`{-\x7f]+"
_LENIENT_MAILBOX = rf"((?:{_ATEXT}|\.)+|{_QUOTED})@((?:{_LENIENT_LABEL}\.)*{_LENIENT_LABEL}\.?|{_LITERAL})"
_LOCAL_PART = rf"{_DOT_STRING}|{_QUOTED}"
_LENIENT_LOCAL_PART = rf"(?:{_ATEXT}|\.)+|{_QUOTED}"
_SOURCE_ROUTE = rf"@(?:{_DOMAIN}|{_LITERAL})(?:,@(?:{_DOMAIN}|{_LITERAL}))*:"
# A path without quotes, inside which a bracket could stand. Nearly every path has none.
_PLAIN_PATH = re.compile(r' *<([^"<>\\]*)>')
# Nearly every path. A path that matches needs no further check of lengths, literals or hidden characters.
_COMMON_PATH = re.compile(
    r"<(([A-Za-z0-9_=+-]{1,64}(?:\.[A-Za-z0-9_=+-]{1,64}){0,4})"
    r"@([a-z0-9]{1,30}(?:-[a-z0-9]{1,30})?(?:\.[a-z0-9]{1,30}(?:-[a-z0-9]{1,30})?){0,3}))>"
)
# Printable, and yet nothing is to be seen of these: joiners, fillers, inherent vowels, variation selectors.
_INVISIBLE = r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
_MAX_DOMAIN = 255
_MAX_LABEL = 63


class _Rewritable(KeepsData):
    """What only rewritten addresses have, in a slot: a field of attrs would cost time for every address."""

    __slots__ = ("_original",)
    _original: Address

    @property
    def original(self) -> Address | None:
        """The address that was sent, where a handler has put this one in its place; None elsewhere."""
        try:
            return self._original
        except AttributeError:
            return None

    @property
    def data(self) -> dict[str, object]:
        """For handlers' own use; lives as long as the object. A rewritten address has that of its `original`."""
        original = self.original
        return super().data if original is None else original.data


@attrs.frozen(eq=False, repr=False)
class Address(_Rewritable, ShowsFields):
    """A reverse-path or a recipient, as it was sent. Two are equal only when they are the same object.

    Attributes:
        address: Without the brackets and without a source route; ``""`` for ``<>``.
        local_part: What stands before the last ``@``, quotes kept as sent.
        domain: Lower case, IDNA shown as Unicode; an address literal with its brackets; ``""`` for ``<>``,
            ``<postmaster>``, and in LMTP for any recipient without one.
        args: The ESMTP parameters as sent, upper-case keys, True for one without a value. Read-only.
        dsn: What DSN asks for this recipient, or None.
        values: The parsed values of RCPT's parameters, upper-case keys, those of extensions included.
        original: The address that was sent, where a handler has put this one in its place; None elsewhere.
        data: For handlers' own use; a rewritten address has that of its `original`.

    RFC: RFC 5321 sections 4.1.2 and 4.1.1.11.
    """

    address: str
    local_part: str
    domain: str
    args: Mapping[str, str | bool] = _NO_ARGS
    dsn: DSNRecipient | None = None
    values: Mapping[str, object] = _NO_ARGS

    def __str__(self) -> str:
        return self.address

    @classmethod
    def parse(cls, text: str, *, strict: bool = True) -> Address:
        """Read an address that was not sent by a client: an alias's target, say.

        Args:
            text: Without angle brackets; ``""`` is the null sender.
            strict: As `Config.strict_addresses`.

        Raises:
            ValueError: The text is no address.
        """
        if not text:
            return cls("", "", "")
        try:
            return parse_path(text, code="5.1.3", strict=strict, postmaster=True)
        except ProtocolError:
            raise ValueError(f"not an address: {text!r}") from None


def rewritten(sent: Address, wanted: object) -> Address:
    """Make the address that a handler puts in the place of one that was sent.

    Args:
        sent: What the client sent, or what a handler has made of it before.
        wanted: Another address.

    Returns:
        A copy of `wanted` with the parameters of the address that was sent.

    Raises:
        TypeError: `wanted` is no address.
    """
    if not isinstance(wanted, Address):
        raise TypeError(f"address must be an Address, not {wanted!r}: write Address.parse(...)")
    copy = Address(wanted.address, wanted.local_part, wanted.domain, sent.args, sent.dsn, sent.values)
    object.__setattr__(copy, "_original", sent if sent.original is None else sent.original)
    return copy


def common_path(text: str) -> Address | None:
    """Read a simple path in one step: one that `split_path` and `parse_path` accept at any setting.

    Args:
        text: The argument of MAIL FROM: or RCPT TO:.

    Returns:
        None for a path that is less simple, or wrong, or followed by parameters.
    """
    match = _COMMON_PATH.fullmatch(text)
    return Address(match[1], match[2], match[3]) if match is not None else None


def split_path(text: str, *, strict: bool = True) -> tuple[str, str] | None:
    """Cut the argument of MAIL FROM: or RCPT TO: into the path's inside and what follows it.

    Args:
        text: What stands after the colon; spaces before the path are skipped.
        strict: The path needs its angle brackets.

    Returns:
        The text between the brackets and the rest behind them, or None when there is no path.
    """
    match = _PLAIN_PATH.match(text)
    if match is not None:
        return match[1], text[match.end() :]
    text = text.lstrip(" ")
    if text.startswith("<"):
        # An angle bracket may stand inside a quoted local part.
        i, quoted = 1, False
        while i < len(text):
            char = text[i]
            if quoted and char == "\\":
                i += 1
            elif char == '"':
                quoted = not quoted
            elif char == ">" and not quoted:
                return text[1:i], text[i + 1 :]
            i += 1
        return None
    if strict or not text:
        return None
    inside = text.partition(" ")[0]
    return inside, text[len(inside) :]


def _unicode_domain(domain: str) -> str | None:
    """The domain in lower case with its A-labels shown as U-labels; None when it is not a domain name."""
    lowered = domain.lower()
    if len(lowered) > _MAX_DOMAIN:
        return None
    if domain.isascii() and "xn--" not in lowered:
        labels = lowered.split(".")
        return lowered if max(map(len, labels)) <= _MAX_LABEL else None
    import idna  # not needed for most addresses, and its tables are large

    shown: list[str] = []
    encoded_length = 0
    for sent in domain.split("."):
        label = sent.lower()
        if len(label) > _MAX_LABEL:  # idna's time grows faster than its input
            return None
        if label.isascii() != sent.isascii():
            return None  # the Kelvin sign has an ASCII k as its lower case, and is none
        try:  # alabel refuses a label that is too long when it is encoded
            ascii_label = label if label.isascii() else idna.alabel(label).decode("ascii")
        except idna.IDNAError:
            return None
        encoded_length += len(ascii_label) + 1
        try:
            shown.append(idna.ulabel(ascii_label) if ascii_label.startswith("xn--") else ascii_label)
        except idna.IDNAError:
            shown.append(ascii_label)  # an A-label no IDNA 2008 table knows: show what was sent
    return ".".join(shown) if encoded_length - 1 <= _MAX_DOMAIN else None


def _valid_literal(literal: str) -> bool:
    """RFC 5321 section 4.1.3."""
    import ipaddress

    inside = literal[1:-1]
    tag, colon, value = inside.partition(":")
    try:
        if not colon:
            ipaddress.IPv4Address(inside)
        elif tag.lower() == "ipv6":
            if "%" in value:
                return False
            ipaddress.IPv6Address(value)
        else:
            # General-address-literal: a standardized tag (letters, digits, hyphens) and content.
            return bool(value) and re.fullmatch(r"[A-Za-z0-9-]*[A-Za-z0-9]", tag) is not None
    except ValueError:
        return False
    return True


def parse_path(
    path: str,
    *,
    code: str,
    strict: bool = True,
    postmaster: bool = False,
    domain: str | None = None,
    args: Mapping[str, str | bool] = _NO_ARGS,
    dsn: DSNRecipient | None = None,
    values: Mapping[str, object] = _NO_ARGS,
) -> Address:
    """Read the inside of a path other than ``<>``.

    Args:
        path: What stands between the angle brackets. A source route is accepted and dropped.
        code: The enhanced status code of a syntax error (``"5.1.7"`` for MAIL, ``"5.1.3"`` for RCPT).
        strict: Hold to the grammar of RFC 5321; otherwise accept dots anywhere in the local part, underscores in the
            domain and a dot at the domain's end.
        postmaster: ``postmaster`` alone, in any case, is an address (RCPT).
        domain: Completes a path without a domain; ``""``: the path is an address as it is; None: it is none.
        args: Kept in the Address.
        dsn: Kept in the Address.
        values: Kept in the Address.

    Raises:
        ProtocolError: 501 with `code`: the text is not a path, or has no domain.

    RFC: RFC 5321 sections 4.1.2, 4.1.3 and 4.5.3.1 (which wants no limit for the local part); RFC 6531 section 3.3.
    """
    match = _COMMON_PATH.fullmatch(f"<{path}>")
    if match is not None:
        return Address(path, match[2], match[3], args, dsn, values)
    if postmaster and not domain and path.lower() == "postmaster":
        return Address(path, path, "", args, dsn, values)
    hidden = _hides(path)
    if path.startswith("@"):
        route = re.match(_SOURCE_ROUTE, path)
        path = path[route.end() :] if route else ""
    match = re.fullmatch(_MAILBOX if strict else _LENIENT_MAILBOX, path)
    if match is not None and not hidden:
        local_part, sent = match[1], match[2]
        if sent.startswith("["):
            if _valid_literal(sent):
                return Address(path, local_part, sent.lower(), args, dsn, values)
        else:
            shown = _unicode_domain(sent.removesuffix("."))
            if shown is not None and not _hides(shown):
                return Address(path, local_part, shown, args, dsn, values)
    address, shown = _complete(path, domain, code, strict=strict)
    return Address(address, path, shown, args, dsn, values)


def _hides(text: str) -> bool:
    """Whether a text has a character that is not printable, or that nobody sees.

    Controls, format and bidi characters, spaces but the one of ASCII, line ends, surrogates, private use, and what
    Unicode does not know are not printable (RFC 8264 section 9 disallows them in names).
    """
    return not text.isprintable() or re.search(_INVISIBLE, text) is not None


def _complete(path: str, domain: str | None, code: str, *, strict: bool) -> tuple[str, str]:
    """The address, and its domain as it is shown, of a path that is a local part alone.

    Raises:
        ProtocolError: 501 with `code`: it is none, or there is no domain to complete it.
    """
    if _hides(path) or not re.fullmatch(_LOCAL_PART if strict else _LENIENT_LOCAL_PART, path):
        raise ProtocolError("Bad address syntax", 501, code)
    if domain is None:
        raise ProtocolError("Bad address syntax: the domain is missing", 501, code)
    if not domain:
        return path, ""
    return f"{path}@{domain}", _unicode_domain(domain) or domain.lower()


def is_domain(text: str) -> bool:
    """Whether a text is a domain name that an address may have: no address literal, and no dot at its end."""
    if not re.fullmatch(_DOMAIN, text) or _hides(text):
        return False
    return _unicode_domain(text) is not None
