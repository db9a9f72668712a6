"""Delivery to a web application: each message is posted to a URL, and the answer decides what the client is told.

**250 means that the application has answered 2xx.** What else it answers:

* 406, 410, 415 and 422 refuse the message: 550. 413 does too: 552 5.3.4. `webhook` can be given another set.
* Everything else is 451, and a WARNING says why: redirects (which are not followed), 401, 403, 404, 408, 429, 5xx, no
  connection, no answer in time, an answer that is none. So a secret that was changed, or a broken release of the
  application, bounces no mail: clients keep it and try again.

The application may see a message more than once, when its answer was lost. The header field ``webhook-id`` is then the
same: it is a hash of the envelope and the octets that the client sent. The fields are those of Standard Webhooks:
``webhook-id``, ``webhook-timestamp`` (of the attempt) and ``webhook-signature`` (``v1``, HMAC-SHA256 of the id, the
timestamp and the body, one for each secret).

Return-Path, Delivered-To and Received fields stand in front of the message as in a Maildir, then the fields that
handlers have added, then what the client sent. One request carries all recipients; in LMTP those are left out that an
earlier handler has refused (`DataContext.reject_recipient`).

The formats:

* ``json``: the envelope, what can be read of the message, attachments, and the octets in base64.
* ``raw``: the octets (``message/rfc822``). ``x-envelope-from`` and ``x-envelope-to`` have the envelope, addresses
  percent-encoded and separated by commas. Standard Webhooks signs bodies alone, and the body has the envelope too, in
  its Return-Path and Delivered-To fields.
* ``postmark``, ``mailgun-mime``, ``sendgrid-raw``, ``postal``: as those services post mail that they receive, for
  applications that take mail from one. Several recipients stand in one field, separated by commas, where the service
  has a field for one.

A message is held in memory as a whole, several times: the octets, what was parsed of them, and the body of the request.
Nothing of an answer's body is read by anybody, and none of it gets to the client.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from trio_smtp import Address, App, DataContext, Plugin, Reply, Running, SMTPError

from ._trace import delivered_fields, octets_of, received_field, recipients_of
from ._webhook_formats import FORMATS, Body, Format, Posted
from ._webhook_http import NoAnswer, Poster, parse_target
from ._webhook_signing import Identity, postal_signer, read_secrets, sign

if TYPE_CHECKING:
    import httpx2

__all__ = ["REFUSED", "webhook"]

#: The statuses that refuse a message for good.
REFUSED = frozenset({406, 410, 413, 415, 422})

_logger = logging.getLogger(__name__)
#: Messages with more octets are put into their format by a worker thread.
_SMALL = 65_536
_TOO_LARGE = 413
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "transfer-encoding",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
        "x-envelope-from",
        "x-envelope-to",
        "x-postal-signature",
    }
)


def webhook(
    url: str,
    *,
    secret: str | Sequence[str],
    format: str = "json",  # noqa: A002 - the word for it
    refuse: Collection[int] = REFUSED,
    headers: Mapping[str, str] | None = None,
    trace: bool = True,
    connect_timeout: float = 10.0,
    read_timeout: float = 30.0,
    total_timeout: float = 60.0,
    max_connections: int = 16,
    ssl_context: ssl.SSLContext | None = None,
    trust_env: bool = False,
    postal_key: str | bytes | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Plugin:
    """Post every message to a URL. The module says what replies mean, and what the formats are.

    Args:
        url: Its user and password are sent as Basic authentication. Logs show the scheme, the host and the port alone.
        secret: ``whsec_`` and base64 of 24 to 64 octets; several in a rotation, the new one first.
        format: ``json``, ``raw``, ``postmark``, ``mailgun-mime`` (its key is the secret's text), ``sendgrid-raw``,
            ``postal``.
        refuse: The statuses that refuse a message for good, 400 to 599.
        headers: Fields that each request has besides.
        trace: Put Return-Path, Delivered-To and Received in front of the message.
        connect_timeout: Seconds for connecting, TLS included.
        read_timeout: Seconds in which the application must take or send something.
        total_timeout: Seconds for a request as a whole, waiting for a connection included.
        max_connections: So many are open at most, in each process that serves; further messages wait.
        ssl_context: For https; None: the system's certificates, and the host's name is checked.
        trust_env: Use the proxy that the environment names (``HTTPS_PROXY`` and so on).
        postal_key: An RSA private key in PEM, for ``x-postal-signature`` in the format ``postal``.
        transport: What requests go through instead of connections, such as `httpx2.ASGITransport`.

    Raises:
        ImportError: The extra ``webhook`` is not installed.
        ValueError: An argument is wrong; the text names it, and shows no secret.

    Cancellation: the request is given up. The client is told 421, and the application may have the message already.
    """
    timeouts = (connect_timeout, read_timeout, total_timeout)
    poster = Poster(parse_target(url), *timeouts, max_connections, ssl_context, trust_env, transport)
    packing = _packing(format, secret, headers or {}, poster.target.authorization, postal_key)
    return _Webhook(poster, packing, _checked(refuse), trace=trace).install


def _checked(refuse: Collection[int]) -> frozenset[int]:
    if not all(400 <= status <= 599 for status in refuse):
        raise ValueError("refuse must be statuses from 400 to 599")
    return frozenset(refuse)


def _packing(
    name: str,
    secret: str | Sequence[str],
    headers: Mapping[str, str],
    authorization: str | None,
    postal_key: str | bytes | None,
) -> _Packing:
    """What makes requests, of the arguments of `webhook`."""
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {name!r}")
    if postal_key is not None and name != "postal":
        raise ValueError("postal_key is for the format postal")
    signer = None if postal_key is None else postal_signer(postal_key)
    return _Packing(FORMATS[name], read_secrets(secret), _fixed_headers(headers, authorization), signer)


def _fixed_headers(given: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    """The fields that every request has.

    Raises:
        ValueError: A name or a value is none; the value is not shown.
    """
    for name, value in given.items():
        taken = _OWN if authorization is not None else _OWN - {"authorization"}
        if not _TOKEN.fullmatch(name) or name.lower() in taken:
            raise ValueError(f"headers: {name!r} is no field's name, or one that the plugin writes")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"headers: the value of {name!r} must be printable ASCII")
    fixed = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "trio-smtp"}
    fixed |= {name.lower(): value for name, value in given.items()}
    if authorization is not None:
        fixed["authorization"] = authorization
    return fixed


@attrs.frozen
class _Packing:
    """Makes requests of messages.

    Attributes:
        format: Makes the body.
        secrets: The text and the key of each secret.
        fixed: Header fields that every request has.
        signer: Makes Postal's signature, or None.
    """

    format: Format
    secrets: Sequence[tuple[str, bytes]] = attrs.field(repr=False)
    fixed: Mapping[str, str] = attrs.field(repr=False)
    signer: Callable[[bytes], str] | None = attrs.field(repr=False)

    def pack(self, mail: Posted) -> tuple[bytes, dict[str, str]]:
        """The body and the header fields of a request. Takes its time with a large message."""
        body: Body = self.format(mail)
        headers = {
            **self.fixed,
            "content-type": body.content_type,
            "webhook-id": mail.id,
            "webhook-timestamp": str(mail.timestamp),
            "webhook-signature": sign((key for _, key in self.secrets), mail.id, mail.timestamp, body.content),
            **body.headers,
        }
        if self.signer is not None:
            headers["x-postal-signature"] = self.signer(body.content)
        return body.content, headers


class _Webhook:
    """The handlers of a plugin.

    Args:
        poster: Posts requests.
        packing: Makes them.
        refuse: The statuses that refuse a message.
        trace: Put trace fields in front of messages.
    """

    def __init__(self, poster: Poster, packing: _Packing, refuse: frozenset[int], *, trace: bool) -> None:
        self._poster = poster
        self._packing = packing
        self._refuse = refuse
        self._trace = trace

    def install(self, app: App) -> None:
        """Install the plugin."""
        app.lifespan(self._lifespan)
        app.on_data(self.deliver)

    @asynccontextmanager
    async def _lifespan(self, _: Running) -> AsyncIterator[None]:
        async with self._poster.opened():
            yield

    async def deliver(self, ctx: DataContext) -> None:
        """Post the message for the recipients that no handler has refused."""
        recipients = recipients_of(ctx)
        if recipients:
            mail = await self._take(ctx, recipients)
            pack = partial(self._packing.pack, mail)
            content, headers = pack() if len(mail.message) <= _SMALL else await trio.to_thread.run_sync(pack)
            with ctx.delivering("webhook"):
                await self._post(ctx, content, headers)
            ctx.reply = Reply(250, f"Queued as {mail.id}", "2.0.0")
        await ctx.stream.discard()

    async def _take(self, ctx: DataContext, recipients: Sequence[Address]) -> Posted:
        """Read the message."""
        spooled = await ctx.spool()
        sender = ctx.envelope.mail_from
        identity = Identity(_sent(sender), map(_sent, recipients))
        async for chunk in spooled.original():
            identity.update(chunk)
        message = await spooled.read()
        trace = b""
        if self._trace:
            # A message that begins with a blank would go on with the Received field.
            end = b"\r\n" if message.startswith((b" ", b"\t")) else b""
            trace = delivered_fields(ctx, recipients) + received_field(ctx) + end
        return Posted(
            id=identity.id,
            timestamp=int(time.time()),
            mail_from="" if sender is None else octets_of(sender).decode(),
            rcpt_to=tuple(octets_of(recipient).decode() for recipient in recipients),
            message=message,
            trace=trace,
            session=_session_of(ctx),
            key=self._packing.secrets[0][0].encode(),
        )

    async def _post(self, ctx: DataContext, content: bytes, headers: Mapping[str, str]) -> None:
        """Post a request.

        Raises:
            SMTPError: The application does not have the message.
        """
        cause: NoAnswer | None = None
        try:
            status = await self._poster.post(content, headers)
        except NoAnswer as error:
            cause, why = error, str(error)
        else:
            if 200 <= status <= 299:
                return
            if status in self._refuse:
                if status == _TOO_LARGE:
                    raise SMTPError("Message too large for the application", 552, "5.3.4")
                raise SMTPError("Message refused by the application", 550)
            why = f"the answer was {status}"
        name = self._poster.target.name
        _logger.warning("session=%s cannot post the message to %s: %s", ctx.session.id, name, why)
        raise SMTPError("The application cannot take the message now", 451, "4.3.0") from cause


def _sent(address: Address | None) -> str:
    """An address as the client sent it, whatever handlers have made of it."""
    return "" if address is None else (address.original or address).address


def _session_of(ctx: DataContext) -> dict[str, object]:
    session = ctx.session
    texts = {
        "id": session.id,
        "remote_address": session.remote_address,
        "client_hostname": session.client_hostname,
        "helo": session.host_name_appears_as,
        "user": session.user if isinstance(session.user, str) else None,
    }
    return {
        **{name: None if text is None else _clean(text) for name, text in texts.items()},
        "secure": session.secure,
        "authenticated": session.authenticated,
        "smtp_utf8": ctx.envelope.smtp_utf8,
    }


def _clean(text: str) -> str:
    """Text that UTF-8 has."""
    return text.encode("utf-8", "replace").decode()
