"""App: where handlers are registered, and how the handlers of a phase become one chain.

Registering only keeps a list for each phase. `chains_of` compiles each list, from its end, into one callable: a filter
stands for itself, filters in a row become one function that awaits them in order, and a middleware becomes a function
that calls it with a `call_next` for the rest of the chain.
"""

from __future__ import annotations

import enum
import inspect
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar

from .base import BaseApp
from .chains import CallNext, Chain, Filter, Middleware, Registered, compile_chain, logging_failures
from .companion import Companion
from .contexts import (
    AuthContext,
    ConnectContext,
    DataStartContext,
    HeloContext,
    MailFromContext,
    RcptToContext,
    SecureContext,
    VerifyContext,
)
from .data_context import DataContext
from .delivering import DeliveryWatcher
from .extension import Extension, clash
from .hooks import CloseContext, CommandContext, ReplyContext, TransactionEndContext
from .lifespan import Lifespan, Lifespans
from .running import Running

__all__ = [
    "App",
    "CallNext",
    "Chain",
    "Chains",
    "Filter",
    "Handler",
    "Middleware",
    "Phase",
    "Plugin",
    "chains_of",
    "lifespans_of",
]

_logger = logging.getLogger("trio_smtp")

C = TypeVar("C")

#: A filter or a middleware.
Handler = Filter[C] | Middleware[C]
#: Registers its handlers with the App it is given.
Plugin = Callable[["App"], None]

_Connect = TypeVar("_Connect", bound=Handler[ConnectContext])
_Secure = TypeVar("_Secure", bound=Handler[SecureContext])
_Helo = TypeVar("_Helo", bound=Handler[HeloContext])
_Auth = TypeVar("_Auth", bound=Handler[AuthContext])
_MailFrom = TypeVar("_MailFrom", bound=Handler[MailFromContext])
_RcptTo = TypeVar("_RcptTo", bound=Handler[RcptToContext])
_DataStart = TypeVar("_DataStart", bound=Handler[DataStartContext])
_Data = TypeVar("_Data", bound=Handler[DataContext])
_Verify = TypeVar("_Verify", bound=Handler[VerifyContext])
_Close = TypeVar("_Close", bound=Handler[CloseContext])
_Command = TypeVar("_Command", bound=Handler[CommandContext])
_Reply = TypeVar("_Reply", bound=Handler[ReplyContext])
_End = TypeVar("_End", bound=Handler[TransactionEndContext])
_Lifespan = TypeVar("_Lifespan", bound=Lifespan)


class Phase(enum.StrEnum):
    """When handlers run; the value is the decorator's name."""

    # By identity, which is faster than by the value; the members are the only keys that are ever looked up.
    __hash__: ClassVar[Callable[[object], int]] = object.__hash__

    CONNECT = "on_connect"
    SECURE = "on_secure"
    HELO = "on_helo"
    AUTH = "on_auth"
    MAIL_FROM = "on_mail_from"
    RCPT_TO = "on_rcpt_to"
    DATA_START = "on_data_start"
    DATA = "on_data"
    VRFY = "on_vrfy"
    EXPN = "on_expn"
    CLOSE = "on_close"
    COMMAND = "on_command"
    REPLY = "on_reply"
    TRANSACTION_END = "on_transaction_end"


#: Phases at whose end nothing can be refused any more.
_ENDS = frozenset({Phase.CLOSE, Phase.TRANSACTION_END})
#: The chains of an App; a phase without handlers has none.
Chains = Mapping[Phase, Chain]


class App(BaseApp):
    """The handlers of a mail server.

    Handlers run in the order they were registered, the first outermost. Two shapes are told apart by their
    positional parameters without a default: ``async def f(ctx)`` runs and the chain goes on;
    ``async def m(ctx, call_next)`` goes on when it awaits ``call_next()``, and not calling it ends the chain and
    accepts. One App may be served under several Configs at once.

    Attributes:
        state: A namespace for what handlers share.
        extensions: What `extend` has added, in order. The server reads them.
        companions: What `accompany` has registered. A supervisor reads them.
        measured: Whether `measure` was called. The server reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[Phase, list[Registered]] = {phase: [] for phase in Phase}
        # None until `chains_of` ends registration.
        self._chains: Chains | None = None
        self.extensions: list[Extension] = []
        self._lifespans = Lifespans(self)
        self._offers_auth = False
        self.companions: list[Companion] = []
        self.measured: bool = False

    def lifespan(self, function: _Lifespan) -> _Lifespan:
        """Register what lives as long as the App is served: a database, a client of another service, background tasks.

        Each process that serves enters the lifespans once, in the order of registration, before the first listener
        accepts, and leaves them in reverse after the last connection has ended. An error at entry comes out of `serve`,
        and nothing was accepted. An error that ends serving, cancellation included, is raised at the ``yield``.

        Args:
            function: An async generator function with one ``yield``, or a function that returns an async context
                manager. It is called with a `Running`.

        Returns:
            The function, unchanged.

        Raises:
            TypeError: It is neither; the text says what to write.
            RuntimeError: Serving has begun.

        Cancellation:
            Leaving is shielded, for `Config.lifespan_timeout` at most.

        Example:
            >>> @app.lifespan
            ... async def database(running: Running) -> AsyncIterator[None]:
            ...     async with open_database() as running.app.state.database:
            ...         yield
        """
        self._check_open("lifespan: register lifespans")
        self._lifespans.add(function)
        return function

    def measure(self) -> None:
        """Have servers of this App count in detail: `Stats.measures`.

        Raises:
            RuntimeError: Serving has begun.
        """
        self._check_open("measure: call it")
        self.measured = True

    def watch_deliveries(self, watcher: DeliveryWatcher) -> None:
        """Register what sees each delivery that says so; see `DataContext.delivering`.

        Args:
            watcher: Called with the session and the target's name. It returns a context manager, in which the delivery
                is done; its ``__exit__`` gets what the delivery raises. Neither may raise anything of its own.

        Raises:
            RuntimeError: Serving has begun.
        """
        self._check_open("watch_deliveries: register watchers")
        self.delivery_watchers.append(watcher)

    def accompany(self, companion: Companion) -> None:
        """Register what runs in a process of its own where several workers serve; see `serve_workers`.

        Args:
            companion: Runs once for all Apps that register the same object.

        Raises:
            RuntimeError: Serving has begun.
        """
        self._check_open("accompany: register companions")
        self.companions.append(companion)

    def running(self, *, timeout: float = 30) -> AbstractAsyncContextManager[Running]:
        """Enter the lifespans around several `SMTPServer` objects; ends registration.

        Any ``serve_*`` call of any server of this App may begin inside the block. At its end the servers that still
        serve are drained, and cancelled when their `drain_timeout` is over; when the block raises, they are cancelled.

        Args:
            timeout: Seconds for leaving the lifespans.

        Returns:
            An async context manager that gives a `Running`.

        Raises:
            RuntimeError: The lifespans are entered already.
        """
        chains_of(self)
        return self._lifespans.running(timeout)

    def on_connect(self, handler: _Connect) -> _Connect:
        """Register a handler for new connections, before the 220. Default refusal: 550."""
        return self._register(Phase.CONNECT, handler)

    def on_secure(self, handler: _Secure) -> _Secure:
        """Register a handler that runs after every TLS handshake. Default refusal: 550, then close."""
        return self._register(Phase.SECURE, handler)

    def on_helo(self, handler: _Helo) -> _Helo:
        """Register a handler for HELO, EHLO and LHLO. Default refusal: 550."""
        return self._register(Phase.HELO, handler)

    def on_auth(self, handler: _Auth, *, offers: bool = True) -> _Auth:
        """Register a handler that checks credentials; without one AUTH is not offered. Default refusal: 535.

        Args:
            handler: The handler.
            offers: False for a handler that accepts nobody by itself, but watches or refuses: for its sake alone AUTH
                is not offered.
        """
        self._offers_auth = self._offers_auth or offers
        return self._register(Phase.AUTH, handler)

    def on_mail_from(self, handler: _MailFrom) -> _MailFrom:
        """Register a handler for MAIL. Default refusal: 550."""
        return self._register(Phase.MAIL_FROM, handler)

    def on_rcpt_to(self, handler: _RcptTo) -> _RcptTo:
        """Register a handler for each RCPT. Default refusal: 550."""
        return self._register(Phase.RCPT_TO, handler)

    def on_data_start(self, handler: _DataStart) -> _DataStart:
        """Register a handler that runs before the 354. Default refusal: 554."""
        return self._register(Phase.DATA_START, handler)

    def on_data(self, handler: _Data) -> _Data:
        """Register a handler that takes messages. Default refusal: 552."""
        return self._register(Phase.DATA, handler)

    def on_vrfy(self, handler: _Verify) -> _Verify:
        """Register a handler for VRFY (without one: 252). Default refusal: 550."""
        return self._register(Phase.VRFY, handler)

    def on_expn(self, handler: _Verify) -> _Verify:
        """Register a handler for EXPN (without one: 502). Default refusal: 550."""
        return self._register(Phase.EXPN, handler)

    def on_close(self, handler: _Close) -> _Close:
        """Register a handler that runs once at the end of every session `on_connect` saw.

        It cannot refuse; what it raises is logged, and the others run.
        """
        return self._register(Phase.CLOSE, handler)

    def on_command(self, handler: _Command) -> _Command:
        """Register a handler that sees each command before it acts, unknown ones too. Default refusal: 550."""
        return self._register(Phase.COMMAND, handler)

    def on_reply(self, handler: _Reply) -> _Reply:
        """Register a handler that sees each reply before it is sent, and may send something else.

        It cannot refuse; what it raises is logged, and the reply is sent.
        """
        return self._register(Phase.REPLY, handler)

    def on_transaction_end(self, handler: _End) -> _End:
        """Register a handler that runs once for each MAIL that was accepted, when its transaction has ended.

        It cannot refuse; what it raises is logged, and the others run.
        """
        return self._register(Phase.TRANSACTION_END, handler)

    def use(self, plugin: Plugin) -> App:
        """Let a plugin register its handlers.

        Args:
            plugin: Called with this App. A function that makes a plugin, given in its stead, is a TypeError, and so is
                the module that holds it.

        Returns:
            This App, so that calls chain.
        """
        given: object = plugin
        if inspect.ismodule(given):
            path, name = given.__name__, given.__name__.rpartition(".")[2]
            raise TypeError(f"use: {path} is a module: from {path} import {name}, then app.use({name}(...))")
        wanted = f"a function that makes a plugin is called first: app.use({getattr(plugin, '__name__', plugin)}(...))"
        try:
            made: object = plugin(self)  # type: ignore[func-returns-value] # None, unless it was not called
        except TypeError as exc:
            exc.add_note(wanted)
            raise
        if callable(made) and not inspect.iscoroutinefunction(made):
            raise TypeError(f"use: {wanted}")
        return self

    def extend(self, extension: Extension) -> App:
        """Add an SMTP service extension of your own.

        Args:
            extension: What EHLO says of it, its parameters, its verbs.

        Returns:
            This App, so that calls chain.

        Raises:
            ValueError: Its keyword, or one of its parameters or verbs, is there already.
            RuntimeError: Serving has begun.
        """
        self._check_open("extend: add extensions")
        for other in self.extensions:
            if clash(extension, other):
                raise ValueError(f"extend: {extension.keyword}, or a parameter or verb of it, is there already")
        self.extensions.append(extension)
        return self

    def _check_open(self, what: str) -> None:
        if self._chains is not None:
            raise RuntimeError(f"{what} before serving begins")

    def _freeze(self) -> Chains:
        if self._chains is None:
            self._chains = {
                phase: compile_chain(
                    [logging_failures(phase, each) for each in handlers] if phase in _ENDS else handlers
                )
                for phase, handlers in self._handlers.items()
                if handlers and (phase is not Phase.AUTH or self._offers_auth)
            }
        return self._chains

    def _register(self, phase: Phase, handler: C) -> C:
        self._check_open(f"{phase.value}: register handlers")
        self._handlers[phase].append((handler, _is_middleware(phase, handler)))  # type: ignore[arg-type]
        return handler


def chains_of(app: App) -> Chains:
    """End registration and compile the chains of an App, for those who serve it.

    Returns:
        The chain of each phase that has handlers; every call returns the same object. A chain runs the phase's handlers
        on the context it is called with, and raises what a handler raises. The chains of `on_close` and
        `on_transaction_end` log the exception instead and go on with the next handler.
    """
    return app._freeze()  # noqa: SLF001 - what a server asks of an App, and a program does not


def lifespans_of(app: App) -> Lifespans:
    """The lifespans of an App, for those who serve it."""
    return app._lifespans  # noqa: SLF001 - what a server asks of an App, and a program does not


def _is_middleware(phase: Phase, handler: Any) -> bool:
    """Tell the two shapes of handler apart.

    Raises:
        TypeError: It is neither; the text says what to write.
    """
    name = getattr(handler, "__qualname__", repr(handler))
    wanted = f"write `async def {phase.value}(ctx)` or `async def {phase.value}(ctx, call_next)`"
    if not callable(handler):
        raise TypeError(f"{phase.value}: {name} is not a function; {wanted}")
    if not (inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)):
        raise TypeError(f"{phase.value}: {name} is not an async function; {wanted}")
    parameters = inspect.signature(handler).parameters.values()
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    positional = [p for p in needed if p.kind is not p.KEYWORD_ONLY]
    if len(needed) != len(positional) or len(positional) not in (1, 2):
        raise TypeError(f"{phase.value}: {name}{inspect.signature(handler)} has the wrong parameters; {wanted}")
    return len(positional) == 2
