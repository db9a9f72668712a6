"""A plugin that passes mail on to another server while it comes in: what `proxy` and `lmtp` share.

Each command goes on when the client says it, and is answered with what the next server answers; so does the message.
Nothing of it is kept here: the client is read as fast as the next server takes what it sends.

The handlers are middlewares that let the rest of the chain decide first. What the next server has been told may still
differ from what the client was answered: another handler may refuse later, rewrite an address, or change the recipients
of a message. Then the transaction there is given up and begun anew with what holds now.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal
from urllib.parse import urlsplit

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
from trio_smtp.client import Client, Options, Pool, Timeouts

from ._announcing import Announce, forward, identity_of, introduce, proxy_header
from ._passing import Passing, Prepare
from ._trace import recipients_of
from ._verdicts import passed_on, refusal, shown, worst

__all__ = ["Mixed", "OnRefused", "Relay", "RelayOptions", "RelayStats", "Settings", "make_relay"]

#: What a client of SMTP, which has one reply for all recipients, is told where one has the message and another has not.
Mixed = Literal["split", "accept", "retry"]
#: Awaited with the recipients that have not got a message that was accepted, and why.
OnRefused = Callable[[Mapping[Address, Reply], DataContext], Awaitable[None]]

#: Each below `Config.handler_timeout`, so that the client is told what happened.
_TIMEOUTS = Timeouts(
    connect=30, tls=30, greeting=60, command=60, mail=120, rcpt=120, data=120, block=120, end=300, quit=2
)
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


class RelayOptions(Options, total=False):
    """What `proxy` and `lmtp` take besides the URL; all of it may be left out.

    What `trio_smtp.client.connect` takes may be given too, and means the same. Only `timeouts` are shorter: 30 seconds
    to connect, 120 for an answer, 300 for the answer to a message. Keep them below `Config.handler_timeout`, which ends
    the client's session.

    Attributes:
        announce: How the next server is told of the client. ``"xforward"``: for its log, where it offers XFORWARD.
            ``"xclient"``: instead of our address; it must offer XCLIENT. ``"proxy"``: by a header of the PROXY
            protocol, version 1, which it must expect. With the last two each client has a connection of its own. None,
            the default: not at all.
        received: Put a Received field in front of the message (default: True). Without it nothing ends a loop.
        patience: Seconds for everything up to the reply to MAIL, the wait for a free connection included; then 451
            (default: 120).
        size: Connections to the next server (default: 100). Each transaction has one from MAIL to its end.
        idle: A connection that was not used for so many seconds is not used again (default: 30).
        max_messages: A connection that had so many transactions is closed (default: 100).
    """

    announce: Announce | None
    received: bool
    patience: float
    size: int
    idle: float
    max_messages: int


@attrs.frozen(kw_only=True)
class Settings:
    """How mail is passed on; what each means stands at `RelayOptions` and `lmtp`.

    Attributes:
        url: The next server.
        name: Of the delivery, for the log.
        protocol: What the next server speaks.
        given: What the program has chosen.
        mixed: See `lmtp`.
        on_refused: See there.
    """

    url: str = attrs.field(repr=False)
    name: str
    protocol: Literal["smtp", "lmtp"]
    given: RelayOptions = attrs.field(repr=False)
    mixed: Mixed = "accept"
    on_refused: OnRefused | None = None

    @property
    def announce(self) -> Announce | None:
        """See `RelayOptions`."""
        return self.given.get("announce")

    @property
    def received(self) -> bool:
        """See `RelayOptions`."""
        return self.given.get("received", True)

    @property
    def patience(self) -> float:
        """See `RelayOptions`."""
        return self.given.get("patience", 120)

    @property
    def place(self) -> str:
        """The next server, without the user and the password of its URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def own_session(self) -> bool:
        """A session with the next server speaks for one client alone."""
        return self.announce in ("xclient", "proxy")

    def make_pool(self, session: Session | None = None) -> Pool:
        """A pool of sessions; for one client where it is given."""
        given: dict[str, Any] = {"timeouts": _TIMEOUTS, "size": 100, **self.given}
        for name in ("announce", "received", "patience"):
            given.pop(name, None)
        if session is not None:
            given["size"] = 1
            if self.announce == "proxy":
                given["preface"] = proxy_header(session)
        return Pool(self.url, **given)


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
    """Make a Relay.

    Raises:
        ValueError: A setting is not allowed; the text names it.
        TypeError: There is no such setting.
    """
    unknown = sorted(settings.given.keys() - RelayOptions.__optional_keys__)
    if unknown:
        raise TypeError(
            f"{settings.name} takes no {unknown[0]!r}; it takes {', '.join(sorted(RelayOptions.__optional_keys__))}"
        )
    protocol = settings.protocol
    scheme = settings.url.partition("://")[0]
    schemes = ("smtp", "smtps", "smtp+unix") if protocol == "smtp" else ("lmtp", "lmtp+unix")
    if scheme not in schemes:
        raise ValueError(f"url: {settings.name} takes {', '.join(f'{each}://' for each in schemes)}")
    if settings.announce not in (None, "xclient", "xforward", "proxy"):
        raise ValueError(f"announce must be 'xclient', 'xforward', 'proxy' or None, not {settings.announce!r}")
    if settings.mixed not in ("split", "accept", "retry"):
        raise ValueError(f"mixed must be 'split', 'accept' or 'retry', not {settings.mixed!r}")
    if not settings.patience > 0:
        raise ValueError(f"patience must be a number of seconds above 0, not {settings.patience!r}")
    if settings.announce == "xclient" and ("@" in urlsplit(settings.url).netloc or settings.given.get("auth")):
        raise ValueError("announce='xclient' begins the session anew: neither auth nor a user in the URL outlives it")
    if "preface" in settings.given:
        raise ValueError("preface: announce='proxy' makes it")
    settings.make_pool()  # raises here what is wrong with the rest
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
