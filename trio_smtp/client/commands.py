"""MAIL and RCPT as they are sent, with the parameters that the server's extensions allow.

Every value is checked here, so that no caller's text becomes a second command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import attrs

from trio_smtp import Address
from trio_smtp.protocol.addresses import parse_path
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.parameters import parse_envid, parse_notify, parse_ret

from .errors import ExtensionMissing
from .results import BodyType, Recipient, Recipients

__all__ = ["Parameters", "mail_command", "path_of", "rcpt_command", "recipients_of", "xtext"]

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[^\0- =\x7f]+")
_NOT_XTEXT = re.compile(r"[^!-*,-<>-~]")
_NOT_UNITEXT = re.compile(r"[^!-*,-<>-\[\]-~]")
_ORCPT_TYPE = re.compile(r"[A-Za-z0-9-]{1,40}")


def xtext(text: str) -> str:
    """Encode as xtext (RFC 3461 section 4); characters that are not ASCII as their UTF-8."""
    return _NOT_XTEXT.sub(lambda match: "".join(f"+{octet:02X}" for octet in match[0].encode()), text)


def _domain_in_ascii(address: Address) -> str:
    """The address with its domain in A-labels, where nothing else in it needs SMTPUTF8."""
    if address.address.isascii() or not address.local_part.isascii():
        return address.address
    import idna  # its tables are large, and few need them

    return f"{address.local_part}@{idna.encode(address.domain).decode('ascii')}"


def path_of(address: str | Address) -> str:
    """Check an address; returns it as it stands between the brackets.

    Args:
        address: ``""`` is the null sender; a local part alone is an address too (LMTP).

    Raises:
        ValueError: It is no address.
    """
    return _path(address.address if isinstance(address, Address) else address)


@lru_cache(maxsize=256)
def _path(address: str) -> str:
    """Senders come again, and what is asked of a message needs each path more than once."""
    if not address:
        return ""
    try:
        return _domain_in_ascii(parse_path(address, code="5.1.3", strict=False, postmaster=True, domain=""))
    except (ProtocolError, UnicodeError):
        raise ValueError(f"not an address: {address!r}") from None


def recipients_of(recipients: Recipients) -> tuple[Recipient, ...]:
    """The recipients as values, each address once.

    Raises:
        ValueError: There is none.
    """
    several = (recipients,) if isinstance(recipients, str | Address | Recipient) else recipients
    each = (one if isinstance(one, Recipient) else Recipient(one) for one in several)
    found = {str(recipient.address): recipient for recipient in reversed([*each])}
    if not found:
        raise ValueError("recipients: there is none")
    return tuple(reversed(found.values()))


@attrs.frozen(kw_only=True)
class Parameters:
    """What MAIL says besides the sender.

    Attributes:
        size: Octets of the message, or None: not known. Sent where the server offers SIZE.
        body: Of the message's octets. ``"8BITMIME"`` and ``"BINARYMIME"`` need the extension; None says nothing.
        smtputf8: The message, or an address, needs SMTPUTF8.
        envid: The envelope's name, for notifications.
        ret: What notifications return.
        requiretls: The message must not go on without TLS (RFC 8689).
        others: Further parameters, by keyword; True for one without a value. They are sent as they are.
    """

    size: int | None = None
    body: BodyType | None = None
    smtputf8: bool = False
    envid: str | None = None
    ret: str | None = None
    requiretls: bool = False
    others: Mapping[str, str | bool] = attrs.Factory(dict)


def _need(extensions: Mapping[str, str], name: str, why: str) -> None:
    if name not in extensions:
        raise ExtensionMissing(name, why)


def mail_command(sender: str | Address, parameters: Parameters, extensions: Mapping[str, str]) -> bytes:
    """Write MAIL, its CRLF included.

    Raises:
        ExtensionMissing: The server lacks what a parameter needs.
        ValueError: A value is not allowed.
    """
    words = [f"MAIL FROM:<{path_of(sender)}>"]
    if parameters.size is not None and "SIZE" in extensions:
        words.append(f"SIZE={parameters.size}")
    if parameters.body == "BINARYMIME":
        _need(extensions, "BINARYMIME", "the message is binary")
        _need(extensions, "CHUNKING", "the message is binary")
    if parameters.body is not None:
        if parameters.body == "8BITMIME":
            _need(extensions, "8BITMIME", "the message has octets that are not ASCII")
        if "8BITMIME" in extensions:  # BODY itself is of that extension
            words.append(f"BODY={parameters.body}")
    if parameters.smtputf8 or not words[0].isascii():
        _need(extensions, "SMTPUTF8", "an address or a header field is not ASCII")
        words.append("SMTPUTF8")
    if parameters.ret is not None:
        words.append(f"RET={parse_ret(parameters.ret)}")
    if parameters.envid is not None:
        words.append(f"ENVID={xtext(parse_envid(xtext(parameters.envid)))}")
    if parameters.ret is not None or parameters.envid is not None:
        _need(extensions, "DSN", "notifications are asked for")
    if parameters.requiretls:
        _need(extensions, "REQUIRETLS", "the message must not go on without TLS")
        words.append("REQUIRETLS")
    words += _others(parameters.others)
    return _line(words)


def rcpt_command(recipient: Recipient, extensions: Mapping[str, str], *, smtputf8: bool) -> bytes:
    """Write RCPT, its CRLF included.

    Args:
        recipient: Who.
        extensions: What the server offers.
        smtputf8: MAIL says SMTPUTF8.

    Raises:
        ExtensionMissing: The server lacks what the recipient needs, or MAIL did not say it.
        ValueError: A value is not allowed.
    """
    path = path_of(recipient.address)
    if not path:
        raise ValueError("recipients: an address is empty")
    if not path.isascii() and not smtputf8:
        raise ExtensionMissing("SMTPUTF8", "a recipient is not ASCII")
    words = [f"RCPT TO:<{path}>"]
    if recipient.notify:
        words.append(f"NOTIFY={','.join(parse_notify(','.join(recipient.notify)))}")
    if recipient.orcpt is not None:
        words.append(f"ORCPT={_orcpt(recipient.orcpt)}")
    if len(words) > 1:
        _need(extensions, "DSN", "notifications are asked for")
    return _line(words)


def _orcpt(orcpt: str | tuple[str, str]) -> str:
    """RFC 3461 section 4.2; RFC 6533 section 3 for an address that is not ASCII."""
    if isinstance(orcpt, str):
        orcpt = ("rfc822" if orcpt.isascii() else "utf-8", orcpt)
    kind, address = orcpt
    if not _ORCPT_TYPE.fullmatch(kind) or not address or not address.isprintable():
        raise ValueError(f"orcpt: not an address type and an address: {orcpt!r}")
    if kind.lower() == "utf-8":
        encoded = _NOT_UNITEXT.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", address)
    else:
        encoded = xtext(address)
    return f"{kind};{encoded}"


def _others(parameters: Mapping[str, str | bool]) -> Iterable[str]:
    for keyword, value in parameters.items():
        if not _KEYWORD.fullmatch(keyword):
            raise ValueError(f"parameters: not a keyword: {keyword!r}")
        if isinstance(value, str):
            if not _VALUE.fullmatch(value):
                raise ValueError(f"parameters: not a value: {value!r}")
            yield f"{keyword}={value}"
        elif value:
            yield keyword


def _line(words: Iterable[str]) -> bytes:
    return f"{' '.join(words)}\r\n".encode()
