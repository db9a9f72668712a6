"""MailServer: a server in a thread for tests of programs that send mail."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import attrs
import trio

from trio_smtp import Config, SMTPServer
from trio_smtp.background import BackgroundServer

from .capture import Auth, capture_app
from .captured import CapturedMessage
from .certificates import certificates
from .frameworks import TLS, Place
from .loops import loop_runs_here, trio_token
from .mailbox import Mailbox
from .matching import Criteria, unwanted

__all__ = ["MailServer", "config_for"]

#: What clients log in with where any credentials are taken.
_ANY_LOGIN = ("user", "password")


class MailServer(Mailbox):
    """An SMTP server on a free port of 127.0.0.1, in a thread of its own, that captures what comes.

    It is for tests of any program: synchronous, of asyncio, of Trio, or in another process. It works as ``with`` and as
    ``async with`` block, or between `start` and `stop`; any thread may use it. Each server is for one block, and starts
    again at the same port when it was stopped by `stop`.

    Args:
        tls: ``"starttls"``, ``"implicit"`` (TLS from the first octet), or None. Needs the extra ``testing``.
        auth: ``"any"``: all credentials are taken, also without TLS, and noted in `sessions`. A mapping of users to
            passwords: these alone, and others are refused. None: AUTH is not offered.
        lmtp: Speak LMTP.
        config: Fields of `trio_smtp.Config` that differ, such as ``max_message_size`` or ``port``.

    Attributes:
        rules: Failures; the methods `fail`, `delay`, `disconnect` and the others add to them.

    Raises:
        ValueError: An option is not allowed.
        TypeError: An option is unknown.
        ImportError: `tls` without the extra ``testing``.

    Error handling: what is raised at the start comes out of entering the block, a crash of the server out of leaving
    the block.

    Resource handling: the thread is a daemon and ends with the block. After a fork, `host`, `port` and all that tells
    where the server is work in the child, whose mail comes to the parent; anything else is a RuntimeError there, and
    leaving the block does nothing.

    Example:
        >>> with MailServer() as mailserver:
        ...     sign_up("bob@example.com", smtp_port=mailserver.port)
        ...     mail = mailserver.wait_for(to="bob@example.com")
        ...     assert mail.code() == "123456"
    """

    def __init__(self, *, tls: TLS = None, auth: Auth = "any", lmtp: bool = False, **config: Any) -> None:
        super().__init__()
        self._process: int | None = None
        self._config, ca = config_for(tls, auth, lmtp=lmtp, **config)
        self._app = capture_app(self._begin, self._store, self.rules, auth, ca)
        self._server = BackgroundServer(self._app, self._config)
        self._tls: TLS = tls
        self._login = _login(auth)
        self._place: Place | None = None
        # `stop` was called, and `start` was not called after it.
        self._stopped = False

    # The block

    def start(self) -> Self:
        """Start the server; entering the block does so. A server that was stopped starts at the port that it had.

        Raises:
            RuntimeError: It was started before, and not stopped.
            OSError: The port cannot be had.
        """
        if self._stopped:
            self._config = attrs.evolve(self._config, port=self.port)
            self._server = BackgroundServer(self._app, self._config)
        self._server.__enter__()
        self._stopped = False
        self._process = os.getpid()
        ca_file = certificates().ca_file if self._tls is not None else None
        server = self._server
        self._place = Place(server.host, server.port, self._tls, self._config.lmtp, self._login, ca_file)
        return self

    def stop(self) -> None:
        """End the server at once, with its connections; leaving the block does so. What came can still be read.

        Its port refuses connections then, as where a mail server is down. Nothing happens when it was stopped before.
        """
        if self._process == os.getpid() and not self._stopped:
            self._stopped = True
            self._server.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.__exit__(kind, exc, traceback)

    async def __aenter__(self) -> Self:
        try:
            await _in_thread(self.start)
        except BaseException:
            self.stop()  # the task was cancelled, and the server may have started all the same
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _in_thread(lambda: self._server.__exit__(kind, exc, traceback))

    def start_over(self) -> None:
        """Make the server as new, between two tests: rules, messages and sessions go, and connections are reset.

        It returns when all connections have ended. What their clients have sent and still send is dropped. A server
        that was stopped starts again. In a Trio program call it by `trio.to_thread.run_sync`.

        Raises:
            RuntimeError: The server was not started, or its block was left.
            OSError: The server was stopped, and another program has its port.
            BaseException: The crash of the server.
        """
        self._check()
        self._forget()
        if self._stopped:
            self.start()
        self._server.call_async(_reset_connections, self._server.servers[0])
        self._forget()  # sessions that began meanwhile

    def _check(self) -> None:
        self._where()
        self._check_process()

    def _check_process(self) -> None:
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "this process was forked from the one that has the mail server: only what tells where the server is "
                "works here; ask for messages, and add rules, in the parent"
            )

    # Where it is

    def _where(self) -> Place:
        if self._place is None:
            raise RuntimeError("the mail server was not started: write `with MailServer() as mailserver:`")
        return self._place

    @property
    def host(self) -> str:
        """The server's address."""
        return self._where().host

    @property
    def port(self) -> int:
        """The server's port."""
        return self._where().port

    @property
    def url(self) -> str:
        """Where the server is and how to log in, such as ``smtp://user:password@127.0.0.1:34567``."""
        return self._where().url

    def env(self) -> dict[str, str]:
        """Make environment variables that tell a program where the server is.

        Returns:
            The names that frameworks read: ``SMTP_HOST``, ``EMAIL_HOST``, ``MAIL_SERVER`` and others, with port, login
            and TLS; with TLS also ``SSL_CERT_FILE``. Switches are ``"1"`` and ``"0"``.
        """
        return self._where().env()

    def django_settings(self) -> dict[str, Any]:
        """Make Django's settings: ``MAILERS`` with Django 6.1 and later, ``EMAIL_HOST`` and others before.

        A client of Django trusts the server's certificate only when ``SSL_CERT_FILE`` is set, as in `env`.
        """
        return self._where().django_settings()

    @property
    def ca_file(self) -> Path:
        """A PEM file with the certificate authority of the server's certificate.

        Raises:
            RuntimeError: The server has no TLS.
        """
        found = self._where().ca_file
        if found is None:
            raise RuntimeError(
                'the mail server has no TLS: use @pytest.mark.mailserver(tls="starttls"), or MailServer(tls="starttls")'
            )
        return found

    @property
    def client_ssl_context(self) -> ssl.SSLContext:
        """A new context for clients that trusts the server's certificate.

        Raises:
            RuntimeError: The server has no TLS.
        """
        _ = self.ca_file
        return certificates().client_context()

    # Waiting in a thread

    def wait_for(self, *, timeout: float = 5, **criteria: Unpack[Criteria]) -> CapturedMessage:
        """Wait for a message; one that is there already counts. In an event loop await `wait_for_async`.

        Args:
            timeout: Seconds.
            criteria: What it must be like: `to` and `sender` (of the envelope), `subject`, `text`, `header`,
                `attachment`; see `Criteria`.

        Returns:
            The first message that matches.

        Raises:
            AssertionError: None has come; the text lists what came, and what each missed.
            TypeError: A criterion is unknown.
        """
        self._check()
        found = self._wait(timeout, criteria)
        if found is None:
            raise AssertionError(self._nothing_came(criteria, timeout) + _held_up())
        return found

    def wait_for_none(self, *, within: float = 0.5, **criteria: Unpack[Criteria]) -> None:
        """Wait, and see to it that no such message comes, or is there already.

        Args:
            within: Seconds.
            criteria: What it must not be like; see `wait_for`.

        Raises:
            AssertionError: One has come, or this is an event loop, which the wait would have held up.
            TypeError: A criterion is unknown.
        """
        self._check()
        found = self._wait(within, criteria)
        if found is not None:
            raise AssertionError(unwanted(criteria, found))
        if held_up := _held_up():
            raise AssertionError(f"nothing came, but that says nothing{held_up}")


def config_for(tls: TLS, auth: Auth, *, lmtp: bool = False, **config: Any) -> tuple[Config, Any]:
    """The Config of a server for tests, and the certificate authority of its certificate; None without TLS."""
    if tls not in ("starttls", "implicit", None):
        raise ValueError(f'tls must be "starttls", "implicit" or None, not {tls!r}')
    if auth not in ("any", None) and not isinstance(auth, Mapping):
        raise ValueError(f'auth must be "any", a mapping of users to passwords, or None, not {auth!r}')
    _check_fields(config)
    made = certificates() if tls is not None else None
    usual: dict[str, Any] = {
        "port": 0,
        "hostname": "mailserver.test",
        "lmtp": lmtp,
        "dsn": True,
        "auth_mechanisms": ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"),
        "allow_insecure_auth": True,
    }
    if made is not None:
        usual |= {"ssl_context": made.server_context(), "implicit_tls": tls == "implicit"}
    return Config(**(usual | config)), made.ca if made is not None else None


def _check_fields(config: dict[str, Any]) -> None:
    fields = [field.name for field in attrs.fields(Config) if field.init and field.name not in ("lmtp", "unix_path")]
    for name in config:
        if name == "unix_path":
            raise ValueError("unix_path is not possible: a mail server for tests listens on a TCP port")
        if name not in fields:
            raise TypeError(f"{name} is no option: there are tls, auth, lmtp, and of Config {', '.join(fields)}")


def _login(auth: Auth) -> tuple[str, str] | None:
    if auth is None or isinstance(auth, str):
        return None if auth is None else _ANY_LOGIN
    return next(iter(auth.items()), None)


async def _reset_connections(server: SMTPServer) -> None:
    for _ in range(3):  # whoever has connected is accepted first
        await trio.lowlevel.checkpoint()
    await server.abort_connections()


async def _in_thread(function: Callable[[], object]) -> None:
    """Run a function that blocks for some milliseconds beside the event loop, to its end."""
    if trio_token() is not None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(function)
        return
    task = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _held_up() -> str:
    """What to add to an error where the wait has held an event loop up."""
    if not loop_runs_here():
        return ""
    return (
        "\nan event loop runs in this thread, and the wait has held up whatever was to send: "
        "write `await mailserver.wait_for_async(...)` or `await mailserver.wait_for_none_async(...)`"
    )
