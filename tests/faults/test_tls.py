"""Failures of TLS, and failures inside of it: STARTTLS and implicit TLS, with and without a name (SNI)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock

from trio_smtp import App, Config, SMTPServer
from trio_smtp.plugins.faults import RuleError, Rules, faults, parse_rule
from trio_smtp.testing import Client, MemoryListener, open_client

from .support import CLOSED, said


def server_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    return context


def client_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


class Handshakes:
    """An App with rules, behind a context."""

    def __init__(self, ca: trustme.CA, *rules: str, signed: bool = True, **config: Any) -> None:
        self.rules = Rules(rules)
        self.app = App().use(faults(self.rules, ca=ca if signed else None))
        self.context = server_context(ca)
        self.client_context = client_context(ca)
        self.config = Config(hostname="mx.example", ssl_context=self.context, **config)

    @asynccontextmanager
    async def client(self, reload: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
        listener, server = MemoryListener(), SMTPServer(self.app, self.config)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve_listeners, [listener])
            if reload is not None:
                server.reload_tls(reload)
            client = Client(await listener.connect(("192.0.2.1", 4711)))
            if not self.config.implicit_tls:
                assert await said(client) == "220"
                assert await said(client, "EHLO client.example") == "250"
                assert await said(client, "STARTTLS") == "220"
            yield client
            nursery.cancel_scope.cancel()

    async def shake_hands(self, name: str | None = "localhost", reload: ssl.SSLContext | None = None) -> str:
        """Shake hands; the error of the client, or ``""``."""
        context = self.client_context
        if name is None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(self.client_context.get_ca_certs(True)[-1]))
        async with self.client(reload) as client:
            stream = trio.SSLStream(client.stream, context, server_hostname=name, https_compatible=True)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as exc:
                cause = exc.__cause__
                assert isinstance(cause, ssl.SSLCertVerificationError)
                return cause.verify_message
            return ""


BAD = [
    ("expired", "certificate has expired"),
    ("self-signed", "self-signed certificate"),
    ("wrong-host", "Hostname mismatch, certificate is not valid for 'localhost'."),
]


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
@pytest.mark.parametrize(("fault", "seen"), BAD)
async def test_bad_certificates(fault: str, seen: str, implicit: bool, ca: trustme.CA) -> None:
    server = Handshakes(ca, f"tls bad_certificate {fault} times=2", implicit_tls=implicit)
    assert [await server.shake_hands() for _ in range(3)] == [seen, seen, ""]
    assert [rule.hits for rule in server.rules] == [2]


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
async def test_bad_certificates_for_clients_that_ask_for_no_name(implicit: bool, ca: trustme.CA) -> None:
    server = Handshakes(ca, "tls bad_certificate expired times=1", implicit_tls=implicit)
    assert await server.shake_hands(None) == "certificate has expired"
    assert await server.shake_hands(None) == ""


async def test_a_certificate_that_nobody_has_signed(ca: trustme.CA) -> None:
    server = Handshakes(ca, "tls bad_certificate wrong-host", signed=False)
    assert "unable to get local issuer certificate" in await server.shake_hands()


async def test_bad_certificates_for_one_peer(ca: trustme.CA) -> None:
    server = Handshakes(
        ca, "tls peer=192.0.2.2 bad_certificate expired", "tls peer=192.0.2.1 bad_certificate self-signed"
    )
    assert await server.shake_hands() == "self-signed certificate"
    at_once = Handshakes(ca, "tls peer=192.0.2.1 bad_certificate expired", implicit_tls=True)
    assert await at_once.shake_hands() == ""  # before a handshake the rules do not know the peer


async def test_names_that_the_context_knows_are_asked_before(ca: trustme.CA) -> None:
    server = Handshakes(ca, "tls bad_certificate expired after=1")
    asked: list[str | None] = []

    def note(sslobj: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        asked.append(name)

    server.context.sni_callback = note
    assert await server.shake_hands() == ""
    assert await server.shake_hands() == "certificate has expired"
    assert asked == ["localhost", "localhost"]


async def test_two_collections_share_a_context(ca: trustme.CA) -> None:
    server = Handshakes(ca)
    server.app.use(faults(["tls bad_certificate expired"], ca=ca))
    assert await server.shake_hands() == "certificate has expired"
    other = Handshakes(ca)
    other.context = server.context
    other.config = server.config
    assert await other.shake_hands() == ""


def test_without_trustme_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("trio_smtp.plugins.faults.acts"), "find_spec", lambda name: None)
    with pytest.raises(RuleError, match=r"bad_certificate needs trustme: pip install 'trio-smtp\[testing\]'"):
        parse_rule("tls bad_certificate expired")


async def test_starttls_is_not_offered(ca: trustme.CA, autojump_clock: MockClock) -> None:
    app = App().use(faults(["tls no_starttls times=1"]))
    async with open_client(app, ssl_context=server_context(ca)) as client:
        assert "STARTTLS" not in (await client.ehlo()).text
        assert await said(client, "STARTTLS") == "502"
        assert "STARTTLS" in (await client.ehlo()).text
        assert (await client.starttls(client_context(ca))).code == 220
        assert "STARTTLS" not in (await client.ehlo()).text


@pytest.mark.parametrize(
    ("rule", "heard"),
    [
        ("tls fail 454", "454"),
        ("tls delay 60", "220"),
        ("tls throttle 1", "220"),
        ("tls disconnect", CLOSED),
        ("tls reset", CLOSED),
        ("tls disconnect before_reply=false", CLOSED),
        ("tls garbage", "not a reply"),
        ("tls truncate", None),
    ],
)
async def test_the_command_starttls(rule: str, heard: str | None, ca: trustme.CA, autojump_clock: MockClock) -> None:
    app = App().use(faults([rule]))
    async with open_client(app, ssl_context=server_context(ca)) as client:
        await client.ehlo()
        began = trio.current_time()
        if heard is None:
            await client.send_bytes(b"STARTTLS\r\n")
            assert b"\n" not in await client.stream.receive_some()
            return
        assert heard in await said(client, "STARTTLS") or rule.endswith("false")
        waited = trio.current_time() - began
        assert (waited > 20) == (rule in ("tls delay 60", "tls throttle 1"))
        if heard == "454":
            assert await said(client, "NOOP") == "250"


@pytest.mark.parametrize(
    ("rule", "heard"),
    [("mail fail 452", "452"), ("mail garbage", "not a reply"), ("mail delay 60", "250"), ("mail disconnect", CLOSED)],
)
async def test_rules_act_inside_tls(rule: str, heard: str, ca: trustme.CA, autojump_clock: MockClock) -> None:
    app = App().use(faults([rule]))
    async with open_client(app, ssl_context=server_context(ca)) as client:
        await client.ehlo()
        await client.starttls(client_context(ca))
        await client.ehlo()
        assert heard in await said(client, "MAIL FROM:<a@example.org>")


async def test_a_context_that_is_reloaded(ca: trustme.CA) -> None:
    server = Handshakes(ca, "tls bad_certificate expired after=1")
    assert await server.shake_hands(reload=server_context(ca)) == ""
    assert await server.shake_hands(reload=server_context(ca)) == "certificate has expired"


async def test_servers_that_begin_later(ca: trustme.CA) -> None:
    server = Handshakes(ca, "tls bad_certificate expired")
    async with server.app.running():
        assert await server.shake_hands() == "certificate has expired"
    assert await server.shake_hands() == "certificate has expired"


async def test_handshakes_of_other_programs_are_not_asked_about(ca: trustme.CA) -> None:
    server = Handshakes(ca, "tls bad_certificate expired")

    def shake_hands() -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = server.client_context.wrap_bio(to_client, to_server, server_hostname="localhost")
        theirs = server.context.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(3):
            for side in (ours, theirs):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        assert ours.version() == theirs.version() == "TLSv1.3"

    async with server.client():
        await trio.to_thread.run_sync(shake_hands)
    assert [rule.hits for rule in server.rules] == [0]
