"""The command's certificates: the options they come from, and SIGHUP."""

from __future__ import annotations

import logging
import signal
import smtplib
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests import test_cli
from tests.conftest import CertificateFiles
from tests.test_cli import PATIENCE, Run, Running
from tests.tls_support import NAME, der
from trio_smtp import App, Config, SMTPServer
from trio_smtp.cli import main
from trio_smtp.cli.certificates import reload_certificates
from trio_smtp.cli.configuration import load
from trio_smtp.cli.options import make_single_config
from trio_smtp.tls import certificate_of, create_context

run = test_cli.run
in_a_directory_of_its_own = test_cli.in_a_directory_of_its_own


def write(leaf: trustme.LeafCert, stem: str, directory: Path) -> None:
    """A certificate and its key: ``STEM.pem`` and ``STEM.key``."""
    (directory / f"{stem}.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(directory / f"{stem}.key")


def presented(port: int, context: ssl.SSLContext, name: str = NAME) -> bytes | None:
    """The certificate of a listener with TLS from the first octet."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert secure.recv(3) == b"220"
        return secure.getpeercert(binary_form=True)


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    return code, line.removeprefix("trio-smtp: ")


# Options


def test_names_have_certificates_of_their_own(
    run: Run, ca: trustme.CA, certificate_files: CertificateFiles, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    other, both = ca.issue_cert("mail.example.net"), ca.issue_cert("*.example.org")
    write(other, "other", tmp_path)
    (tmp_path / "both.pem").write_bytes(both.private_key_and_cert_chain_pem.bytes())
    got: list[bytes | None] = []

    def during(running: Running) -> None:
        port = running.port()
        got.extend(presented(port, client_ssl_context, name) for name in ("mail.example.net", "a.example.org", NAME))

    default = ["--tls-cert", str(certificate_files.cert), "--tls-key", str(certificate_files.key)]
    names = ["--tls-sni", "mail.example.net=other.pem:other.key,*.example.org=both.pem"]
    assert run(during, "--port", "0", "--implicit-tls", *default, *names) == 0
    assert got[:2] == [der(other), der(both)]
    assert got[2] is not None
    assert got[2] not in got[:2]


def test_certificates_of_clients(
    run: Run, ca: trustme.CA, ca_file: Path, certificate_files: CertificateFiles, client_ssl_context: ssl.SSLContext
) -> None:
    certified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(certified)
    ca.issue_cert("ali@example.com").configure_cert(certified)

    def during(running: Running) -> None:
        port = running.port()
        presented(port, certified)
        with pytest.raises((OSError, AssertionError)):
            presented(port, client_ssl_context)

    files = ["--tls-cert", str(certificate_files.cert), "--tls-key", str(certificate_files.key)]
    clients = ["--tls-client-ca", str(ca_file), "--tls-client-certificates", "required"]
    assert run(during, "--port", "0", "--implicit-tls", *files, *clients) == 0


def test_paths_are_relative_to_the_file_that_has_them(ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    place = tmp_path / "etc"
    place.mkdir()
    leaf, other = ca.issue_cert(NAME), ca.issue_cert("mail.example.net")
    write(leaf, "own", place)
    write(other, "other", place)
    (place / "ca.pem").write_bytes(ca_file.read_bytes())
    (place / "smtp.toml").write_text(
        """
        [[listen]]
        tls_cert = "own.pem"
        tls_key = "own.key"
        tls_client_ca = "ca.pem"
        tls_client_certificates = "optional"
        tls_sni = ["mail.example.net=other.pem:other.key"]
        """
    )
    (config,) = (each.config for each in load(place / "smtp.toml").listeners)
    assert config.ssl_context is not None
    assert certificate_of(config.ssl_context) == der(leaf)
    assert config.ssl_context.verify_mode is ssl.CERT_OPTIONAL
    assert config.ssl_context.sni_callback is not None


@pytest.mark.parametrize(
    ("text", "version"), [("1.0", "TLSv1"), ("1.1", "TLSv1_1"), ("1.2", "TLSv1_2"), ("1.3", "TLSv1_3")]
)
def test_the_oldest_version(certificate_files: CertificateFiles, tmp_path: Path, text: str, version: str) -> None:
    places = {"tls_cert": str(certificate_files.cert), "tls_key": str(certificate_files.key)}
    file = tmp_path / "smtp.toml"
    lines = [f'{name} = "{value}"\n' for name, value in {**places, "tls_min_version": text}.items()]
    file.write_text("[[listen]]\n" + "".join(lines))
    for config in (
        make_single_config({**places, "tls_min_version": text}),
        *(each.config for each in load(file).listeners),
    ):
        assert config.ssl_context is not None
        assert config.ssl_context.minimum_version is ssl.TLSVersion[version]


def test_a_switch_that_is_off_is_no_tls() -> None:
    config = make_single_config({"tls_self_signed": False})
    assert config.ssl_context is None


@pytest.fixture
def own_certificate(ca: trustme.CA, tmp_path: Path) -> None:
    write(ca.issue_cert(NAME), "own", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tls-sni", "a.example=c.pem:k.pem"], 2, "tls_sni needs tls_cert"),
        (["--tls-client-ca", "ca.pem", "--tls-key", "k.pem"], 2, "tls_key needs tls_cert"),
        (["--tls-client-ca", "ca.pem", "--tls-self-signed"], 2, "tls_client_ca needs tls_cert"),
        (["--tls-min-version", "1.2"], 2, "tls_min_version needs tls_cert"),
        (["--tls-sni", "nonsense", *(own := ["--tls-cert", "own.pem", "--tls-key", "own.key"])], 2, "'nonsense'"),
        (["--tls-min-version", "0.9", *own], 2, "tls_min_version must be one of 1.0, 1.1, 1.2, 1.3, not '0.9'"),
        (["--tls-sni", "=own.pem:own.key", *own], 2, "tls_sni must be NAME=CERT:KEY, not '=own.pem:own.key'"),
        (["--tls-sni", "a.example=:own.key", *own], 2, "tls_sni must be NAME=CERT:KEY"),
        (["--tls-sni", "a.example=own.pem:", *own], 2, "tls_sni must be NAME=CERT:KEY"),
        (["--tls-sni", "a.example=own.pem:own.key,a.example=own.pem:own.key", *own], 2, "tls_sni has a.example twice"),
        (["--tls-sni", "*=own.pem:own.key", *own], 1, "sni: '*' is no host name in ASCII"),
        (["--tls-sni", "a.example=nope.pem:own.key", *own], 1, "cannot read nope.pem: No such file or directory"),
        (["--tls-client-ca", "nope.pem", *own], 1, "cannot read nope.pem: No such file or directory"),
        (["--tls-client-ca", "own.key", *own], 1, "own.key: no usable certificates ("),
        (["--tls-client-certificates", "optional", *own], 1, "client_certificates='optional' needs ca"),
        (["--tls-client-certificates", "maybe", *own], 1, "must be 'none', 'optional' or 'required', not 'maybe'"),
    ],
)
def test_mistakes(
    own_certificate: None,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, line = fails(arguments, capsys)
    assert status == code
    assert message in line


# SIGHUP


def both(first: int, second: int, context: ssl.SSLContext) -> list[bytes | None]:
    return [presented(first, context), presented(second, context)]


def test_sighup_loads_certificates_anew(
    run: Run, ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that runs goes on; what is broken leaves what was there, and the log says so."""
    leaves = [ca.issue_cert(NAME, "localhost") for _ in range(4)]
    old, other, new, newest = map(der, leaves)
    write(leaves[0], "first", tmp_path)
    write(leaves[1], "second", tmp_path)
    (tmp_path / "smtp.toml").write_text(
        "".join(
            f"[[listen]]\nport = 0\nimplicit_tls = true\ntls_cert = '{stem}.pem'\ntls_key = '{stem}.key'\n"
            for stem in ("first", "second")
        )
        + "[[listen]]\nport = 0\n[[listen]]\nport = 0\ntls_self_signed = true\n"
    )
    seen: list[list[bytes | None]] = []

    def during(running: Running) -> None:
        first, second = running.port(), running.port()

        def look() -> None:
            seen.append(both(first, second, client_ssl_context))

        look()
        with smtplib.SMTP_SSL("localhost", first, timeout=PATIENCE, context=client_ssl_context) as session:
            write(leaves[2], "first", tmp_path)
            running.signal(signal.SIGHUP)
            assert running.line("^Loaded .*anew$") == "Loaded first.pem anew"
            assert running.line("^Loaded .*anew$") == "Loaded second.pem anew"
            look()
            (tmp_path / "first.pem").write_text("oops\n")
            write(leaves[3], "second", tmp_path)
            running.signal(signal.SIGHUP)
            assert running.line("^Loaded .*anew$") == "Loaded second.pem anew"
            look()
            (tmp_path / "first.key").unlink()
            running.signal(signal.SIGHUP)
            assert running.line("^Loaded .*anew$") == "Loaded second.pem anew"
            look()
            session.sendmail("ali@example.com", ["bob@example.com"], "Subject: Still here\r\n\r\n")

    assert run(during, "--config", "smtp.toml") == 0
    assert seen == [[old, other], [new, other], [new, newest], [new, newest]]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert all(error.startswith("the certificates in force stay: ") for error in errors)
    assert "first.pem and first.key: no usable certificate and private key" in errors[0]
    assert "No such file or directory: 'first.key'" in errors[1]


def test_sighup_does_not_hinder_the_end(run: Run, tmp_path: Path) -> None:
    def during(running: Running) -> None:
        with socket.create_connection(("127.0.0.1", running.port()), PATIENCE) as client:
            reader = client.makefile("rb")
            for line in (b"", b"HELO client", b"MAIL FROM:<>"):
                if line:
                    client.sendall(line + b"\r\n")
                assert reader.readline()[:1] == b"2"
            running.line("smtplib")
            running.signal()
            running.line("^Finishing")
            running.ready = False  # it ends by the last signal
            running.signal(signal.SIGHUP)
            running.signal(signal.SIGINT)
            while reader.readline():
                pass
            reader.close()

    assert run(during, "--port", "0") == 128 + signal.SIGINT


async def test_a_context_that_came_from_no_file_stays(certificate_files: CertificateFiles) -> None:
    context = create_context(certificate_files.cert, certificate_files.key)
    server = SMTPServer(App(), Config(ssl_context=context))
    assert await reload_certificates(server) is None
    assert server.ssl_context is context
