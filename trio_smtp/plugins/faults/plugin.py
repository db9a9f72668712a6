"""The plugin: shows each event of a session to the rules, and does what they say."""

from __future__ import annotations

import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import trio

from trio_smtp import (
    Address,
    App,
    AuthContext,
    CallNext,
    CommandContext,
    ConnectContext,
    DataContext,
    DataStartContext,
    HeloContext,
    MailFromContext,
    Plugin,
    RcptToContext,
    ReplyContext,
    Running,
    Session,
    SMTPError,
)

from .acts import (
    Act,
    BadCertificate,
    CloseAfter,
    Delay,
    Disconnect,
    Garbage,
    NoStartTLS,
    Place,
    Refusing,
    Reset,
    Throttle,
    Truncate,
)
from .certificates import BadCertificates, choose_certificates
from .facts import Facts
from .notes import Notes
from .rules import AnyRule, Rules

if TYPE_CHECKING:
    import trustme

__all__ = ["GARBAGE", "faults"]

#: What `Garbage` sends.
GARBAGE = b"\x00\xff no reply at all \xfe\r\n"

#: What may be done to a STARTTLS command.
_AT_STARTTLS = (Refusing, Delay, Disconnect, Reset, Throttle, Garbage, Truncate)

#: The session whose STARTTLS the running task has answered.
_shaking: ContextVar[Session | None] = ContextVar("trio_smtp.plugins.faults", default=None)


class _Context(Protocol):
    """What is used of all contexts."""

    async def flush(self) -> None: ...

    def abort(self, *, reset: bool = True) -> None: ...


def faults(rules: Rules | Iterable[AnyRule], *, ca: trustme.CA | None = None) -> Plugin:
    """Failures by rules, for tests of programs that send mail.

    Use it before all other handlers and plugins: what these refuse is not seen by the rules otherwise.

    Args:
        rules: A live collection, or rules for a new one.
        ca: Signs the certificates of `BadCertificate`, but self-signed ones.

    Returns:
        A plugin.

    Raises:
        RuleError: A rule is malformed.

    Example:
        >>> rules = Rules(["rcpt to=bob@* fail 451 times=1"])
        >>> app.use(faults(rules))
        >>> rules.disconnect("end", times=1)
    """
    live = rules if isinstance(rules, Rules) else Rules(rules)

    def install(app: App) -> None:
        _Faults(live, BadCertificates(ca)).install(app)

    return install


class _Faults:
    """One App's use of a collection of rules.

    Args:
        rules: The rules.
        certificates: Makes certificates with a fault.
    """

    def __init__(self, rules: Rules, certificates: BadCertificates) -> None:
        self._rules = rules
        self._certificates = certificates
        self._notes: weakref.WeakKeyDictionary[Session, Notes] = weakref.WeakKeyDictionary()
        self._running: Running | None = None
        # What is undone when serving ends, and the contexts that ask this plugin.
        self._stack: ExitStack = ExitStack()
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()

    def install(self, app: App) -> None:
        """Register the handlers."""
        app.lifespan(self._live)
        app.on_command(self._command)
        app.on_reply(self._reply)
        app.on_connect(self._connect)
        app.on_helo(self._helo)
        app.on_auth(self._auth, offers=False)
        app.on_mail_from(self._mail)
        app.on_rcpt_to(self._rcpt)
        app.on_data_start(self._data_start)
        app.on_data(self._data)

    async def _live(self, running: Running) -> AsyncIterator[None]:
        self._running = running
        with ExitStack() as self._stack:
            self._stack.callback(self._contexts.clear)
            self._find_contexts()
            yield

    def _find_contexts(self) -> None:
        """Have the servers' contexts ask this plugin; some come later, by `reload_tls` or another server."""
        for server in self._running.servers if self._running is not None else ():
            context = server.ssl_context
            if context is not None and context not in self._contexts:
                self._contexts.add(context)
                self._stack.enter_context(choose_certificates(context, self._choose))

    def _choose(self) -> ssl.SSLContext | None:
        """The context of a handshake, called inside of it; None: the server's."""
        try:
            now = trio.current_time()
        except RuntimeError:
            return None  # the context serves other programs too
        session = _shaking.get()
        facts = Facts(session.remote_address if session is not None else None)
        for rule in self._rules.take("tls", facts, now, BadCertificate):
            assert isinstance(rule.act, BadCertificate)
            return self._certificates.context(rule.act.fault)
        return None

    # Events

    def _of(self, session: Session) -> Notes:
        return self._notes.setdefault(session, Notes())

    def _take(self, at: Place, session: Session, *acts: type[Act], to: Iterable[Address] | None = None) -> list[Act]:
        """What the rules have to say of an event."""
        if not self._rules:
            return []
        envelope, notes = session.envelope, self._of(session)
        facts = Facts(
            session.remote_address,
            None if envelope.mail_from is None else envelope.mail_from.address,
            tuple(each.address for each in (envelope.rcpt_to if to is None else to)),
            notes.user if session.authenticated or at == "auth" else None,
        )
        return [rule.act for rule in self._rules.take(at, facts, trio.current_time(), *acts)]

    async def _do(self, acts: Iterable[Act], at: Place, session: Session, context: _Context) -> None:
        """Do now what can be done before the reply, and note the rest."""
        for act in acts:
            # The act must neither delay nor drop the replies to commands that were pipelined before this one.
            await context.flush()
            if isinstance(act, Delay):
                await self._sleep(act.seconds)
            elif isinstance(act, Refusing):
                raise _refusal(act)
            elif isinstance(act, Reset) or (isinstance(act, Disconnect) and act.before_reply):
                context.abort(reset=isinstance(act, Reset))
            else:
                self._of(session).mark(at, act)

    async def _sleep(self, seconds: float) -> None:
        """Sleep; ends at once when a server drains."""
        if seconds <= 0:
            return
        servers = self._running.servers if self._running is not None else ()
        async with trio.open_nursery() as nursery:

            async def end_at_drain(wait: Callable[[], Awaitable[None]]) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            for server in servers:
                nursery.start_soon(end_at_drain, server.wait_draining)
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()

    async def _command(self, ctx: CommandContext) -> None:
        session = ctx.session
        if ctx.verb == "STARTTLS":
            if self._of(session).hides_starttls:
                ctx.reject("Command not implemented", 502)
            _shaking.set(session)
            self._find_contexts()
            await self._do(self._take("tls", session, *_AT_STARTTLS), "tls", session, ctx)
        elif ctx.verb == "QUIT":
            await self._do(self._take("quit", session), "quit", session, ctx)

    async def _connect(self, ctx: ConnectContext) -> None:
        self._find_contexts()
        await self._do(self._take("connect", ctx.session), "connect", ctx.session, ctx)

    async def _helo(self, ctx: HeloContext) -> None:
        session = ctx.session
        hidden = False
        if "STARTTLS" in ctx.extensions:
            hidden = bool(self._take("tls", session, NoStartTLS))
            if hidden:
                ctx.extensions.remove("STARTTLS")
        if hidden or self._notes.get(session) is not None:
            self._of(session).hide_starttls(hidden)
        await self._do(self._take("helo", session), "helo", session, ctx)

    async def _auth(self, ctx: AuthContext) -> None:
        username: object = getattr(ctx.credentials, "username", None)  # a mechanism of the program's own may have none
        if isinstance(username, str):
            self._of(ctx.session).name(username)
        await self._do(self._take("auth", ctx.session), "auth", ctx.session, ctx)

    async def _mail(self, ctx: MailFromContext) -> None:
        await self._do(self._take("mail", ctx.session), "mail", ctx.session, ctx)

    async def _rcpt(self, ctx: RcptToContext) -> None:
        await self._do(self._take("rcpt", ctx.session, to=[ctx.address]), "rcpt", ctx.session, ctx)

    async def _data_start(self, ctx: DataStartContext) -> None:
        await self._do(self._take("data", ctx.session), "data", ctx.session, ctx)

    async def _data(self, ctx: DataContext, call_next: CallNext) -> None:
        await self._begin_body(ctx)
        if not self._rules.has("end"):
            await call_next()
            return
        await ctx.spool()  # only a message that has come is an event
        if ctx.session.lmtp:
            await self._end_for_each(ctx, call_next)
        else:
            await self._end(ctx, call_next)

    async def _begin_body(self, ctx: DataContext) -> None:
        slowest: float | None = None
        most: int | None = None
        for act in self._take("body", ctx.session):
            if isinstance(act, Throttle):
                slowest = min(slowest or act.octets_per_second, act.octets_per_second)
            elif isinstance(act, CloseAfter):
                most = act.octets
            else:
                await self._do([act], "body", ctx.session, ctx)
        if slowest is None and most is None:
            return
        if slowest is not None:
            began, rate = trio.current_time(), slowest

            async def wait() -> None:
                due = began + ctx_stream.byte_length / rate
                await self._sleep(due - trio.current_time())

            ctx_stream = ctx.stream
            ctx.stream.before_receive(wait)
        if most is not None:
            left = most

            def count(chunk: bytes) -> None:
                nonlocal left
                left -= len(chunk)
                if left < 0:
                    ctx.abort(reset=False)

            ctx.stream.tap(count)
        await ctx.spool()  # whether the handlers behind read it or not

    async def _end(self, ctx: DataContext, call_next: CallNext) -> None:
        session, notes, seconds = ctx.session, self._of(ctx.session), 0.0
        for act in self._take("end", session):
            if isinstance(act, Delay):
                seconds += act.seconds
            elif isinstance(act, Refusing):
                await self._sleep(seconds)
                raise _refusal(act)
            else:
                notes.mark("end", act)
        await call_next()
        await self._sleep(seconds)

    async def _end_for_each(self, ctx: DataContext, call_next: CallNext) -> None:
        """LMTP: each recipient has a reply, and is an event, of its own."""
        session, notes, seconds = ctx.session, self._of(ctx.session), 0.0
        refused: list[Address] = []
        for i, recipient in enumerate(ctx.recipients):
            for act in self._take("end", session, to=[recipient]):
                if isinstance(act, Delay):
                    seconds += act.seconds
                elif isinstance(act, Refusing):
                    ctx.reject_recipient(recipient, act.text, act.code, enhanced=act.enhanced)
                    refused.append(recipient)
                else:
                    notes.mark("end", act, skip=i)
        ctx.envelope.rcpt_to[:] = [each for each in ctx.envelope.rcpt_to if not any(each is one for one in refused)]
        if len(refused) == len(ctx.recipients):
            await ctx.stream.discard()
        else:
            await call_next()
        await self._sleep(seconds)

    # Replies

    async def _reply(self, ctx: ReplyContext) -> None:
        notes = self._notes.get(ctx.session)
        if notes is None:
            return
        if notes.silent:
            ctx.send(b"")
            return
        for act in notes.due(ctx.verb):
            await self._spoil(ctx, act, notes)

    async def _spoil(self, ctx: ReplyContext, act: Act, notes: Notes) -> None:
        if isinstance(act, Throttle):
            await self._sleep(len(ctx.encoded) / act.octets_per_second)
        elif isinstance(act, Garbage):
            ctx.send(GARBAGE)
        elif isinstance(act, Truncate):
            ctx.send(ctx.encoded[: len(ctx.encoded) // 2])
            notes.fall_silent()
        elif isinstance(act, Disconnect) and not act.before_reply:
            ctx.close_after()
        elif isinstance(act, Disconnect) and ctx.session.lmtp:
            ctx.send(b"")  # the replies for the recipients before leave
            ctx.close_after()
        else:
            ctx.abort(reset=isinstance(act, Reset))


def _refusal(act: Refusing) -> SMTPError:
    return SMTPError(act.text, act.code, act.enhanced)
