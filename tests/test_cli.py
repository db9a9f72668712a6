"""The command: what it prints, stores and refuses.

It runs in this process; a client in a thread talks to it over loopback.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import queue
import re
import runpy
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme
from _pytest.assertion.rewrite import AssertionRewritingHook
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from trio_smtp import App, Config
from trio_smtp.cli.command import main, make_parser
from trio_smtp.cli.configuration import load
from trio_smtp.cli.options import make_single_config
from trio_smtp.cli.serving import first_message, place_of, serve_all

from .conftest import CertificateFiles

#: Seconds for anything that waits: far more than a loaded machine needs.
PATIENCE = 30
MESSAGE = "Subject: Hello\r\n\r\nIt works.\r\n"


class Output(io.TextIOWrapper):
    """A stdout whose lines another thread can wait for."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding)
        self.lines = queue.Queue[str | None]()
        self.broken = False
        self._begun = ""

    def write(self, text: str) -> int:
        if self.broken:
            raise BrokenPipeError
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.lines.put(line.encode(self.encoding).decode(self.encoding))
        return len(text)


@attrs.define
class Running:
    """The command, seen by the client's thread."""

    output: Output
    #: The command obeys signals: its first lines were printed.
    ready: bool = False

    def line(self, pattern: str) -> str:
        """Wait for a line in which the pattern is found; gives its first group, or the line."""
        while (line := self.output.lines.get(timeout=PATIENCE)) is not None:
            self.ready = True
            if found := re.search(pattern, line):
                return found[1] if found.re.groups else line
        raise AssertionError(f"the command ended without a line like {pattern!r}")

    def port(self) -> int:
        return int(self.line(r"^Listening on 127\.0\.0\.1:(\d+)"))

    def first_message(self) -> None:
        """Do what the command says to send a first message."""
        command = self.line(r"^  (.*smtplib.*)")
        subprocess.run(command, shell=True, check=True, timeout=PATIENCE)

    def signal(self, number: int = signal.SIGTERM) -> None:
        os.kill(os.getpid(), number)


Run = Callable[..., int]


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command while a thread does something to it, and then ends it by SIGTERM; gives the exit code."""

    def run(during: Callable[[Running], None], *arguments: str, output: Output | None = None) -> int:
        running = Running(output or Output())
        failures: list[Exception] = []
        ended = threading.Event()

        def client() -> None:
            try:
                during(running)
            except Exception as exc:  # noqa: BLE001 - raised again by the test's own thread
                failures.append(exc)
            finally:
                if running.ready and not ended.is_set():
                    running.signal()

        monkeypatch.setattr(sys, "stdout", running.output)
        thread = threading.Thread(target=client)
        thread.start()
        try:
            code = main(arguments)
        finally:
            ended.set()
            running.output.lines.put(None)
            thread.join(PATIENCE)
        if failures:
            raise failures[0]
        return code

    return run


def send(port: int, *, sender: str = "alice@example.com", recipients: tuple[str, ...] = ("bob@example.com",)) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.sendmail(sender, recipients, MESSAGE)


def stored(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((directory / "new").iterdir())]


def write_app(directory: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / f"{name}.py").write_text(body)
    # What the command imports is forgotten after the test.
    monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.delitem(sys.modules, name)


# What it does


def test_without_arguments_it_stores_what_its_own_first_message_sends(run: Run, tmp_path: Path) -> None:
    lines: list[str] = []

    def during(running: Running) -> None:
        lines.append(running.line("^Storing"))
        running.first_message()
        lines.append(running.line("^<"))

    assert run(during, "--port", "0") == 0
    assert lines[0] == f"Storing messages in the Maildir {tmp_path / 'mail'}"
    assert re.fullmatch(r"<you@example\.com> to <me@example\.com>: 29 octets, Queued as \S+", lines[1])
    (message,) = stored(tmp_path / "mail")
    assert message.startswith(b"Return-Path: <you@example.com>\r\nDelivered-To: me@example.com\r\nReceived: ")
    assert message.endswith(b"\r\nSubject: Hello\r\n\r\nIt works.\r\n")


def test_the_maildir_is_where_one_says(run: Run, tmp_path: Path) -> None:
    assert run(lambda running: send(running.port()), "--port", "0", "--maildir", "in/box") == 0
    assert len(stored(tmp_path / "in" / "box")) == 1


@pytest.mark.parametrize("arguments", [("--starttls-required",), ("--implicit-tls",)])
def test_a_self_signed_certificate_and_itsfirst_message(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(Running.first_message, "--port", "0", "--tls-self-signed", *arguments) == 0
    (message,) = stored(tmp_path / "mail")
    assert b"with ESMTPS" in message


@pytest.mark.parametrize(
    ("arguments", "transmission"),
    [
        pytest.param(("--unix-path", "smtp.sock"), b"with ESMTP ", id="SMTP on a Unix socket"),
        pytest.param(("--unix-path", "smtp.sock", "--lmtp"), b"with LMTP ", id="LMTP on a Unix socket"),
        pytest.param(("--port", "0", "--lmtp"), b"with LMTP ", id="LMTP on TCP"),
    ],
)
def test_other_listeners_and_theirfirst_message(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], transmission: bytes
) -> None:
    assert run(Running.first_message, *arguments) == 0
    (message,) = stored(tmp_path / "mail")
    assert transmission in message


def test_a_listener_whose_first_message_cannot_be_told(run: Run) -> None:
    lines: list[str] = []

    def during(running: Running) -> None:
        lines.append(running.line("^Listening"))
        running.signal()
        lines.append(running.line("."))
        running.ready = False

    assert run(during, "--port", "0", "--proxy-protocol", "192.0.2.0/24") == 0
    assert lines[1].startswith("Finishing")


def test_starttls_with_a_certificate_from_files(
    run: Run, tmp_path: Path, certificate_files: CertificateFiles, client_ssl_context: ssl.SSLContext
) -> None:
    def during(running: Running) -> None:
        port = int(running.line(r"^Listening on 127\.0\.0\.1:(\d+) \(STARTTLS\)"))
        with smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
            client.starttls(context=client_ssl_context)
            client.sendmail("alice@example.com", "bob@example.com", MESSAGE)

    files = ("--tls-cert", str(certificate_files.cert), "--tls-key", str(certificate_files.key))
    assert run(during, "--port", "0", *files) == 0
    assert len(stored(tmp_path / "mail")) == 1


def test_many_recipients_are_counted_in_the_line(run: Run) -> None:
    recipients = tuple(f"r{number}@example.com" for number in range(6))
    lines: list[str] = []

    def during(running: Running) -> None:
        send(running.port(), sender="", recipients=recipients)
        lines.append(running.line("^<"))

    assert run(during, "--port", "0") == 0
    assert lines[0].startswith("<> to <r0@example.com>, <r1@example.com>, <r2@example.com>, 3 more: ")


def test_a_stdout_that_knows_only_ascii(run: Run) -> None:
    def during(running: Running) -> None:
        with smtplib.SMTP("127.0.0.1", running.port(), timeout=PATIENCE) as client:
            client.ehlo()
            client.mail("jürgen@example.com", ["SMTPUTF8"])
            client.rcpt("bob@example.com")
            assert client.data(MESSAGE)[0] == 250
        running.line(r"^<j\\xfcrgen@example\.com> to ")

    assert run(during, "--port", "0", output=Output("ascii")) == 0


def test_a_stdout_that_nobody_reads_does_not_refuse_a_stored_message(run: Run, tmp_path: Path) -> None:
    def during(running: Running) -> None:
        port = running.port()
        running.line("smtplib")
        running.output.broken = True
        send(port)

    assert run(during, "--port", "0") == 0
    assert len(stored(tmp_path / "mail")) == 1


def test_an_app_of_the_working_directory(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_app(
        tmp_path,
        "refusing_app",
        "from trio_smtp import App\n"
        "class Holder:\n"
        "    app = App()\n"
        "@Holder.app.on_mail_from\n"
        "async def refuse(ctx):\n"
        "    ctx.reject('only an example')\n",
        monkeypatch,
    )
    refusals: list[bytes] = []

    def during(running: Running) -> None:
        running.line("^Serving refusing_app:Holder.app$")
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            send(running.port())
        assert isinstance(refused.value.smtp_error, bytes)
        refusals.append(refused.value.smtp_error)

    assert run(during, "refusing_app:Holder.app", "--port", "0") == 0
    assert refusals[0].endswith(b"only an example")
    assert not (tmp_path / "mail").exists()


def test_a_file_with_two_listeners(
    run: Run, tmp_path: Path, certificate_files: CertificateFiles, client_ssl_context: ssl.SSLContext
) -> None:
    (tmp_path / "etc").mkdir()
    for file in (certificate_files.cert, certificate_files.key):
        (tmp_path / "etc" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "etc" / "mail.toml").write_text(
        """
        hostname = "mx.example.com"
        port = 0
        command_timeout = 30

        [[listen]]
        max_message_size = 1000

        [[listen]]
        hostname = "mx2.example.com"
        max_message_size = "none"
        tls_cert = "cert.pem"
        tls_key = "key.pem"
        implicit_tls = true
        """
    )

    hello: list[bytes] = []

    def during(running: Running) -> None:
        plain, secure = running.port(), int(running.line(r"^Listening on 127\.0\.0\.1:(\d+) \(TLS\)"))
        with smtplib.SMTP("localhost", plain, timeout=PATIENCE) as client:
            client.sendmail("alice@example.com", "bob@example.com", MESSAGE)
            hello.append((client.ehlo_resp or b"").splitlines()[0])
            assert client.esmtp_features["size"] == "1000"
        with smtplib.SMTP_SSL("localhost", secure, timeout=PATIENCE, context=client_ssl_context) as client:
            client.sendmail("alice@example.com", "bob@example.com", MESSAGE)
            hello.append((client.ehlo_resp or b"").splitlines()[0])
            assert client.esmtp_features["size"] in ("", "0")

    assert run(during, "--config", "etc/mail.toml") == 0
    assert hello == [b"mx.example.com", b"mx2.example.com"]
    assert len(stored(tmp_path / "mail")) == 2


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_message_under_way_finish(run: Run, tmp_path: Path, number: int) -> None:
    def during(running: Running) -> None:
        with smtplib.SMTP("127.0.0.1", running.port(), timeout=PATIENCE) as client:
            begin_message(client)
            running.line("smtplib")
            running.signal(number)
            running.line("^Finishing")
            running.ready = False  # it ends by itself
            client.send(b"It works.\r\n.\r\n")
            assert client.getreply()[0] == 250
            assert client.getreply()[0] == 421

    assert run(during, "--port", "0") == 0
    assert len(stored(tmp_path / "mail")) == 1


def test_a_second_signal_stops(run: Run, tmp_path: Path) -> None:
    def during(running: Running) -> None:
        with socket.create_connection(("127.0.0.1", running.port()), PATIENCE) as client:
            reader = client.makefile("rb")
            for line in (b"", b"HELO client", b"MAIL FROM:<>", b"RCPT TO:<bob@example.com>", b"DATA"):
                if line:
                    client.sendall(line + b"\r\n")
                assert reader.readline()[:1] in (b"2", b"3")
            running.line("smtplib")
            running.signal()
            running.line("^Finishing")
            running.ready = False
            running.signal(signal.SIGINT)
            while reader.readline():
                pass
            reader.close()

    assert run(during, "--port", "0") == 128 + signal.SIGINT
    assert stored(tmp_path / "mail") == []


def begin_message(client: smtplib.SMTP) -> None:
    client.ehlo()
    client.mail("alice@example.com")
    client.rcpt("bob@example.com")
    assert client.docmd("DATA")[0] == 354
    client.send(b"Subject: Hello\r\n\r\n")


async def test_a_signal_while_it_starts_stops() -> None:
    async def never_started(*_: object, explain: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    assert await serve_all(App(), [Config(port=0)], "", serve=never_started) == 128 + signal.SIGTERM


# What is wrong is one line


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["--nope"], 2, r"unrecognized arguments: --nope \(trio-smtp --help lists", id="unknown option"),
        pytest.param(["--por", "1"], 2, r"unrecognized arguments: --por", id="abbreviation"),
        pytest.param(["--port", "smtp"], 2, r"argument --port: 'smtp' is not a whole number", id="not a number"),
        pytest.param(["--min-data-rate", "x"], 2, r"--min-data-rate: 'x' is not a number", id="not a float"),
        pytest.param(["--port", "65536"], 2, r"^trio-smtp: port must be .* not 65536$", id="value refused by Config"),
        pytest.param(["--port", "none"], 2, r"'none' is not a whole number", id="none where there is no none"),
        pytest.param(["--bare-newline", "keep"], 2, r"bare_newline must be one of 'reject'", id="no such choice"),
        pytest.param(["--implicit-tls"], 2, r"implicit_tls=True needs an ssl_context \(tls_cert", id="contradiction"),
        pytest.param(["--auth-required"], 2, r"auth_required needs an APP", id="auth without users"),
        pytest.param(["--tls-key", "k.pem"], 2, r"tls_key needs tls_cert", id="key alone"),
        pytest.param(["--tls-cert", "c.pem", "--tls-self-signed"], 2, r"contradicts tls_cert", id="two certificates"),
        pytest.param(["--tls-cert", "nope.pem"], 1, r"cannot read nope\.pem: No such file", id="no certificate"),
        pytest.param(["--maildir", "file/mail"], 1, r"cannot use the Maildir '.*': Not a directory", id="Maildir"),
        pytest.param(["--maildir", ""], 2, r"--maildir: root must be the path", id="empty Maildir"),
        pytest.param(["nope"], 2, r"APP must be module:attribute, as in my_module:app, not 'nope'", id="no attribute"),
        pytest.param([":app"], 2, r"APP must be module:attribute", id="no module"),
        pytest.param(["nope:app"], 2, r"cannot import nope:app: ModuleNotFoundError", id="no such module"),
        pytest.param(["os:nope"], 2, r"cannot import os:nope: AttributeError", id="no such attribute"),
        pytest.param(["os:path"], 2, r"os:path is not a trio_smtp\.App but of type module", id="not an App"),
        pytest.param(["a:b", "--maildir", "m"], 2, r"--maildir .* cannot stand beside APP", id="APP and Maildir"),
        pytest.param(["--host", "a" * 70], 1, r"cannot listen on a+:8025: ", id="not a host"),
        pytest.param(["--config", "f", "--port", "1"], 2, r"--port cannot stand beside it", id="file and options"),
        pytest.param(["--unix-path", "no/sock"], 1, r"cannot listen on no/sock: No such file", id="no such directory"),
        pytest.param(["--config", "nope.toml"], 1, r"cannot read nope\.toml: No such file", id="no such file"),
    ],
)
def test_bad_input(
    arguments: list[str], code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert_one_line(arguments, code, text, capsys)


def assert_one_line(arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found: object = main(arguments)
    except SystemExit as exc:
        found = exc.code
    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert re.fullmatch(r"trio-smtp: [^\n]+\n", err)
    assert re.search(text, err)


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        pytest.param("[[listen]\n", r"mail\.toml: .*line 1", id="not TOML"),
        pytest.param("port = 1\n", r"mail\.toml: it has no \[\[listen\]\] table", id="no listener"),
        pytest.param("listen = 25\n", r"no \[\[listen\]\] table", id="listen is a number"),
        pytest.param("listen = [25]\n", r"no \[\[listen\]\] table", id="listeners are numbers"),
        pytest.param("[[listen]]\n[[listen]]\nprot = 1\n", r"toml, listener 2: unknown key 'prot'", id="unknown key"),
        pytest.param("[[listen]]\nport = '1'\n", r"listener 1: port must be a whole number, not '1'", id="a string"),
        pytest.param("[[listen]]\nport = true\n", r"port must be a whole number, not True", id="a switch"),
        pytest.param("[[listen]]\nport = 1.5\n", r"port must be a whole number, not 1\.5", id="a fraction"),
        pytest.param("[[listen]]\nsmtputf8 = 1\n", r"smtputf8 must be true or false, not 1", id="a number"),
        pytest.param("[[listen]]\nauth_mechanisms = 'PLAIN'\n", r"must be a list of strings", id="no list"),
        pytest.param("[[listen]]\nauth_mechanisms = ['X']\n", r"listener 1: auth_mechanisms: unknown X", id="Config"),
        pytest.param("[[listen]]\ntls_self_signed = 'yes'\n", r"tls_self_signed must be true", id="TLS switch"),
        pytest.param("[[listen]]\nssl_context = 1\n", r"unknown key 'ssl_context'", id="no TOML value for it"),
    ],
)
def test_a_bad_file(toml: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mail.toml").write_text(toml)
    assert_one_line(["--config", "mail.toml"], 2, text, capsys)


def test_a_file_that_is_not_utf8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mail.toml").write_bytes(b"banner = '\xff'\n")
    assert_one_line(["--config", "mail.toml"], 2, r"mail\.toml: .*utf-8", capsys)


def test_an_app_that_fails_as_it_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_app(tmp_path, "broken_app", "raise ValueError('two\\nlines')\n", monkeypatch)
    assert_one_line(["broken_app:app"], 2, r"cannot import broken_app:app: ValueError: two lines$", capsys)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)]) == 1
    err = capsys.readouterr().err
    assert err == f"trio-smtp: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_certificates_that_are_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    certificate_files: CertificateFiles,
    server_certificate: trustme.LeafCert,
    ca: trustme.CA,
) -> None:
    cert = str(certificate_files.cert)
    key = load_pem_private_key(server_certificate.private_key_pem.bytes(), None)
    Path("junk.pem").write_text("junk")
    ca.issue_cert("localhost").private_key_pem.write_to_path("other.pem")
    Path("encrypted.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    for file, cause in (
        ("junk.pem", r"and junk\.pem: no usable certificate and private key"),
        ("other.pem", r"and other\.pem: no usable .* \(KEY_VALUES_MISMATCH\)$"),
        ("encrypted.pem", r"encrypted\.pem: the key is encrypted"),
    ):
        assert_one_line(["--tls-cert", cert, "--tls-key", file], 1, cause, capsys)


def test_self_signed_without_trustme(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    assert_one_line(["--tls-self-signed"], 1, r"tls_self_signed needs the extra testing", capsys)


# Options


def test_options_are_the_fields_of_config() -> None:
    help_text = make_parser().format_help()
    flags = set(re.findall(r"--[a-z0-9-]+", help_text))
    for field in attrs.fields(Config):
        assert (f"--{field.name.replace('_', '-')}" in flags) is (field.name not in {"scram_lookup", "ssl_context"})
    assert "Durations are in seconds" in help_text
    assert re.search(r"--session-timeout NUMBER\s+For a whole session; none: no\s+limit \(default: none\)", help_text)
    assert re.search(r"--auth-mechanisms NAME,\.\.\.\s+.*\(default:\s+PLAIN,LOGIN\)", help_text, re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param(["--port", "2525", "--host", "::1"], {"port": 2525, "host": "::1"}, id="where"),
        pytest.param(["--host", "none"], {"host": None}, id="everywhere"),
        pytest.param(["--max-message-size", "none"], {"max_message_size": None}, id="no limit"),
        pytest.param(["--data-timeout", "2.5"], {"data_timeout": 2.5}, id="a fraction"),
        pytest.param(["--no-smtputf8"], {"smtputf8": False}, id="off"),
        pytest.param(["--allow-insecure-auth"], {"allow_insecure_auth": True}, id="on"),
        pytest.param(["--auth-mechanisms", "plain"], {"auth_mechanisms": ("PLAIN",)}, id="names in order"),
        pytest.param(["--disabled-commands", "vrfy,EXPN"], {"disabled_commands": {"VRFY", "EXPN"}}, id="names"),
        pytest.param(["--mt-priority", "on"], {"mt_priority": True}, id="a switch or a name: on"),
        pytest.param(["--mt-priority", "MIXER"], {"mt_priority": "MIXER"}, id="a switch or a name: a name"),
        pytest.param(["--unix-mode", "0o660"], {"unix_mode": 0o660}, id="octal"),
        pytest.param(["--unix-mode", "0660"], {"unix_mode": 0o660}, id="octal as chmod has it"),
        pytest.param(["--unix-mode", "660"], {"unix_mode": 0o660}, id="octal without a zero"),
        pytest.param(["--unix-mode", "none"], {}, id="no mode"),
        pytest.param(["--bare-newline", "normalize"], {"bare_newline": "normalize"}, id="a choice"),
    ],
)
def test_options_become_a_config(arguments: list[str], expected: dict[str, Any]) -> None:
    given = vars(make_parser().parse_args(arguments))
    config = make_single_config(given)
    assert config == attrs.evolve(Config(), **expected)


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        pytest.param("max_message_size = 'none'", {"max_message_size": None}, id="no limit"),
        pytest.param("data_timeout = 2", {"data_timeout": 2}, id="a whole number where a fraction may stand"),
        pytest.param("mt_priority = true", {"mt_priority": True}, id="a switch or a name: true"),
        pytest.param("mt_priority = 'off'", {}, id="a switch or a name: off"),
        pytest.param("mt_priority = 'MIXER'", {"mt_priority": "MIXER"}, id="a switch or a name: a name"),
        pytest.param("hide_extensions = ['SIZE']", {"hide_extensions": {"SIZE"}}, id="names"),
        pytest.param("unix_mode = 0o660", {"unix_mode": 0o660}, id="octal, TOML's"),
        pytest.param("unix_mode = '0660'", {"unix_mode": 0o660}, id="octal, people's"),
    ],
)
def test_keys_become_a_config(toml: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mail.toml").write_text(f"{toml}\n[[listen]]\n")
    (config,) = (each.config for each in load(Path("mail.toml")).listeners)
    assert config == attrs.evolve(Config(), **expected)


@pytest.mark.parametrize(
    ("arguments", "level"),
    [([], logging.WARNING), (["-v"], logging.INFO), (["-vv"], logging.DEBUG), (["-vvv"], logging.DEBUG)],
)
def test_verbose(arguments: list[str], level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    assert main(["nope", *arguments]) == 2
    assert root.level == level


@pytest.mark.parametrize("installed", ["1.2.3", None])
def test_version(installed: str | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return f"{name}=={installed}"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    shown = "(not installed)" if installed is None else "trio-smtp==1.2.3"
    assert capsys.readouterr().out == f"trio-smtp {shown}\n"


def test_python_dash_m(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trio_smtp", "nope"])
    # Of an installed wheel pytest rewrites all modules, because it has a plugin: its loader is none that runpy takes.
    monkeypatch.setattr(
        sys, "meta_path", [each for each in sys.meta_path if not isinstance(each, AssertionRewritingHook)]
    )
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("trio_smtp", run_name="__main__")
    assert "APP must be" in capsys.readouterr().err
    assert "main" in runpy.run_module("trio_smtp.__main__", run_name="imported")


def test_first_messages_for_other_listeners() -> None:
    command = first_message(("0.0.0.0", 25), Config(auth_required=True))
    assert command is not None
    assert "smtplib.SMTP('127.0.0.1', 25); c.login('USER', 'PASSWORD'); c.sendmail(" in command
    command = first_message(("::", 25), Config())
    assert command is not None
    assert "smtplib.SMTP('::1', 25); c.sendmail(" in command


def test_no_first_message_where_smtplib_cannot_send_one(server_ssl_context: ssl.SSLContext) -> None:
    secure = Config(ssl_context=server_ssl_context, implicit_tls=True)
    assert first_message("/run/smtp.sock", secure) is None
    assert first_message(("127.0.0.1", 25), secure) is not None
    assert first_message(("127.0.0.1", 25), Config(proxy_protocol=(ip_network("127.0.0.0/8"),))) is None


def test_places() -> None:
    assert place_of(("::1", 25)) == "[::1]:25"
    assert place_of(("mx.example.com", 25)) == "mx.example.com:25"
    assert place_of((None, 25)) == "*:25"
    assert place_of("/run/smtp.sock") == "/run/smtp.sock"
