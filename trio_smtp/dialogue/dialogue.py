"""Dialogue: what was said in one session, and what may be said now.

It holds the protocol's parts (framer, machine, syntax), the replies that wait, and what the client has used up. The
verbs stand in verbs.py, auth.py, transaction.py and front_ends.py, the greeting in greeting.py. Only files of dialogue/
write the session's facts, apart from the addresses, which the server sets when it makes the session.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import final

from trio_smtp.app.application import Phase
from trio_smtp.app.session import Envelope, Session, TLSInfo
from trio_smtp.protocol.commands import Syntax
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.framing import Framer
from trio_smtp.protocol.machine import Machine, State
from trio_smtp.protocol.newlines import Newlines
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

from .budget import Budget
from .hooks import Hooks
from .log import SessionLog
from .output import Output
from .service import Service
from .steps import FLUSH, NEED_LINE, NEED_MORE, EndSession, Steps

__all__ = ["DRAINING", "Chunks", "Dialogue"]

# Seldom used: re compiles the pattern when it is, and keeps it.
_HTTP = rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT|PRI) [^\r\n]* HTTP/[0-9]"
_HELLO = frozenset({Verb.HELO, Verb.EHLO, Verb.LHLO})
#: Their replies never have an enhanced status code (RFC 2034 section 4).
_WITHOUT_STATUS = _HELLO | {Verb.GREETING}
_BEFORE_TLS = _HELLO | {Verb.NOOP, Verb.RSET, Verb.HELP, Verb.STARTTLS, Verb.QUIT}
_NEED_AUTH = frozenset({Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.BDAT})

DRAINING = Reply(421, "Service shutting down", "4.3.2")
_NO_MESSAGE = Reply(421, "No message for too long", "4.4.2")
_TOO_MANY_ERRORS = Reply(421, "Too many errors", "4.7.0")
_TOO_MANY_COMMANDS = Reply(421, "Too many commands without authentication", "4.7.0")
_NOT_HTTP = Reply(421, "This is a mail server", "4.7.0")


@final
class Chunks:
    """The message whose chunks are coming (RFC 3030), between its first BDAT and its end.

    Attributes:
        recipients: How many were accepted; handlers may edit the envelope's.
        refusal: What its further chunks are answered with; None: the handlers take them.
    """

    __slots__ = ("_began", "_octets", "recipients", "refusal")

    def __init__(self, began: float, recipients: int, refusal: Reply | None = None) -> None:
        self.recipients: int = recipients
        self._began = began
        self._octets = 0
        self.refusal = refusal

    def take(self, size: int) -> None:
        """A chunk of so many octets was taken."""
        self._octets += size

    def refuse(self, reply: Reply) -> None:
        """The message was refused before its last chunk."""
        self.refusal = reply

    def too_slow(self, rate: float, now: float) -> bool:
        """A refused message, or one that came with fewer octets a second, the pauses between its chunks included."""
        return self.refusal is not None or self._octets < rate * (now - self._began)


@final  # where the module is compiled, nothing can inherit from it
class Dialogue:
    """One session's side of the dialogue that `converse` leads.

    Args:
        service: What the server's sessions share.
        session: The client's session.
        now: The clock, in seconds.

    Attributes:
        service: As given.
        session: As given.
        now: As given.
        framer: Cuts what is fed into lines, bodies and chunks; another one after STARTTLS.
        machine: The order of commands; moved by `answer` alone.
        syntax: What a line may say now.
        output: The replies that wait.
        hooks: What handlers of `on_command` and the like need to know; None: there are none.
        budget: What the client has used up.
        log: The session's log.
        chunks: The message whose chunks are coming, or None.
        enhanced: Replies carry enhanced status codes.
        draining: No new transaction begins.
        connected: `on_connect` saw this session.
    """

    __slots__ = (
        "budget",
        "chunks",
        "connected",
        "draining",
        "enhanced",
        "framer",
        "hooks",
        "log",
        "machine",
        "now",
        "output",
        "service",
        "session",
        "syntax",
    )
    syntax: Syntax

    def __init__(self, service: Service, session: Session, now: Callable[[], float]) -> None:
        self.service: Service = service
        self.session: Session = session
        self.now: Callable[[], float] = now
        self.machine: Machine = Machine(lmtp=service.config.lmtp)
        self.log: SessionLog = SessionLog(session, now)
        self.hooks: Hooks | None = Hooks(holds=Phase.REPLY in service.chains) if service.hooked else None
        self.output: Output = Output(session, service.stats, self.log, now, self.hooks)
        self.budget: Budget = Budget(service.config, self.log.opened)
        self.chunks: Chunks | None = None
        self.enhanced: bool = False
        self.draining: bool = False
        self.connected: bool = False
        self.framer: Framer = self._new_framer()
        self._refresh()

    def _new_framer(self) -> Framer:
        config = self.service.config
        return Framer(
            max_line=config.max_command_line,
            max_auth_line=config.max_auth_line,
            max_data_line=config.max_data_line,
            normalize=config.bare_newline == "normalize",
            notice=self.log.bare_newline,
        )

    def feed(self, octets: bytes) -> None:
        """Take in what was received."""
        self.framer.feed(octets)

    def take_output(self) -> bytes:
        """The replies that are to be sent; none wait after that."""
        return self.output.take()

    # Lines

    def next_line(self) -> Steps[bytes]:
        """The next line, awaited where it is not there yet.

        Raises:
            ProtocolError: The line is too long, or ends with LF alone.
            EndSession: The server drains and no transaction is in flight, or the client's time is used up.
        """
        line = self.framer.next_line()
        return line if line is not None else (yield from self.await_line())

    def await_line(self, *, first: bool = False) -> Steps[bytes]:
        """The same, when octets must come first.

        Args:
            first: It is the first line of all.
        """
        if self.draining:
            self.check_drain()
        # Not `output.since`: handlers, and a TLS handshake, may have taken long after the oldest reply was written.
        if self.now() > self.budget.patience_ends and self._out_of_patience():
            yield FLUSH  # a client that is gone ends the session as lost
            self.log.event(logging.WARNING, "no message for too long")
            raise EndSession("timeout", _NO_MESSAGE)
        yield NEED_LINE
        while True:
            if self.draining:
                # These octets arrived just before the drain's cancellation takes effect: a reply to them would be
                # cancelled on its way out.
                self.check_drain()
            if first and self.framer.peek(1) == b"\x16":
                self.log.event(logging.WARNING, "a TLS ClientHello on a plaintext port")
                raise EndSession("abuse")
            line = self.framer.next_line()
            if line is not None:
                return line
            yield NEED_MORE

    def check_drain(self) -> None:
        """The server drains: end the session when no transaction is in flight.

        Raises:
            EndSession: It is so.
        """
        if not self.machine.in_transaction:
            raise EndSession("drained", DRAINING)

    def _out_of_patience(self) -> bool:
        """A client that talks and talks has had its time: it sends no message, or an octet of one now and then."""
        return self.chunks is None or self.chunks.too_slow(self.service.config.min_data_rate, self.now())

    # Commands and replies

    def admit(self, verb: Verb) -> None:
        """Check what must come before anything else (RFC 3207 section 4, RFC 4954 section 4), then order.

        Raises:
            ProtocolError: 530 for a missing TLS or AUTH, 503 or 554 for a command out of order.
            EndSession: There were too many commands before authentication.
        """
        if self.service.guarded:
            self._guard(verb)
        self.machine.check(verb)

    def _guard(self, verb: Verb) -> None:
        config, session = self.service.config, self.session
        stranger = config.auth_required and not session.authenticated
        if stranger and verb is not Verb.AUTH and not self.budget.take_plain_command():
            self.log.event(logging.WARNING, "too many commands without authentication")
            raise EndSession("abuse", _TOO_MANY_COMMANDS)
        if config.starttls_required and not session.secure and verb not in _BEFORE_TLS:
            raise ProtocolError("Must issue a STARTTLS command first", 530, "5.7.0", counted=False)
        if stranger and verb in _NEED_AUTH and self.machine.state is not State.GREETED:
            raise ProtocolError(config.auth_required_message, 530, "5.7.0", counted=False)

    def say(self, reply: Reply, verb: Verb | None = None) -> None:
        """Put a reply into the output; the state stays.

        Args:
            reply: The reply.
            verb: What is answered; None: the command that has come last.
        """
        self.output.write(reply, self.enhanced, verb)

    def say_last(self, reply: Reply) -> None:
        """Put the last words of a session that the server ends into the output."""
        if self.hooks is not None:
            self.hooks.begin_last_words()
        self.say(reply)

    def answer(self, verb: Verb | None, reply: Reply, *, silent: bool = False) -> None:
        """Answer a command, or note an event: say the reply and move the machine.

        Args:
            verb: The command or event; None: the line was no command.
            reply: What it is answered with.
            silent: The client has been told already, or is told nothing: only the machine moves.
        """
        if not silent:
            self.output.write(reply, self.enhanced and verb not in _WITHOUT_STATUS, verb)
        if verb is not None:
            self.machine.advance(verb, reply.code)

    def fault(self, exc: ProtocolError, first: bytes | None) -> tuple[Reply, float]:
        """What the peer did wrong is counted.

        Args:
            exc: What it did wrong.
            first: The line, when it is the first line of all.

        Returns:
            The reply, and how many seconds the peer waits for it.

        Raises:
            EndSession: It was one fault too many, or what follows cannot be trusted.
        """
        config, log = self.service.config, self.log
        if first is not None and re.match(_HTTP, first):
            log.event(logging.WARNING, "an HTTP request")
            raise EndSession("abuse", _NOT_HTTP)
        if exc.close:
            log.event(logging.WARNING, exc.message, exc.hint)
            raise EndSession("abuse", exc.reply)
        if exc.counted:
            if not self.budget.take_error():
                log.event(logging.WARNING, "too many errors")
                raise EndSession("abuse", _TOO_MANY_ERRORS)
            if self.budget.errors >= 3:
                return exc.reply, config.error_delay
        return exc.reply, 0

    # What becomes true of the session

    def connect(self) -> bool:
        """`on_connect` sees the session from here on, so `on_close` will; True: for the first time."""
        first = not self.connected
        self.connected = True
        return first

    def drain(self) -> None:
        """The server drains: no new transaction begins."""
        self.draining = True

    def note_server_name(self, name: str | None) -> None:
        """The client asked for this name in its TLS handshake (SNI)."""
        self.session.servername = name

    def name_client(self, name: str, *, verified: bool) -> None:
        """Reverse DNS has a name for the client.

        Args:
            name: The name.
            verified: The name leads back to the client's address.
        """
        self.session.client_hostname = name
        self.session.client_hostname_verified = verified

    def secured(self, info: TLSInfo) -> None:
        """A TLS handshake was completed; nothing that came before it is kept (RFC 3207 section 4.2)."""
        self.session.secure = True
        self.session.tls_options = info
        self.framer = self._new_framer()
        self._refresh()

    def greeted(self, command: Verb) -> None:
        """HELO, EHLO or LHLO was accepted."""
        self.enhanced = self.service.capabilities.enhanced and command is not Verb.HELO
        self.begin_transaction()

    def logged_in(self, user: object, mechanism: str | None = None) -> None:
        """A handler accepted credentials.

        Args:
            user: What the handler calls the user.
            mechanism: What they were presented by; None: the session knows it already.
        """
        session = self.session
        session.user, session.authenticated = user, True
        if mechanism is not None:
            session.auth_mechanism = mechanism
        self._refresh()

    def client_moved(self) -> None:
        """A front end said for whom it speaks: the session's addresses are others now."""
        self._refresh()

    def forget(self) -> None:
        """What was said so far counts no more (after STARTTLS and XCLIENT)."""
        session = self.session
        session.host_name_appears_as = session.opening_command = None
        session.user, session.authenticated, session.auth_mechanism = None, False, None
        self.enhanced = False
        self.begin_transaction()
        self._refresh()

    def begin_transaction(self) -> None:
        """RSET, a HELO, or the end of a message: a handler may keep the old envelope, so the session gets another."""
        self.session.envelope = Envelope()
        if self.budget.dropped:
            self.budget.begin_transaction()
        if self.session.xforward:
            self.session.xforward = {}

    def begin_chunks(self, began: float, refusal: Reply | None = None) -> Chunks:
        """A message begins that comes in chunks.

        Args:
            began: When, in seconds.
            refusal: It was refused at its first chunk.
        """
        self.chunks = Chunks(began, len(self.session.envelope.rcpt_to), refusal)
        return self.chunks

    def give_up_chunks(self) -> bool:
        """The command that was answered last has ended the message; True: its handlers are still there."""
        chunks, self.chunks = self.chunks, None
        return chunks is not None and chunks.refusal is None

    def end_transaction(self) -> None:
        """A message was answered, whatever the answer."""
        self.session.transaction += 1
        self.chunks = None
        self.begin_transaction()

    def close(self) -> None:
        """Nothing more will be said."""
        self.machine.close()

    def _refresh(self) -> None:
        """Make `syntax` that of the session as it is now; whatever changes the session's facts ends with this."""
        self.syntax = self.service.capabilities.syntax(self.session)
        if self.service.config.legacy_clients:
            normalize = self.service.config.bare_newline == "normalize"
            usual = Newlines.NORMALIZE if normalize else Newlines.REJECT
            self.framer.use(Newlines.LEGACY if self.syntax.legacy else usual)
