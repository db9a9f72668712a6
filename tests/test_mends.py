"""Errors that name the mend, and mistakes that are none any more."""

from __future__ import annotations

import errno
import socket
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme

from trio_smtp import App, Config, create_context, serve
from trio_smtp.delivery.maildir import maildir
from trio_smtp.plugins.denylist import denylist
from trio_smtp.plugins.recipient_filter import recipient_filter
from trio_smtp.protocol.stuffing import octets_of
from trio_smtp.testing import open_client

from .conftest import CertificateFiles
from .support import mail_app, raw_client


def makes_a_plugin(anything: object) -> Any:
    return lambda app: None


@pytest.mark.parametrize("factory", [maildir, denylist, recipient_filter, makes_a_plugin])
def test_a_plugin_that_was_not_called(factory: Any) -> None:
    with pytest.raises(TypeError) as caught:
        App().use(factory)
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert f"app.use({factory.__name__}(...))" in said


def test_a_plugin_may_return_what_it_has_registered(tmp_path: Path) -> None:
    app = mail_app()[0]

    async def handler(ctx: object) -> None:
        pass

    assert app.use(lambda app: app.on_close(handler)) is app  # type: ignore[arg-type]
    assert app.use(maildir(tmp_path)) is app


@pytest.mark.parametrize("context", ["cert.pem", Path("cert.pem"), ("cert.pem", "key.pem")])
def test_a_file_in_place_of_a_context(context: Any) -> None:
    with pytest.raises(TypeError, match=r"ssl_context must be an ssl\.SSLContext.*create_context\(certificate, key\)"):
        Config(ssl_context=context)


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("files", "mend"),
    [
        (("cert.pem",), r"cert\.pem has no private key: name the key's file as well \(key, --tls-key\)$"),
        (("cert.pem", "cert.pem"), r"cert\.pem has no private key$"),
        (("key.pem",), r"key\.pem has no certificate$"),
        (("key.pem", "cert.pem"), r"key\.pem has no certificate$"),
        (("cert.pem", "other.pem"), r"no usable certificate and private key \([^;]*\)$"),
    ],
)
def test_a_certificate_without_its_key(
    files: tuple[str, ...], mend: str, certificate_files: CertificateFiles, ca: trustme.CA, in_tmp_path: None
) -> None:
    Path("cert.pem").write_bytes(certificate_files.cert.read_bytes())
    Path("key.pem").write_bytes(certificate_files.key.read_bytes())
    Path("other.pem").write_bytes(ca.issue_cert("mx.example").private_key_pem.bytes())
    with pytest.raises(ValueError, match=mend):
        create_context(*files)


def email_message() -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "Hello"
    message.set_content("Hello\n.hidden\n")
    return message


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (b"Subject: x\n\n.hidden\n..\nend", b"Subject: x\r\n\r\n.hidden\r\n..\r\nend\r\n"),
        (b"Subject: x\r\n\r\nHello\r\n", b"Subject: x\r\n\r\nHello\r\n"),
        (b"", b""),
        (email_message(), octets_of(email_message())),
    ],
)
async def test_messages_as_people_have_them(data: bytes | EmailMessage, received: bytes) -> None:
    app, taken = mail_app()
    async with open_client(app) as client:
        await client.ehlo()
        assert (await client.send_message("a@example.org", ["b@example.com"], data)).code == 250
    assert taken == [received]
    assert b"\n" not in received.replace(b"\r\n", b"")


def test_mixed_line_ends_are_left_as_they_are() -> None:
    assert octets_of(b"a\nb\r\n") == b"a\nb\r\n"


async def test_the_greeting_is_the_first_reply() -> None:
    async with raw_client(mail_app()[0]) as client:
        reply = await client.read_reply()
        await client.command("NOOP")
        assert client.greeting is reply


async def test_an_address_in_use_is_named() -> None:
    app = mail_app()[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            await serve(app, Config(port=port))
    assert caught.value.__notes__ == [f"it was to listen on host='127.0.0.1', port={port}"]
    assert caught.value.errno == errno.EADDRINUSE
