"""Inbox: the store, the rules, and the ways in (the plugin `capture`) and out (`asgi`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from trio_smtp import Plugin
from trio_smtp.plugins.faults import AnyRule, Rules

from .capture import capture
from .relay import Relay
from .store.store import Limits, Store

if TYPE_CHECKING:
    from .api.types import ASGIApp

__all__ = ["Inbox"]

_LEAST_SIZE = 1_048_576


class Inbox:
    """Catches mail, and shows it on web pages and by Mailpit's API.

    It may be used in any thread and event loop: the App that catches, and the web application that shows, need not run
    in the same one. A context manager; leave it, or call `close`, when both have ended.

    Args:
        database: A file that keeps the messages; None: a private temporary one, which is deleted by `close`.
        max_messages: So many messages are kept, and so many failures (what was refused, and connections that broke);
            the oldest go first.
        max_size: Octets that all of them may take together, about.
        max_age: Seconds after which a message goes; None: never.
        rules: Failures; see `trio_smtp.plugins.faults`.
        relay: Where messages can be released to, such as ``"smtp://user:password@mail.example.com:587"``; None:
            nowhere.
        label: Shown on the page, to tell several inboxes apart.

    Attributes:
        store: The messages.
        rules: The live rules.
        relay: Where messages can be released to, or None.
        label: Shown on the page.
        smtp_address: Where mail is taken, as the page shows it to people who have none yet.
        accepts_any_user: Whether `capture` was told to authenticate every client, which the page says as well.

    Raises:
        ValueError: An argument is wrong, or the file is no database of an inbox.
        OSError: The file cannot be opened.

    Example:
        >>> inbox = Inbox("mail.db", max_messages=500)
        >>> app.use(inbox.capture())
        >>> starlette_app.mount("/mail", inbox.asgi())
    """

    def __init__(
        self,
        database: str | Path | None = None,
        *,
        max_messages: int = 500,
        max_size: int = 512 * 1024 * 1024,
        max_age: float | None = None,
        rules: Rules | Iterable[AnyRule] = (),
        relay: str | Relay | None = None,
        label: str = "",
    ) -> None:
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages!r}")
        if max_size < _LEAST_SIZE:
            raise ValueError(f"max_size must be at least {_LEAST_SIZE:,} octets, not {max_size!r}")
        if max_age is not None and not max_age > 0:
            raise ValueError(f"max_age must be more than 0 seconds, or None, not {max_age!r}")
        self.rules: Rules = rules if isinstance(rules, Rules) else Rules(rules)
        self.relay: Relay | None = Relay.parse(relay) if isinstance(relay, str) else relay
        self.label: str = label
        self.smtp_address: str = "127.0.0.1:1025"
        self.accepts_any_user: bool = False
        path = None if database is None else Path(database).absolute()
        self.store: Store = Store(path, Limits(messages=max_messages, size=max_size, age=max_age))

    def capture(self, *, accept_any_user: bool = False) -> Plugin:
        """Make the plugin that catches every message of an App.

        Use it before all other handlers. A message that no other handler takes is accepted once it is committed; one
        that others take is kept as well. The `rules` act on the App too.

        Args:
            accept_any_user: Authenticate every client, with whatever credentials. Without it AUTH is what the App's
                other handlers make of it.

        Returns:
            A plugin.
        """
        self.accepts_any_user = accept_any_user
        return capture(self.store, self.rules, accept_any_user=accept_any_user)

    def asgi(
        self,
        *,
        root_path: str = "",
        allowed_hosts: Iterable[str] = (),
        max_message_size: int = 33_554_432,
        users: str | Path | None = None,
    ) -> ASGIApp:
        """Make an ASGI application with the web pages and the API. It runs under Trio and asyncio, without a lifespan.

        Args:
            root_path: Where it is mounted, such as ``"/mail"``, when what mounts it does not say so in the scope.
            allowed_hosts: Names that requests may be for, besides IP addresses, ``localhost`` and ``*.localhost``.
            max_message_size: Octets of a message that is sent or imported by the API.
            users: A file of users and passwords, as ``trio-smtp passwd`` makes it; others get nothing but 401. None:
                whoever can send requests may look.

        Raises:
            ImportError: The extra ``inbox`` is not installed; the text names it.
            OSError: The file of users cannot be read.
            ValueError: An argument is malformed, or the file of users is.
        """
        from .api import make_application

        return make_application(
            self,
            root_path=root_path,
            allowed_hosts=allowed_hosts,
            max_message_size=max_message_size,
            users=None if users is None else Path(users),
        )

    def close(self) -> None:
        """Write what is under way, and close the database; a temporary one is deleted."""
        self.store.close()

    def __enter__(self) -> Inbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
