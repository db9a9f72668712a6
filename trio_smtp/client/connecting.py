"""`connect`: a connection, the greeting, TLS, EHLO and AUTH; then a `Client`."""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, Literal, TypedDict, Unpack, final

import attrs
import trio

from trio_smtp import Reply
from trio_smtp.protocol.channel_binding import channel_binding

from .client import Client
from .errors import DeliveryFailed, DeliveryRefused, ExtensionMissing
from .extensions import auth_mechanisms, without_requiretls
from .hello import is_hello_name, say, say_hello
from .sasl import Auth, Exchange, Password, make_exchange
from .target import Target, parse_url
from .timeouts import Timeouts
from .wire import Watcher, Wire

__all__ = ["Connector", "Options", "TLSMode", "connect", "make_connector"]

#: STARTTLS is needed; used where it is offered; not used.
TLSMode = Literal["required", "opportunistic", "none"]

#: A longer response does not go on the line of the command (RFC 4954 section 4).
_LONGEST_INITIAL = 400


def _connection_failure(error: Exception) -> str:
    """What an error says, and the system's reasons, which trio leaves in the cause: one for each address."""
    text = str(error) or type(error).__name__
    tried = error.__cause__
    if not isinstance(tried, ExceptionGroup):
        return text
    reasons = [os.strerror(each.errno) for each in tried.exceptions if isinstance(each, OSError) and each.errno]
    return ": ".join([text, *dict.fromkeys(reasons)])


@attrs.frozen(kw_only=True)
class Connector:
    """Opens sessions with one server; what its attributes mean stands at `connect`."""

    target: Target
    tls: TLSMode
    ssl_context: ssl.SSLContext | None = None
    auth: Auth | None = attrs.field(default=None, repr=False)
    insecure_auth: bool = False
    local_hostname: str | None = None
    timeouts: Timeouts = attrs.Factory(Timeouts)
    watch: Watcher | None = None
    open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None = None
    preface: bytes = b""

    async def open(self) -> Client:
        """Open a session; see `connect` for what is raised."""
        stream = await self._open_stream()
        wire = Wire(stream, self.timeouts, self.watch)
        try:
            if self.preface:
                await wire.send(self.preface, "connect")
            return await _Opening(self, wire).run()
        except BaseException:
            await wire.close()
            raise

    async def _open_stream(self) -> trio.abc.Stream:
        target, seconds = self.target, self.timeouts.connect
        with trio.move_on_after(seconds):
            try:
                if self.open_stream is not None:
                    return await self.open_stream()
                if target.path:
                    return await trio.open_unix_socket(target.path)
                return await trio.open_tcp_stream(target.host, target.port)
            except (OSError, UnicodeError, trio.BrokenResourceError) as error:  # UnicodeError: the host is no name
                raise DeliveryFailed("connect", _connection_failure(error)) from error
        raise DeliveryFailed("connect", f"no connection in {seconds:g} seconds")


@final
class _Opening:
    """The beginning of one session."""

    def __init__(self, connector: Connector, wire: Wire) -> None:
        self._connector = connector
        self._target = connector.target
        self._wire = wire
        self._lmtp = connector.target.protocol == "lmtp"
        self._tls: str | None = None
        self._certificate: bytes | None = None

    async def run(self) -> Client:
        if self._target.implicit_tls:
            await self._shake_hands()
        greeting = await self._wire.reply("greeting")
        if greeting.code != 220:
            if greeting.code < 400:
                raise DeliveryFailed("greeting", f"the server greets with code {greeting.code}")
            raise DeliveryRefused(greeting, phase="greeting")
        extensions = await self._hello()
        if self._connector.tls != "none" and self._tls is None and await self._start_tls(extensions):
            extensions = await self._hello()
        if self._connector.auth is not None:
            await self._authenticate(self._connector.auth, extensions)
        if self._tls is None:
            extensions = without_requiretls(extensions)
        return Client(self._wire, extensions, tls=self._tls, lmtp=self._lmtp)

    async def _say(self, line: str, phase: str, shown: str | None = None) -> Reply:
        return await say(self._wire, line, phase, shown)

    async def _hello(self) -> Mapping[str, str]:
        name = self._connector.local_hostname or _own_name(self._wire.stream)
        return await say_hello(self._wire, name, lmtp=self._lmtp)

    # TLS

    async def _start_tls(self, extensions: Mapping[str, str]) -> bool:
        """Say STARTTLS (RFC 3207); False: there is no TLS, and it is not needed."""
        required = self._connector.tls == "required"
        if "STARTTLS" not in extensions:
            if required:
                raise ExtensionMissing("STARTTLS", "tls='required' ('none' sends without TLS)", phase="starttls")
            return False
        reply = await self._say("STARTTLS", "starttls")
        if reply.code != 220:
            if reply.code < 400:
                raise DeliveryFailed("starttls", f"the server answered with code {reply.code}")
            if required or self._wire.broken:
                raise DeliveryRefused(reply, phase="starttls")
            return False
        await self._shake_hands()
        return True

    async def _shake_hands(self) -> None:
        context = self._connector.ssl_context or ssl.create_default_context()
        name = self._target.host or "localhost"
        stream = trio.SSLStream(self._wire.stream, context, server_hostname=name, https_compatible=True)
        seconds = self._connector.timeouts.tls
        with trio.move_on_after(seconds) as scope:
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as error:
                raise DeliveryFailed("tls", _why(error)) from error
        if scope.cancelled_caught:
            raise DeliveryFailed("tls", f"no TLS in {seconds:g} seconds")
        self._wire.replace_stream(stream)
        ssl_object: Any = stream
        self._tls = ssl_object.version()
        self._certificate = ssl_object.getpeercert(binary_form=True)

    # AUTH

    async def _authenticate(self, auth: Auth, extensions: Mapping[str, str]) -> None:
        offered = auth_mechanisms(extensions)
        private = self._tls is not None or bool(self._target.path) or self._connector.insecure_auth
        binding = None if self._certificate is None else channel_binding(self._certificate)
        server = self._target.host, self._target.port
        exchange = make_exchange(auth, offered, plaintext=private, binding=binding, server=server)
        if exchange is None:
            raise ExtensionMissing("AUTH", _no_mechanism(offered, private=private), phase="auth")
        reply = await self._first(exchange)
        while reply.code == 334:
            try:
                challenge = base64.b64decode(reply.text, validate=True)
                answer = await trio.to_thread.run_sync(exchange.respond, challenge)  # SCRAM takes its time
            except ValueError as error:
                await self._say("*", "auth")
                raise DeliveryFailed("auth", str(error)) from None
            reply = await self._say(base64.b64encode(answer).decode(), "auth", "(secret)")
        if reply.code >= 400:
            raise DeliveryRefused(reply, phase="auth")
        if reply.code != 235 or not exchange.complete:
            raise DeliveryFailed("auth", "the server has not proved who it is" if reply.code == 235 else "no 235")

    async def _first(self, exchange: Exchange) -> Reply:
        command = f"AUTH {exchange.name}"
        if exchange.initial is None:
            return await self._say(command, "auth")
        encoded = base64.b64encode(exchange.initial).decode()
        if len(encoded) <= _LONGEST_INITIAL:
            return await self._say(f"{command} {encoded or '='}", "auth", f"{command} (secret)")
        reply = await self._say(command, "auth")
        return await self._say(encoded, "auth", "(secret)") if reply.code == 334 else reply


def _no_mechanism(offered: frozenset[str], *, private: bool) -> str:
    """Names nothing that the server said."""
    if offered and not private:
        return "no mechanism fits without TLS (insecure_auth=True sends a password all the same)"
    return "no mechanism fits what is presented"


def _why(error: BaseException) -> str:
    """What went wrong in a handshake, in OpenSSL's words."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {cause.verify_message}"
    return f"the handshake failed: {cause.reason}" if isinstance(cause, ssl.SSLError) else "the connection broke"


def _own_name(stream: trio.abc.Stream) -> str:
    """The name for EHLO: the address literal of our end (RFC 5321 section 4.1.3)."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream) and stream.socket.family in (socket.AF_INET, socket.AF_INET6):
        address = ip_address(stream.socket.getsockname()[0].partition("%")[0])
        return f"[{'IPv6:' * (address.version == 6)}{address}]"
    return "localhost"


class Options(TypedDict, total=False):
    """What `connect` and `Pool` take besides the URL; what each means stands at `connect`."""

    ssl_context: ssl.SSLContext | None
    tls: TLSMode | None
    auth: Auth | None
    insecure_auth: bool
    local_hostname: str | None
    timeouts: Timeouts | None
    watch: Watcher | None
    open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None
    preface: bytes


def make_connector(url: str, options: Options) -> Connector:
    """Make a Connector out of the arguments of `connect`; see there for what is raised."""
    unknown = sorted(options.keys() - Options.__optional_keys__)
    if unknown:
        raise TypeError(f"there is no option {unknown[0]!r}: there are {', '.join(sorted(Options.__optional_keys__))}")
    target = parse_url(url)
    auth, tls, name = options.get("auth"), options.get("tls"), options.get("local_hostname")
    if target.username is not None:
        if auth is not None:
            raise ValueError("auth stands beside a user in the URL: give one of them")
        auth = Password(target.username, target.password or "")
    if tls is None:
        tls = "none" if target.path else "opportunistic" if target.protocol == "lmtp" else "required"
    elif tls not in ("required", "opportunistic", "none"):
        raise ValueError(f"tls must be 'required', 'opportunistic' or 'none', not {tls!r}")
    if name is not None and not is_hello_name(name):
        raise ValueError(f"local_hostname must be one word of printable ASCII, not {name!r}")
    return Connector(
        target=target,
        tls=tls,
        ssl_context=options.get("ssl_context"),
        auth=auth,
        insecure_auth=options.get("insecure_auth", False),
        local_hostname=name,
        timeouts=options.get("timeouts") or Timeouts(),
        watch=options.get("watch"),
        open_stream=options.get("open_stream"),
        preface=options.get("preface", b""),
    )


@asynccontextmanager
async def connect(url: str, **options: Unpack[Options]) -> AsyncIterator[Client]:
    """Open a session with a server.

    Example::

        async with connect("smtp://user:password@mx.example:587") as client:
            result = await client.send("me@example.com", ["you@example.org"], message)

    At the end of the block the client says QUIT; where the block raises, the connection is closed without a word.

    Args:
        url: ``smtp://host:port`` (25), ``smtps://host:port`` (465, TLS from the start), ``lmtp://host:port`` (24), or
            ``lmtp+unix:///path`` and ``smtp+unix:///path``. A user and a password in it are used for AUTH; what is no
            letter or digit in them is percent-encoded.
        options: Keyword arguments:

            * ``ssl_context``: a client's context; None: one that verifies the server's certificate and its name.
            * ``tls``: ``"required"``, ``"opportunistic"`` (used where the server offers STARTTLS; a certificate that is
              wrong ends the session all the same), or ``"none"``. None: required for ``smtp``, opportunistic for
              ``lmtp``, none for a Unix socket.
            * ``auth``: `Password`, `BearerToken` or `External`; the strongest mechanism that the server offers is used.
            * ``insecure_auth``: send a password or a token in the clear where there is neither TLS nor a Unix socket.
            * ``local_hostname``: what EHLO says; None: the address literal of our end.
            * ``timeouts``: see `Timeouts`.
            * ``watch``: called with ``"C"`` or ``"S"`` and each line of the dialogue but for the messages; secrets are
              masked.
            * ``open_stream``: gives the stream, in place of a connection to the host and port.
            * ``preface``: octets that are sent before anything else, TLS included: a header of the PROXY protocol.

    Yields:
        The client.

    Raises:
        DeliveryFailed: There is no connection, no TLS, or no answer; or the server could not prove who it is.
        DeliveryRefused: The server refused the session, or the credentials.
        ExtensionMissing: The server lacks STARTTLS, or a mechanism that fits.
        ValueError: The URL or an option is not allowed.
        TypeError: There is no such option.
        ImportError: SCRAM is the only mechanism, and the extra ``scram`` is not installed.

    RFC: RFC 5321, RFC 2033 (LMTP), RFC 3207 (STARTTLS), RFC 8314 (implicit TLS), RFC 4954 (AUTH).
    """
    client = await make_connector(url, options).open()
    try:
        yield client
    except BaseException:
        await client.aclose()
        raise
    await client.quit()
