"""Contexts made from files: what is wrong with them, which certificate a client gets, whose certificates we want."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.conftest import CertificateFiles
from tests.support import mail_app, send, start_data
from tests.tls_support import NAME, der, presented, shake_hands
from trio_smtp import App, Config, SecureContext, SMTPServer
from trio_smtp.testing import Client, open_client
from trio_smtp.tls import certificate_of, create_context

KEY_PASSWORD = "Sesame-Open"


def write(leaf: trustme.LeafCert, directory: Path, stem: str) -> tuple[Path, Path]:
    """A certificate and its key as two files."""
    cert, key = directory / f"{stem}.pem", directory / f"{stem}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    return cert, key


@pytest.fixture(scope="module")
def files(certificate_files: CertificateFiles) -> tuple[Path, Path]:
    return certificate_files.cert, certificate_files.key


@pytest.fixture(scope="module")
def encrypted_key(server_certificate: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = load_pem_private_key(server_certificate.private_key_pem.bytes(), None)
    path = tmp_path_factory.mktemp("encrypted") / "encrypted.key"
    encryption = BestAvailableEncryption(KEY_PASSWORD.encode())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return path


@asynccontextmanager
async def over_tls(
    context: ssl.SSLContext, client_context: ssl.SSLContext, name: str | None = NAME, app: App | None = None
) -> AsyncIterator[Client]:
    """A client that shook hands from the first octet."""
    async with open_client(app or mail_app()[0], ssl_context=context, implicit_tls=True) as client:
        await shake_hands(client, client_context, name)
        yield client


# Files


async def test_a_certificate_and_its_key(
    files: tuple[Path, Path], server_certificate: trustme.LeafCert, client_ssl_context: ssl.SSLContext
) -> None:
    for names in (files, tuple(map(str, files))):
        context = create_context(*names)
        assert certificate_of(context) == der(server_certificate)
        assert context.options & ssl.OP_NO_RENEGOTIATION
        async with over_tls(context, client_ssl_context) as client:
            assert presented(client) == der(server_certificate)
            assert client.session.tls is not None
            assert client.session.tls.server_certificate == der(server_certificate)
            await client.ehlo()
            assert (await send(client)).code == 250


def test_one_file_may_hold_both(files: tuple[Path, Path], server_certificate: trustme.LeafCert, tmp_path: Path) -> None:
    cert, key = (file.read_bytes() for file in files)
    for order in (cert + key, key + cert, b"What this is:\n" + key + b"and\n" + cert.replace(b"\n", b"\r\n")):
        (tmp_path / "both.pem").write_bytes(order)
        assert certificate_of(create_context(tmp_path / "both.pem")) == der(server_certificate)


@pytest.mark.parametrize(("label", "known"), [("X509 CERTIFICATE", True), ("TRUSTED CERTIFICATE", False)])
def test_other_labels_of_certificates(
    files: tuple[Path, Path], server_certificate: trustme.LeafCert, tmp_path: Path, label: str, known: bool
) -> None:
    cert = tmp_path / "cert.pem"
    # The chain after it keeps its label: it must not be taken for the server's own certificate.
    pem = files[0].read_text()
    cert.write_text(
        pem.replace("BEGIN CERT", f"BEGIN {label[:-7]}", 1).replace("END CERT", f"END {label[:-7]}", 1) + pem
    )
    assert certificate_of(create_context(cert, files[1])) == (der(server_certificate) if known else None)


def test_other_contexts_do_not_tell_their_certificate(server_ssl_context: ssl.SSLContext) -> None:
    assert certificate_of(server_ssl_context) is None


@pytest.fixture
def places(
    files: tuple[Path, Path], encrypted_key: Path, ca: trustme.CA, ca_file: Path, tmp_path: Path
) -> dict[str, Path]:
    """Files that are right, and files that are wrong."""
    _, other_key = write(ca.issue_cert("other.example.com"), tmp_path, "other")
    found = {"cert": files[0], "key": files[1], "ca": ca_file, "encrypted": encrypted_key, "other_key": other_key}
    contents = {
        "junk": b"not a certificate\n",
        "empty": b"",
        "der": ssl.PEM_cert_to_DER_cert(ca_file.read_text()),
        "broken": files[0].read_bytes().replace(b"MII", b"MI!", 1),
    }
    for stem, content in contents.items():
        found[stem] = tmp_path / f"{stem}.pem"
        found[stem].write_bytes(content)
    return {**found, "missing": tmp_path / "missing.pem", "directory": tmp_path}


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        *(
            (argument, wrong)
            for argument in ("cert", "key", "sni cert", "sni key")
            for wrong in ("missing", "directory")
        ),
        ("ca", "missing"),  # a directory is allowed there
    ],
)
def test_a_file_that_cannot_be_read_is_named(places: dict[str, Path], argument: str, wrong: str) -> None:
    arguments: dict[str, Any] = {"cert": places["cert"], "key": places["key"]}
    if argument.startswith("sni"):
        other = {**arguments, argument.removeprefix("sni "): places[wrong]}
        arguments["sni"] = {"a.example.com": (other["cert"], other["key"])}
    else:
        arguments[argument] = places[wrong]
    with pytest.raises(OSError, match=str(places[wrong])):
        create_context(**arguments)


@pytest.mark.parametrize(
    ("cert", "key"),
    [
        ("junk", "key"),
        ("empty", "key"),
        ("der", "key"),
        ("broken", "key"),
        ("key", "key"),
        ("cert", "junk"),
        ("cert", "empty"),
        ("cert", "cert"),
        ("cert", "other_key"),
        ("cert", None),
        ("junk", None),
    ],
)
@pytest.mark.parametrize("by_name", [False, True], ids=["default", "SNI"])
def test_files_that_hold_something_else_are_named(
    places: dict[str, Path], cert: str, key: str | None, by_name: bool
) -> None:
    pair = places[cert], places[key] if key is not None else None
    sni = {"a.example.com": pair} if by_name else None
    with pytest.raises(ValueError, match="no usable certificate and private key") as caught:
        create_context(*((places["cert"], places["key"]) if by_name else pair), sni=sni)
    assert all(str(path) in str(caught.value) for path in pair if path is not None)


@pytest.mark.parametrize("wrong", ["junk", "empty", "der", "key"])
def test_authorities_that_are_none_are_named(places: dict[str, Path], wrong: str) -> None:
    with pytest.raises(ValueError, match=rf"{places[wrong]}: no usable certificates \("):
        create_context(places["cert"], places["key"], ca=places[wrong], client_certificates="optional")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client_certificates": "yes"}, "client_certificates must be 'none', 'optional' or 'required', not 'yes'"),
        ({"client_certificates": "optional"}, "client_certificates='optional' needs ca"),
        ({"client_certificates": "required"}, "client_certificates='required' needs ca"),
    ],
)
def test_contradictions(files: tuple[Path, Path], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_context(*files, **arguments)


@pytest.mark.parametrize("name", ["", "*", "*.", "a.*.example", "mail.*", "b\xfccher.example", "a b.example", "a..b"])
def test_names_that_nobody_asks_for(files: tuple[Path, Path], name: str) -> None:
    with pytest.raises(ValueError, match="is no host name in ASCII"):
        create_context(*files, sni={name: files})


# Encrypted keys


@pytest.mark.parametrize(
    "password", [KEY_PASSWORD, KEY_PASSWORD.encode(), lambda: KEY_PASSWORD], ids=["str", "bytes", "function"]
)
def test_an_encrypted_key(
    files: tuple[Path, Path],
    encrypted_key: Path,
    server_certificate: trustme.LeafCert,
    password: str | bytes | Callable[[], str],
) -> None:
    sni = {"a.example.com": (files[0], encrypted_key)}
    context = create_context(files[0], encrypted_key, password=password, sni=sni)
    assert certificate_of(context) == der(server_certificate)


def test_the_password_of_a_key_in_the_clear_is_not_asked_for(files: tuple[Path, Path]) -> None:
    def ask() -> str:
        raise AssertionError("nobody should ask")

    create_context(*files, password=ask)


def test_an_encrypted_key_without_its_password(files: tuple[Path, Path], encrypted_key: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{encrypted_key}: the key is encrypted, and no password was given"):
        create_context(files[0], encrypted_key)
    both = tmp_path / "both.pem"
    both.write_bytes(files[0].read_bytes() + encrypted_key.read_bytes())
    with pytest.raises(ValueError, match=rf"{both}: the key is encrypted"):
        create_context(both)


def test_an_encrypted_key_with_a_wrong_password(files: tuple[Path, Path], encrypted_key: Path) -> None:
    with pytest.raises(ValueError, match="no usable certificate and private key") as caught:
        create_context(files[0], encrypted_key, password="Barley-Open")
    assert str(encrypted_key) in str(caught.value)
    assert "Barley-Open" not in str(caught.value)


def test_a_password_that_cannot_be_had_is_an_error_of_its_own(files: tuple[Path, Path], encrypted_key: Path) -> None:
    def fail() -> str:
        raise LookupError("no key ring")

    with pytest.raises(LookupError, match="no key ring"):
        create_context(files[0], encrypted_key, password=fail)


# Certificates by name


@pytest.fixture(scope="module")
def by_name(
    files: tuple[Path, Path], ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ssl.SSLContext, dict[str, bytes]]:
    """A context with three certificates, and what they are called."""
    directory = tmp_path_factory.mktemp("sni")
    leaves = {"exact": ca.issue_cert("mail.example.net"), "wild": ca.issue_cert("*.example.net", "*.example.org")}
    exact = write(leaves["exact"], directory, "exact")
    wild = directory / "wild.pem"
    wild.write_bytes(leaves["wild"].private_key_and_cert_chain_pem.bytes())
    context = create_context(
        *files, sni={"Mail.Example.net.": exact, "*.example.net": (wild, None), "*.example.org": (str(wild), None)}
    )
    default = certificate_of(context)
    assert default is not None
    return context, {"default": default, **{name: der(leaf) for name, leaf in leaves.items()}}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mail.example.net", "exact"),
        ("MAIL.example.NET", "exact"),
        ("other.example.net", "wild"),
        ("other.example.org", "wild"),
        ("example.net", "default"),
        ("a.other.example.net", "default"),
        ("a.mail.example.net", "default"),
        (NAME, "default"),
        ("localhost", "default"),
        ("elsewhere.example", "default"),
        (None, "default"),
    ],
)
async def test_which_certificate_a_client_gets(
    by_name: tuple[ssl.SSLContext, dict[str, bytes]], ca: trustme.CA, name: str | None, expected: str
) -> None:
    context, certificates = by_name
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(client_context)
    client_context.check_hostname = False  # a client that gets the default certificate for another name
    async with over_tls(context, client_context, name) as client:
        assert presented(client) == certificates[expected]
        tls = client.session.tls
        assert tls is not None
        assert tls.server_certificate == certificates[expected]
        # The name is noted as the client wrote it.
        assert client.session.servername == name


async def test_a_name_with_a_dot_at_its_end(by_name: tuple[ssl.SSLContext, dict[str, bytes]]) -> None:
    """RFC 6066 section 3 knows no such names; some clients do."""
    context, certificates = by_name
    chosen: list[ssl.SSLContext] = []

    class Handshake:
        context = property(fset=lambda self, value: chosen.append(value))

    callback = context.sni_callback
    assert callback is not None
    callback(Handshake(), "mail.example.net.", context)  # type: ignore[arg-type]
    assert certificate_of(chosen[0]) == certificates["exact"]


# Client certificates

Policy = Literal["none", "optional", "required"]
Asking = Callable[[Policy], ssl.SSLContext]


@pytest.fixture(scope="module")
def asking(files: tuple[Path, Path], ca: trustme.CA, ca_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Asking:
    """Makes contexts with two certificates that check clients by `ca`."""
    other = write(ca.issue_cert("mail.example.net"), tmp_path_factory.mktemp("other"), "other")

    def make(policy: Policy) -> ssl.SSLContext:
        return create_context(*files, ca=ca_file, client_certificates=policy, sni={"mail.example.net": other})

    return make


def client_with(
    ca: trustme.CA, leaf: trustme.LeafCert | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """A client that presents this certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    context.maximum_version = version
    if leaf is not None:
        leaf.configure_cert(context)
    return context


async def assert_refused(context: ssl.SSLContext, client_context: ssl.SSLContext, name: str = NAME) -> None:
    """The handshake fails on both sides; with TLS 1.3 the client learns of it when it reads."""
    async with open_client(mail_app()[0], ssl_context=context, implicit_tls=True) as client:
        with pytest.raises((trio.BrokenResourceError, trio.EndOfChannel)):
            await shake_hands(client, client_context, name)
    assert client.server.stats.tls_failures == 1
    assert client.server.stats.tls_handshakes == 0


@pytest.mark.parametrize(
    ("policy", "certificate", "expected"),
    [
        ("none", "ours", "anonymous"),
        ("none", "theirs", "anonymous"),
        ("none", None, "anonymous"),
        ("optional", "ours", "known"),
        ("optional", "theirs", "refused"),
        ("optional", None, "anonymous"),
        ("required", "ours", "known"),
        ("required", "theirs", "refused"),
        ("required", None, "refused"),
    ],
)
async def test_whose_certificates_are_taken(
    asking: Asking,
    ca: trustme.CA,
    policy: Policy,
    certificate: str | None,
    expected: str,
) -> None:
    leaves = {"ours": ca.issue_cert("ali@example.com"), "theirs": trustme.CA().issue_cert("ali@example.com")}
    leaf = leaves[certificate] if certificate is not None else None
    context = asking(policy)
    if expected == "refused":
        await assert_refused(context, client_with(ca, leaf))
        return
    async with over_tls(context, client_with(ca, leaf)) as client:
        assert client.session.tls is not None
        assert client.session.tls.peer_certificate == (der(leaf) if expected == "known" and leaf is not None else None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_names_and_client_certificates_go_together(
    asking: Asking, ca: trustme.CA, version: ssl.TLSVersion
) -> None:
    """The context that is chosen by name checks clients by the same authorities."""
    context = asking("required")
    ours, theirs = ca.issue_cert("ali@example.com"), trustme.CA().issue_cert("ali@example.com")
    for name in ("mail.example.net", NAME):
        async with over_tls(context, client_with(ca, ours, version), name) as client:
            assert client.session.tls is not None
            assert client.session.tls.peer_certificate == der(ours)
        await assert_refused(context, client_with(ca, theirs, version), name)
        await assert_refused(context, client_with(ca, None, version), name)


@pytest.mark.program("openssl")
def test_authorities_in_a_directory(files: tuple[Path, Path], ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(ca_file.read_bytes())
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True, timeout=60)
    context = create_context(*files, ca=tmp_path, client_certificates="required")
    leaf = ca.issue_cert("ali@example.com")

    async def visit() -> None:
        async with over_tls(context, client_with(ca, leaf)) as client:
            assert client.session.tls is not None
            assert client.session.tls.peer_certificate == der(leaf)
        await assert_refused(context, client_with(ca, None))

    trio.run(visit)


async def test_a_handler_may_refuse_a_certificate(asking: Asking, ca: trustme.CA) -> None:
    app, _ = mail_app()

    @app.on_secure
    async def known_only(ctx: SecureContext) -> None:
        if ctx.session.tls is None or ctx.session.tls.peer_certificate is None:
            ctx.reject("A certificate, please", enhanced="5.7.0")

    context = asking("optional")
    async with over_tls(context, client_with(ca, ca.issue_cert("ali@example.com")), app=app) as client:
        assert client.greeting.code == 220
    async with over_tls(context, client_with(ca, None), app=app) as client:
        assert (client.greeting.code, client.greeting.text) == (550, "A certificate, please")


# Versions


async def test_versions(files: tuple[Path, Path], ca: trustme.CA) -> None:
    two, three = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    context = create_context(*files)
    assert context.minimum_version == two
    for version, shown in ((two, "TLSv1.2"), (three, "TLSv1.3")):
        async with over_tls(context, client_with(ca, None, version)) as client:
            assert client.session.tls is not None
            assert client.session.tls.version == shown
    newest = create_context(*files, min_version=three, sni={"mail.example.net": files})
    for name in (NAME, "mail.example.net"):
        await assert_refused(newest, client_with(ca, None, two), name)


OLD_VERSIONS = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]


def old_client(ca: trustme.CA, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = client_with(ca, None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.minimum_version = version
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.maximum_version = version
    return context


@pytest.mark.parametrize("version", OLD_VERSIONS)
@pytest.mark.parametrize("name", [NAME, "mail.example.net"])
@pytest.mark.parametrize("ciphers", [None, "ECDHE+AES", "ECDHE+AES:@SECLEVEL=0"])
async def test_old_versions(  # noqa: PLR0917 - fixtures
    files: tuple[Path, Path], ca: trustme.CA, tmp_path: Path, version: ssl.TLSVersion, name: str, ciphers: str | None
) -> None:
    other = write(ca.issue_cert("mail.example.net"), tmp_path, "old")
    context = create_context(*files, min_version=version, ciphers=ciphers, sni={"mail.example.net": other})
    async with over_tls(context, old_client(ca, version), name) as client:
        assert client.session.tls is not None
        assert client.session.tls.version == version.name.replace("_", ".")
        assert client.session.servername == name
    await assert_refused(create_context(*files, sni={"mail.example.net": other}), old_client(ca, version), name)


@pytest.mark.parametrize("version", ssl.TLSVersion)
def test_a_warning_for_old_versions(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    context = create_context(*files, min_version=version)
    modern = version in {ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED}
    assert ["min_version lets TLS before 1.2 in" in line for line in caplog.messages] == ([] if modern else [True])
    assert (context.security_level == 0) is not modern


def test_suites(files: tuple[Path, Path]) -> None:
    context = create_context(*files, sni={"mail.example.net": files})
    assert {suite["aead"] for suite in context.get_ciphers()} == {True}
    assert {suite["kea"] for suite in context.get_ciphers()} <= {"kx-ecdhe", "kx-dhe", "kx-any"}
    own = create_context(*files, ciphers="ECDHE-RSA-AES256-SHA")
    assert [suite["name"] for suite in own.get_ciphers() if not suite["name"].startswith("TLS_")] == [
        "ECDHE-RSA-AES256-SHA"
    ]
    with pytest.raises(ValueError, match="ciphers: 'FROB' names no usable suite"):
        create_context(*files, ciphers="FROB")


# Tickets


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", [NAME, "mail.example.net"])
async def test_a_ticket_saves_a_handshake(asking: Asking, ca: trustme.CA, version: ssl.TLSVersion, name: str) -> None:
    """A resumed session knows what the first one knew; a new context knows nothing of the tickets of the old."""
    leaf = ca.issue_cert("ali@example.com")
    client_context = client_with(ca, leaf, version)
    server = SMTPServer(mail_app()[0], Config(hostname="mx.example", ssl_context=asking("optional"), implicit_tls=True))
    ticket: ssl.SSLSession | None = None

    async def visit() -> bool:
        nonlocal ticket
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            session = await nursery.start(server.serve_stream, theirs)
            stream = trio.SSLStream(ours, client_context, server_hostname=name, https_compatible=True)
            if ticket is not None:
                stream.session = ticket
            await stream.do_handshake()
            client = Client(stream)
            assert (await client.read_reply()).code == 220
            ticket = stream.session
            reused: bool = stream.session_reused
            assert session.servername == name
            assert session.tls is not None
            assert session.tls.peer_certificate == der(leaf)
            assert session.tls.version == ("TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
            assert (await client.quit()).code == 221
            await client.aclose()
        return reused

    assert [await visit() for _ in range(3)] == [False, True, True]
    server.reload_tls(asking("optional"))
    assert [await visit() for _ in range(2)] == [False, True]
    assert server.stats.tls_handshakes == 5


# Reloading


async def test_a_reload_is_for_handshakes_from_now_on(
    files: tuple[Path, Path], ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    app, taken = mail_app()
    renewed = ca.issue_cert(NAME)
    new = create_context(*write(renewed, tmp_path, "new"))
    async with over_tls(create_context(*files), client_ssl_context, app=app) as running:
        server = running.server
        await start_data(running)
        server.reload_tls(new)
        await running.send_bytes(b"Hello\r\n.\r\n")
        assert (await running.read_reply()).code == 250
        assert presented(running) != der(renewed)
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            session = await nursery.start(server.serve_stream, theirs)
            late = Client(ours)
            await shake_hands(late, client_ssl_context)
            assert presented(late) == der(renewed)
            assert session.servername == NAME
            assert session.tls.server_certificate == der(renewed)
            await late.ehlo()
            assert (await send(late)).code == 250
            await late.aclose()
        # Neither is disturbed by the other.
        assert (await send(running)).code == 250
    assert len(taken) == 3


async def test_a_reload_between_greeting_and_starttls(
    files: tuple[Path, Path], ca: trustme.CA, client_ssl_context: ssl.SSLContext, tmp_path: Path
) -> None:
    renewed = ca.issue_cert(NAME)
    async with open_client(mail_app()[0], ssl_context=create_context(*files)) as client:
        await client.ehlo()
        client.server.reload_tls(create_context(*write(renewed, tmp_path, "new")))
        assert (await client.starttls(client_ssl_context, NAME)).code == 220
        assert presented(client) == der(renewed)


def test_what_cannot_be_reloaded(files: tuple[Path, Path]) -> None:
    server = SMTPServer(mail_app()[0], Config(ssl_context=create_context(*files)))
    before = server.ssl_context
    with pytest.raises(TypeError, match=r"ssl_context must be an ssl\.SSLContext"):
        server.reload_tls(str(files[0]))  # type: ignore[arg-type]
    assert server.ssl_context is before
    with pytest.raises(ValueError, match="reload_tls needs a Config with an ssl_context to replace"):
        SMTPServer(mail_app()[0], Config()).reload_tls(create_context(*files))
