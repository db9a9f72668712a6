"""The programs in docs/security-of-the-session.md do what the page says."""

from __future__ import annotations

import base64
import json
import re
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from argon2 import PasswordHasher

from tests.conftest import CertificateFiles
from tests.sasl_support import ScramClient, b64, oauthbearer
from tests.support import BODY
from tests.tls_support import NAME, der, presented
from trio_smtp.testing import open_client

PAGE = Path(__file__).parents[1] / "docs" / "security-of-the-session.md"
TLS, IDENTITIES, PASSWORDS, SCRAM, OAUTH, OWN = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
)


@pytest.fixture
def files(
    certificate_files: CertificateFiles, ca: trustme.CA, ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> trustme.LeafCert:
    """What the programs name, in the current directory; gives the other certificate."""
    monkeypatch.chdir(tmp_path)
    other = ca.issue_cert("mail.example.net")
    for name, content in {
        "cert.pem": certificate_files.cert.read_bytes(),
        "key.pem": certificate_files.key.read_bytes(),
        "other.pem": b"".join(blob.bytes() for blob in other.cert_chain_pems),
        "other.key": other.private_key_pem.bytes(),
        "clients.pem": ca_file.read_bytes(),
        "users": f"ali:{PasswordHasher(1, 8, 1).hash('Open Sesame')}\n".encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
    return other


def run(program: str) -> Any:
    """What the program defines."""
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, str(PAGE), "exec", dont_inherit=True), namespace)
    return SimpleNamespace(**namespace)


async def test_tls(
    files: trustme.LeafCert, client_ssl_context: ssl.SSLContext, capsys: pytest.CaptureFixture[str]
) -> None:
    program = run(TLS)
    async with open_client(program.app, program.config) as client:
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 530
        await client.starttls(client_ssl_context, "mail.example.net")
        assert presented(client) == der(files)
        await client.ehlo()
        assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
    assert capsys.readouterr().out == "mail.example.net: TLSv1.3, TLS_AES_256_GCM_SHA384\n"


@pytest.mark.parametrize(
    ("username", "authzid", "user"),
    [
        ("ali", "", "ali"),
        ("ali", "ali", "ali"),
        ("ali", "sales", "sales"),
        ("ali", "cassim", None),
        ("cassim", "", "cassim"),
        ("cassim", "sales", None),
    ],
)
async def test_identities(
    files: trustme.LeafCert, client_ssl_context: ssl.SSLContext, username: str, authzid: str, user: str | None
) -> None:
    program = run(IDENTITIES)
    async with open_client(program.app, program.config) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        assert (await client.auth_plain(username, "Open Sesame", authzid)).code == (535 if user is None else 235)
        assert client.session.user == user


async def test_passwords(
    files: trustme.LeafCert, client_ssl_context: ssl.SSLContext, capsys: pytest.CaptureFixture[str]
) -> None:
    program = run(PASSWORDS)
    async with open_client(program.app, program.config, auth_failure_delay=0) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, NAME)
        await client.ehlo()
        assert (await client.command("MAIL FROM:<a@example.org>")).code == 530
        assert (await client.auth_plain("ali", "Open Barley")).code == 535
        assert (await client.auth_plain("ali", "Open Sesame")).code == 235
        assert (await client.send_message("a@example.org", ["b@example.com"], BODY)).code == 250
    assert capsys.readouterr().out == "a message of ali\n"


@pytest.mark.parametrize(("password", "code"), [("Open Sesame", 235), ("Open Barley", 535)])
async def test_scram(files: trustme.LeafCert, client_ssl_context: ssl.SSLContext, password: str, code: int) -> None:
    program = run(SCRAM)
    async with open_client(program.app, program.config) as client:
        await client.ehlo()
        await client.starttls(client_ssl_context, NAME)
        assert "AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS" in (await client.ehlo()).lines
        scram = ScramClient("SCRAM-SHA-256", "ali", password)
        reply = await client.command(f"AUTH SCRAM-SHA-256 {b64(scram.first())}")
        reply = await client.command(b64(scram.final(base64.b64decode(reply.text))))
        if reply.code == 334:
            reply = await client.command("")
        assert reply.code == code


async def test_oauth_and_certificates(files: trustme.LeafCert, ca: trustme.CA) -> None:
    program = run(OAUTH)
    certified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(certified)
    ca.issue_cert("ali@example.com").configure_cert(certified)
    for command, user in (
        ("AUTH EXTERNAL =", "whom the certificate names"),
        (f"AUTH EXTERNAL {b64('whom the certificate names')}", "whom the certificate names"),
        (f"AUTH OAUTHBEARER {oauthbearer('ali', 'token-of-ali')}", "ali@example.com"),
        (f"AUTH OAUTHBEARER {oauthbearer('ali', 'another')}", None),
    ):
        async with open_client(program.app, program.config) as client:
            await client.ehlo()
            await client.starttls(certified, NAME)
            assert "AUTH OAUTHBEARER XOAUTH2 EXTERNAL" in (await client.ehlo()).lines
            reply = await client.command(command)
            assert reply.code == (235 if user else 334)
            assert client.session.user == user
            if user is None:
                assert json.loads(base64.b64decode(reply.text))["scope"] == "mail"


@pytest.mark.parametrize(("word", "code"), [("Friend", 235), ("Foe", 535)])
async def test_a_mechanism_of_ones_own(word: str, code: int) -> None:
    program = run(OWN)
    async with open_client(program.app, program.config) as client:
        assert "AUTH PLAIN X-WORD" in (await client.ehlo()).lines
        assert base64.b64decode((await client.command("AUTH X-WORD")).text) == b"Who are you?"
        question = base64.b64decode((await client.command(b64("ali"))).text)
        assert question == b"And what does one say at mx.example.com?"
        assert (await client.command(b64(word))).code == code
