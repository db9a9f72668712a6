"""docs/configuration.md is true: its tables are those of the command, and its servers serve."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from trio_smtp import App, AuthContext, Config, DataContext
from trio_smtp.background import BackgroundServer
from trio_smtp.cli import main
from trio_smtp.cli.configuration import show_configuration
from trio_smtp.cli.configuration.settings import COMMAND, PROFILES, listener_settings

from . import test_cli
from .conftest import CertificateFiles
from .test_cli import PATIENCE

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
BLOCKS = {
    match[2]: match[0] for match in re.finditer(r"^# ((\w+)\.(?:toml|py))\n.*?(?=^```)", PAGE, re.MULTILINE | re.DOTALL)
}
COMMANDS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

in_a_directory_of_its_own = test_cli.in_a_directory_of_its_own


def rows(text: str) -> list[tuple[str, ...]]:
    return [tuple(re.split(r" ?\| ?", line)[1:-1]) for line in text.splitlines() if line.startswith("| `")]


def test_every_key_with_its_default_and_its_help() -> None:
    found = {cells[0].strip("`"): cells[1:] for cells in rows(PAGE.partition("## Every key")[2])}
    printed = show_configuration().partition("## plugins")[0]
    keys = re.findall(r"^# (\w+) = .*\n#   (.*)", printed, re.MULTILINE)
    assert list(found) == ["workers", "verbose", "log_format", "app", *(key for key, _ in keys[4:])]
    assert {key for key, _ in keys} == set(found)
    for each in (*COMMAND, *listener_settings().values()):
        default, text = found[each.name]
        shown = each.shown_default if each.default is not None or each.words else ""
        assert default == ("the host's name" if each.name == "hostname" else shown)
        assert text.replace("`", "").lower().startswith(each.help.lower())
        assert all(f"`{choice}`" in text for choice in each.choices)


def test_every_profile() -> None:
    section = PAGE.partition("## Profiles")[2].partition("##")[0]
    found = {}
    for name, text in rows(section)[1:]:
        pairs = (each.split(" = ") for each in re.findall(r"`([^`]+)`", text))
        found[name.strip("`")] = {key: {"true": True}.get(value) or float(value) for key, value in pairs}
    assert found == PROFILES


def test_the_keys_of_a_maildir() -> None:
    section = PAGE.partition("## A Maildir for each recipient")[2].partition("##")[0]
    printed = show_configuration().partition('type = "maildir"')[2].partition("\n\n")[0]
    keys = set(re.findall(r"^# (\w+) = ", printed, re.MULTILINE))
    assert {cells[0].strip("`") for cells in rows(section)} == keys - {"path"}


def write_files(certificate_files: CertificateFiles, ca_file: Path) -> None:
    """What an operator has made beforehand, and the files of the page, with free ports."""
    for directory in ("tmp", "new", "cur"):
        Path("vmail/example.com/alice", directory).mkdir(parents=True)
    for source, name in ((certificate_files.cert, "cert.pem"), (certificate_files.key, "key.pem"), (ca_file, "ca.pem")):
        shutil.copy(source, name)
    Path("isp-password").write_text("me:secret\n")
    Path("message.eml").write_bytes(b"Subject: hello\r\n\r\nIt works.\r\n")
    for name, text in BLOCKS.items():
        suffix = "py" if text.startswith(f"# {name}.py") else "toml"
        Path(f"{name}.{suffix}").write_text(re.sub(r"^port = \d+", "port = 0", text, flags=re.MULTILINE))


@attrs.frozen
class Server:
    """The command, in a process of its own."""

    ports: list[str]
    lines: list[str]


@contextlib.contextmanager
def serving(name: str, listeners: int) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "trio_smtp", "--config", f"{name}.toml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": "ca.pem"},
        text=True,
    )
    assert process.stdout is not None
    with process:
        server = Server([], [])
        try:
            for line in process.stdout:
                server.lines.append(line)
                server.ports.extend(re.findall(r"Listening on (?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", line))
                if "Send a first message" in line:
                    break
            assert len(server.ports) == listeners, server.lines
            yield server
        finally:
            process.terminate()
            server.lines.extend(process.communicate(timeout=PATIENCE)[0].splitlines(keepends=True))
    assert process.returncode == 0


def run(command: str, port: str, **words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the page, towards another port."""
    command = re.sub(r"localhost:\d+", f"localhost:{port}", command)
    for word, value in words.items():
        command = command.replace(word, value)
    return subprocess.run(
        shlex.split(command.replace("\\\n", "")), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


@pytest.mark.program("swaks")
def test_the_mx(certificate_files: CertificateFiles, ca_file: Path) -> None:
    write_files(certificate_files, ca_file)
    with serving("mx", 2) as server:
        for port in (server.ports[0], server.ports[-1]):
            sent = run(COMMANDS[0], port)
            assert sent.returncode == 0, sent.stdout
            for stranger, code in (("bob@example.com", "550 5.1.1"), ("a@example.net", "550 5.7.1")):
                assert code in run(COMMANDS[0].replace("alice@example.com", stranger), port).stdout
    assert len(list(Path("vmail/example.com/alice/new").iterdir())) == 2
    assert all(line.startswith("{") for line in server.lines)


@pytest.mark.program("curl")
def test_the_submission_server(
    certificate_files: CertificateFiles, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("argon2")
    write_files(certificate_files, ca_file)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Sesame\n"))
    assert main(["passwd", "users", "alice"]) == 0
    with serving("submission", 2) as server:
        assert run(COMMANDS[1], server.ports[0], PASSWORD="Sesame").returncode == 0
        assert run(COMMANDS[1], server.ports[0], PASSWORD="wrong").returncode == 67  # login denied
        implicit = COMMANDS[1].replace("smtp://", "smtps://")
        assert run(implicit, server.ports[-1], PASSWORD="Sesame").returncode == 0
        assert run(COMMANDS[1].replace("--user alice:PASSWORD", ""), server.ports[0]).returncode == 55
    assert len(list(Path("sent/new").iterdir())) == 2


def test_the_gateway_passes_mail_on(
    certificate_files: CertificateFiles, ca_file: Path, server_ssl_context: ssl.SSLContext
) -> None:
    pytest.importorskip("trio_smtp.delivery.proxy")
    app, taken = App(), []

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        if (ctx.credentials.username, getattr(ctx.credentials, "password", None)) == ("me", "secret"):
            ctx.accept("me")

    @app.on_data
    async def take(ctx: DataContext) -> None:
        taken.append((ctx.session.user, await ctx.stream.read()))

    write_files(certificate_files, ca_file)
    provider = Config(port=0, ssl_context=server_ssl_context, auth_required=True, starttls_required=True)
    with BackgroundServer(app, provider) as upstream:
        text = Path("gateway.toml").read_text()
        Path("gateway.toml").write_text(text.replace("mx.isp.example:587", f"localhost:{upstream.port}"))
        with (
            serving("gateway", 1) as server,
            smtplib.SMTP("127.0.0.1", int(server.ports[0]), timeout=PATIENCE) as client,
        ):
            client.sendmail("alice@example.com", "bob@example.org", "Subject: hello\r\n\r\nIt works.\r\n")
    ((user, message),) = taken
    assert user == "me"
    assert message.endswith(b"\r\n\r\nIt works.\r\n")


def test_the_gateway(certificate_files: CertificateFiles, ca_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(certificate_files, ca_file)
    there = importlib.util.find_spec("trio_smtp.delivery.proxy") is not None
    assert main(["--check", "--config", "gateway.toml"]) == (0 if there else 2)
    out, err = capsys.readouterr()
    assert ("is right" in out) is there
    assert ("there is no type 'proxy'" in err) is not there
    assert "secret" not in out + err


def test_an_app_and_its_factory(
    certificate_files: CertificateFiles, ca_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_files(certificate_files, ca_file)
    Path("token").write_text("x\n")
    monkeypatch.delitem(sys.modules, "my_server", raising=False)
    assert main(["--check", "--config", "own.toml"]) == 0
    assert "own.toml is right: 1 listener" in capsys.readouterr().out
