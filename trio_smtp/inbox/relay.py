"""Passes one message on to a real server, when somebody asks for that."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Sequence
from fnmatch import translate
from urllib.parse import unquote, urlsplit

import attrs

from trio_smtp import Address

__all__ = ["Relay", "RelayError"]

_TIMEOUT = 30.0
_PORTS = {"smtp": 25, "smtps": 465}
_FORM = "smtp://[USER:PASSWORD@]HOST[:PORT][?starttls=no|yes|required][&allow=*@example.com,...]"


class RelayError(Exception):
    """The message was not passed on; the text says why."""


@attrs.frozen(kw_only=True)
class Relay:
    """Where messages are released to.

    Attributes:
        host: The server.
        port: Its port.
        username: The name to log in with; ``""``: without logging in.
        password: The password.
        implicit_tls: TLS from the first octet.
        starttls: ``"no"``, ``"yes"``: where the server offers it, or ``"required"``.
        allowed: Patterns of addresses, such as ``*@example.com``: others are refused. Without one all are allowed.
    """

    host: str
    port: int
    username: str = ""
    password: str = attrs.field(default="", repr=False)
    implicit_tls: bool = False
    starttls: str = "yes"
    allowed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str) -> Relay:
        """Read a URL.

        Args:
            url: ``smtp://`` or ``smtps://``, then ``USER:PASSWORD@`` (percent-encoded) where one has to log in, the
                host, and the port. ``?starttls=`` and ``?allow=`` say the rest; several patterns have commas between
                them.

        Raises:
            ValueError: It is no such URL.
        """
        try:
            parts = urlsplit(url)
        except ValueError:  # whose text shows the password
            raise ValueError(f"a relay is written {_FORM}") from None
        try:
            port = parts.port
        except ValueError:
            port = 0
        options = dict(pair.partition("=")[::2] for pair in parts.query.split("&") if pair)
        starttls = options.pop("starttls", "yes")
        allowed = tuple(filter(None, unquote(options.pop("allow", "")).split(",")))
        known = starttls in ("no", "yes", "required") and not options
        if parts.scheme not in _PORTS or not parts.hostname or port == 0 or not known or parts.path not in ("", "/"):
            raise ValueError(f"a relay is written {_FORM}, not {_without_password(url)}")
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            implicit_tls=parts.scheme == "smtps",
            starttls=starttls,
            allowed=allowed,
        )

    def allows(self, address: str) -> bool:
        """Whether messages may be released to this address."""
        return not self.allowed or any(
            re.match(translate(pattern.casefold()), address.casefold()) for pattern in self.allowed
        )

    def check(self, recipients: Sequence[str]) -> None:
        """Check addresses before a message is released to them.

        Raises:
            RelayError: There is none, one is no address, or one is not allowed.
        """
        if not recipients:
            raise RelayError("No valid addresses found")
        for recipient in recipients:
            try:
                Address.parse(recipient)
            except ValueError:
                raise RelayError(f"Invalid email address: {recipient[:200]}") from None
            if not self.allows(recipient):
                raise RelayError(f"Failed: the address does not match the allow list: {recipient[:200]}")

    def send(self, sender: str, recipients: Sequence[str], octets: bytes) -> None:
        """Pass a message on. It blocks: call it in a thread.

        Args:
            sender: The reverse-path, ``""`` for the null sender.
            recipients: Whom it is for.
            octets: The message.

        Raises:
            RelayError: The server refused it, or cannot be reached.
        """
        self.check(recipients)
        context = ssl.create_default_context()
        try:
            if self.implicit_tls:
                client: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=_TIMEOUT, context=context)
            else:
                client = smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT)
            with client:
                self._prepare(client, context)
                refused = client.sendmail(sender, list(recipients), octets)
        except smtplib.SMTPRecipientsRefused as error:
            refused = error.recipients
        except (smtplib.SMTPException, OSError, UnicodeError) as error:
            raise RelayError(f"SMTP error: {error}") from error
        if refused:
            reasons = "; ".join(f"{address}: {code} {_text(text)}" for address, (code, text) in refused.items())
            raise RelayError(f"SMTP error: refused for {reasons}")

    def _prepare(self, client: smtplib.SMTP, context: ssl.SSLContext) -> None:
        client.ehlo()
        if not self.implicit_tls and self.starttls != "no":
            if client.has_extn("starttls"):
                client.starttls(context=context)
                client.ehlo()
            elif self.starttls == "required":
                raise RelayError(f"SMTP error: {self.host} does not offer STARTTLS")
        if self.username:
            client.login(self.username, self.password)


def _text(octets: bytes | str) -> str:
    return octets.decode("utf-8", "replace") if isinstance(octets, bytes) else octets


def _without_password(url: str) -> str:
    """The URL without what stands before its last ``@``: a password may have any character, the reserved ones too."""
    before, at, rest = url.rpartition("@")
    scheme = re.match(r"[a-z]{1,10}://", before)
    return f"{scheme[0] if scheme else ''}...@{rest}" if at else url
