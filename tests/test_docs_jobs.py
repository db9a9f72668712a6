"""The servers of the pages for jobs do what the pages say."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from argon2 import PasswordHasher

from tests.conftest import CertificateFiles
from trio_smtp.testing import Client, MailServer, open_client

DOCS = Path(__file__).parents[1] / "docs"
ALICE = "alice@example.com"
MESSAGE = b"Subject: hello\r\n\r\nIt works.\r\n"


def programs(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def run(program: str) -> Any:
    """What the program defines."""
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, "docs", "exec", dont_inherit=True), namespace)
    return SimpleNamespace(**namespace)


@pytest.fixture(autouse=True)
def directory(certificate_files: CertificateFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the programs name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("cert.pem").write_bytes(certificate_files.cert.read_bytes())
    Path("key.pem").write_bytes(certificate_files.key.read_bytes())
    Path("users").write_text(f"{ALICE}:{PasswordHasher(1, 8, 1).hash('Open Sesame')}\n", "utf-8")
    return tmp_path


async def test_receiving_for_a_domain(directory: Path) -> None:
    program = run(programs("receiving.md")[0])
    async with open_client(program.app, program.config) as client:
        assert "STARTTLS" in (await client.ehlo()).lines
        assert (await client.send_message("x@elsewhere.example", ["bob@example.net"], MESSAGE)).code == 550
        await client.command("RSET")
        assert (await client.send_message("x@elsewhere.example", ["bob@example.org"], MESSAGE)).code == 250
    (stored,) = (directory / "mail" / "new").iterdir()
    assert stored.read_bytes().endswith(MESSAGE)


async def test_receiving_for_people_who_exist() -> None:
    program = run(programs("receiving.md")[1])
    async with open_client(program.app) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<x@elsewhere.example>")
        assert (await client.command("RCPT TO:<Postmaster@example.com>")).code == 250
        unknown = await client.command("RCPT TO:<eve@example.com>")
        assert (unknown.code, unknown.enhanced) == (550, "5.1.1")


async def log_in(client: Client, trusting: ssl.SSLContext) -> None:
    await client.ehlo()
    assert (await client.command(f"MAIL FROM:<{ALICE}>")).code == 530
    await client.starttls(trusting)
    await client.ehlo()
    assert (await client.command(f"MAIL FROM:<{ALICE}>")).code == 530
    assert (await client.auth_plain(ALICE, "Open Sesame")).code == 235


async def test_submission(
    client_ssl_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = programs("submission.md")
    with MailServer(tls="starttls", auth={"user": "secret"}, auth_required=True) as next_server:
        monkeypatch.setenv("SMARTHOST", f"smtp://user:secret@localhost:{next_server.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(next_server.ca_file))
        program = run(code)
        async with open_client(program.app, program.config) as client:
            await log_in(client, client_ssl_context)
            assert (await client.command("MAIL FROM:<bob@example.com>")).code == 550
            assert (await client.send_message(ALICE, ["x@elsewhere.example"], MESSAGE)).code == 250
            assert (await next_server.wait_for_async(to="x@elsewhere.example")).envelope.sender == ALICE
            next_server.fail("rcpt", 550, "Nobody", to="no@*")
            assert (await client.send_message(ALICE, ["no@a.example", "x@a.example"], MESSAGE)).code == 250
            assert "no@a.example" in capsys.readouterr().out
            refused = await client.send_message(ALICE, ["no@a.example"], MESSAGE)
            assert (refused.code, refused.text) == (550, "Nobody")
    async with open_client(program.app, program.config) as client:  # the next server is gone
        await log_in(client, client_ssl_context)
        assert (await client.send_message(ALICE, ["x@a.example"], MESSAGE)).code == 451
