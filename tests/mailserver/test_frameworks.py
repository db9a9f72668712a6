"""What frameworks are told, and the frameworks themselves where they are installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from trio_smtp.testing import MailServer, frameworks
from trio_smtp.testing.frameworks import Place

from .support import needs


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that seem to be installed."""
    installed: dict[str, str] = {}

    def version(name: str) -> str:
        try:
            return installed[name]
        except KeyError:
            raise PackageNotFoundError(name) from None

    monkeypatch.setattr(frameworks, "version", version)
    return installed


def test_environment_variables() -> None:
    plain = Place("127.0.0.1", 2525, None, False, ("us:er", "p@ss"), None)
    env = plain.env()
    assert env["SMTP_URL"] == "smtp://us%3Aer:p%40ss@127.0.0.1:2525"
    assert env["SMTP_HOST"] == env["EMAIL_HOST"] == env["MAIL_SERVER"] == "127.0.0.1"
    assert env["SMTP_PORT"] == env["EMAIL_PORT"] == env["MAIL_PORT"] == "2525"
    assert env["SMTP_USER"] == env["EMAIL_HOST_USER"] == env["MAIL_USERNAME"] == "us:er"
    assert env["EMAIL_USE_TLS"] == env["MAIL_USE_SSL"] == env["MAIL_STARTTLS"] == "0"
    assert "SSL_CERT_FILE" not in env
    secure = Place("::1", 2525, "starttls", False, None, Path("ca.pem")).env()
    assert (secure["EMAIL_USE_TLS"], secure["EMAIL_USE_SSL"], secure["SSL_CERT_FILE"]) == ("1", "0", "ca.pem")
    assert secure["EMAIL_URL"] == "smtp+tls://[::1]:2525"
    assert (secure["SMTP_USER"], secure["SMTP_PASSWORD"]) == ("", "")
    assert Place("h", 1, "implicit", False, None, None).env()["MAIL_SSL_TLS"] == "1"
    assert Place("h", 1, None, True, None, None).url == "lmtp://h:1"


def test_settings_of_django_by_its_version(versions: dict[str, str]) -> None:
    place = Place("127.0.0.1", 2525, "implicit", False, ("bob", "secret"), None)
    for version in (None, "5.2.19", "6.0rc1"):
        if version is not None:
            versions["django"] = version
        settings = place.django_settings()
        assert settings["EMAIL_PORT"] == 2525
        assert (settings["EMAIL_USE_SSL"], settings["EMAIL_USE_TLS"]) == (True, False)
    versions["django"] = "6.1a1"
    assert place.django_settings() == {
        "MAILERS": {
            "default": {
                "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
                "OPTIONS": {
                    "host": "127.0.0.1",
                    "port": 2525,
                    "use_tls": False,
                    "use_ssl": True,
                    "username": "bob",
                    "password": "secret",
                },
            }
        }
    }


DJANGO = """
import sys
import django
from django.conf import settings
from trio_smtp.testing import MailServer

with MailServer(tls=sys.argv[1] if sys.argv[1] != "no" else None) as server:
    import os
    os.environ.update(server.env())
    settings.configure(**server.django_settings())
    django.setup()
    from django.core.mail import EmailMultiAlternatives

    people = ["bob@example.com"], ["dave@example.com"]
    mail = EmailMultiAlternatives("Wilkommen", "Hallo Bob", "ann@example.com", *people)
    mail.attach_alternative("<p>Hallo Bob</p>", "text/html")
    mail.attach("notes.txt", "notes", "text/plain")
    assert mail.send() == 1
    found = server.only()
    assert found.subject == "Wilkommen"
    assert (found.text.strip(), found.html.strip()) == ("Hallo Bob", "<p>Hallo Bob</p>")  # 6.1 adds a line end
    assert found.bcc == ["dave@example.com"] and found.attachments["notes.txt"].content.strip() == b"notes"
    assert found.session.user == "user" and (found.session.tls is not None) == (sys.argv[1] != "no")
"""


@needs("django")
@pytest.mark.parametrize("tls", ["no", "starttls", "implicit"])
def test_django(tls: str) -> None:
    subprocess.run([sys.executable, "-W", "error::ResourceWarning", "-c", DJANGO, tls], check=True, timeout=60)


@needs("flask_mail")
def test_flask_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    import flask
    import flask_mail

    with MailServer(tls="starttls") as server:
        env = server.env()
        monkeypatch.setenv("SSL_CERT_FILE", env["SSL_CERT_FILE"])
        app = flask.Flask("app")
        app.config.update(
            MAIL_SERVER=env["MAIL_SERVER"],
            MAIL_PORT=int(env["MAIL_PORT"]),
            MAIL_USE_TLS=bool(int(env["MAIL_USE_TLS"])),
            MAIL_USERNAME=env["MAIL_USERNAME"],
            MAIL_PASSWORD=env["MAIL_PASSWORD"],
        )
        with app.app_context():
            message = flask_mail.Message("Hi", ["bob@example.com"], "Hello", sender="ann@example.com")
            flask_mail.Mail(app).send(message)
        mail = server.wait_for(to="bob@example.com", subject="Hi")
        assert mail.session.tls is not None
        assert mail.session.user == "user"
