"""Config: every limit, clock and switch of a server; frozen and validated."""

from __future__ import annotations

import math
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

import attrs

from trio_smtp.protocol.addresses import is_domain
from trio_smtp.protocol.credentials import ScramSecret
from trio_smtp.protocol.networks import Network, to_networks
from trio_smtp.protocol.sasl import MECHANISMS, Mechanism
from trio_smtp.protocol.values import ShowsFields

from .session import Session

__all__ = ["COMMANDS", "Config"]

#: The commands that ``disabled_commands`` may name.
COMMANDS = frozenset(
    ("HELO", "EHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "HELP", "VRFY", "EXPN", "QUIT", "STARTTLS", "AUTH", "BDAT")
)

#: Finds the secret of a user for SCRAM.
ScramLookup = Callable[[str, Session], Awaitable[ScramSecret | None]]
_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]
_HOSTNAME = re.compile(r"[!-~]{1,255}")


def _number(least: float, *, whole: bool, most: float = math.inf, optional: bool = False) -> _Validator:
    """Make a validator for numbers of at least `least`."""
    kind = "a whole number" if whole else "a number"
    bounds = f"from {least} to {most}" if most != math.inf else f"of at least {least}"
    allowed = f"{kind} {bounds}" + (" or None" if optional else "")

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        types = int if whole else (int, float)
        if not isinstance(value, types) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{attribute.name} must be {allowed}, not {value!r}")

    return validate


def _switch(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} must be True or False, not {value!r}")


def _maybe_text(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{attribute.name} must be a string or None, not {value!r}")


def _one_of(*allowed: str) -> _Validator:
    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    return validate


def _line(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not (value.isascii() and value.isprintable() and len(value) <= 400):
        raise ValueError(f"{attribute.name} must be a line of printable ASCII, at most 400 characters, not {value!r}")


def _several(names: object) -> bool:
    """Whether `names` is a collection. A string is not taken for one, or its letters would be the names."""
    return isinstance(names, Iterable) and not isinstance(names, str)


def _upper(names: Iterable[str]) -> Any:
    return frozenset(str(name).upper() for name in names) if _several(names) else names


def _mechanisms(names: Iterable[str | Mechanism]) -> Any:
    if not _several(names):
        return names
    return tuple(name if isinstance(name, Mechanism) else str(name).upper() for name in names)


def _known_mechanisms(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    names = [name for name in value if isinstance(name, str)] if _several(value) else value
    _names_of(MECHANISMS)(_, attribute, names)


def _names_of(allowed: Iterable[str] | None) -> _Validator:
    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not _several(value):
            raise ValueError(f"{attribute.name} must be several names, not {value!r}")
        unknown = sorted(set(value) - set(allowed)) if allowed is not None else []
        if unknown:
            known = ", ".join(sorted(allowed or ()))
            raise ValueError(f"{attribute.name}: unknown {', '.join(unknown)}; allowed are {known}")

    return validate


def _seconds(default: float, *, least: float = 0.001) -> float:
    return attrs.field(default=default, validator=_number(least, whole=False))


def _maybe_count(default: int | None) -> int | None:
    return attrs.field(default=default, validator=_number(1, whole=True, optional=True))


def _count(default: int, *, least: int = 1) -> int:
    return attrs.field(default=default, validator=_number(least, whole=True))


def _flag(default: bool) -> bool:
    return attrs.field(default=default, validator=_switch)


def _profile(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool) and not (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9-]+", value)):
        raise ValueError(f"{attribute.name} must be True, False or a profile's name, not {value!r}")


def _context(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not isinstance(value, ssl.SSLContext):
        mend = "trio_smtp.create_context(certificate, key) makes one out of PEM files"
        raise TypeError(f"{attribute.name} must be an ssl.SSLContext, not {value!r}: {mend}")


def _to_networks(networks: Iterable[Network | str]) -> Any:
    if not _several(networks):
        return networks
    try:
        return to_networks(networks)
    except ValueError as exc:
        return exc  # raised by the validator, which knows the field's name


def _check_networks(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{attribute.name} must be several networks such as '10.0.0.0/8': {value}")


@attrs.frozen(kw_only=True, repr=False)
class Config(ShowsFields):
    """What a server allows, waits for and offers. Durations are in seconds, sizes in octets.

    Raises:
        ValueError: A field's value is not allowed, or two fields contradict each other; the text names them.

    Attributes:
        host: Where `serve` listens; None: on all interfaces.
        port: The port `serve` listens on; 0: any free one.
        unix_path: Where `serve` listens instead: a Unix socket.
        unix_mode: The permissions of that socket; None: what the process's umask leaves.
        backlog: Connections the system keeps waiting to be accepted; None: as many as it allows.
        hostname: What the server calls itself.
        banner: What follows the host name in the 220 greeting.
        lmtp: Speak LMTP (RFC 2033).
        ssl_context: Offers STARTTLS, or is used at once with `implicit_tls`.
        implicit_tls: TLS from the first octet (port 465).
        starttls_required: 530 to all but EHLO, HELO, NOOP, RSET, HELP, STARTTLS and QUIT until TLS.
        tls_handshake_timeout: For the whole handshake.
        auth_mechanisms: The SASL mechanisms to offer, in this order: names, and `Mechanism` objects of your own.
        auth_required: 530 to MAIL, RCPT and DATA before authentication.
        allow_insecure_auth: AUTH is usable before TLS.
        scram_lookup: ``async (username, session)``, gives the user's `ScramSecret` for ``session.auth_mechanism``
            or None; SCRAM needs it.
        auth_required_message: The text of that 530.
        max_auth_failures: So many refused attempts get 421 4.7.0. Clients such as smtplib try several mechanisms with
            one password.
        auth_failure_delay: Waited before the first refusal is sent; doubles with each.
        max_message_size: Octets of a message; None: no limit.
        max_recipients: Recipients of a transaction (452 4.5.3).
        max_command_line: Octets of a command line, CRLF included.
        max_auth_line: The same for AUTH and the lines of its exchange.
        max_data_line: Octets of a message's line, CRLF included; None: no limit.
        spool_memory: Octets of a message that `DataContext.spool` keeps in memory; with more, all are in a file.
        spool_directory: Where that file is made; None: where the system has its temporary files.
        max_transactions: Transactions of a connection, refused and broken off ones as well; None: no limit.
        command_timeout: For a whole command line; after twelve times that without a message the session ends.
        data_timeout: Between two blocks of a message.
        min_data_rate: Octets a second, averaged over the data phase after its first minute; 0: off.
        handler_timeout: For the handlers of a phase.
        send_timeout: For the client to take what was sent.
        session_timeout: For a whole session; None: no limit.
        drain_timeout: For transactions in flight after `SMTPServer.drain`.
        lifespan_timeout: For leaving the App's lifespans, all together; see `App.lifespan`.
        greeting_delay: Waited before the greeting; a client that talks first gets 421. 0: off.
        max_connections: Connections at a time (421 4.3.2).
        max_connections_per_host: The same for one address (421 4.7.0); None: no limit.
        max_errors: So many protocol errors get 421 4.7.0.
        error_delay: Waited before each error reply from the third error on.
        max_unauthenticated_commands: Commands other than AUTH before authentication, where that is required, then
            421 4.7.0; None: no limit.
        disabled_commands: These get 502.
        hide_extensions: EHLO keywords that work and are not shown.
        bare_newline: ``"normalize"``: a bare LF ends a line, is handed on as CRLF and never ends a message, and a bare
            CR is a space. ``"reject"``: messages with either are refused, and a command line with a bare LF closes.
        legacy_clients: Networks whose clients may do more: a bare LF ends messages too. Never for the open internet.
        local_domain: Completes addresses without a domain; None: they are refused, but for recipients in LMTP.
        strict_addresses: Hold to the address grammar of RFC 5321.
        unknown_parameters: ``"reject"`` unknown MAIL and RCPT parameters (555), or ``"allow"`` them.
        dsn: Offer DSN (RFC 3461).
        requiretls: Offer REQUIRETLS inside TLS (RFC 8689).
        smtputf8: Offer SMTPUTF8 (RFC 6531).
        chunking: Offer CHUNKING, BDAT (RFC 3030).
        binarymime: Offer BINARYMIME (RFC 3030); needs `chunking`.
        deliver_by: Offer DELIVERBY (RFC 2852) with this least by-time, 0: none; None: off.
        mt_priority: Offer MT-PRIORITY (RFC 6710): True, or a profile's name.
        future_release: Offer FUTURERELEASE (RFC 4865) with this longest hold; None: off.
        proxy_protocol: Networks whose connections begin with a PROXY header; it is required from them.
        xclient: Networks that may use XCLIENT.
        xforward: Networks that may use XFORWARD.
        proxy_timeout: For the whole PROXY header.
        reverse_dns: Look the client's name up, and whether it leads back to the address.
        reverse_dns_timeout: For both look-ups together.
    """

    host: str | None = attrs.field(default="127.0.0.1", validator=_maybe_text)
    port: int = attrs.field(default=8025, validator=_number(0, whole=True, most=65_535))
    unix_path: str | None = attrs.field(default=None, validator=_maybe_text)
    unix_mode: int | None = attrs.field(default=None, validator=_number(0, whole=True, most=0o777, optional=True))
    backlog: int | None = _maybe_count(None)

    hostname: str = attrs.field(factory=socket.gethostname)
    banner: str = attrs.field(default="ESMTP", validator=_line)
    lmtp: bool = _flag(False)

    ssl_context: ssl.SSLContext | None = attrs.field(default=None, validator=_context, repr=False)
    implicit_tls: bool = _flag(False)
    starttls_required: bool = _flag(False)
    tls_handshake_timeout: float = _seconds(30)

    auth_mechanisms: tuple[str | Mechanism, ...] = attrs.field(
        default=("PLAIN", "LOGIN"), converter=_mechanisms, validator=_known_mechanisms
    )
    auth_required: bool = _flag(False)
    allow_insecure_auth: bool = _flag(False)
    scram_lookup: ScramLookup | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.is_callable()), repr=False
    )
    auth_required_message: str = attrs.field(default="Authentication required", validator=_line)
    max_auth_failures: int = _count(6)
    auth_failure_delay: float = _seconds(0, least=0)

    max_message_size: int | None = _maybe_count(33_554_432)
    max_recipients: int = _count(1000)
    max_command_line: int = _count(2048, least=512)
    max_auth_line: int = _count(12_288, least=512)
    max_data_line: int | None = _maybe_count(None)
    spool_memory: int = _count(1_048_576, least=0)
    spool_directory: str | None = attrs.field(default=None, validator=_maybe_text)
    max_transactions: int | None = _maybe_count(None)

    command_timeout: float = _seconds(300)
    data_timeout: float = _seconds(180)
    min_data_rate: float = _seconds(100, least=0)
    handler_timeout: float = _seconds(600)
    send_timeout: float = _seconds(60)
    session_timeout: float | None = attrs.field(default=None, validator=_number(0.001, whole=False, optional=True))
    drain_timeout: float = _seconds(30, least=0)
    lifespan_timeout: float = _seconds(30)
    greeting_delay: float = _seconds(0, least=0)

    max_connections: int = _count(1000)
    max_connections_per_host: int | None = _maybe_count(None)
    max_errors: int = _count(10)
    error_delay: float = _seconds(0, least=0)
    max_unauthenticated_commands: int | None = _maybe_count(None)

    disabled_commands: frozenset[str] = attrs.field(
        default=frozenset(), converter=_upper, validator=_names_of(COMMANDS)
    )
    hide_extensions: frozenset[str] = attrs.field(default=frozenset(), converter=_upper, validator=_names_of(None))
    bare_newline: Literal["reject", "normalize"] = attrs.field(
        default="normalize", validator=_one_of("reject", "normalize")
    )
    legacy_clients: tuple[Network, ...] = attrs.field(default=(), converter=_to_networks, validator=_check_networks)
    local_domain: str | None = attrs.field(default=None)
    strict_addresses: bool = _flag(True)
    unknown_parameters: Literal["reject", "allow"] = attrs.field(default="reject", validator=_one_of("reject", "allow"))

    dsn: bool = _flag(False)
    requiretls: bool = _flag(False)
    smtputf8: bool = _flag(True)
    chunking: bool = _flag(True)
    binarymime: bool = _flag(False)
    deliver_by: int | None = attrs.field(
        default=None, validator=_number(0, whole=True, most=999_999_999, optional=True)
    )
    mt_priority: bool | str = attrs.field(default=False, validator=_profile)
    future_release: int | None = attrs.field(
        default=None, validator=_number(1, whole=True, most=999_999_999, optional=True)
    )

    proxy_protocol: tuple[Network, ...] = attrs.field(default=(), converter=_to_networks, validator=_check_networks)
    xclient: tuple[Network, ...] = attrs.field(default=(), converter=_to_networks, validator=_check_networks)
    xforward: tuple[Network, ...] = attrs.field(default=(), converter=_to_networks, validator=_check_networks)
    proxy_timeout: float = _seconds(5)

    reverse_dns: bool = _flag(False)
    reverse_dns_timeout: float = _seconds(1.5)

    @hostname.validator
    def _check_hostname(self, attribute: attrs.Attribute[str], value: object) -> None:
        if not isinstance(value, str) or not _HOSTNAME.fullmatch(value):
            raise ValueError(f"hostname must be one word of printable ASCII, at most 255 characters, not {value!r}")

    @local_domain.validator
    def _check_local_domain(self, attribute: attrs.Attribute[str | None], value: object) -> None:
        if value is not None and not (isinstance(value, str) and is_domain(value)):
            raise ValueError(f"local_domain must be a domain name or None, not {value!r}")

    def __attrs_post_init__(self) -> None:
        for switch in ("implicit_tls", "starttls_required"):
            if getattr(self, switch) and self.ssl_context is None:
                raise ValueError(f"{switch}=True needs an ssl_context")
        if self.starttls_required and "STARTTLS" in self.disabled_commands:
            raise ValueError("starttls_required=True contradicts disabled_commands with STARTTLS in it")
        if self.auth_required and "AUTH" in self.disabled_commands:
            raise ValueError("auth_required=True contradicts disabled_commands with AUTH in it")
        if self.binarymime and not (self.chunking and "BDAT" not in self.disabled_commands):
            raise ValueError("binarymime=True needs chunking=True, and BDAT not in disabled_commands")
        if self.auth_required and not self.auth_mechanisms:
            raise ValueError("auth_required=True needs at least one of auth_mechanisms")
        names = [each.name if isinstance(each, Mechanism) else each for each in self.auth_mechanisms]
        if len(set(names)) < len(names):
            raise ValueError(f"auth_mechanisms names one twice: {', '.join(names)}")
        if any(name.startswith("SCRAM-") for name in self.auth_mechanisms if isinstance(name, str)):
            if self.scram_lookup is None:
                raise ValueError("auth_mechanisms with SCRAM in it needs scram_lookup")
            from trio_smtp.protocol.extras import scramp

            scramp()  # raises here, and not at the first AUTH, when the extra is not installed
