"""STARTTLS, implicit TLS, certificates, what comes before the handshake; every mechanism of AUTH."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trustme

from tests.socket_support import port_of, serving
from trio_smtp import (
    App,
    AuthContext,
    Config,
    CramMD5Credentials,
    ExternalCredentials,
    OAuthCredentials,
    PlainCredentials,
    ScramCredentials,
    ScramSecret,
    Session,
)
from trio_smtp.client import (
    Auth,
    BearerToken,
    DeliveryError,
    DeliveryFailed,
    DeliveryRefused,
    ExtensionMissing,
    External,
    Password,
    Pool,
    Timeouts,
    TLSMode,
    connect,
)

from .support import Lines, Mailbox, dialogue, scripted
from .test_client import MAIL

NAME = "mx.example.com"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("implicit", [False, True])
async def test_a_message_over_tls(
    implicit: bool, version: ssl.TLSVersion, server_ssl_context: ssl.SSLContext, ca: trustme.CA
) -> None:
    box = Mailbox()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.maximum_version = version
    async with serving(box.app, ssl_context=server_ssl_context, implicit_tls=implicit, requiretls=True) as server:
        url = f"{'smtps' if implicit else 'smtp'}://127.0.0.1:{port_of(server)}"
        async with connect(url, ssl_context=context) as client:
            assert client.tls == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
            assert "STARTTLS" not in client.extensions
            await client.send("a@example.org", "b@example.com", MAIL * 20_000, requiretls=True)
    assert box.messages == [MAIL * 20_000]
    assert box.taken[0][0].require_tls


def of_another_authority(ca: trustme.CA) -> ssl.SSLContext:
    return context_of(trustme.CA().issue_cert("127.0.0.1", "localhost"))


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def expired(ca: trustme.CA) -> ssl.SSLContext:
    from datetime import UTC, datetime

    return context_of(ca.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC)))


def not_yet_valid(ca: trustme.CA) -> ssl.SSLContext:
    from datetime import UTC, datetime

    return context_of(ca.issue_cert("127.0.0.1", not_before=datetime(2999, 1, 1, tzinfo=UTC)))


def without_the_authority_between(ca: trustme.CA) -> ssl.SSLContext:
    leaf = ca.create_child_ca().issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with leaf.private_key_pem.tempfile() as key, leaf.cert_chain_pems[0].tempfile() as certificate:
        context.load_cert_chain(certificate, key)
    return context


def self_signed(ca: trustme.CA) -> ssl.SSLContext:
    other = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with other.private_key_pem.tempfile() as key, other.cert_pem.tempfile() as certificate:
        context.load_cert_chain(certificate, key)
    return context


def old_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = context_of(ca.issue_cert("127.0.0.1"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


WRONG: dict[str, tuple[Callable[[trustme.CA], ssl.SSLContext], str]] = {
    "another authority": (of_another_authority, "certificate is not accepted"),
    "another name": (lambda ca: context_of(ca.issue_cert("other.example")), "certificate is not accepted"),
    "another address": (lambda ca: context_of(ca.issue_cert("127.0.0.2")), "certificate is not accepted"),
    "expired": (expired, "expired"),
    "not yet valid": (not_yet_valid, "not yet valid"),
    "a common name alone": (
        lambda ca: context_of(ca.issue_cert("other.example", common_name="127.0.0.1")),
        "certificate is not accepted",
    ),
    "any name of a domain": (lambda ca: context_of(ca.issue_cert("*.0.0.1")), "certificate is not accepted"),
    "a person": (lambda ca: context_of(ca.issue_cert("a@127.0.0.1")), "certificate is not accepted"),
    "without the authority between": (without_the_authority_between, "certificate is not accepted"),
    "self-signed": (self_signed, "self-signed"),
    "TLS 1.1": (old_tls, "the handshake failed"),
}


@pytest.mark.parametrize("tls", ["required", "opportunistic"])
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_certificates(wrong: str, implicit: bool, tls: TLSMode, ca: trustme.CA) -> None:
    make, why = WRONG[wrong]
    box = Mailbox()
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with serving(box.app, ssl_context=make(ca), implicit_tls=implicit) as server:
        url = f"{'smtps' if implicit else 'smtp'}://127.0.0.1:{port_of(server)}"
        with pytest.raises(DeliveryFailed, match=why) as caught:
            await connect(url, ssl_context=trusting, tls=tls).__aenter__()
        assert (caught.value.phase, caught.value.uncertain) == ("tls", False)


async def test_certificates_are_verified_by_default(server_ssl_context: ssl.SSLContext) -> None:
    async with serving(App(), ssl_context=server_ssl_context) as server:
        with pytest.raises(DeliveryFailed, match="certificate is not accepted"):
            await connect(f"smtp://127.0.0.1:{port_of(server)}").__aenter__()


STARTTLS = {"EHLO": b"250-mx\r\n250 STARTTLS\r\n"}


@pytest.mark.parametrize(
    ("replies", "tls", "error", "phase"),
    [
        ({}, "required", ExtensionMissing, "starttls"),
        (STARTTLS | {"STARTTLS": b"454 no\r\n"}, "required", DeliveryRefused, "starttls"),
        (STARTTLS | {"STARTTLS": b"421 no\r\n"}, "opportunistic", DeliveryRefused, "starttls"),
        (STARTTLS | {"STARTTLS": b"250 no\r\n"}, "opportunistic", DeliveryFailed, "starttls"),
        (STARTTLS | {"STARTTLS": b"220 go\r\n"}, "opportunistic", DeliveryFailed, "tls"),
        (STARTTLS | {"STARTTLS": b"220 go\r\n250-injected\r\n"}, "required", DeliveryFailed, "tls"),
        (STARTTLS | {"STARTTLS": b""}, "required", DeliveryFailed, "starttls"),
    ],
)
async def test_starttls_that_fails(
    replies: dict[str, bytes], tls: TLSMode, error: type[DeliveryError], phase: str
) -> None:
    timeouts = Timeouts(tls=0.2, command=0.5)
    async with scripted(dialogue(replies)) as open_stream:
        with pytest.raises(error) as caught:
            await connect("smtp://mx", tls=tls, timeouts=timeouts, open_stream=open_stream).__aenter__()
    assert caught.value.phase == phase


@pytest.mark.parametrize("replies", [{}, STARTTLS | {"STARTTLS": b"454 no\r\n"}])
async def test_opportunistic_goes_on_without(replies: dict[str, bytes]) -> None:
    async with (
        scripted(dialogue(replies)) as open_stream,
        connect("smtp://mx", tls="opportunistic", open_stream=open_stream) as client,
    ):
        assert client.tls is None


async def test_requiretls_needs_tls_whatever_the_server_says() -> None:
    async with (
        scripted(dialogue({"EHLO": b"250-mx\r\n250 REQUIRETLS\r\n"})) as open_stream,
        connect("smtp://mx", tls="none", open_stream=open_stream) as client,
    ):
        with pytest.raises(ExtensionMissing, match="REQUIRETLS"):
            await client.send("a@example.org", "b@example.com", MAIL, requiretls=True)


async def test_what_came_before_the_handshake_is_thrown_away(
    server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext
) -> None:
    """Somebody on the way adds replies behind the 220: they answer nothing that is said over TLS."""

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        await lines.next()
        await stream.send_all(b"250-mx\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n")
        await lines.next()
        await stream.send_all(b"220 go\r\n250-evil.example\r\n250 AUTH LOGIN\r\n")
        tls = trio.SSLStream(stream, server_ssl_context, server_side=True, https_compatible=True)
        lines = Lines(tls)
        await lines.next()
        await tls.send_all(b"250-mx\r\n250 PIPELINING\r\n")
        await lines.next()

    async with (
        scripted(serve) as open_stream,
        connect(f"smtp://{NAME}", ssl_context=client_ssl_context, open_stream=open_stream) as client,
    ):
        assert client.extensions == {"PIPELINING": ""}


# AUTH

SECRET = ScramSecret.from_password("secret", "SCRAM-SHA-256")


def auth_app(box: Mailbox) -> App:
    @box.app.on_auth
    async def check(ctx: AuthContext) -> None:
        match ctx.credentials:
            case PlainCredentials() | CramMD5Credentials() as given if given.validate_password("secret"):
                ctx.accept(given.username)
            case OAuthCredentials(access_token="token") as given:
                ctx.accept(given.username)
            case ScramCredentials() | ExternalCredentials() as given:
                ctx.accept(given.username)
            case _:
                ctx.reject()

    return box.app


async def lookup(username: str, session: Session) -> ScramSecret | None:
    return SECRET if username == "alice" else None


ALICE = Password("alice", "secret")
MECHANISMS: dict[str, Auth] = {
    "PLAIN": ALICE,
    "LOGIN": ALICE,
    "CRAM-MD5": ALICE,
    "SCRAM-SHA-256": ALICE,
    "SCRAM-SHA-256-PLUS": ALICE,
    "XOAUTH2": BearerToken("alice", "token"),
    "OAUTHBEARER": BearerToken("alice", "token"),
}


@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_every_mechanism(
    mechanism: str, server_ssl_context: ssl.SSLContext, ca: trustme.CA, certificate_files: Any
) -> None:
    from trio_smtp import create_context

    context = create_context(certificate_files.cert, certificate_files.key)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    box = Mailbox()
    said: list[str] = []
    config = Config(
        hostname=NAME,
        ssl_context=context,
        auth_mechanisms=(mechanism,),
        auth_required=True,
        scram_lookup=lookup,
    )
    async with serving(auth_app(box), config) as server:
        url = f"smtp://127.0.0.1:{port_of(server)}"
        options: Any = {"ssl_context": trusting, "watch": lambda who, line: said.append(f"{who} {line}")}
        async with connect(url, auth=MECHANISMS[mechanism], **options) as client:
            await client.send("a@example.org", "b@example.com", MAIL)
        wrong: Auth = (
            Password("alice", "guess") if isinstance(MECHANISMS[mechanism], Password) else BearerToken("alice", "guess")
        )
        with pytest.raises(DeliveryRefused, match="auth: the server said 535") as caught:
            await connect(url, auth=wrong, **options).__aenter__()
        assert caught.value.reply.code == 535
    assert box.messages == [MAIL]
    shown = "\n".join(said)
    assert f"C AUTH {mechanism}" in shown
    for secret in ("c2VjcmV0", "AGFsaWNl", "YWxpY2U", "dG9rZW4"):
        assert not [line for line in said if line.startswith("C ") and secret in line]


async def test_a_user_in_the_url(server_ssl_context: ssl.SSLContext, client_ssl_context: ssl.SSLContext) -> None:
    box = Mailbox()
    config = Config(hostname=NAME, ssl_context=server_ssl_context, auth_mechanisms=("PLAIN",), auth_required=True)
    async with serving(auth_app(box), config) as server:
        url = f"smtp://alice:secret@localhost:{port_of(server)}"
        async with connect(url, ssl_context=client_ssl_context) as client:
            await client.send("a@example.org", "b@example.com", MAIL)
    assert box.messages == [MAIL]


async def test_a_client_certificate(server_certificate: trustme.LeafCert, ca: trustme.CA) -> None:
    context = context_of(server_certificate)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    own = ssl.create_default_context()
    ca.configure_trust(own)
    ca.issue_cert("alice@example.com").configure_cert(own)
    box = Mailbox()
    config = Config(hostname=NAME, ssl_context=context, auth_mechanisms=("EXTERNAL",))
    async with (
        serving(auth_app(box), config) as server,
        connect(f"smtp://127.0.0.1:{port_of(server)}", ssl_context=own, auth=External("alice")) as client,
    ):
        await client.send("a@example.org", "b@example.com", MAIL)
    assert box.messages == [MAIL]


OFFERS = b"250-mx\r\n250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2\r\n"


@pytest.mark.parametrize(
    ("auth", "replies", "error", "why"),
    [
        (Password("a", "secret", mechanisms=("PLAIN",)), {}, ExtensionMissing, "insecure_auth"),
        (BearerToken("a", "secret"), {}, ExtensionMissing, "insecure_auth"),
        (ALICE, {"EHLO": b"250 mx\r\n"}, ExtensionMissing, "no mechanism fits what is presented"),
        (ALICE, {"AUTH": b"334 !!\r\n"}, DeliveryFailed, "auth"),
        (ALICE, {"AUTH": b"334-eA==\r\n334 eA==\r\n"}, DeliveryFailed, "auth"),
        (ALICE, {"AUTH": b"334 eHh4\r\n"}, DeliveryFailed, "iterations"),
        (ALICE, {"AUTH": b"235 come in\r\n"}, DeliveryFailed, "has not proved who it is"),
        (ALICE, {"AUTH": b"250 ok\r\n"}, DeliveryFailed, "no 235"),
        (ALICE, {"AUTH": b"535 AUTH secret\r\n"}, DeliveryRefused, "the server said 535$"),
    ],
)
async def test_auth_that_fails(auth: Auth, replies: dict[str, bytes], error: type[DeliveryError], why: str) -> None:
    seen: list[bytes] = []
    async with scripted(dialogue({"EHLO": OFFERS} | replies, seen=seen)) as open_stream:
        with pytest.raises(error, match=why) as caught:
            await connect("smtp://mx", tls="none", auth=auth, open_stream=open_stream).__aenter__()
        assert "secret" not in str(caught.value)
    assert not any(b"c2VjcmV0" in line for line in seen)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2"])
async def test_challenges_without_an_end(mechanism: str) -> None:
    """Each mechanism has so many steps; a server that asks on is left, and gets the password no second time."""
    seen: list[bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        while (line := await lines.next()) is not None:
            seen.append(line)
            await stream.send_all(f"250-mx\r\n250 AUTH {mechanism}\r\n".encode() if len(seen) == 1 else b"334 eHh4\r\n")

    auth: Auth = BearerToken("a", "secret") if "AUTH" in mechanism else Password("a", "secret")
    async with scripted(serve) as open_stream:
        with pytest.raises(DeliveryFailed) as caught:
            await connect("smtp://mx", tls="none", auth=auth, insecure_auth=True, open_stream=open_stream).__aenter__()
    assert caught.value.phase == "auth"
    assert seen[-1] == b"*"
    assert len(seen) <= 5
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("refused", [False, True])
async def test_a_long_response_does_not_go_with_the_command(refused: bool) -> None:
    seen: list[bytes] = []
    token = BearerToken("alice", "t" * 1000)
    replies = {"EHLO": OFFERS, "AUTH": b"535 no\r\n" if refused else b"334 \r\n"}

    async def serve(stream: trio.abc.Stream) -> None:
        lines = Lines(stream)
        await stream.send_all(b"220 mx\r\n")
        while (line := await lines.next()) is not None:
            seen.append(line)
            word = line.split(b" ")[0].decode()
            await stream.send_all(replies.get(word, b"235 ok\r\n" if len(line) > 1000 else b"250 ok\r\n"))

    async with scripted(serve) as open_stream:
        session = connect("smtp://mx", tls="none", auth=token, insecure_auth=True, open_stream=open_stream)
        if refused:
            with pytest.raises(DeliveryRefused):
                await session.__aenter__()
        else:
            async with session:
                pass
    assert seen[1] == b"AUTH XOAUTH2"
    assert (len(seen) > 2) is not refused


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tls": "always"}, "tls must be"),
        ({"auth": ALICE}, "auth stands beside a user"),
        ({"local_hostname": "a b"}, "local_hostname"),
        ({"local_hostname": "a\r\nRSET"}, "local_hostname"),
    ],
)
async def test_options_that_are_not_allowed(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await connect("smtp://u:p@mx", **options).__aenter__()


async def test_an_option_that_does_not_exist() -> None:
    misspelled: dict[str, Any] = {"time_outs": None}
    with pytest.raises(TypeError, match="there is no option 'time_outs': there are auth, insecure_auth"):
        await connect("smtp://mx", **misspelled).__aenter__()
    with pytest.raises(TypeError, match="there is no option 'time_outs'"):
        Pool("smtp://mx", **misspelled)


async def test_there_is_no_server(tmp_path: Any) -> None:
    for url in (f"lmtp+unix://{tmp_path}/none", "smtp://127.0.0.1:1"):
        with pytest.raises(DeliveryFailed) as caught:
            await connect(url).__aenter__()
        assert (caught.value.phase, caught.value.uncertain) == ("connect", False)


async def test_a_connection_that_takes_too_long(autojump_clock: Any) -> None:
    async def never() -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(DeliveryFailed, match="no connection in 60 seconds"):
        await connect("smtp://mx", open_stream=never).__aenter__()


async def test_a_handshake_that_takes_too_long(autojump_clock: Any) -> None:
    async def silent(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with scripted(silent) as open_stream:
        with pytest.raises(DeliveryFailed, match="no TLS in 60 seconds"):
            await connect("smtps://mx", open_stream=open_stream).__aenter__()


async def test_a_server_that_leaves_in_the_handshake() -> None:
    async def leaves(stream: trio.abc.Stream) -> None:
        await stream.receive_some()

    async with scripted(leaves) as open_stream:
        with pytest.raises(DeliveryFailed, match="tls: the") as caught:
            await connect("smtps://mx", open_stream=open_stream).__aenter__()
    assert caught.value.phase == "tls"


async def test_a_unix_socket(tmp_path: Any) -> None:
    from trio_smtp import SMTPServer

    box = Mailbox()
    server = SMTPServer(box.app, Config(hostname=NAME, lmtp=True))
    listener = server.listen_unix(tmp_path / "lmtp")
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve_listeners, [listener])
        async with connect(f"lmtp+unix://{tmp_path}/lmtp") as client:
            assert client.lmtp
            result = await client.send("a@example.org", ["b@example.com", "c@example.com"], MAIL)
            assert len(result.accepted) == 2
        nursery.cancel_scope.cancel()
    assert box.messages == [MAIL]
