"""The policy that messages are parsed with: ``email.policy.SMTP``, in which no field and no part raises when read.

CPython's parsers of structured fields raise IndexError, ValueError or RecursionError on some of what a stranger may
send. Where one of them raises, the field is given as an unstructured one, with the attributes of a structured field
that says nothing.

The module loads `email`, which not every server needs: import it where a message is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from email.contentmanager import ContentManager, raw_data_manager
from email.headerregistry import Address, AddressHeader, BaseHeader, Group, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import EmailPolicy
from email.utils import getaddresses
from types import MappingProxyType
from typing import Any, ClassVar, cast

__all__ = ["make_policy"]

#: From so many characters on, a field is parsed once for each message and not at each access.
_LONG_FIELD = 256
#: Of a longer field with parameters so many characters are read: its parser takes time that grows with the square.
_MAX_MIME_FIELD = 8_192
#: Longer lists of addresses are read by a simpler parser: that of the package takes a minute for 40,000 quotes.
_MAX_LIST = 8_192
#: So many characters of the longer lists of one message are read by the parser of the package.
_MAX_LISTS = 65_536
#: The simpler parser reads so many characters of a list.
_MAX_SIMPLE_LIST = 262_144
# Pythons that have the argument give no address at all of a list with a fault, unless they are told so.
_LENIENT: Mapping[str, Any] = {"strict": False} if getaddresses.__kwdefaults__ else {}
#: Longer texts are taken as they were sent, with their encoded words.
_MAX_TEXT = 65_536
_LISTS = frozenset({"from", "sender", "reply-to", "to", "cc", "bcc"})
_LISTS |= {f"resent-{name}" for name in _LISTS}
_MIME_FIELDS = frozenset({"content-type", "content-disposition"})
# A quoted string as a whole, so that nothing is found inside one; or a parameter whose value lacks its quotes though it
# holds characters that need them (RFC 2045 section 5.1). The blanks before a value are taken possessively: a run of
# them is looked at once.
_BARE_PARAMETER = re.compile(
    r'"(?:[^"\\]|\\.)*+"?|(;\s*+[!#$%&+.^_`{|}~\w-]++\s*+=\s*+)([^\s";()\\]++)(?=\s*+(?:;|\Z))', re.DOTALL
)
_NEEDS_QUOTES = re.compile(r"[=:/?<>@,\[\]]")


class _Unparsed(UnstructuredHeader, BaseHeader):
    """A field that its own parser could not take: its text, and what its structure would be if the field said nothing.

    Fields are strings, so these attributes are those of the class.
    """

    params: ClassVar[Mapping[str, str]] = MappingProxyType({})
    content_type: ClassVar[str | None] = None
    maintype: ClassVar[str | None] = None
    subtype: ClassVar[str | None] = None
    content_disposition: ClassVar[str | None] = None
    cte: ClassVar[str] = "7bit"
    addresses: ClassVar[tuple[object, ...]] = ()
    groups: ClassVar[tuple[object, ...]] = ()
    datetime: ClassVar[object] = None
    version: ClassVar[str | None] = None
    major: ClassVar[int | None] = None
    minor: ClassVar[int | None] = None


class _Long(BaseHeader):
    """A field whose own parser would take too long: its time grows with the square of the length."""

    def fold(self, *, policy: Any) -> str:
        """Raise: the policy then takes the field as it is."""
        raise ValueError("the field is too long to be folded")


class _LongText(_Long, _Unparsed):
    """A text as it was sent."""

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Take the text, and look for nothing in it."""
        kwds["parse_tree"], kwds["decoded"] = None, value


class _LongList(AddressHeader, _Long):  # type: ignore[misc] # typeshed: `init` of a field takes the field's keywords
    """A list of addresses: its text as it was sent, and its addresses, without the names of groups."""

    @classmethod
    def parse(cls, value: str, kwds: dict[str, Any]) -> None:
        """Take the text, and look for the addresses in it, in time that grows with the length."""
        kwds["parse_tree"], kwds["decoded"] = None, value
        found = getaddresses([value[:_MAX_SIMPLE_LIST]], **_LENIENT)
        kwds["groups"] = [_group(name, address) for name, address in found if address]


def _group(name: str, address: str) -> Group:
    if "=?" in name and len(name) < _LONG_FIELD:
        # Encoded line ends are blanks: an address may have none.
        name = " ".join(str(_fields("subject", name)).split())
    local, at, domain = address.rpartition("@")
    return Group(None, [Address(name, local if at else address, domain if at else "")])


def _add_quotes(match: re.Match[str]) -> str:
    start, value = match.groups()
    if start is None or not _NEEDS_QUOTES.search(value):
        return match[0]
    return f'{start}"{value}"'


class _Fields(HeaderRegistry):
    """Makes a field out of its name and its text, and never raises."""

    def __call__(self, name: str, value: Any) -> BaseHeader:
        if name.lower() in _MIME_FIELDS:
            value = _BARE_PARAMETER.sub(_add_quotes, value[:_MAX_MIME_FIELD])
        elif len(value) > _MAX_LIST and name.lower() in _LISTS:
            return _long_list(name, value)
        elif len(value) > _MAX_TEXT:
            return _LongText(name, value)
        try:
            return super().__call__(name, value)
        except Exception:
            try:
                return _Unparsed(name, value)
            except Exception:
                # Encoded words that cannot be decoded stay as they are: "=?" is what begins one.
                return _Unparsed(name, value.replace("=?", "= ?"))


def _long_list(name: str, value: str) -> BaseHeader:
    try:
        return _LongList(name, value)
    except Exception:
        return _LongText(name, value)


class _Part(EmailMessage):
    """A message, or a part of one, whose character set, boundary and file name are given or not, but never raise."""

    def get_param(self, param: str, failobj: Any = None, header: str = "content-type", unquote: bool = True) -> Any:
        """Get a parameter; a character set that nothing can be decoded with counts as none."""
        found = super().get_param(param, failobj, header, unquote)
        if param == "charset" and found is not failobj and not _is_charset(found):
            return failobj
        return found

    def get_boundary(self, failobj: Any = None) -> Any:
        """Get the boundary; one that cannot be decoded counts as none."""
        try:
            return super().get_boundary(failobj)
        except Exception:
            return failobj

    def get_filename(self, failobj: Any = None) -> Any:
        """Get the file name; one that cannot be decoded counts as none."""
        try:
            return super().get_filename(failobj)
        except Exception:
            return failobj

    def names_unknown_charset(self) -> bool:
        """Whether the part names a character set that nothing can be decoded with."""
        return super().get_param("charset") is not None and self.get_param("charset") is None


def _is_charset(found: Any) -> bool:
    try:
        charset = found if isinstance(found, str) else str(bytes(found[2], "latin-1"), found[0] or "ascii")
        # Octets that some codecs which are no character sets stumble over.
        b"\xff\\x-\xff".decode(charset, "replace")
    except Exception:
        return False
    return True


class _Content(ContentManager):
    """What `get_content` gives: ``raw_data_manager``, except where that raises because of what was sent."""

    def get_content(self, msg: Any, *args: Any, **kw: Any) -> Any:
        """Get a part's content: text, octets, or the message inside.

        Raises:
            KeyError: The part is a multipart, which has parts and no content; see ``email.contentmanager``.
        """
        if msg.get_content_maintype() != "text" or not msg.names_unknown_charset():
            try:
                return raw_data_manager.get_content(msg, *args, **kw)
            except Exception:
                if msg.is_multipart():
                    if msg.get_content_maintype() == "multipart":
                        raise
                    return msg.get_payload(0)
        octets = msg.get_payload(decode=True)
        # A multipart whose parts could not be found is shown as the text that it is.
        if msg.get_content_maintype() in ("text", "multipart", "message"):
            with suppress(UnicodeDecodeError):
                return octets.decode()
            return octets.decode("latin-1")
        return octets

    def set_content(self, msg: Any, obj: Any, *args: Any, **kw: Any) -> None:
        """Set a part's content, as ``raw_data_manager`` does."""
        raw_data_manager.set_content(msg, obj, *args, **kw)


class _Parsed:
    """The long fields of one message that were parsed, and how many characters of them were lists of addresses."""

    def __init__(self) -> None:
        self.fields: dict[tuple[str, str], Any] = {}
        self.lists = 0

    def is_too_much(self, name: str, value: str) -> bool:
        """Count a field; say whether the message's lists are together more than the package's parser is given."""
        if name.lower() not in _LISTS:
            return False
        self.lists += len(value)
        return self.lists > _MAX_LISTS


class _Policy(EmailPolicy):
    """See the module.

    Attributes:
        parsed: What was parsed of one message.
    """

    parsed: _Parsed | None = None

    def header_fetch_parse(self, name: str, value: Any) -> Any:
        """Give a field as its parsed object; a long one is parsed once."""
        if self.parsed is None or hasattr(value, "name") or len(value) < _LONG_FIELD:
            return super().header_fetch_parse(name, value)
        key = (name, str(value))
        try:
            return self.parsed.fields[key]
        except KeyError:
            if self.parsed.is_too_much(*key):
                field: Any = _long_list(name, "".join(key[1].splitlines()))
            else:
                field = super().header_fetch_parse(name, value)
            self.parsed.fields[key] = field
            return field

    def fold(self, name: str, value: Any) -> Any:
        """Fold a field; one that cannot be folded stays as it is."""
        try:
            return super().fold(name, value)
        except Exception:
            return self._as_it_is(name, value)

    def fold_binary(self, name: str, value: Any) -> Any:
        """Fold a field into octets; one that cannot be folded stays as it is."""
        try:
            return super().fold_binary(name, value)
        except Exception:
            return self._as_it_is(name, value).encode("utf-8", "surrogateescape")

    def _as_it_is(self, name: str, value: Any) -> str:
        text = self.linesep.join(line for line in str(value).splitlines() if line.strip())
        return f"{name}: {text}{self.linesep}"


_fields = _Fields()
_content = _Content()


def make_policy() -> EmailPolicy[EmailMessage]:
    """Make the policy of one message: it keeps what it has parsed of the message's long fields."""
    settings: dict[str, Any] = {
        "linesep": "\r\n",
        "header_factory": _fields,
        "content_manager": _content,
        "parsed": _Parsed(),
    }
    return cast("EmailPolicy[EmailMessage]", _Policy(message_factory=_Part, **settings))
