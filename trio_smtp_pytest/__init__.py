"""The pytest plugin of trio_smtp: fixtures with a mail server for tests of programs that send mail.

`mailserver` is a `trio_smtp.testing.MailServer` that is as new in each test; the server itself starts at first use and
lives as long as the session. The marker ``mailserver`` chooses another one::

    @pytest.mark.mailserver(tls="starttls", auth={"bob": "secret"})
    def test_sign_up(mailserver: MailServer) -> None: ...

This package is imported with pytest, so it imports nothing of `trio_smtp` before a fixture is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import trio

    from trio_smtp.testing import MailServer, TrioMailServer

__all__ = [
    "mailserver",
    "mailserver_factory",
    "mailserver_session",
    "pytest_configure",
    "pytest_unconfigure",
    "trio_mailserver",
]

_MARKER = """\
mailserver(*, tls=None, auth="any", lmtp=False, **config): the server of the fixtures mailserver and trio_mailserver; \
see trio_smtp.testing.MailServer.\
"""


class _Servers:
    """The servers of a session: one for each distinct marker. A process that was forked has servers of its own."""

    def __init__(self) -> None:
        self._servers: list[tuple[dict[str, Any], MailServer]] = []
        self._process = os.getpid()

    def get(self, options: dict[str, Any]) -> MailServer:
        """The server with these options, which is started when it is first asked for."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._servers.clear()
        for each, server in self._servers:
            if each == options:
                return server
        from trio_smtp.testing import MailServer

        server = MailServer(**options).start()
        self._servers.append((options, server))
        return server

    def clean(self, server: MailServer) -> None:
        """Make a server as new, except in a process that was forked by a test."""
        if self._process != os.getpid():
            return
        try:
            server.start_over()
        except Exception:
            server.stop()  # raises the crash; for the next test the server starts again
            raise

    def stop(self) -> None:
        """End all servers; in a process that was forked from theirs, none."""
        with ExitStack() as stack:  # each is ended, also when another one has crashed
            while self._servers:
                stack.callback(self._servers.pop()[1].stop)


_SERVERS = pytest.StashKey[_Servers]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)
    config.stash[_SERVERS] = _Servers()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers."""
    if _SERVERS in config.stash:
        config.stash[_SERVERS].stop()


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of the closest marker."""
    marker = request.node.get_closest_marker("mailserver")
    if marker is None:
        return {}
    if marker.args:
        raise pytest.UsageError(f"pytest.mark.mailserver takes names, such as tls='starttls', not {marker.args[0]!r}")
    return dict(marker.kwargs)


@pytest.fixture(scope="session")
def mailserver_session(pytestconfig: pytest.Config) -> MailServer:
    """The mail server of tests without a marker: for fixtures of the session that tell a program where it is."""
    return pytestconfig.stash[_SERVERS].get({})


@pytest.fixture
def mailserver(request: pytest.FixtureRequest) -> Iterator[MailServer]:
    """A mail server without messages and failures, that captures what is sent to it."""
    servers = request.config.stash[_SERVERS]
    server = servers.get(_options(request))
    servers.clean(server)
    yield server
    servers.clean(server)


@pytest.fixture
def mailserver_factory() -> Iterator[Callable[..., MailServer]]:
    """A function that starts a mail server with a port of its own; it takes what `MailServer` takes."""
    from trio_smtp.testing import MailServer

    with ExitStack() as stack:  # each server is ended, also when another one has crashed

        def make(**options: Any) -> MailServer:
            server = MailServer(**options).start()
            stack.callback(server.stop)
            return server

        yield make


@pytest.fixture
def trio_mailserver(request: pytest.FixtureRequest, nursery: trio.Nursery) -> TrioMailServer:
    """A mail server in memory, in the test's own Trio program; needs pytest-trio."""
    from trio_smtp.testing import TrioMailServer

    server = TrioMailServer(**_options(request))
    nursery.start_soon(server.serve)
    return server
