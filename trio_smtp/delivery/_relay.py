"""A plugin that passes mail on to another server while it comes in: what `proxy` and `lmtp` share.

Each command goes on when the client says it, and is answered with what the next server answers; so does the message.
Nothing of it is kept here: the client is read as fast as the next server takes what it sends.

The handlers are middlewares that let the rest of the chain decide first. What the next server has been told may still
differ from what the client was answered: another handler may refuse later, rewrite an address, or change the recipients
of a message. Then the transaction there is given up and begun anew with what holds now.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import attrs

from trio_smtp import (
    Address,
    App,
    CallNext,
    CloseContext,
    DataContext,
    DataStartContext,
    Envelope,
    MailFromContext,
    RcptToContext,
    Reply,
    Running,
    Session,
    SMTPError,
    TransactionEndContext,
)
from trio_smtp.client import Client, Pool

from ._announcing import forward, identity_of, introduce
from ._passing import Passing, Prepare
from ._settings import Settings
from ._trace import recipients_of
from ._verdicts import passed_on, refusal, shown, worst

__all__ = ["Relay", "RelayStats", "make_relay"]

_ONE_AT_A_TIME = ("One recipient at a time", 452, "4.5.3")
_NOT_ALL = Reply(451, "Not all recipients could be served", "4.3.0")


@attrs.define(eq=False)
class RelayStats:
    """What a relay has done since it was made.

    Attributes:
        accepted: Messages that the next server has taken, for one recipient at least.
        refused: Messages that it has refused when their octets had come.
        failed: Transactions in which the next server could not be used, or was lost.
        uncertain: Those among them whose answer was lost after the end of the message. The client was told 451: the
            next server may get such a message twice.
    """

    accepted: int = 0
    refused: int = 0
    failed: int = 0
    uncertain: int = 0


class Relay:
    """A plugin that passes mail on, made by `proxy` or `lmtp`.

    Attributes:
        stats: What it has done.
    """

    def __init__(self, settings: Settings) -> None:
        self.stats: RelayStats = RelayStats()
        self._settings = settings

    def __call__(self, app: App) -> None:
        """Register the handlers with an App."""
        handlers = _Handlers(self._settings, self.stats)
        app.lifespan(handlers.lifespan)
        app.on_mail_from(handlers.mail)
        app.on_rcpt_to(handlers.recipient)
        app.on_data_start(handlers.start)
        app.on_data(handlers.take)
        app.on_transaction_end(handlers.end)
        app.on_close(handlers.leave)


def make_relay(settings: Settings) -> Relay:
    """Make a Relay; see `Settings.check` for what is raised."""
    settings.check()
    return Relay(settings)


class _Handlers:
    """The handlers of one App."""

    def __init__(self, settings: Settings, stats: RelayStats) -> None:
        self._settings = settings
        self._stats = stats
        self._pool: Pool | None = None
        #: Where the transaction is kept in `Envelope.data` and `Session.data`: an App may have several relays.
        self._key = f"trio_smtp.delivery.{settings.name} {id(self)}"
        self._logger = logging.getLogger(f"trio_smtp.delivery.{settings.name}")

    async def lifespan(self, running: Running) -> AsyncIterator[None]:
        """Keep the sessions with the next server as long as the App is served."""
        async with self._settings.make_pool() as self._pool:
            yield

    # The transaction at the next server

    def _report(self, session: Session, what: str, uncertain: bool) -> None:
        self._stats.failed += 1
        self._stats.uncertain += uncertain
        self._logger.warning("session=%s %s: %s", session.id, self._settings.place, what)

    async def _begin(self, session: Session, envelope: Envelope) -> tuple[Passing, Reply]:
        """Begin a transaction; gives it and the reply to MAIL."""
        pool, prepare = await self._session_for(session)
        report = partial(self._report, session)
        passing = Passing(session, report, patience=self._settings.patience, prepare=prepare)
        # Where the MAIL is refused after this, no transaction of the client's ends: the session knows of it.
        session.data[self._key] = envelope.data[self._key] = passing
        return passing, await passing.begin(pool, envelope)

    async def _session_for(self, session: Session) -> tuple[Pool, Prepare]:
        """The pool that serves a client, and what is said before MAIL."""
        if not self._settings.own_session:
            assert self._pool is not None
            return self._pool, forward if self._settings.announce == "xforward" else _say_nothing
        key, identity = f"{self._key} own", identity_of(session)
        own = session.data.get(key)
        if not isinstance(own, _OwnPool) or own.identity != identity:
            if isinstance(own, _OwnPool):
                await own.pool.aclose()
            own = session.data[key] = _OwnPool(identity, self._settings.make_pool(session))
        return own.pool, own.prepare if self._settings.announce == "xclient" else _say_nothing

    def _known(self, envelope: Envelope) -> Passing | None:
        passing = envelope.data.get(self._key)
        return passing if isinstance(passing, Passing) else None

    async def _close(self, passing: object) -> None:
        if isinstance(passing, Passing):
            await passing.close()

    async def _aligned(self, ctx: DataStartContext | DataContext, recipients: Sequence[Address]) -> Passing:
        """The transaction with this sender and these recipients: the one there is, or another in its place."""
        envelope, passing = ctx.envelope, self._known(ctx.envelope)
        if passing is not None and passing.sender is envelope.mail_from and passing.recipients == [*recipients]:
            return passing
        await self._close(passing)
        passing, _ = await self._begin(ctx.session, envelope)
        for recipient in recipients:
            try:
                await passing.recipient(recipient)
            except SMTPError as error:
                if not (isinstance(ctx, DataContext) and ctx.session.lmtp and recipient in ctx.recipients):
                    raise
                ctx.reject_recipient(recipient, error.reply.lines, error.code, enhanced=error.enhanced)
        return passing

    # The handlers

    async def mail(self, ctx: MailFromContext, call_next: CallNext) -> None:
        """MAIL."""
        await self._close(ctx.session.data.pop(self._key, None))
        await call_next()
        _, reply = await self._begin(ctx.session, ctx.envelope)
        ctx.reply = passed_on(reply, ctx.reply)

    async def recipient(self, ctx: RcptToContext, call_next: CallNext) -> None:
        """RCPT."""
        one = self._settings.mixed == "split" and not ctx.session.lmtp
        if one and ctx.envelope.rcpt_to:
            message, code, enhanced = _ONE_AT_A_TIME
            ctx.reject(message, code, enhanced=enhanced)
        await call_next()
        passing = self._known(ctx.envelope)
        if passing is None or passing.started:  # other handlers have taken MAIL for themselves, or refused a DATA
            await self._close(passing)
            passing, _ = await self._begin(ctx.session, ctx.envelope)
        ctx.reply = passed_on(await passing.recipient(ctx.address), ctx.reply)

    async def start(self, ctx: DataStartContext, call_next: CallNext) -> None:
        """DATA: the client's 354 comes after that of the next server."""
        await call_next()
        await (await self._aligned(ctx, ctx.envelope.rcpt_to)).start()

    async def take(self, ctx: DataContext) -> None:
        """The message."""
        recipients = recipients_of(ctx)
        passing = await self._aligned(ctx, recipients) if recipients else self._known(ctx.envelope)
        if not recipients or passing is None or not passing.recipients:
            await self._close(passing)
            await ctx.stream.discard()
            return
        with ctx.delivering(self._settings.name):
            try:
                await passing.start()
                replies = await passing.pass_on(ctx, received=self._settings.received)
            finally:
                await passing.close()
            await self._conclude(ctx, passing.recipients, replies)

    async def end(self, ctx: TransactionEndContext) -> None:
        """A transaction has ended."""
        await self._close(self._known(ctx.envelope))
        ctx.session.data.pop(self._key, None)

    async def leave(self, ctx: CloseContext) -> None:
        """A session has ended."""
        await self._close(ctx.session.data.pop(self._key, None))
        own = ctx.session.data.pop(f"{self._key} own", None)
        if isinstance(own, _OwnPool):
            await own.pool.aclose()

    # The verdict

    async def _conclude(self, ctx: DataContext, recipients: Sequence[Address], replies: Sequence[Reply]) -> None:
        """Tell the client what the next server has said to the message."""
        each = replies if self._settings.protocol == "lmtp" else [*replies] * len(recipients)
        verdicts = dict(zip(recipients, each, strict=True))
        refused = {recipient: reply for recipient, reply in verdicts.items() if reply.code >= 400}
        taken = next((reply for reply in verdicts.values() if reply.code < 400), None)
        if ctx.session.lmtp:
            for recipient in ctx.recipients:
                if recipient in refused:
                    error = refusal(refused[recipient])
                    ctx.reject_recipient(recipient, error.reply.lines, error.code, enhanced=error.enhanced)
        if taken is None:
            self._stats.refused += 1
            raise refusal(worst(refused.values()))
        self._stats.accepted += 1
        self._logger.info("session=%s %s: %s", ctx.session.id, self._settings.place, shown(taken))
        ctx.reply = passed_on(taken, ctx.reply)
        # Those whose verdict the client is not told.
        untold = {one: reply for one, reply in refused.items() if one not in ctx.recipient_replies}
        if not untold:
            return
        for recipient, reply in untold.items():
            self._logger.warning(
                "session=%s %s: <%s> has not got the message: %s",
                ctx.session.id,
                self._settings.place,
                recipient,
                shown(reply),
            )
        if self._settings.mixed == "retry" and not ctx.session.lmtp:
            raise refusal(_NOT_ALL)
        await self._tell(untold, ctx)

    async def _tell(self, untold: Mapping[Address, Reply], ctx: DataContext) -> None:
        """Call `on_refused`; whatever it raises, some recipient has the message, and the 250 stands."""
        if self._settings.on_refused is not None:
            try:
                await self._settings.on_refused(untold, ctx)
            except Exception:
                self._logger.exception("session=%s on_refused failed", ctx.session.id)


@attrs.define(eq=False)
class _OwnPool:
    """The session with the next server that speaks for one client.

    Attributes:
        identity: Of the client.
        pool: Of one session.
        introduced: The session that was told of the client.
    """

    identity: tuple[object, ...]
    pool: Pool
    introduced: Client | None = None

    async def prepare(self, client: Client, session: Session) -> None:
        """Say XCLIENT, once on each session: some servers believe the first one alone."""
        if client is not self.introduced:
            await introduce(client, session)
            self.introduced = client


async def _say_nothing(client: Client, session: Session) -> None:
    """The next server is not told of the client, or is told before the greeting."""
