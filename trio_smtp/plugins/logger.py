"""A line for each phase of each session on a logger of one's choice."""

from __future__ import annotations

import logging
from contextlib import suppress

import trio

from trio_smtp import (
    App,
    CallNext,
    CloseContext,
    ConnectContext,
    DataContext,
    HeloContext,
    MailFromContext,
    Plugin,
    RcptToContext,
    Reply,
    SecureContext,
    Session,
    SMTPError,
)

__all__ = ["logger"]

_Context = ConnectContext | SecureContext | HeloContext | MailFromContext | RcptToContext | DataContext
#: So many of a message's recipients are logged by name.
_RECIPIENTS_SHOWN = 10


def logger(log: logging.Logger | None = None, *, level: int = logging.INFO) -> Plugin:
    """Log connections, TLS handshakes, HELO, MAIL, RCPT, messages and closes, each with its reply.

    Every line begins with the session's id. What the client said is quoted, so that nothing of it can pass for a line
    of its own; credentials are not logged, MAIL tells who is authenticated by which mechanism. Install it first: it
    sees the refusals of the handlers that were registered after it.

    There is no line for AUTH, VRFY and EXPN: a handler for one of them would switch the command on.

    Args:
        log: Where to; None is ``logging.getLogger("trio_smtp.plugins.logger")``.
        level: Of all lines, such as `logging.DEBUG`.

    Returns:
        A plugin.

    Raises:
        ValueError: `log` is no logger, or `level` is no int.

    Example:
        >>> app.use(logger(logging.getLogger("mail")))
    """
    target = logging.getLogger(__name__) if log is None else log
    if not isinstance(target, logging.Logger):
        raise ValueError(f"log must be a logging.Logger or None, not {log!r}")
    if not isinstance(level, int):
        raise ValueError(f"level must be an int such as logging.INFO, not {level!r}")

    def install(app: App) -> None:
        lines = _Lines(target, level)
        app.on_connect(lines.connect)
        app.on_secure(lines.secure)
        app.on_helo(lines.helo)
        app.on_mail_from(lines.mail_from)
        app.on_rcpt_to(lines.rcpt_to)
        app.on_data(lines.data)
        app.on_close(lines.close)

    return install


class _Lines:
    """The handlers: middleware where a reply is to be seen on the way back."""

    def __init__(self, log: logging.Logger, level: int) -> None:
        self._log = log
        self._level = level

    async def connect(self, ctx: ConnectContext, call_next: CallNext) -> None:
        await self._line(ctx, call_next, f"connect from {_peer(ctx.session)}")

    async def secure(self, ctx: SecureContext, call_next: CallNext) -> None:
        tls = ctx.session.tls
        await self._line(ctx, call_next, f"{tls.version} {tls.standard_name}" if tls is not None else "TLS")

    async def helo(self, ctx: HeloContext, call_next: CallNext) -> None:
        await self._line(ctx, call_next, f"{ctx.session.opening_command} {ctx.domain!a}")

    async def mail_from(self, ctx: MailFromContext, call_next: CallNext) -> None:
        session = ctx.session
        # Only a string is logged: another object that an application keeps as the user may hold secrets.
        name = f" as {session.user!a}" if isinstance(session.user, str) else ""
        who = f", authenticated by {session.auth_mechanism}{name}" if session.authenticated else ""
        await self._line(ctx, call_next, f"MAIL {ctx.address.address!a}{who}")

    async def rcpt_to(self, ctx: RcptToContext, call_next: CallNext) -> None:
        await self._line(ctx, call_next, f"RCPT {ctx.address.address!a}")

    async def data(self, ctx: DataContext, call_next: CallNext) -> None:
        envelope = ctx.envelope
        sender = envelope.mail_from.address if envelope.mail_from is not None else ""
        recipients = ", ".join(f"{address.address!a}" for address in envelope.rcpt_to[:_RECIPIENTS_SHOWN])
        more = len(envelope.rcpt_to) - _RECIPIENTS_SHOWN
        if more > 0:
            recipients += f" and {more} more"
        await self._line(ctx, call_next, f"message from {sender!a} to {recipients}")

    async def close(self, ctx: CloseContext) -> None:
        session = ctx.session
        what = f"close ({ctx.reason}), transactions: {session.transaction}"
        self._write(session, what)

    async def _line(self, ctx: _Context, call_next: CallNext, what: str) -> None:
        begin = trio.current_time()
        try:
            await call_next()
        except SMTPError as refusal:
            outcome = _shown(refusal.reply)
            raise
        except Exception as error:
            # The server logs the traceback.
            outcome = type(error).__name__
            raise
        except BaseException:
            outcome = "cancelled"
            raise
        else:
            outcome = _shown(ctx.reply)
        finally:
            if isinstance(ctx, DataContext):
                what += f", {ctx.stream.byte_length} octets in {trio.current_time() - begin:.3f} s"
            self._write(ctx.session, f"{what} -> {outcome}")

    def _write(self, session: Session, what: str) -> None:
        # A handler of the program's logger may have to open a file: without descriptors the line is lost, and the
        # message that has just been stored is still answered 250.
        with suppress(OSError, ImportError):
            self._log.log(self._level, "session=%s %s", session.id, what)


def _shown(reply: Reply) -> str:
    # Only the first line of the text: each further one would be a line of the log.
    return " ".join(filter(None, (str(reply.code), reply.enhanced, reply.lines[0])))


def _peer(session: Session) -> str:
    if session.remote_address is None:
        return "a local stream"
    return f"[{session.remote_address}]:{session.remote_port}"
