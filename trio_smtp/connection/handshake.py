"""The TLS handshake of a connection, at once or after STARTTLS (RFC 3207)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import SecureContext
from trio_smtp.app.session import TLSInfo
from trio_smtp.dialogue.outcomes import EndSession, logger
from trio_smtp.net.ciphers import standard_name
from trio_smtp.net.server_names import hearing_server_name, note_server_names
from trio_smtp.protocol.replies import Reply
from trio_smtp.tls import certificate_of

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["after_handshake", "handshake"]

_SECURED = Reply(250, "Secured")


async def handshake(conn: Connection) -> None:
    """Wrap the connection's stream in TLS (where it is not yet) and shake hands.

    Raises:
        EndSession: The handshake failed; nothing was written.
    """
    session, stream = conn.session, conn.stream
    if isinstance(stream, trio.SSLStream):
        note_server_names(stream.context)
    else:
        context = conn.server.ssl_context
        assert context is not None
        stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    conn.arm("tls", conn.config.tls_handshake_timeout)

    def heard(name: str | None) -> None:
        session.servername = name

    try:
        with hearing_server_name(heard):
            await stream.do_handshake()
    except trio.BrokenResourceError as exc:
        conn.stats.tls_failures += 1
        cause = exc.__cause__ or "the client is gone"
        logger.warning("session=%s peer=%s TLS handshake failed: %s", session.id, session.remote_address, cause)
        raise EndSession("tls") from exc
    conn.stats.tls_handshakes += 1
    session.secure = True
    session.tls_options = _describe(stream)
    conn.reset_wire(stream)


async def after_handshake(conn: Connection) -> Reply | None:
    """Run `on_secure`; returns what it refused with, or None."""
    if Phase.SECURE not in conn.chains:
        return None
    reply = await conn.phase(Phase.SECURE, SecureContext(conn.session, _SECURED))
    return reply if reply.code >= 400 else None


def _describe(stream: trio.SSLStream[trio.abc.Stream]) -> TLSInfo:
    name, _, bits = stream.cipher()
    return TLSInfo(
        name=name,
        standard_name=standard_name(name),
        version=stream.version(),
        bits=bits,
        peer_certificate=stream.getpeercert(binary_form=True),
        server_certificate=certificate_of(stream.context),
    )
