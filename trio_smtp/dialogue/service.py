"""What all sessions of one server share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from trio_smtp.app.application import App, Chains, Phase, chains_of
from trio_smtp.app.config import Config
from trio_smtp.app.stats import Stats
from trio_smtp.protocol.exchange import Mechanism
from trio_smtp.protocol.replies import Reply

from .capabilities import Capabilities

__all__ = ["Service"]

_HOOKS = frozenset({Phase.COMMAND, Phase.REPLY, Phase.TRANSACTION_END})


class Service:
    """An App under a Config, ready to be spoken with.

    Args:
        app: The handlers; registering more is an error from now on.
        config: Limits, clocks and switches.

    Attributes:
        chains: The handlers of each phase that has some.
        config: As given.
        stats: The counters.
        capabilities: What sessions are offered.
        greeting: The 220.
        hello: The reply to HELO.
        ehlo_reply: Makes the reply to EHLO out of its lines; kept, since most sessions get the same.
        extended: The program's own functions take part in the dialogue: an extension's, or a SASL mechanism's.
        hooked: There are handlers of `on_command`, `on_reply` or `on_transaction_end`.
        guarded: Something must come before a transaction: TLS, or authentication.
        starts_freely: A message may come whenever its turn is: `on_data` takes it, and nobody is asked before.

    Raises:
        ValueError: An extension of the App clashes with one of the library's.
    """

    __slots__ = (
        "__weakref__",
        "capabilities",
        "chains",
        "config",
        "ehlo_reply",
        "extended",
        "greeting",
        "guarded",
        "hello",
        "hooked",
        "starts_freely",
        "stats",
    )

    def __init__(self, app: App, config: Config) -> None:
        self.config: Config = config
        self.stats: Stats = Stats()
        self.chains: Chains = chains_of(app)
        self.capabilities: Capabilities = Capabilities(config, self.chains, app.extensions)
        self.greeting: Reply = Reply(220, f"{config.hostname} {config.banner}")
        self.hello: Reply = Reply(250, config.hostname)
        self.ehlo_reply: Callable[[tuple[str, ...]], Reply] = lru_cache(maxsize=64)(self._make_ehlo_reply)
        own_mechanism = any(isinstance(each, Mechanism) for each in config.auth_mechanisms)
        self.extended: bool = bool(app.extensions) or own_mechanism
        self.hooked: bool = not _HOOKS.isdisjoint(self.chains)
        self.guarded: bool = config.auth_required or config.starttls_required
        self.starts_freely: bool = Phase.DATA in self.chains and Phase.DATA_START not in self.chains

    def _make_ehlo_reply(self, extensions: tuple[str, ...]) -> Reply:
        return Reply(250, (self.config.hostname, *extensions))
