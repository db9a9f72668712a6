"""One connection: the loop that drives everything else.

A line becomes one `Command` (`parse_command`), is checked by one table (`Machine`), handed to the phase that its verb
names (`PHASES`), and answered by one `Reply`. Replies gather until the client waits for them (RFC 2920); the doors are
`Wire`'s. Whatever ends the session raises `EndSession`; what is then left to do is in `finish` (ending.py), shielded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import CloseReason, ConnectContext, Context
from trio_smtp.app.session import Envelope, Session
from trio_smtp.dialogue.front_ends import log_in, read_proxy_header, resolve_client
from trio_smtp.dialogue.outcomes import EndSession, logger, outcome, what_goes_on
from trio_smtp.dialogue.verbs import PHASES
from trio_smtp.protocol.commands import Verb, parse_command
from trio_smtp.protocol.errors import ParserCrashed, ProtocolError
from trio_smtp.protocol.framing import Line
from trio_smtp.protocol.machine import Machine, State
from trio_smtp.protocol.replies import Reply

from .ending import DRAINING, finish, interruption, take_leave
from .handshake import after_handshake, handshake
from .wire import MAX_WAITING_OCTETS, Wire

if TYPE_CHECKING:
    from trio_smtp.protocol.commands import Syntax
    from trio_smtp.server.server import SMTPServer

    from .transfer import Transfer
    from .watch import Watch

__all__ = ["Connection"]

C = TypeVar("C", bound=Context)

#: So many times `command_timeout` may pass without a message: else a NOOP now and then would hold a place for ever.
_PATIENCE = 12

# Aliases of members: see verbs.py in protocol/.
_BDAT, _CLOSED, _BDAT_STATE = Verb.BDAT, State.CLOSED, State.BDAT
_HELLO = frozenset({Verb.HELO, Verb.EHLO, Verb.LHLO})
_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT|PRI) [^\r\n]* HTTP/[0-9]")
_BEFORE_TLS = _HELLO | {Verb.NOOP, Verb.RSET, Verb.HELP, Verb.STARTTLS, Verb.QUIT}
_NEED_AUTH = frozenset({Verb.MAIL, Verb.RCPT, Verb.DATA, Verb.BDAT})

_NO_MESSAGE = Reply(421, "No message for too long", "4.4.2")
_INTERNAL = Reply(421, "Internal error", "4.3.0")
_TOO_MANY_ERRORS = Reply(421, "Too many errors", "4.7.0")
_TOO_MANY_COMMANDS = Reply(421, "Too many commands without authentication", "4.7.0")
_NOT_HTTP = Reply(421, "This is a mail server", "4.7.0")
_EARLY_TALKER = Reply(421, "You talk too soon", "4.7.0")


class Connection(Wire):
    """One client's connection, served by one task.

    Args:
        server: Whose App, Config and counters it uses.
        stream: The client's stream; closed at the end.
        session: The client's session.
    """

    __slots__ = (
        "_guarded",
        "_interruptible",
        "_plain_commands",
        "auth_failures",
        "chunk_refusal",
        "delivered_at",
        "draining",
        "errors",
        "lines",
        "machine",
        "mails",
        "reason",
        "refusal",
        "seen",
        "swallowed",
        "transfer",
    )

    def __init__(self, server: SMTPServer, stream: trio.abc.Stream, session: Session) -> None:
        super().__init__(server, stream, session)
        self.machine: Machine = Machine(lmtp=self.config.lmtp)
        self.draining: bool = False
        self.reason: CloseReason = "cancelled"
        #: `on_connect` saw this session.
        self.seen: bool = False
        self.lines: int = 0
        self.errors: int = 0
        self.auth_failures: int = 0
        #: MAIL commands whose turn it was, refused ones as well.
        self.mails: int = 0
        #: The message whose chunks are coming, and what its further chunks are answered with once it was refused.
        self.transfer: Transfer | None = None
        self.chunk_refusal: Reply | None = None
        #: Octets of such chunks that were thrown away.
        self.swallowed: int = 0
        #: When the last message was accepted; the connection's beginning before that.
        self.delivered_at: float = self.opened
        # Something must come before a transaction.
        self._guarded = self.config.auth_required or self.config.starttls_required
        # Commands other than AUTH while authentication is required and missing.
        self._plain_commands = 0
        # What on_secure said after STARTTLS: it answers the next command.
        self.refusal: Reply | None = None
        # Waiting for the client, outside a transaction: a drain may end it here.
        self._interruptible = False

    async def next_line(self) -> bytes:
        """The next line, within one deadline for all of it; sends what waits before it waits itself.

        Raises:
            ProtocolError: The line is too long, or ends with LF alone.
            EndSession: The client is gone, or the server drains and no transaction is in flight.
        """
        event = self.framer.next_event()
        if isinstance(event, Line):
            self.lines += 1
            return event.data
        return await self._await_line()

    async def _await_line(self) -> bytes:
        """The same, when octets must come first."""
        idle = not self.machine.in_transaction
        if self.draining and idle:
            raise EndSession("drained", DRAINING)
        if not self.flush_soon():
            await self.flush()
        timeout = self.config.command_timeout
        if self.arm("command", timeout) - self.delivered_at > _PATIENCE * timeout:
            self._lose_patience()
        while True:
            self._interruptible = idle
            await self.receive()
            self._interruptible = False
            if self.draining and idle:
                # The drain has cancelled the scope, and these octets were quicker: nothing could be answered any more.
                raise EndSession("drained", DRAINING)
            if self.lines == 0 and self.framer.peek(1) == b"\x16":
                self.log(logging.WARNING, "a TLS ClientHello on a plaintext port")
                raise EndSession("abuse")
            event = self.framer.next_event()
            if isinstance(event, Line):
                self.lines += 1
                return event.data

    def _lose_patience(self) -> None:
        """A client that talks and talks, and sends no message, or an octet of one now and then, has had its time.

        Raises:
            EndSession: It has.
        """
        if self.transfer is None or self.transfer.too_slow:
            self.log(logging.WARNING, "no message for too long")
            raise EndSession("timeout", _NO_MESSAGE)

    # The life of a session

    async def run(self, watch: Watch) -> None:
        """Serve the client to its end. Nothing but cancellation and KeyboardInterrupt comes out.

        Each time the client is waited for, all that is awaited is left and entered again: no layer only hands on.
        """
        last_words: Reply | None = None
        watch.begin(self)
        try:
            with self.scope:
                await self._open()
                await self.take_commands()
                await take_leave(self)
            if self.scope.cancelled_caught:
                self.reason, last_words = interruption(self)
        except EndSession as end:
            self.reason, last_words = end.reason, end.reply
        except Exception as exc:
            logger.error("session=%s internal error", self.session.id, exc_info=exc)
            self.reason, last_words = "error", _INTERNAL
        finally:
            try:
                await self._end(last_words)
            finally:
                watch.end(self)
                self.server.forget(self)

    async def _end(self, last_words: Reply | None) -> None:
        if self.machine.state is _CLOSED:
            last_words = None  # they have been said: the time of a message given up by QUIT was over
        self.machine.close()
        last_act = last_words is not None or self.owes_replies or Phase.CLOSE in self.chains
        if last_act or not self.close_at_once():
            with trio.CancelScope(shield=True):
                await finish(self, last_words)
        self.log(logging.INFO, "connection closed", f"reason={self.reason} transactions={self.session.transaction}")

    @property
    def owes_replies(self) -> bool:
        """The client has said all, and may yet read what waits for it: it may have closed its own half alone."""
        return self.reason == "lost" and self.unsent

    async def _open(self) -> None:
        """All that comes before the first command."""
        if self.config.proxy_protocol:
            await read_proxy_header(self)
        if self.config.implicit_tls or isinstance(self.stream, trio.SSLStream):
            self._interruptible = True
            await handshake(self)
            self._interruptible = False
        if self.config.greeting_delay:
            await self._hear_early_talkers()
        if self.config.reverse_dns:
            await resolve_client(self)
        await self.greet()

    async def _hear_early_talkers(self) -> None:
        """A client that talks before it was greeted is not a mail client (RFC 5321 section 4.3.1)."""
        self.arm("delay", self.config.greeting_delay + self.config.command_timeout)
        self._interruptible = True
        with trio.move_on_after(self.config.greeting_delay):
            await self.receive()
            self.log(logging.WARNING, "the client talked before the greeting")
            raise EndSession("abuse", _EARLY_TALKER)
        self._interruptible = False

    async def greet(self, login: str | None = None) -> None:
        """Run `on_connect` (and `on_secure` where TLS began at once) and send the 220.

        Args:
            login: Whom a trusted front end says it speaks for (XCLIENT LOGIN): `on_auth` is asked.

        Raises:
            EndSession: A handler refused.
        """
        again = self.seen
        self.seen = True
        reply = self.server.greeting
        if Phase.CONNECT in self.chains:
            reply = await self.phase(Phase.CONNECT, ConnectContext(self.session, self.server.greeting))
        if reply.code < 400 and login is not None:
            reply = await log_in(self, login) or reply
        if reply.code < 400 and self.session.secure and not again:
            reply = await after_handshake(self) or reply
        if reply.code >= 400:
            raise EndSession("refused", reply)
        self.write(reply, enhanced=False)
        self.machine.advance(Verb.GREETING, reply.code)

    async def take_commands(self, going_on: Callable[[], bool] | None = None) -> None:
        """The loop: a line, a command, a phase, a reply.

        Args:
            going_on: Only while this holds, and between the chunks of a message; None: to the session's end.
        """
        machine = self.machine
        verb: Verb | None = None
        while machine.state is not _CLOSED and (going_on is None or (machine.state is _BDAT_STATE and going_on())):
            verb = None
            line = b""
            try:
                event = self.framer.next_event()
                if not isinstance(event, Line):
                    line = await self._await_line()
                elif self.draining and not machine.in_transaction:
                    raise EndSession("drained", DRAINING)  # a client that never pauses is not idle, but has its reply
                else:
                    self.lines += 1
                    line = event.data
                if self._debug:
                    self._trace("C", line)
                if self.refusal is not None:
                    raise EndSession("refused", self.refusal)
                command = parse_command(line, self.syntax)
                verb = command.verb
                if verb is not _BDAT:  # whose octets must be read before it can be refused
                    self.admit(verb)
                reply = await PHASES[verb](self, command)
            except ProtocolError as exc:
                verb = exc.verb or verb
                reply = await self._fault(exc, line)
            except ParserCrashed as exc:
                verb = exc.verb
                reply = outcome(exc.crash, "parameter", self.session)
            if reply is not None:
                self.write(reply, enhanced=verb not in _HELLO)
                if verb is not None:
                    machine.advance(verb, reply.code)
            if self._out_octets > MAX_WAITING_OCTETS:
                # Whoever pipelines thousands of commands lets others have their turn in between.
                await self.flush()
                await trio.lowlevel.checkpoint()
        if machine.state is _CLOSED and self.reason == "cancelled":
            self.reason = "quit" if verb is Verb.QUIT else "refused"

    def admit(self, verb: Verb) -> None:
        """What must come before anything first (RFC 3207 section 4, RFC 4954 section 4), then order."""
        if not self._guarded:
            self.machine.check(verb)
            return
        config, session = self.config, self.session
        stranger = config.auth_required and not session.authenticated
        if stranger and verb is not Verb.AUTH and config.max_unauthenticated_commands is not None:
            self._plain_commands += 1
            if self._plain_commands > config.max_unauthenticated_commands:
                self.log(logging.WARNING, "too many commands without authentication")
                raise EndSession("abuse", _TOO_MANY_COMMANDS)
        if config.starttls_required and not session.secure and verb not in _BEFORE_TLS:
            raise ProtocolError("Must issue a STARTTLS command first", 530, "5.7.0", counted=False)
        if stranger and verb in _NEED_AUTH and self.machine.state is not State.GREETED:
            raise ProtocolError(config.auth_required_message, 530, "5.7.0", counted=False)
        self.machine.check(verb)

    async def _fault(self, exc: ProtocolError, line: bytes) -> Reply:
        """The reply to what the peer did wrong, and what it costs.

        Raises:
            EndSession: It was one time too many, or what follows cannot be trusted.
        """
        config = self.config
        if self.lines == 1 and _HTTP.match(line):
            self.log(logging.WARNING, "an HTTP request")
            raise EndSession("abuse", _NOT_HTTP)
        if exc.close:
            self.log(logging.WARNING, exc.message)
            raise EndSession("abuse", exc.reply)
        if exc.counted:
            self.errors += 1
            if self.errors >= config.max_errors:
                self.log(logging.WARNING, "too many errors")
                raise EndSession("abuse", _TOO_MANY_ERRORS)
            if config.error_delay and self.errors >= 3:
                await self.pause(config.error_delay)
        return exc.reply

    async def pause(self, seconds: float) -> None:
        """Hold up this connection, and no other; what waits is sent first."""
        await self.flush()
        self.arm("delay", seconds + self.config.command_timeout)
        await trio.sleep(seconds)

    def phase(self, phase: Phase, context: Context, *, timed: bool = True) -> Awaitable[Reply]:
        """Run a phase's handlers.

        Args:
            phase: Which.
            context: What they are given.
            timed: Give them `handler_timeout`; otherwise the caller sees to that.

        Returns:
            The reply: the context's, or what the handlers' exception stands for.
        """
        return self.run_handlers(phase, context, self.chains[phase], timed=timed)

    async def run_handlers(
        self, where: str, context: C, handlers: Callable[[C], Awaitable[None]], *, timed: bool = True
    ) -> Reply:
        """Run handlers and turn what they raise into a reply; see `phase`."""
        if timed and self._out and self.flush_is_due:  # beside a reader, that one sends
            await self.flush()
        if timed:
            self.arm("handler", self.config.handler_timeout)
        try:
            await handlers(context)
            reply = context.reply
        except Exception as exc:
            reply = outcome(exc, where, self.session)
        except BaseExceptionGroup as group:
            raise what_goes_on(group, where, self.session) from None
        # Handlers that made something else of their cancellation are cancelled all the same.
        await trio.lowlevel.checkpoint_if_cancelled()
        return reply

    def begin_transaction_anew(self) -> None:
        """RSET, a HELO, or the end of a message: a handler may keep the old envelope, so it is replaced."""
        self.session.envelope = Envelope()
        self.chunk_refusal = None
        self.swallowed = 0
        if self.session.xforward:
            self.session.xforward = {}

    def forget_dialogue(self) -> None:
        """What was said so far counts no more (after STARTTLS and XCLIENT)."""
        session = self.session
        session.host_name_appears_as = session.opening_command = None
        session.user, session.authenticated, session.auth_mechanism = None, False, None
        self.enhanced = False
        self.begin_transaction_anew()
        self.syntax: Syntax = self.server.offer.syntax(session)

    def drain(self, seconds: float) -> None:
        """Let a transaction in flight end, within so many seconds, and then say 421; an idle client hears it now."""
        self.draining = True
        self.session_end: float = min(self.session_end, trio.current_time() + seconds)
        self.scope.deadline = min(self.scope.deadline, self.session_end)
        if self._interruptible:
            self.scope.cancel()
