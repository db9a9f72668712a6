"""The TLS handshake of a connection, at once or after STARTTLS (RFC 3207)."""

from __future__ import annotations

import ssl
from typing import final

import trio

from trio_smtp.app.session import TLSInfo
from trio_smtp.dialogue.dialogue import Dialogue
from trio_smtp.dialogue.log import facts, logger
from trio_smtp.dialogue.steps import EndSession
from trio_smtp.net.ciphers import standard_name
from trio_smtp.net.server_names import hearing_server_name, note_server_names
from trio_smtp.net.tls_object import Handshake, improve, shaking_hands
from trio_smtp.tls import certificate_of

from .clock import FIRST_HANDSHAKE, Activity, Clock
from .wire import Wire

__all__ = ["TLS", "shake_hands"]


@final
class TLS:
    """What the handshakes of one server use.

    Attributes:
        context: For the next handshakes; None: no TLS.
    """

    __slots__ = ("context",)

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.context: ssl.SSLContext | None = context

    def use(self, context: ssl.SSLContext) -> None:
        """Use this context for the next handshakes."""
        self.context = context


async def shake_hands(wire: Wire, tls: TLS, clock: Clock, dialogue: Dialogue, activity: Activity) -> TLSInfo:
    """Wrap the wire's stream in TLS (where it is not yet) and shake hands.

    Args:
        wire: Speaks TLS afterwards.
        tls: The server's.
        clock: Holds the handshake to its time.
        dialogue: Notes the name that the client asks for.
        activity: FIRST_HANDSHAKE or HANDSHAKE.

    Returns:
        What was agreed on.

    Raises:
        EndSession: The handshake failed; nothing but the alert was written.
    """
    service, stream = dialogue.service, wire.stream
    if isinstance(stream, trio.SSLStream):
        note_server_names(stream.context)
        improve(stream.context)  # for those that come after this one
    else:
        assert tls.context is not None
        stream = trio.SSLStream(stream, tls.context, server_side=True, https_compatible=True)
    clock.arm_end(activity, service.config.tls_handshake_timeout)
    with hearing_server_name(dialogue.note_server_name), shaking_hands() as handshake:
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as exc:
            handshake.break_off(exc.__cause__)
    if handshake.failed:
        service.stats.tls_failures += 1
        _log_failure(dialogue, handshake, at_once=activity is FIRST_HANDSHAKE)
        raise EndSession("tls")
    # With TLS 1.3 the client spoke last, and its next octets are a command.
    wire.acknowledge()
    clock.await_client()
    info = _describe(stream)
    stats = service.stats
    stats.tls_handshakes += 1
    if stats.measures is not None:
        stats.measures.tls_versions[str(info.version)] += 1
    wire.replace(stream)
    return info


def _log_failure(dialogue: Dialogue, handshake: Handshake, *, at_once: bool) -> None:
    """Log a handshake that failed; a load balancer's health check, which connects and closes, is no fault.

    Args:
        dialogue: The session's.
        handshake: The handshake.
        at_once: TLS began with the connection.
    """
    session = dialogue.session
    if at_once and handshake.nothing_came:
        extra = facts(session, "closed before the TLS handshake")
        logger.info(
            "session=%s peer=%s closed before the TLS handshake", session.id, session.remote_address, extra=extra
        )
    else:
        why = handshake.error or "the client is gone"
        extra = facts(session, "TLS handshake failed")
        logger.warning(
            "session=%s peer=%s TLS handshake failed: %s", session.id, session.remote_address, why, extra=extra
        )


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
