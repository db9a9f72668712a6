"""What the tests of TLS share: Apps that note what happens, contexts, and handshakes on the client's side."""

from __future__ import annotations

import ssl

import trio
import trustme

from tests.socket_support import port_of
from trio_smtp import (
    App,
    AuthContext,
    CloseContext,
    ConnectContext,
    DataContext,
    MailFromContext,
    SecureContext,
    SMTPServer,
)
from trio_smtp.testing import Client

#: In the server's certificate.
NAME = "mx.example.com"


class Log:
    """An App whose handlers note what they see."""

    def __init__(self) -> None:
        self.app = App()
        self.calls: list[str] = []
        self.app.on_connect(self._connect)
        self.app.on_secure(self._secure)
        self.app.on_auth(self._auth)
        self.app.on_mail_from(self._mail_from)
        self.app.on_data(self._data)
        self.app.on_close(self._close)

    async def _connect(self, ctx: ConnectContext) -> None:
        self.calls.append(f"connect secure={ctx.session.secure}")

    async def _secure(self, ctx: SecureContext) -> None:
        assert ctx.session.tls is not None
        self.calls.append(f"secure {ctx.session.tls.version}")

    async def _auth(self, ctx: AuthContext) -> None:
        ctx.accept("somebody")

    async def _mail_from(self, ctx: MailFromContext) -> None:
        self.calls.append(f"mail from {ctx.address.address}")

    async def _data(self, ctx: DataContext) -> None:
        await ctx.stream.discard()
        self.calls.append(f"data {ctx.session.transmission_type}")

    async def _close(self, ctx: CloseContext) -> None:
        self.calls.append(f"close {ctx.reason}")


async def shake_hands(client: Client, context: ssl.SSLContext, name: str | None = NAME) -> None:
    """TLS from the first octet, on the client's side; reads the greeting."""
    client.stream = stream = trio.SSLStream(client.stream, context, server_hostname=name, https_compatible=True)
    await stream.do_handshake()
    client.greeting = await client.read_reply()


def agreed(client: Client) -> tuple[str, str, int]:
    """What the client's side says of the session: cipher suite, version, bits."""
    assert isinstance(client.stream, trio.SSLStream)
    name, _, bits = client.stream.cipher()
    return name, client.stream.version(), bits


def presented(client: Client) -> bytes | None:
    """The certificate the server presented."""
    assert isinstance(client.stream, trio.SSLStream)
    certificate: bytes | None = client.stream.getpeercert(binary_form=True)
    return certificate


def server_context(leaf: trustme.LeafCert) -> ssl.SSLContext:
    """A context of a test's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    return context


def lax_client_context() -> ssl.SSLContext:
    """Believes any certificate, and needs no name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def der(leaf: trustme.LeafCert) -> bytes:
    """The certificate as it stands on the wire."""
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


async def connect(server: SMTPServer) -> Client:
    """A client on a socket; nothing was read yet."""
    return Client(await trio.open_tcp_stream("127.0.0.1", port_of(server)))
