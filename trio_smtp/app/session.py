"""What handlers see: Session, Envelope, TLSInfo. Data only."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NoReturn

import attrs

from trio_smtp.protocol.addresses import Address
from trio_smtp.protocol.errors import Aborted
from trio_smtp.protocol.parameters import DeliverBy, DSNEnvelope
from trio_smtp.protocol.proxy import ProxyHeader
from trio_smtp.protocol.values import KeepsData, ShowsFields

from .base import BaseApp

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Abortable", "Envelope", "Session", "TLSInfo"]


@attrs.frozen(repr=False)
class TLSInfo(ShowsFields):
    """What a TLS handshake agreed on.

    Attributes:
        name: OpenSSL's name of the cipher suite, such as ``"ECDHE-RSA-AES128-GCM-SHA256"``.
        standard_name: IANA's name, such as ``"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"``.
        version: ``"TLSv1.2"``, ``"TLSv1.3"``.
        bits: Secret bits of the cipher.
        peer_certificate: The client's certificate (DER), or None.
        server_certificate: Ours (DER), where it is known (`trio_smtp.tls.create_context`), or None.
    """

    name: str
    standard_name: str
    version: str
    bits: int
    peer_certificate: bytes | None = attrs.field(default=None, repr=False)
    server_certificate: bytes | None = attrs.field(default=None, repr=False)


@attrs.define(eq=False, repr=False)
class Envelope(KeepsData, ShowsFields):
    """One mail transaction's sender, recipients and parameters.

    At the end of a transaction the session gets a new one, so a handler may keep this one.

    Attributes:
        mail_from: The sender, ``mail_from.address == ""`` for the null sender; None before MAIL.
        rcpt_to: The accepted recipients, in order, duplicates included. A handler of `on_data` may add and remove some.
        body_type: What BODY= declared (RFC 6152).
        smtp_utf8: SMTPUTF8 was asked for (RFC 6531).
        size: What SIZE= declared, in octets, or None (RFC 1870).
        auth: What AUTH= said, decoded, ``"<>"`` included, or None (RFC 4954 section 5).
        require_tls: REQUIRETLS was asked for (RFC 8689).
        dsn: What DSN asks for, or None (RFC 3461); each recipient has its own in ``address.dsn``.
        deliver_by: When it is to be delivered, or None (RFC 2852).
        mt_priority: -9 to 9, or None (RFC 6710).
        hold_for: Seconds to hold it, or None (RFC 4865).
        hold_until: When to release it, or None (RFC 4865).
        values: The parsed values of all of MAIL's parameters, upper-case keys, those of extensions included.
        data: For handlers' own use.
    """

    mail_from: Address | None = None
    rcpt_to: list[Address] = attrs.field(factory=list)
    body_type: Literal["7BIT", "8BITMIME", "BINARYMIME"] = "7BIT"
    smtp_utf8: bool = False
    size: int | None = None
    auth: str | None = None
    require_tls: bool = False
    dsn: DSNEnvelope | None = None
    deliver_by: DeliverBy | None = None
    mt_priority: int | None = None
    hold_for: int | None = None
    hold_until: datetime | None = None
    values: Mapping[str, object] = MappingProxyType({})


class Abortable:
    """What a handler can do to the connection of its session. Slots that the connection fills in."""

    __slots__ = ("_end", "_send")
    _end: Callable[[bool], None]
    _send: Callable[[], Awaitable[None]] | None

    def _call_to_abort(self, end: Callable[[bool], None]) -> None:
        """Have `_abort` call this; its argument: by a reset."""
        self._end = end

    def _call_to_send(self, send: Callable[[], Awaitable[None]] | None) -> None:
        """Have `_flush` call this; None: the connection has ended."""
        self._send = send

    async def _flush(self) -> None:
        """Send the replies that wait; a session that was made without a connection has none."""
        send = getattr(self, "_send", None)
        if send is not None:
            await send()

    def _abort(self, *, reset: bool) -> NoReturn:
        """End the connection; one that was made without a connection (in a test, say) only raises."""
        with suppress(AttributeError):
            self._end(reset)
        raise Aborted


@attrs.define(eq=False, repr=False)
class Session(Abortable, ShowsFields):
    """One client's connection, the same object from connect to close.

    Attributes:
        id: 32 random characters.
        remote_address: The client's address; None on a Unix or in-memory stream. IPv4-mapped IPv6 as IPv4.
        remote_port: The client's port, or None.
        local_address: Our address, or None.
        local_port: Our port, or None.
        client_hostname: The reverse-DNS name where one was found (``Config(reverse_dns=True)``), else ``"[address]"``,
            or ``"unknown"`` when there is no address.
        client_hostname_verified: That name leads back to the address.
        host_name_appears_as: What HELO, EHLO or LHLO said; None before it.
        opening_command: Which of the three it was.
        secure: The stream is encrypted.
        tls_options: What TLS agreed on, or None.
        servername: The name the client asked for in its TLS handshake (SNI), or None.
        user: What `AuthContext.accept` was given.
        authenticated: A handler accepted the credentials.
        auth_mechanism: The SASL mechanism used, or None.
        transaction: Transactions finished on this connection.
        envelope: The transaction in progress; replaced at its end.
        xclient: What XCLIENT said; None where it said ``[UNAVAILABLE]`` or ``[TEMPUNAVAIL]``.
        xforward: What XFORWARD said for this transaction, likewise.
        proxy: The PROXY header of the connection, or None.
        original_peer: ``(address, port)`` as the socket saw it, before PROXY and XCLIENT.
        lmtp: The session speaks LMTP.
        error: The last 4xx or 5xx reply sent, or None.
        data: For handlers' own use.
    """

    id: str = attrs.field(factory=lambda: secrets.token_hex(16))
    remote_address: str | None = None
    remote_port: int | None = None
    local_address: str | None = None
    local_port: int | None = None
    client_hostname: str = "unknown"
    client_hostname_verified: bool = False
    host_name_appears_as: str | None = None
    opening_command: Literal["HELO", "EHLO", "LHLO"] | None = None
    secure: bool = False
    tls_options: TLSInfo | None = None
    servername: str | None = None
    user: object = None
    authenticated: bool = False
    auth_mechanism: str | None = None
    transaction: int = 0
    envelope: Envelope = attrs.field(factory=Envelope)
    xclient: dict[str, str | None] = attrs.field(factory=dict)
    xforward: dict[str, str | None] = attrs.field(factory=dict)
    proxy: ProxyHeader | None = None
    original_peer: tuple[str | None, int | None] = (None, None)
    lmtp: bool = False
    error: str | None = None
    data: dict[str, object] = attrs.field(factory=dict)
    _app: BaseApp | None = attrs.field(default=None, repr=False)

    @property
    def app(self) -> BaseApp:
        """The App that serves the client.

        Raises:
            RuntimeError: No server has made this session.
        """
        if self._app is None:
            raise RuntimeError("app: this Session was made without a server, so no App serves it")
        return self._app

    @property
    def tls(self) -> TLSInfo | None:
        """The same as `tls_options`."""
        return self.tls_options

    @property
    def transmission_type(self) -> str:
        """The ``with`` keyword of a Received header for what has been said so far.

        RFC: RFC 3848, RFC 6531 section 4.3, IANA's "Mail Transmission Types".
        """
        if self.envelope.smtp_utf8:
            kind = "UTF8LMTP" if self.lmtp else "UTF8SMTP"
        elif self.lmtp:
            kind = "LMTP"
        elif self.opening_command == "EHLO":
            kind = "ESMTP"
        else:
            kind = "SMTP"
        if kind == "SMTP":
            return kind  # a client that said HELO has no keyword for TLS or AUTH
        return kind + ("S" if self.secure else "") + ("A" if self.authenticated else "")
