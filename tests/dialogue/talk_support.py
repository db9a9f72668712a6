"""Talks: what a client says and what it must be answered, with what happens in between; and their player."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import pytest
import trio

from tests.dialogue.driver import TLS, Driver
from tests.dialogue.transcript_support import matches
from tests.sasl_support import ScramClient, b64, cram_md5
from trio_smtp import (
    App,
    AuthContext,
    CommandContext,
    Config,
    ConnectContext,
    CramMD5Credentials,
    DataContext,
    DataStartContext,
    Extension,
    HeloContext,
    MailFromContext,
    OAuthCredentials,
    PlainCredentials,
    RcptToContext,
    Reply,
    SecureContext,
    Session,
    SMTPError,
    VerifyContext,
)
from trio_smtp.app.session import TLSInfo
from trio_smtp.dialogue.service import Service
from trio_smtp.dialogue.steps import Step
from trio_smtp.protocol.credentials import ScramSecret

__all__ = [
    "CUTS",
    "DRAIN",
    "HIDDEN",
    "LEAVE",
    "SSL_CONTEXT",
    "TLS_BEGINS",
    "Cut",
    "Talk",
    "bare_app",
    "closed_app",
    "cram_answer",
    "driver_of",
    "name_is",
    "play",
    "scram_final",
    "scram_first",
    "scram_last",
    "strict_app",
    "talk_app",
    "time_is",
    "wait",
]

#: All that EHLO shows by default, but ENHANCEDSTATUSCODES.
HIDDEN = frozenset(
    {"PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8", "LIMITS", "XECHO"}
    | {"AUTH", "STARTTLS", "XCLIENT", "XFORWARD", "HELP"}
)
#: Nothing shakes hands: that STARTTLS is offered is all that it is for.
SSL_CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

#: Something that happens: is given the driver and the lines said so far, returns what is said.
Event = Callable[[Driver, Sequence[str]], bytes]
#: How octets arrive: turn by turn; one at a time; all that are between two events at once; the same with a NOOP behind.
Cut = Literal["turns", "octets", "whole", "trailing"]
CUTS: tuple[Cut, ...] = ("turns", "octets", "whole", "trailing")


# The handlers


def bare_app() -> App:
    """Has no handlers."""
    return App()


def talk_app() -> App:
    """What it does with a message goes by the sender's local part; ``app.state.taken`` has the messages it took."""
    app = App()
    app.state.taken = []

    @app.on_helo
    async def hello(ctx: HeloContext) -> None:
        if ctx.domain == "refused.example":
            ctx.reject("Not you", 550)

    @app.on_mail_from
    async def sender(ctx: MailFromContext) -> None:
        if ctx.address.local_part == "refused":
            ctx.reject("No mail from you", 550, enhanced="5.7.1")
        if ctx.address.local_part == "bye":
            ctx.disconnect("Go away", 421, enhanced="4.7.0")
        if ctx.address.local_part == "crash":
            raise LookupError("nothing there")

    @app.on_rcpt_to
    async def recipient(ctx: RcptToContext) -> None:
        if ctx.address.local_part == "unknown":
            ctx.reject("No such user", 550, enhanced="5.1.1")

    @app.on_data_start
    async def begin(ctx: DataStartContext) -> None:
        sender = ctx.envelope.mail_from
        if sender is not None and sender.local_part == "nothing":
            ctx.reject()

    @app.on_data
    async def message(ctx: DataContext) -> None:
        await take(ctx, app.state.taken)

    @app.on_auth
    async def check(ctx: AuthContext) -> None:
        check_credentials(ctx)

    app.on_vrfy(about)
    app.on_expn(about)

    async def echo(ctx: CommandContext) -> None:
        ctx.reply = Reply(250, f"You said {ctx.argument}", "2.0.0")

    app.extend(Extension(keyword="XECHO", commands={"XECHO": echo}))
    return app


async def take(ctx: DataContext, taken: list[bytes]) -> None:
    sender = ctx.envelope.mail_from.local_part if ctx.envelope.mail_from else ""
    if sender == "unread":
        return
    if sender in ("early", "end"):
        await ctx.stream.receive()
        if sender == "end":
            ctx.disconnect("Enough", 421, enhanced="4.7.0")
        ctx.reject("Not this", 554, enhanced="5.7.1")
    if sender == "closed":
        await ctx.stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await ctx.stream.receive()
        return
    body = await ctx.stream.read()
    if body.startswith(b"Spam"):
        ctx.reject("No spam", 554, enhanced="5.7.1")
    taken.append(body)
    if ctx.session.lmtp:
        for recipient in ctx.envelope.rcpt_to:
            if recipient.local_part == "full":
                ctx.reject_recipient(recipient, "Mailbox full", 452, enhanced="4.2.2")


def check_credentials(ctx: AuthContext) -> None:
    credentials = ctx.credentials
    if credentials.username == "later":
        ctx.reject("Not now", 451)
    if credentials.username not in ("alice", None, ""):
        return
    if isinstance(credentials, OAuthCredentials):
        accepted = credentials.access_token == "secret"
    elif isinstance(credentials, PlainCredentials | CramMD5Credentials):
        accepted = credentials.validate_password("secret")
    else:
        accepted = True  # proven before
    if accepted:
        ctx.accept("alice")


async def about(ctx: VerifyContext) -> None:
    if ctx.argument != "bob":
        ctx.reject()


def strict_app() -> App:
    """`talk_app`, that refuses every TLS session."""
    app = talk_app()

    @app.on_secure
    async def refuse(ctx: SecureContext) -> None:
        ctx.reject("Not this cipher", 550, enhanced="5.7.1")

    return app


def closed_app() -> App:
    """Refuses every client."""
    app = App()

    @app.on_connect
    async def refuse(ctx: ConnectContext) -> None:
        ctx.reject("Not today", 554)

    return app


_SECRET = ScramSecret.from_password("secret", "SCRAM-SHA-256", iterations=4096, salt=b"salt" * 4)


async def _find_secret(username: str, session: Session) -> ScramSecret | None:
    if username == "later":
        raise SMTPError("The users cannot be looked up", 451)
    if username == "crash":
        raise LookupError("nothing there")
    return _SECRET if username == "alice" else None


# What happens


def LEAVE(driver: Driver, lines: Sequence[str]) -> bytes:  # noqa: N802 - stands in a table
    """The client closes its end."""
    return driver.leave()


def DRAIN(driver: Driver, lines: Sequence[str]) -> bytes:  # noqa: N802 - stands in a table
    """The server drains."""
    return driver.drain()


def TLS_BEGINS(driver: Driver, lines: Sequence[str]) -> bytes:  # noqa: N802 - stands in a table
    """What the client says next, it says when the handshake is over."""
    assert driver.session.secure
    return b""


def wait(seconds: float) -> Event:
    """Time passes."""

    def event(driver: Driver, lines: Sequence[str]) -> bytes:
        driver.wait(seconds)
        return b""

    return event


def time_is(seconds: float) -> Event:
    """So much time has passed."""

    def event(driver: Driver, lines: Sequence[str]) -> bytes:
        assert driver.seconds == seconds
        return b""

    return event


def name_is(name: str) -> Event:
    """The client is known by this name, and its envelope has a sender."""

    def event(driver: Driver, lines: Sequence[str]) -> bytes:
        assert driver.session.host_name_appears_as == name
        assert driver.session.opening_command == "EHLO"
        assert driver.session.envelope.mail_from is not None
        return b""

    return event


def _challenge(lines: Sequence[str]) -> bytes:
    return base64.b64decode(lines[-1].removeprefix("334 "), validate=True)


def cram_answer(username: str, password: str) -> Event:
    """Answer the challenge of CRAM-MD5."""

    def event(driver: Driver, lines: Sequence[str]) -> bytes:
        return driver.feed(cram_md5(username, password, _challenge(lines)).encode() + b"\r\n")

    return event


def scram_first(username: str, password: str = "secret") -> Event:
    """Begin a SCRAM exchange."""

    def event(driver: Driver, lines: Sequence[str]) -> bytes:
        client = ScramClient("SCRAM-SHA-256", username, password)
        driver.session.data["client"] = client
        return driver.feed(f"AUTH SCRAM-SHA-256 {b64(client.first())}\r\n".encode())

    return event


def scram_final(driver: Driver, lines: Sequence[str]) -> bytes:
    """Prove that the client knows the password."""
    client = driver.session.data["client"]
    assert isinstance(client, ScramClient)
    return driver.feed(b64(client.final(_challenge(lines))).encode() + b"\r\n")


def scram_last(driver: Driver, lines: Sequence[str]) -> bytes:
    """Check that the server knows it too."""
    client = driver.session.data["client"]
    assert isinstance(client, ScramClient)
    assert client.verify(_challenge(lines))
    return driver.feed(b"\r\n")


# Talks


@attrs.frozen(eq=False)
class Talk:
    """One client's dialogue.

    Attributes:
        title: What it shows.
        items: Octets that the client says, lines (``...`` stands for any text) that are answered, and events.
        config: Fields of the Config.
        app: Makes the handlers.
        reason: Why the session ends; None: it goes on.
        behind: How a NOOP at the end is answered, where the session goes on; None: that is not tried.
        delivered: The messages that were accepted.
        incomplete: How many messages were given up.
        peer: Where the client comes from.
        tls: What handshakes agree on; None: they fail.
    """

    title: str
    items: tuple[bytes | str | Event, ...]
    config: Mapping[str, Any] = attrs.field(factory=dict)
    app: Callable[[], App] = talk_app
    reason: str | None = None
    behind: str | None = "250 2.0.0 OK"
    delivered: tuple[bytes, ...] = ()
    incomplete: int = 0
    peer: str | None = None
    tls: TLSInfo | None = TLS

    def arriving(self, cut: Cut) -> Iterator[bytes | str | Event]:
        """The items, with the octets cut in this way."""
        items: Sequence[bytes | str | Event] = self.items
        if cut == "trailing" and self.behind is not None:
            items = (*items, b"NOOP\r\n", *([] if self.reason else [self.behind]))
        if cut not in ("whole", "trailing"):
            yield from items
            return
        octets, lines = b"", list[str]()
        for item in items:
            if isinstance(item, bytes):
                octets += item
            elif isinstance(item, str) and not octets:
                yield item
            elif isinstance(item, str):
                lines.append(item)
            else:
                yield octets
                yield from lines
                yield item
                octets, lines = b"", []
        yield octets
        yield from lines


def driver_of(talk: Talk, on_step: Callable[[Step], None] | None = None) -> Driver:
    """A client that is greeted."""
    fields: dict[str, Any] = {"hostname": "mx.example", "hide_extensions": HIDDEN, "scram_lookup": _find_secret}
    config = Config(**fields | dict(talk.config))
    session = Session(lmtp=config.lmtp)
    if talk.peer is not None:
        session.remote_address = talk.peer
    app = talk.app()
    app.state.taken = getattr(app.state, "taken", [])
    driver = Driver(Service(app, config), session, tls=talk.tls, on_step=on_step)
    session.data["taken"] = app.state.taken
    return driver


def play(talk: Talk, driver: Driver, cut: Cut) -> None:
    """Play a talk to its end.

    Raises:
        AssertionError: Something else was answered.
    """
    said = driver.take()
    lines: list[str] = []
    for item in talk.arriving(cut):
        if isinstance(item, str):
            octets, _, said = said.partition(b"\r\n")
            lines.append(octets.decode())
            assert matches(lines[-1], item), f"{item!r} was expected behind {lines}"
            continue
        assert said == b"", f"{said!r} was not expected behind {lines}"
        if not isinstance(item, bytes):
            said = item(driver, lines)
        elif cut == "octets":
            said = b"".join(driver.feed(item[at : at + 1]) for at in range(len(item)))
        else:
            said = driver.feed(item)
    assert said == b"", f"{said!r} was not expected behind {lines}"
