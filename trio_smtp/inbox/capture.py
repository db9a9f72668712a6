"""The plugin that catches: every message, what was refused, and connections that broke."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

import attrs
import trio

from trio_smtp import (
    App,
    AuthContext,
    CallNext,
    CloseContext,
    DataContext,
    Envelope,
    Plugin,
    ReplyContext,
    Session,
    SMTPError,
    TransactionEndContext,
)
from trio_smtp.plugins.faults import Rules, faults

from .reading import headline_of, read_mail
from .store import Arrival, Headline, Mailbox, State, StorageError, StorageFull, Store, Summary
from .transcript import Transcript, recorder, shown_reply

__all__ = ["arrival_of", "capture"]

logger: logging.Logger = logging.getLogger(__name__)

_KEY = "trio_smtp.inbox"
#: So many messages are read and written at a time.
_MAX_WRITING = 40
#: Recipients of an envelope that are kept.
_MAX_RECIPIENTS = 10_000
#: How a connection may end without anything that is worth being shown.
_ENDS_WELL = frozenset({"quit", "drained", "cancelled", "refused"})


def capture(store: Store, rules: Rules, *, accept_any_user: bool = False) -> Plugin:
    """Catch every message of an App.

    A message that no other handler takes is accepted once it is committed. One that other handlers take is kept too,
    after they have accepted it. Use it before all other handlers.

    Args:
        store: Where to.
        rules: Failures; see `trio_smtp.plugins.faults`.
        accept_any_user: Authenticate every client, with whatever credentials.

    Returns:
        A plugin.
    """
    return _Capture(store, rules, accept_any_user=accept_any_user).install


def arrival_of(
    octets: bytes, envelope: dict[str, object], recipients: tuple[str, ...], *, username: str = "", created: float
) -> Arrival:
    """An accepted message, ready to be stored. Reading it may take long: call it in a thread.

    Args:
        octets: The message.
        envelope: What was said before it.
        recipients: Those of the envelope.
        username: Who has authenticated.
        created: Seconds since the epoch.
    """
    headline = headline_of(read_mail(octets), recipients, username)
    return Arrival(
        headline=headline, octets=octets, envelope=envelope, transcript=(), username=username, created=created
    )


@attrs.define(eq=False)
class _Talk:
    """What is known of one session."""

    transcript: Transcript = attrs.field(factory=Transcript)
    #: The first refusal that no stored message shows yet.
    refusal: str = ""
    #: The message of the transaction in progress, where it was refused.
    octets: bytes = b""
    #: The message of the transaction in progress, where it was stored.
    stored: str = ""
    #: Something was shown of this session.
    shown: bool = False


class _Capture:
    """The handlers.

    Args:
        store: Where to.
        rules: Failures.
        accept_any_user: Authenticate every client.
    """

    def __init__(self, store: Store, rules: Rules, *, accept_any_user: bool) -> None:
        self._store = store
        self._rules = rules
        self._accept_any_user = accept_any_user
        self._limiter = trio.CapacityLimiter(_MAX_WRITING)

    def install(self, app: App) -> None:
        app.on_reply(self._see_refusals)
        recorder(app, lambda session: _talk_of(session).transcript)
        app.on_data(self._watch)
        app.use(faults(self._rules))
        if self._accept_any_user:
            app.on_auth(_accept)
        app.on_data(self._take)
        app.on_transaction_end(self._end)
        app.on_close(self._close)

    async def _see_refusals(self, ctx: ReplyContext, call_next: CallNext) -> None:
        await call_next()
        talk = _talk_of(ctx.session)
        if ctx.reply.code >= 400 and not talk.refusal:
            talk.refusal = shown_reply(ctx)

    async def _watch(self, ctx: DataContext, call_next: CallNext) -> None:
        """Keep the octets of a message that is refused, by a rule or another handler."""
        try:
            await call_next()
        except SMTPError:
            talk = _talk_of(ctx.session)
            if not talk.octets:
                with suppress(SMTPError, trio.ClosedResourceError):
                    talk.octets = await _original(ctx)
            raise

    async def _take(self, ctx: DataContext, call_next: CallNext) -> None:
        session, envelope = ctx.session, ctx.envelope
        talk = _talk_of(session)
        talk.octets = await _original(ctx)
        await call_next()
        ours = not ctx.stream.finished
        if ours:
            await ctx.stream.discard()
        talk.transcript.add("client", f"({len(talk.octets):,} octets of a message)")
        try:
            summary = await self._run(session, envelope, talk.octets, talk)
        except StorageError as error:
            if ours:
                full = isinstance(error, StorageFull)
                ctx.reject(
                    "Insufficient system storage" if full else "The message cannot be stored",
                    452 if full else 451,
                    enhanced="4.3.1" if full else "4.3.0",
                )
            logger.error("a message that was delivered is not in the inbox: %s", error)
            return
        talk.stored, talk.octets, talk.refusal = summary.id, b"", ""
        if ours:
            ctx.reply = f"Stored as {summary.id}"

    async def _run(self, session: Session, envelope: Envelope, octets: bytes, talk: _Talk) -> Summary:
        """Store an accepted message; back when it is committed."""
        facts, recipients, username = _facts(session, envelope), _recipients(envelope), _username(session)
        lines, created = talk.transcript.lines, time.time()

        def store() -> Summary:
            arrival = arrival_of(octets, facts, recipients, username=username, created=created)
            return self._store.add(attrs.evolve(arrival, transcript=[line.to_json() for line in lines]))

        return await trio.to_thread.run_sync(store, limiter=self._limiter)

    async def _end(self, ctx: TransactionEndContext) -> None:
        talk = _talk_of(ctx.session)
        octets, stored = talk.octets, talk.stored
        talk.octets, talk.stored = b"", ""
        if stored:
            talk.shown = True
            with suppress(StorageError):
                self._store.set_transcript(stored, [line.to_json() for line in talk.transcript.lines])
        elif talk.refusal:
            await self._keep(ctx.session, ctx.envelope, "refused", talk.refusal, octets)
        elif ctx.reason == "lost":
            await self._keep(ctx.session, ctx.envelope, "broken", "the connection broke", octets)
        talk.transcript.end_transaction()

    async def _close(self, ctx: CloseContext) -> None:
        talk = _talk_of(ctx.session)
        if talk.refusal:
            await self._keep(ctx.session, Envelope(), "refused", talk.refusal, b"")
        elif not talk.shown and ctx.reason not in _ENDS_WELL and (len(talk.transcript) > 1 or ctx.reason == "tls"):
            # A client that only looks whether somebody is there says nothing.
            await self._keep(ctx.session, Envelope(), "broken", f"the connection ended: {ctx.reason}", b"")

    async def _keep(self, session: Session, envelope: Envelope, state: State, reply: str, octets: bytes) -> None:
        """Store what failed; where that fails too, the log has it."""
        talk = _talk_of(session)
        talk.refusal, talk.shown = "", True
        facts, recipients, username = _facts(session, envelope), _recipients(envelope), _username(session)
        transcript, created = [line.to_json() for line in talk.transcript.lines], time.time()

        def store() -> Summary:
            headline = (
                headline_of(read_mail(octets), recipients, username) if octets else _headline(facts, recipients, reply)
            )
            arrival = Arrival(
                headline=headline,
                octets=octets,
                envelope=facts,
                transcript=transcript,
                state=state,
                reply=reply,
                username=username,
                created=created,
            )
            return self._store.add(arrival)

        try:
            await trio.to_thread.run_sync(store, limiter=self._limiter)
        except StorageError as error:
            logger.error("what failed is not in the inbox: %s", error)


async def _accept(ctx: AuthContext) -> None:
    if not ctx.accepted:
        ctx.accept(ctx.credentials.username, authzid=getattr(ctx.credentials, "authzid", ""))


async def _original(ctx: DataContext) -> bytes:
    message = await ctx.spool()
    return b"".join([chunk async for chunk in message.original()])


def _talk_of(session: Session) -> _Talk:
    talk = session.data.get(_KEY)
    if not isinstance(talk, _Talk):
        talk = session.data[_KEY] = _Talk()
    return talk


def _username(session: Session) -> str:
    return session.user if isinstance(session.user, str) else ""


def _recipients(envelope: Envelope) -> tuple[str, ...]:
    return tuple(address.address for address in envelope.rcpt_to[:_MAX_RECIPIENTS])


def _facts(session: Session, envelope: Envelope) -> dict[str, object]:
    """The envelope, and what is known of the client, as the API shows them."""
    tls = session.tls
    sender = envelope.mail_from
    return {
        "Sender": "" if sender is None else sender.address,
        "SenderParameters": {} if sender is None else _parameters(sender.args),
        "Recipients": [
            {"Address": address.address, "Parameters": _parameters(address.args)}
            for address in envelope.rcpt_to[:_MAX_RECIPIENTS]
        ],
        "Session": session.id,
        "Client": {
            "Address": session.remote_address or "",
            "Port": session.remote_port or 0,
            "Name": session.client_hostname,
            "Helo": session.host_name_appears_as or "",
        },
        "Protocol": session.transmission_type,
        "TLS": None if tls is None else {"Version": tls.version, "Cipher": tls.name, "ServerName": session.servername},
        "Auth": {"Mechanism": session.auth_mechanism, "Username": _username(session)}
        if session.authenticated
        else None,
    }


def _parameters(args: object) -> dict[str, object]:
    return {str(name): value if value is True else str(value) for name, value in dict(args).items()}  # type: ignore[call-overload]


def _headline(facts: dict[str, object], recipients: tuple[str, ...], reply: str) -> Headline:
    """Of something without a message."""
    sender = str(facts["Sender"])
    return Headline(
        sender=Mailbox("", sender) if sender else None,
        to=tuple(Mailbox("", address) for address in recipients),
        snippet=reply[:250],
        text="\n".join((sender, *recipients, reply)),
    )
