"""The TLS handshake of a connection, at once or after STARTTLS (RFC 3207)."""

from __future__ import annotations

import ssl
import weakref
from typing import TYPE_CHECKING

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import SecureContext
from trio_smtp.app.session import Session, TLSInfo
from trio_smtp.dialogue.outcomes import EndSession, logger
from trio_smtp.net.ciphers import standard_name
from trio_smtp.protocol.replies import Reply
from trio_smtp.tls import certificate_of

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["after_handshake", "handshake", "watch_server_name"]

_SECURED = Reply(250, "Secured")

# The callback of a context knows neither stream nor session, but it runs inside the task that shakes hands.
_shaking_hands: weakref.WeakKeyDictionary[trio.lowlevel.Task, Session] = weakref.WeakKeyDictionary()
_watched: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()


def watch_server_name(context: ssl.SSLContext) -> None:
    """Have the name a client asks for (SNI) noted in its session; a callback the context has goes on working."""
    if context in _watched:
        return
    _watched.add(context)
    chained = context.sni_callback

    def note(sslobj: ssl.SSLObject, name: str | None, of: ssl.SSLContext) -> int | None:
        try:
            session = _shaking_hands.get(trio.lowlevel.current_task())
        except RuntimeError:  # the context serves others as well, and not in a task
            session = None
        if session is not None:
            session.servername = name
        # typeshed knows only names that were sent.
        return chained(sslobj, name, of) if chained is not None else None  # type: ignore[arg-type]

    context.sni_callback = note


async def handshake(conn: Connection) -> None:
    """Wrap the connection's stream in TLS (where it is not yet) and shake hands.

    Raises:
        EndSession: The handshake failed; nothing was written.
    """
    session, stream = conn.session, conn.stream
    if isinstance(stream, trio.SSLStream):
        watch_server_name(stream.context)
    else:
        context = conn.server.ssl_context
        assert context is not None
        stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    conn.arm("tls", conn.config.tls_handshake_timeout)
    task = trio.lowlevel.current_task()
    _shaking_hands[task] = session
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError as exc:
        conn.stats.tls_failures += 1
        cause = exc.__cause__ or "the client is gone"
        logger.warning("session=%s peer=%s TLS handshake failed: %s", session.id, session.remote_address, cause)
        raise EndSession("tls") from exc
    finally:
        del _shaking_hands[task]
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
