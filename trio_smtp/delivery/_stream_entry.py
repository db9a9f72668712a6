"""What an entry of a Redis stream says of a message: JSON that any language can read.

Version 1 is an object with these members:

* ``version``: 1. A reader refuses a version that it does not know.
* ``sender``: the reverse-path without brackets, ``""`` for the null sender.
* ``recipients``: a list of objects with ``address``, ``original`` (the address that was sent, where a handler has put
  another in its place, else null) and ``parameters``.
* ``parameters``: those of MAIL as they were sent, upper-case names, true for one without a value.
* ``received``: when the message had come, RFC 3339, in UTC.
* ``session``: an object with ``id``, ``address``, ``port``, ``hostname``, ``hostname_verified``, ``helo``,
  ``protocol``, ``secure``, ``tls`` (null, or ``version`` and ``cipher``), ``user`` and ``mechanism``.

Members may be added without a new version, and a reader leaves alone what it does not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs

from trio_smtp import Address, DataContext

__all__ = ["StoredEnvelope", "StoredRecipient", "StoredSession", "decode_envelope", "encode_envelope"]

_VERSION = 1
_Value = TypeVar("_Value")


@attrs.frozen
class StoredRecipient:
    """One recipient.

    Attributes:
        address: Without brackets.
        original: The address that was sent, where a handler has put another in its place, or None.
        parameters: Those of RCPT as they were sent, upper-case names; True for one without a value.
    """

    address: str
    original: str | None
    parameters: Mapping[str, str | bool]


@attrs.frozen
class StoredSession:
    """Who sent it, and how.

    Attributes:
        id: The session's id and the number of the transaction, as the Received field has it.
        address: The client's address, or None.
        port: The client's port, or None.
        hostname: Its reverse-DNS name where one was looked up, else the address in brackets, or ``"unknown"``.
        hostname_verified: That name leads back to the address.
        helo: What HELO, EHLO or LHLO said, or None.
        protocol: The keyword of RFC 3848, such as ``"ESMTPSA"``.
        secure: The connection was encrypted.
        tls: The version and the cipher, or None.
        user: The user that was let in, where it is a string; else None.
        mechanism: The SASL mechanism, or None.
    """

    id: str
    address: str | None
    port: int | None
    hostname: str
    hostname_verified: bool
    helo: str | None
    protocol: str
    secure: bool
    tls: tuple[str, str] | None
    user: str | None
    mechanism: str | None


@attrs.frozen
class StoredEnvelope:
    """The envelope of a message, and its session.

    Attributes:
        sender: The reverse-path; ``""`` for the null sender.
        recipients: Those whom no handler has refused.
        parameters: Those of MAIL as they were sent, upper-case names; True for one without a value.
        received: When the message had come; aware, in UTC.
        session: Who sent it, and how.
    """

    sender: str
    recipients: tuple[StoredRecipient, ...]
    parameters: Mapping[str, str | bool]
    received: datetime
    session: StoredSession


def encode_envelope(ctx: DataContext, recipients: Iterable[Address]) -> bytes:
    """The JSON for a message; ASCII alone.

    Args:
        ctx: The message.
        recipients: Those whom it is for.
    """
    session, envelope = ctx.session, ctx.envelope
    tls = session.tls_options
    found = {
        "version": _VERSION,
        "sender": envelope.mail_from.address if envelope.mail_from is not None else "",
        "recipients": [
            {
                "address": recipient.address,
                "original": recipient.original.address if recipient.original is not None else None,
                "parameters": dict(recipient.args),
            }
            for recipient in recipients
        ],
        "parameters": dict(envelope.mail_from.args) if envelope.mail_from is not None else {},
        "received": datetime.now(UTC).isoformat(),
        "session": {
            "id": f"{session.id}-{session.transaction + 1}",
            "address": session.remote_address,
            "port": session.remote_port,
            "hostname": session.client_hostname,
            "hostname_verified": session.client_hostname_verified,
            "helo": session.host_name_appears_as,
            "protocol": session.transmission_type,
            "secure": session.secure,
            "tls": {"version": tls.version, "cipher": tls.standard_name} if tls is not None else None,
            "user": session.user if isinstance(session.user, str) else None,
            "mechanism": session.auth_mechanism,
        },
    }
    return json.dumps(_without_surrogates(found), separators=(",", ":")).encode()


def _without_surrogates(value: Any) -> Any:
    """Half a character, which a handler's string may hold, is ``?``: other languages refuse JSON with it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(member) for key, member in value.items()}
    return [_without_surrogates(member) for member in value] if isinstance(value, list) else value


def decode_envelope(octets: bytes) -> StoredEnvelope:
    """Read what `encode_envelope` has written.

    Raises:
        ValueError: It is not such JSON; the text names the member.
    """
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        raise ValueError("the envelope is not JSON") from None
    found = _is(found, dict, "the envelope")
    if found.get("version") != _VERSION:
        raise ValueError(f"version {found.get('version')!r:.40} of the envelope is not known")
    return StoredEnvelope(
        _member(found, "sender", str),
        tuple(_recipient(each) for each in _member(found, "recipients", list)),
        _parameters(found),
        _time(_member(found, "received", str)),
        _session(_member(found, "session", dict)),
    )


def _is(value: object, kind: type[_Value], name: str) -> _Value:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} is not of the type {kind.__name__}")
    return value


def _member(found: dict[str, Any], name: str, kind: type[_Value]) -> _Value:
    return _is(found.get(name), kind, name)


def _maybe(found: dict[str, Any], name: str, kind: type[_Value]) -> _Value | None:
    return None if found.get(name) is None else _member(found, name, kind)


def _parameters(found: dict[str, Any]) -> dict[str, str | bool]:
    parameters = _member(found, "parameters", dict)
    if not all(isinstance(value, str | bool) for value in parameters.values()):
        raise ValueError("parameters are not strings or true")
    return parameters


def _recipient(found: object) -> StoredRecipient:
    each = _is(found, dict, "a recipient")
    return StoredRecipient(_member(each, "address", str), _maybe(each, "original", str), _parameters(each))


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("received is not a time") from None
    if time.tzinfo is None:
        raise ValueError("received has no time zone")
    return time.astimezone(UTC)


def _session(found: dict[str, Any]) -> StoredSession:
    tls = _maybe(found, "tls", dict)
    return StoredSession(
        _member(found, "id", str),
        _maybe(found, "address", str),
        _maybe(found, "port", int),
        _member(found, "hostname", str),
        _member(found, "hostname_verified", bool),
        _maybe(found, "helo", str),
        _member(found, "protocol", str),
        _member(found, "secure", bool),
        None if tls is None else (_member(tls, "version", str), _member(tls, "cipher", str)),
        _maybe(found, "user", str),
        _maybe(found, "mechanism", str),
    )
