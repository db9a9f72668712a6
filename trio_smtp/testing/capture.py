"""The App of a server for tests: takes every message, notes what is said, and fails as it was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from trio_smtp import (
    App,
    AuthContext,
    CallNext,
    CloseContext,
    CommandContext,
    ConnectContext,
    CramMD5Credentials,
    Credentials,
    DataContext,
    HeloContext,
    OAuthCredentials,
    PlainCredentials,
    ReplyContext,
    SecureContext,
    Session,
)
from trio_smtp.plugins.faults import Rules, faults

from .captured import CapturedEnvelope, CapturedMessage, CapturedSession

if TYPE_CHECKING:
    import trustme

__all__ = ["Auth", "capture_app"]

#: Who may log in: ``"any"`` credentials, those of a mapping of users to passwords, or nobody (AUTH is not offered).
Auth = Mapping[str, str] | Literal["any"] | None

Begin = Callable[[CapturedSession], int]
Store = Callable[[CapturedMessage, int], None]


def capture_app(begin: Begin, store: Store, rules: Rules, auth: Auth, ca: trustme.CA | None) -> App:
    """Make the App.

    Args:
        begin: Called with each new session; returns the generation of its messages.
        store: Called with each message and the generation of its session, before the client gets its reply.
        rules: Failures.
        auth: Who may log in.
        ca: Signs the certificates of failures.
    """
    app, capture = App(), _Capture(begin, store, auth)
    app.on_connect(capture.connect)
    app.on_command(capture.command)
    app.on_data(capture.count)
    app.use(faults(rules, ca=ca))
    app.on_secure(capture.secure)
    app.on_helo(capture.helo)
    if auth is not None:
        app.on_auth(capture.authenticate)
    app.on_data(capture.take)
    app.on_reply(capture.reply)  # behind the failures: what is sent in a reply's place is seen
    app.on_close(capture.close)
    return app


class _Capture:
    def __init__(self, begin: Begin, store: Store, auth: Auth) -> None:
        self._begin = begin
        self._store = store
        self._auth = auth
        self._sessions: WeakKeyDictionary[Session, tuple[CapturedSession, int]] = WeakKeyDictionary()
        # Sessions that were asked for a response of AUTH.
        self._asked: set[str] = set()

    def _of(self, session: Session) -> CapturedSession:
        return self._sessions[session][0]

    async def connect(self, ctx: ConnectContext) -> None:
        session = ctx.session
        if session in self._sessions:
            return  # XCLIENT: the same connection, greeted anew
        peer = (session.remote_address, session.remote_port or 0) if session.remote_address is not None else None
        captured = CapturedSession(session.id, peer)
        self._sessions[session] = captured, self._begin(captured)

    async def secure(self, ctx: SecureContext) -> None:
        tls = ctx.session.tls
        assert tls is not None
        self._of(ctx.session).note([f"-- {tls.version}"], tls=tls)

    async def helo(self, ctx: HeloContext) -> None:
        self._of(ctx.session).note([], helo=ctx.domain)

    async def command(self, ctx: CommandContext) -> None:
        self._of(ctx.session).note([f"C: {_printable(ctx.line)}"])

    async def authenticate(self, ctx: AuthContext) -> None:
        credentials = ctx.credentials
        user, password = credentials.username, None
        if isinstance(credentials, PlainCredentials):
            password = credentials.password
        elif isinstance(credentials, OAuthCredentials):
            password = credentials.access_token
        self._of(ctx.session).note([], password=password, mechanism=credentials.method)
        if self._is_right(credentials, password):
            self._of(ctx.session).note([], user=user)
            ctx.accept(user, authzid=credentials.authzid)

    def _is_right(self, credentials: Credentials, password: str | None) -> bool:
        if not isinstance(self._auth, Mapping):
            return True
        wanted = self._auth.get(credentials.username)
        if wanted is None:
            return False
        if isinstance(credentials, CramMD5Credentials):
            return credentials.validate_password(wanted)
        return password is None or password == wanted  # None: the user was proven in another way

    async def count(self, ctx: DataContext, call_next: CallNext) -> None:
        octets = 0

        def add(chunk: bytes) -> None:
            nonlocal octets
            octets += len(chunk)

        ctx.stream.tap(add)
        try:
            await call_next()
        finally:
            self._of(ctx.session).note([f"C: ({octets} octets of a message)"])

    async def take(self, ctx: DataContext) -> None:
        raw = await ctx.stream.read()
        envelope = ctx.envelope
        assert envelope.mail_from is not None
        captured, generation = self._sessions[ctx.session]
        made = CapturedEnvelope(
            sender=envelope.mail_from.address,
            recipients=[each.address for each in envelope.rcpt_to],
            parameters=dict(envelope.mail_from.args),
            recipient_parameters=[dict(each.args) for each in envelope.rcpt_to],
        )
        self._store(CapturedMessage(raw, made, captured), generation)

    async def reply(self, ctx: ReplyContext) -> None:
        session = ctx.session
        if session not in self._sessions:
            return  # turned away before `on_connect`
        lines = []
        if session.id in self._asked:
            self._asked.discard(session.id)
            lines.append("C: ***")
        if ctx.reply.code == 334:
            self._asked.add(session.id)
        octets = ctx.encoded if ctx.octets is None else ctx.octets
        lines += [f"S: {_printable(line)}" for line in octets.decode("utf-8", "backslashreplace").splitlines()]
        captured = self._of(session)
        captured.note(lines)
        if ctx.reply.code >= 400:
            captured.note([], last_error=f"{ctx.reply.code} {' '.join(ctx.reply.text.split())}")

    async def close(self, ctx: CloseContext) -> None:
        self._asked.discard(ctx.session.id)
        self._of(ctx.session).note([f"-- the connection has ended: {ctx.reason}"], ended=ctx.reason)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
