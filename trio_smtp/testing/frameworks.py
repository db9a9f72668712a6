"""How programs and frameworks are told where the server is."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import attrs

__all__ = ["TLS", "Place"]

#: No TLS, the command STARTTLS, or TLS from the first octet.
TLS = Literal["starttls", "implicit"] | None

_BACKEND = "django.core.mail.backends.smtp.EmailBackend"


@attrs.frozen
class Place:
    """Where a server is, and how to log in.

    Attributes:
        host: Its address.
        port: Its port.
        tls: How TLS begins.
        lmtp: It speaks LMTP.
        login: A user and a password; None where there is no AUTH.
        ca_file: What its certificate is checked with; None without TLS.
    """

    host: str
    port: int
    tls: TLS
    lmtp: bool
    login: tuple[str, str] | None
    ca_file: Path | None

    @property
    def url(self) -> str:
        """As a URL: ``smtp``, ``smtps`` or ``lmtp``, user and password, host and port."""
        scheme = ("lmtp" if self.lmtp else "smtp") + ("s" if self.tls == "implicit" else "")
        login = ":".join(quote(each, safe="") for each in self.login) + "@" if self.login is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{login}{host}:{self.port}"

    def env(self) -> dict[str, str]:
        """Environment variables, by the names that frameworks read. Switches are ``"1"`` and ``"0"``."""
        user, password = self.login or ("", "")
        starttls, implicit = str(int(self.tls == "starttls")), str(int(self.tls == "implicit"))
        port = str(self.port)
        found = {
            "SMTP_URL": self.url,
            "SMTP_HOST": self.host,
            "SMTP_SERVER": self.host,
            "SMTP_PORT": port,
            "SMTP_USER": user,
            "SMTP_USERNAME": user,
            "SMTP_PASSWORD": password,
            "SMTP_TLS": starttls,
            "SMTP_SSL": implicit,
            # Django
            "EMAIL_URL": self.url.replace("smtp://", "smtp+tls://") if self.tls == "starttls" else self.url,
            "EMAIL_HOST": self.host,
            "EMAIL_PORT": port,
            "EMAIL_HOST_USER": user,
            "EMAIL_HOST_PASSWORD": password,
            "EMAIL_USE_TLS": starttls,
            "EMAIL_USE_SSL": implicit,
            # Flask-Mail, Laravel and Rails templates; the last two are FastAPI-Mail's
            "MAIL_SERVER": self.host,
            "MAIL_HOST": self.host,
            "MAIL_PORT": port,
            "MAIL_USERNAME": user,
            "MAIL_PASSWORD": password,
            "MAIL_USE_TLS": starttls,
            "MAIL_USE_SSL": implicit,
            "MAIL_STARTTLS": starttls,
            "MAIL_SSL_TLS": implicit,
        }
        # OpenSSL's own name: clients that trust the system's authorities trust this one too.
        return found if self.ca_file is None else found | {"SSL_CERT_FILE": str(self.ca_file)}

    def django_settings(self) -> dict[str, Any]:
        """Settings of Django: ``MAILERS`` where Django 6.1 or later is installed, else ``EMAIL_...``."""
        user, password = self.login or ("", "")
        starttls, implicit = self.tls == "starttls", self.tls == "implicit"
        if _django() >= (6, 1):
            options = {"host": self.host, "port": self.port, "use_tls": starttls, "use_ssl": implicit}
            options |= {"username": user, "password": password}
            return {"MAILERS": {"default": {"BACKEND": _BACKEND, "OPTIONS": options}}}
        return {
            "EMAIL_BACKEND": _BACKEND,
            "EMAIL_HOST": self.host,
            "EMAIL_PORT": self.port,
            "EMAIL_HOST_USER": user,
            "EMAIL_HOST_PASSWORD": password,
            "EMAIL_USE_TLS": starttls,
            "EMAIL_USE_SSL": implicit,
        }


def _django() -> tuple[int, ...]:
    try:
        found = version("django")
    except PackageNotFoundError:
        return (0,)
    return tuple(int(number) for number in re.findall(r"\d+", found)[:2])
