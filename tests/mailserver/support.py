"""What the tests of the mail server share: clients that send one message."""

from __future__ import annotations

import importlib.util
import smtplib
from email.message import EmailMessage

import pytest

from trio_smtp.testing import MailServer

HELLO = b"Subject: Hello\r\nFrom: ann@example.com\r\nTo: bob@example.com\r\n\r\nYour code is 123456.\r\n"


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip where one of these is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def send(server: MailServer, message: bytes | EmailMessage = HELLO, to: str = "bob@example.com") -> None:
    """Send a message by smtplib."""
    octets = message if isinstance(message, bytes) else message.as_bytes()
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.sendmail("ann@example.com", [to], octets)
