"""`run`: what a program calls to serve until signals end it."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from trio_smtp.app.application import App
from trio_smtp.app.config import Config
from trio_smtp.net.nurseries import open_bare_nursery
from trio_smtp.net.steady_log import SteadyHandler

from .server import SMTPServer
from .serving import make_servers, serve_servers

__all__ = ["run"]

logger: logging.Logger = logging.getLogger("trio_smtp")

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def run(
    app: App,
    config: Config | None = None,
    *more: Config | tuple[App, Config],
    started: Callable[[list[SMTPServer]], object] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT (Ctrl-C) ends it. Programs call it in place of ``trio.run(serve, app, config)``.

    The first signal drains, a second one stops what is under way, and after that signals do what they do by default. A
    signal that comes before all servers accept connections stops at once. One line of the log (INFO) says for each
    listener where it listens. Where nothing has set up logging, the library's log goes to stderr from INFO on.

    Args:
        app: The handlers.
        config: Where to listen, and limits. None: a `Config` with its defaults.
        more: Further Configs, for further listeners; a pair ``(App, Config)`` is another App's.
        started: Called with the servers when all of them accept connections.

    Returns:
        An exit code: 0 after a drain, 128 plus a signal's number when a signal stopped it.

    Raises:
        OSError: An address cannot be had; nothing is served.
        RuntimeError: It is not called from the main thread, or inside a running event loop.

    Example:
        >>> if __name__ == "__main__":
        ...     run(app, Config(port=2525))
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "run must be called from the main thread: signals come there. Elsewhere: trio.run(serve, app)"
        )
    signals = _Signals(make_servers(app, [Config() if config is None else config, *more]))
    with _visible_log():
        try:
            trio.run(signals.serve, started)
        except KeyboardInterrupt:
            # Before the signals are caught, or a third one.
            return 128 + signal.SIGINT
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            return 128 + signal.SIGINT
    return signals.status


class _Signals:
    """The servers of a program, and what signals do to them.

    Args:
        servers: The servers.

    Attributes:
        status: The exit code.
    """

    def __init__(self, servers: list[SMTPServer]) -> None:
        self._servers = servers
        self._serving = False
        self.status = 0

    async def serve(self, started: Callable[[list[SMTPServer]], object] | None) -> None:
        """Serve until signals end it."""

        def accepting() -> None:
            self._serving = True
            _say_where(self._servers)
            if started is not None:
                started(self._servers)

        async with open_bare_nursery() as nursery:
            await nursery.start(self._obey, nursery)
            await serve_servers(self._servers, accepting)
            nursery.cancel_scope.cancel()

    async def _obey(self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            number = await anext(signals)
            if self._serving:
                logger.info("finishing what is under way; a second signal stops at once")
                for server in self._servers:
                    server.drain()
                number = await anext(signals)
            self.status = 128 + number
            nursery.cancel_scope.cancel()


def _say_where(servers: Sequence[SMTPServer]) -> None:
    for server in servers:
        tls = " (TLS)" if server.config.implicit_tls else " (STARTTLS)" if server.config.ssl_context else ""
        for listener in server.listeners:
            assert isinstance(listener, trio.SocketListener)
            logger.info("listening on %s%s", _place_of(listener.socket.getsockname()), tls)


def _place_of(name: str | tuple[str, int]) -> str:
    """An address as people write it, such as ``[::1]:25``."""
    if isinstance(name, str):
        return str(Path(name).absolute())
    host, port = name[:2]
    return f"{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def _visible_log() -> Iterator[None]:
    """Write the library's log to stderr where nothing has set up logging: a first program is to say that it listens."""
    if logger.hasHandlers():
        yield
        return
    handler, level = SteadyHandler(), logger.level
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
