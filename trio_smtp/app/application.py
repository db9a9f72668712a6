"""App: where handlers are registered, and how the handlers of a phase become one chain.

Registering only keeps a list for each phase. `App.freeze` compiles each list, from its end, into one callable: a filter
stands for itself, filters in a row become one function that awaits them in order, and a middleware becomes a function
that calls it with a `call_next` for the rest of the chain.
"""

from __future__ import annotations

import enum
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, TypeVar

from .base import BaseApp
from .contexts import (
    AuthContext,
    CloseContext,
    ConnectContext,
    DataContext,
    DataStartContext,
    HeloContext,
    MailFromContext,
    RcptToContext,
    SecureContext,
    VerifyContext,
)
from .extension import Extension
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
    "lifespans_of",
]

_logger = logging.getLogger("trio_smtp")
_ON_CLOSE_FAILED = "session=%s on_close handler failed"

C = TypeVar("C")

#: What a middleware awaits to run the rest of the chain.
CallNext = Callable[[], Awaitable[None]]
#: A handler after which the chain goes on.
Filter = Callable[[C], Awaitable[None]]
#: A handler that awaits ``call_next()`` to run the rest of the chain; code after that runs on the way back.
Middleware = Callable[[C, CallNext], Awaitable[None]]
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


#: All handlers of a phase in one: call it with the phase's context and await what it returns.
Chain = Callable[[Any], Awaitable[None]]
#: The chains of an App; a phase without handlers has none.
Chains = Mapping[Phase, Chain]

# A handler, and whether it is a middleware.
_Registered = tuple[Callable[..., Awaitable[None]], bool]


class App(BaseApp):
    """The handlers of a mail server.

    Handlers run in the order they were registered, the first outermost. Two shapes are told apart by their
    positional parameters without a default: ``async def f(ctx)`` runs and the chain goes on;
    ``async def m(ctx, call_next)`` goes on when it awaits ``call_next()``, and not calling it ends the chain and
    accepts. One App may be served under several Configs at once.

    Attributes:
        state: A namespace for what handlers share.
        extensions: What `extend` has added, in order. The server reads them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[Phase, list[_Registered]] = {phase: [] for phase in Phase}
        # None until `freeze`.
        self._chains: Chains | None = None
        self.extensions: list[Extension] = []
        self._lifespans = Lifespans(self)

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
        if self._chains is not None:
            raise RuntimeError("lifespan: register lifespans before serving begins")
        self._lifespans.add(function)
        return function

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
        self.freeze()
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

    def on_auth(self, handler: _Auth) -> _Auth:
        """Register a handler that checks credentials; without one AUTH is not offered. Default refusal: 535."""
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

    def use(self, plugin: Plugin) -> App:
        """Let a plugin register its handlers.

        Args:
            plugin: Called with this App.

        Returns:
            This App, so that calls chain.
        """
        plugin(self)
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
        if self._chains is not None:
            raise RuntimeError("extend: add extensions before serving begins")
        for other in self.extensions:
            if extension.clashes(other):
                raise ValueError(f"extend: {extension.keyword}, or a parameter or verb of it, is there already")
        self.extensions.append(extension)
        return self

    def freeze(self) -> Chains:
        """End registration and compile the chains. `SMTPServer` calls this method; programs need not.

        Returns:
            The chain of each phase that has handlers; every call returns the same object. A chain runs the phase's
            handlers on the context it is called with, and raises what a handler raises. The chain of `on_close` logs
            the exception instead and goes on with the next handler.
        """
        if self._chains is None:
            self._chains = {
                phase: _compile([_logging(each) for each in handlers] if phase is Phase.CLOSE else handlers)
                for phase, handlers in self._handlers.items()
                if handlers
            }
        return self._chains

    def _register(self, phase: Phase, handler: C) -> C:
        if self._chains is not None:
            raise RuntimeError(f"{phase.value}: register handlers before serving begins")
        self._handlers[phase].append((handler, _is_middleware(phase, handler)))  # type: ignore[arg-type]
        return handler


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


def _compile(handlers: Sequence[_Registered]) -> Chain:
    """Make one chain of a phase's handlers, from the last to the first."""
    steps: list[Chain] = []
    for handler, middleware in reversed(handlers):
        if middleware:
            steps = [_around(handler, _in_order(steps))]  # the middleware decides about all steps after it
        else:
            steps.insert(0, handler)
    return _in_order(steps)


def _in_order(steps: Sequence[Chain]) -> Chain:
    if len(steps) == 1:
        return steps[0]

    async def run(context: Any) -> None:
        for step in steps:
            await step(context)

    return run


def _around(middleware: Middleware[Any], rest: Chain) -> Chain:
    def run(context: Any) -> Awaitable[None]:
        called = False

        async def call_next() -> None:
            nonlocal called
            if called:
                raise RuntimeError("call_next() was called twice")
            called = True
            await rest(context)

        return middleware(context, call_next)  # the caller awaits it: an `async def run` would be one coroutine more

    return run


def _logging(registered: _Registered) -> _Registered:
    """Wrap a handler of `on_close`: what it raises is logged, and the handlers after it run, once."""
    handler, middleware = registered

    async def run_filter(context: CloseContext) -> None:
        try:
            await handler(context)
        except Exception:
            _logger.exception(_ON_CLOSE_FAILED, context.session.id)

    async def run_middleware(context: CloseContext, call_next: CallNext) -> None:
        called = False

        async def note_call() -> None:
            nonlocal called
            called = True
            await call_next()

        try:
            await handler(context, note_call)
        except Exception:
            _logger.exception(_ON_CLOSE_FAILED, context.session.id)
        else:
            return
        if not called:  # the middleware failed before it went on, so the others have not run yet
            await call_next()

    return (run_middleware if middleware else run_filter), middleware
