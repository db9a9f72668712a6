"""Real clients over real TLS: every mechanism they know, and the certificate of the name they ask for."""

from __future__ import annotations

import itertools
import os
import re
import smtplib
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from tests.conftest import CertificateFiles
from tests.socket_support import port_of, serving
from tests.support import BODY
from tests.tls_support import NAME, connect, der, presented
from trio_smtp import (
    App,
    AuthContext,
    CramMD5Credentials,
    DataContext,
    ExternalCredentials,
    OAuthCredentials,
    PlainCredentials,
    ScramCredentials,
    ScramSecret,
    Session,
    SMTPServer,
)
from trio_smtp.plugins import password_file
from trio_smtp.tls import certificate_of, create_context

#: Seconds that a program may take: far more than a loaded machine needs.
PATIENCE = 30
PASSWORD = "Sesame-Open"
TOKEN = "ya29.Token-of-Ali"
SECRETS = {name: ScramSecret.from_password(PASSWORD, name) for name in ("SCRAM-SHA-1", "SCRAM-SHA-256")}
SENDER, RECIPIENT = "ali@example.com", "bob@example.org"


async def lookup(username: str, session: Session) -> ScramSecret | None:
    return SECRETS[str(session.auth_mechanism)] if username == "ali" else None


@attrs.frozen
class Place:
    """Files on the client's side."""

    ca: Path
    #: A client's certificate and key.
    cert: Path
    key: Path
    #: A server's certificate and key for another name.
    other: Path

    @property
    def message(self) -> Path:
        return self.other.with_name("message")


@pytest.fixture(scope="module")
def place(ca: trustme.CA, ca_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    directory = tmp_path_factory.mktemp("client")
    client = ca.issue_cert("ali@example.com")
    found = Place(ca_file, directory / "client.pem", directory / "client.key", directory / "other.pem")
    found.cert.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
    client.private_key_pem.write_to_path(found.key)
    found.key.chmod(0o600)
    found.other.write_bytes(ca.issue_cert("mail.example.net").private_key_and_cert_chain_pem.bytes())
    found.message.write_bytes(BODY)
    return found


@attrs.define
class Submission:
    """A server that takes mail of ali's over TLS alone, and what it saw."""

    server: SMTPServer
    seen: list[tuple[object, str | None, bytes]]

    @property
    def port(self) -> int:
        return port_of(self.server)


@asynccontextmanager
async def submission(
    files: CertificateFiles, place: Place, *mechanisms: str, app: App | None = None, **changes: Any
) -> AsyncIterator[Submission]:
    """Serve; a client that is not ready in time fails the test."""
    app = app or App()
    seen: list[tuple[object, str | None, bytes]] = []

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        match ctx.credentials:
            case PlainCredentials() | CramMD5Credentials() as credentials:
                right = credentials.username == "ali" and credentials.validate_password(PASSWORD)
            case OAuthCredentials() as credentials:
                right = credentials.access_token == TOKEN
            case ScramCredentials() | ExternalCredentials() as credentials:
                right = credentials.username == "ali"
            case _:
                right = False
        if right:
            ctx.accept(ctx.credentials.username)

    @app.on_data
    async def take(ctx: DataContext) -> None:
        seen.append((ctx.session.user, ctx.session.auth_mechanism, await ctx.stream.read()))

    context = create_context(
        files.cert,
        files.key,
        ca=place.ca,
        client_certificates="optional",
        sni={"mail.example.net": (place.other, None)},
    )
    settings: dict[str, Any] = {
        "auth_mechanisms": mechanisms,
        "auth_required": True,
        "ssl_context": context,
        "starttls_required": True,
        "scram_lookup": lookup,
        **changes,
    }
    with trio.fail_after(2 * PATIENCE):
        async with serving(app, **settings) as server:
            yield Submission(server, seen)


async def call(*command: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end."""
    with trio.fail_after(PATIENCE):
        return await trio.run_process(
            [str(word) for word in command],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"},
        )


# smtplib


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit TLS"])
async def test_smtplib(
    certificate_files: CertificateFiles,
    place: Place,
    client_ssl_context: ssl.SSLContext,
    mechanism: str,
    implicit: bool,
) -> None:
    def send(port: int, password: str) -> None:
        client: smtplib.SMTP
        if implicit:
            client = smtplib.SMTP_SSL("localhost", port, timeout=PATIENCE, context=client_ssl_context)
        else:
            client = smtplib.SMTP("localhost", port, timeout=PATIENCE)
        with client:
            if not implicit:
                client.starttls(context=client_ssl_context)
            client.login("ali", password)
            client.sendmail(SENDER, [RECIPIENT], BODY)

    way: dict[str, Any] = {"implicit_tls": True, "starttls_required": False} if implicit else {}
    async with submission(certificate_files, place, mechanism, **way) as submitted:
        await trio.to_thread.run_sync(send, submitted.port, PASSWORD)
        with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
            await trio.to_thread.run_sync(send, submitted.port, "Barley-Open")
        assert caught.value.smtp_code == 535
    assert submitted.seen == [("ali", mechanism, BODY)]


async def test_smtplib_with_a_file_of_passwords(
    certificate_files: CertificateFiles, place: Place, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    from argon2 import PasswordHasher

    (tmp_path / "users").write_text(f"morgiana:{PasswordHasher(1, 8, 1).hash(PASSWORD)}\n")

    def send(port: int) -> None:
        with smtplib.SMTP("localhost", port, timeout=PATIENCE) as client:
            client.starttls(context=client_ssl_context)
            client.login("morgiana", PASSWORD)
            client.sendmail(SENDER, [RECIPIENT], BODY)

    app = App().use(password_file(tmp_path / "users"))
    async with submission(certificate_files, place, "PLAIN", app=app) as submitted:
        await trio.to_thread.run_sync(send, submitted.port)
    assert submitted.seen == [("morgiana", "PLAIN", BODY)]


# Programs

Words = Sequence[object]


def swaks(mechanism: str, port: int, place: Place, secret: str) -> Words:
    """Of the mechanisms here, Debian's swaks knows three; EXTERNAL is not among them."""
    server = ("--server", f"localhost:{port}", "--from", SENDER, "--to", RECIPIENT, "--data", BODY.decode())
    tls = ("--tls", "--tls-verify", "--tls-ca-path", place.ca)
    return "swaks", *server, *tls, "--auth", mechanism, "--auth-user", "ali", "--auth-password", secret


def curl(mechanism: str, port: int, place: Place, secret: str) -> Words:
    server = ("--url", f"smtp://localhost:{port}", "--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "-T", place.message)
    certificate = ("--cert", place.cert, "--key", place.key) if mechanism == "EXTERNAL" else ()
    tls = ("--ssl-reqd", "--cacert", place.ca, *certificate)
    user = f"ali:{secret}" if "OAUTH" not in mechanism and mechanism != "EXTERNAL" else "ali:"
    oauth = ("--oauth2-bearer", secret) if "OAUTH" in mechanism else ()
    return "curl", "-sS", "-q", *server, *tls, "--login-options", f"AUTH={mechanism}", "--user", user, *oauth


def msmtp(mechanism: str, port: int, place: Place, secret: str) -> Words:
    server = ("--file=/dev/null", "--host=localhost", f"--port={port}", f"--from={SENDER}")
    certificate = (f"--tls-cert-file={place.cert}", f"--tls-key-file={place.key}") if mechanism == "EXTERNAL" else ()
    tls = ("--tls=on", "--tls-starttls=on", f"--tls-trust-file={place.ca}", *certificate)
    auth = (f"--auth={mechanism.lower()}", "--user=ali", f"--passwordeval=echo {secret}")
    return "msmtp", *server, *tls, *auth, RECIPIENT


def gsasl(mechanism: str, port: int, place: Place, secret: str) -> Words:
    """It authenticates and leaves. Of channel bindings it knows other types than the one there is here."""
    certificate = (f"--x509-cert-file={place.cert}", f"--x509-key-file={place.key}") if mechanism == "EXTERNAL" else ()
    tls = ("--starttls", f"--x509-ca-file={place.ca}", "--no-cb", *certificate)
    who = ("-z", "ali") if mechanism == "EXTERNAL" else ("-a", "ali", "-p", secret)
    return "gsasl", "--smtp", *tls, f"--connect=localhost:{port}", "-m", mechanism, *who


Program = Callable[[str, int, Place, str], Words]


async def skip_unless_able(program: Program, mechanism: str) -> None:
    """Some are built without this or that."""
    if program is swaks and b"=== TLS supported" not in (await call("swaks", "--support")).stdout:
        pytest.skip("swaks knows no TLS: libnet-ssleay-perl is not installed")
    if program is msmtp and mechanism.lower().encode() not in (await call("msmtp", "--version")).stdout.split():
        pytest.skip(f"this msmtp knows no {mechanism}")
    if program is gsasl and mechanism.encode() not in (await call("gsasl", "--client-mechanisms")).stdout.split():
        pytest.skip(f"this gsasl knows no {mechanism}")


def known(program: Program, *mechanisms: str) -> list[Any]:
    name = program.__name__
    marks = pytest.mark.program(name)
    return [pytest.param(program, mechanism, marks=marks, id=f"{name} {mechanism}") for mechanism in mechanisms]


@pytest.mark.parametrize(
    ("program", "mechanism"),
    [
        *known(swaks, "PLAIN", "LOGIN", "CRAM-MD5"),
        *known(curl, "PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "EXTERNAL"),
        *known(msmtp, "PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER", "EXTERNAL", *SECRETS),
        *known(gsasl, "PLAIN", "LOGIN", "CRAM-MD5", "EXTERNAL", *SECRETS),
    ],
)
async def test_programs(certificate_files: CertificateFiles, place: Place, program: Program, mechanism: str) -> None:
    """The right secret lets them in, a wrong one does not, and they know the difference."""
    await skip_unless_able(program, mechanism)
    secret = TOKEN if "OAUTH" in mechanism else PASSWORD
    async with submission(certificate_files, place, mechanism) as submitted:
        done = await call(*program(mechanism, submitted.port, place, secret), stdin=BODY)
        assert done.returncode == 0, done
        stats = submitted.server.stats
        assert (stats.auth_successes, stats.auth_failures) == (1, 0)
        if mechanism != "EXTERNAL":
            refused = await call(*program(mechanism, submitted.port, place, "Barley-Open"), stdin=BODY)
            assert refused.returncode != 0, refused
            assert (stats.auth_successes, stats.auth_failures) == (1, 1)
    if program is not gsasl:
        ((user, by, body),) = submitted.seen
        assert (user, by) == ("ali", mechanism)
        assert body.replace(b"\r\n", b"").endswith(BODY.replace(b"\r\n", b""))


@pytest.mark.parametrize(
    "mechanism", [pytest.param(each, marks=pytest.mark.program("gsasl")) for each in ("PLAIN", *SECRETS)]
)
@pytest.mark.parametrize(("authzid", "right"), [("ali", True), ("bob", False)])
async def test_gsasl_names_whom_to_act_as(
    certificate_files: CertificateFiles, place: Place, mechanism: str, authzid: str, right: bool
) -> None:
    """As sendmail, mutt and nmh do (by Cyrus SASL, by gsasl): the user's own name is no other identity."""
    await skip_unless_able(gsasl, mechanism)
    async with submission(certificate_files, place, mechanism) as submitted:
        done = await call(*gsasl(mechanism, submitted.port, place, PASSWORD), "-z", authzid)
        assert (done.returncode == 0) is right, done
        stats = submitted.server.stats
        assert (stats.auth_successes, stats.auth_failures) == (int(right), int(not right))


# openssl


@pytest.mark.program("openssl")
@pytest.mark.parametrize(
    ("name", "expected"),
    [(NAME, "default"), ("mail.example.net", "other"), ("elsewhere.example", "default"), (None, "default")],
)
async def test_openssl_gets_the_certificate_of_the_name(
    certificate_files: CertificateFiles, place: Place, name: str | None, expected: str
) -> None:
    asked = ("-servername", name) if name is not None else ("-noservername",)
    async with submission(certificate_files, place, "PLAIN") as submitted:
        server = ("-starttls", "smtp", "-connect", f"localhost:{submitted.port}", "-CAfile", place.ca)
        done = await call("openssl", "s_client", *server, *asked)
    assert b"Verify return code: 0 (ok)" in done.stdout, done
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", done.stdout.decode(), re.DOTALL)
    assert found is not None
    files = {"default": certificate_files.cert, "other": place.other}
    context = create_context(files[expected], certificate_files.key if expected == "default" else None)
    assert ssl.PEM_cert_to_DER_cert(found[0]) == certificate_of(context)


@pytest.mark.program("openssl")
@pytest.mark.parametrize(
    ("least", "version", "works"),
    [
        (ssl.TLSVersion.TLSv1_2, "-tls1_1", False),
        (ssl.TLSVersion.TLSv1_2, "-tls1_2", True),
        (ssl.TLSVersion.TLSv1_2, "-tls1_3", True),
        (ssl.TLSVersion.TLSv1_3, "-tls1_2", False),
        (ssl.TLSVersion.TLSv1_3, "-tls1_3", True),
    ],
)
async def test_openssl_and_versions(
    certificate_files: CertificateFiles, place: Place, least: ssl.TLSVersion, version: str, works: bool
) -> None:
    context = create_context(certificate_files.cert, certificate_files.key, min_version=least)
    async with submission(certificate_files, place, "PLAIN", ssl_context=context) as submitted:
        server = ("-starttls", "smtp", "-connect", f"localhost:{submitted.port}", "-CAfile", place.ca)
        # Without its own doubts about old versions.
        done = await call("openssl", "s_client", *server, version, "-cipher", "DEFAULT@SECLEVEL=0", "-brief")
        stats = submitted.server.stats
        assert (stats.tls_handshakes, stats.tls_failures) == ((1, 0) if works else (0, 1)), done
    assert (done.returncode == 0) is works


@pytest.mark.program("openssl")
async def test_openssl_may_not_renegotiate(certificate_files: CertificateFiles, place: Place) -> None:
    async with submission(certificate_files, place, "PLAIN") as submitted:
        server = ("-starttls", "smtp", "-connect", f"localhost:{submitted.port}", "-CAfile", place.ca)
        done = await call("openssl", "s_client", *server, "-tls1_2", stdin=b"R\n")
        assert submitted.server.stats.tls_handshakes == 1
    assert b"no renegotiation" in done.stderr, done


# Reloading


async def test_two_reloads_under_load(
    certificate_files: CertificateFiles,
    place: Place,
    ca: trustme.CA,
    client_ssl_context: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    """Sessions come and go all the while, some hold on for long, and none of them fails."""
    leaves = [ca.issue_cert(NAME) for _ in range(2)]
    contexts = []
    for number, leaf in enumerate(leaves):
        file = tmp_path / f"{number}.pem"
        file.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        contexts.append(create_context(file))
    certificates: list[bytes | None] = []
    enough = trio.Event()

    async def sessions(server: SMTPServer, messages: int) -> None:
        while not enough.is_set():
            client = await connect(server)
            await client.read_reply()
            await client.ehlo()
            await client.starttls(client_ssl_context, NAME)
            certificates.append(presented(client))
            await client.ehlo()
            assert (await client.auth_plain("ali", PASSWORD)).code == 235
            for _ in range(messages):
                assert (await client.send_message(SENDER, [RECIPIENT], BODY)).code == 250
            assert (await client.quit()).code == 221
            await client.aclose()

    async with submission(certificate_files, place, "PLAIN") as submitted:
        stats = submitted.server.stats
        async with trio.open_nursery() as nursery:
            for messages in (1, 1, 5, 20):
                nursery.start_soon(sessions, submitted.server, messages)
            for context in (*contexts, None):
                goal = stats.tls_handshakes + 20
                while stats.tls_handshakes < goal:
                    await trio.lowlevel.checkpoint()
                if context is not None:
                    submitted.server.reload_tls(context)
            enough.set()
        assert stats.tls_failures == 0
        assert stats.replies[235] == stats.replies[221] == stats.tls_handshakes == len(certificates)
        assert stats.messages_accepted == stats.replies[354] == len(submitted.seen)
    default = certificate_of(create_context(certificate_files.cert, certificate_files.key))
    in_turn = [default, *map(der, leaves)]
    assert set(certificates) == set(in_turn)
    # Each reload holds for every handshake that began after it: only those under way may still have the one before.
    order = [in_turn.index(certificate) for certificate in certificates]
    assert sum(before > after for before, after in itertools.pairwise(order)) <= 2 * 3
