"""App: where handlers are registered, and the middleware chain of each phase."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

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

__all__ = ["App", "CallNext", "Filter", "Handler", "Middleware", "Phase", "Plugin"]

C = TypeVar("C")

#: What a middleware awaits to go on.
CallNext = Callable[[], Awaitable[None]]
#: Runs, then the chain goes on.
Filter = Callable[[C], Awaitable[None]]
#: Goes on when it awaits ``call_next()``; what follows that runs on the way back.
Middleware = Callable[[C, CallNext], Awaitable[None]]
#: Either of the two.
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


class Phase(enum.StrEnum):
    """When handlers run; the value is the decorator's name."""

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


# A handler, and whether it is a middleware.
_Registered = tuple[Callable[..., Awaitable[None]], bool]


class App:
    """The handlers of a mail server.

    Handlers run in the order they were registered, the first outermost. Two shapes are told apart by their
    positional parameters without a default: ``async def f(ctx)`` runs and the chain goes on;
    ``async def m(ctx, call_next)`` goes on when it awaits ``call_next()``, and not calling it ends the chain and
    accepts. One App may be served under several Configs at once.

    Attributes:
        state: A namespace for what handlers share.
    """

    def __init__(self) -> None:
        self.state: SimpleNamespace = SimpleNamespace()
        self._handlers: dict[Phase, list[_Registered]] = {phase: [] for phase in Phase}
        self._serving = False
        #: The extensions that `extend` has added.
        self.extensions: list[Extension] = []

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
        if self._serving:
            raise RuntimeError("extend: add extensions before serving begins")
        for other in self.extensions:
            if extension.clashes(other):
                raise ValueError(f"extend: {extension.keyword}, or a parameter or verb of it, is there already")
        self.extensions.append(extension)
        return self

    def handles(self, phase: Phase) -> bool:
        """Whether any handler is registered for the phase."""
        return bool(self._handlers[phase])

    def freeze(self) -> None:
        """Serving begins: from now on registering is an error."""
        self._serving = True

    def chain(
        self, phase: Phase, *, failed: Callable[[Exception], None] | None = None
    ) -> Callable[[object], Awaitable[None]]:
        """What runs the phase's handlers on a context.

        Args:
            phase: Which.
            failed: Called with what one of them raises, and the next one runs; None: it ends the chain and comes out.
        """
        handlers = self._handlers[phase]
        if len(handlers) == 1 and not handlers[0][1] and failed is None:
            return handlers[0][0]
        return partial(_run_from, handlers, 0, failed)

    def _register(self, phase: Phase, handler: C) -> C:
        if self._serving:
            raise RuntimeError(f"{phase.value}: register handlers before serving begins")
        self._handlers[phase].append((handler, _is_middleware(phase, handler)))  # type: ignore[arg-type]
        return handler


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


async def _run_from(
    handlers: list[_Registered], start: int, failed: Callable[[Exception], None] | None, context: object
) -> None:
    for position in range(start, len(handlers)):
        handler, middleware = handlers[position]
        called = not middleware

        async def call_next(following: int = position + 1) -> None:
            nonlocal called
            if called:
                raise RuntimeError("call_next() was called twice")
            called = True
            await _run_from(handlers, following, failed, context)

        try:
            await (handler(context, call_next) if middleware else handler(context))
        except Exception as exc:
            if failed is None:
                raise
            failed(exc)
            if not called:
                continue
        if middleware:
            return
