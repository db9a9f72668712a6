"""The plugin: its pages, in the process that serves, or in a process beside several workers."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping

import trio

from trio_smtp import App, Running

from .families import Values, render
from .gathering import Gathered, Gatherer
from .http import Page, serve_http
from .process import Check, Process

__all__ = ["CannotListen", "Metrics", "metrics", "reachable"]

logger: logging.Logger = logging.getLogger("trio_smtp")

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PLACE = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BACKLOG = 64


def metrics(listen: str = "127.0.0.1:9464", *, checks: Mapping[str, Check] | None = None) -> Metrics:
    """Serve metrics for Prometheus at ``/metrics``, and the health checks ``/livez`` and ``/readyz``.

    Where several workers serve, a process of its own serves the pages and adds up what the workers have counted.
    Several Apps of one program use the same object.

    Args:
        listen: ``HOST:PORT``, such as ``"127.0.0.1:9464"`` or ``"[::1]:9464"``; ``"*:9464"`` for all addresses of this
            machine. Anybody who can connect may read it. Port 0: any free one, which the log names.
        checks: What says whether a target can be reached, by names such as ``"mailstore"`` (a-z, 0-9 and _, at most 32
            characters): an async function that raises or returns False when it cannot. It is called every five seconds
            and has three; ``/readyz`` is 503 while one fails. See `reachable`.

    Returns:
        A plugin.

    Raises:
        ValueError: `listen` or a name of `checks` has another form.

    Example:
        >>> app.use(metrics("127.0.0.1:9464", checks={"mailstore": reachable("10.0.0.5", 24)}))
    """
    return Metrics(listen, checks or {})


def reachable(host: str, port: int) -> Check:
    """A check that a TCP connection to a target can be opened; it is closed at once.

    Args:
        host: A name or address.
        port: The port.
    """

    async def check() -> None:
        stream = await trio.open_tcp_stream(host, port)
        await trio.aclose_forcefully(stream)

    return check


class CannotListen(OSError):
    """The address that the pages are to be had at cannot be had; nothing is served."""


class Metrics:
    """What `metrics` returns: a plugin, and the companion of several workers (`App.accompany`).

    Args:
        listen: As for `metrics`.
        checks: Likewise.

    Attributes:
        address: The host and the port that it listens on; None: it does not listen yet.
    """

    name = "metrics"

    def __init__(self, listen: str, checks: Mapping[str, Check]) -> None:
        self._place = _parse(listen)
        for name in checks:
            if not _NAME.fullmatch(name):
                raise ValueError(f"checks: a name has a-z, 0-9 and _, at most 32 characters, not {name!r}")
        self._process = Process(checks)
        self.address: tuple[str, int] | None = None
        # In a process that has workers, and in the workers.
        self._gatherer: Gatherer | None = None
        self._listener: socket.socket | None = None

    def __call__(self, app: App) -> None:
        """Register with an App."""
        app.measure()
        app.watch_deliveries(self._process.delivering)
        app.lifespan(self._serving)
        app.accompany(self)

    async def _serving(self, running: Running) -> AsyncIterator[None]:
        gatherer = self._gatherer
        try:
            with self._process.serving(running) as first:
                if first:
                    running.nursery.start_soon(self._process.check_targets)
                    if gatherer is None:
                        running.nursery.start_soon(serve_http, self._bind(), self._answer)
                    else:
                        assert self._listener is not None
                        self._listener.close()  # the process beside has a copy
                        running.nursery.start_soon(gatherer.report, self._process)
                yield
        finally:
            if gatherer is not None and self._process.idle:
                await gatherer.report_last(self._process)

    def _answer(self, path: str) -> Page | None:
        report = self._process.report()
        return _page(path, lambda: report.values, report.obstacle, alive=True)

    def _bind(self) -> socket.socket:
        host, port = self._place
        try:
            sock = _bound(host, port)
        except OSError as error:
            why = (
                error.strerror
                if isinstance(error, socket.gaierror) or error.errno is None
                else os.strerror(error.errno)
            )
            raise CannotListen(error.errno, f"metrics cannot listen on {_shown(host, port)}: {why}") from error
        self.address = host, port = sock.getsockname()[:2]
        logger.info("metrics on http://%s/metrics", _shown(host, port))
        return sock

    # The companion

    def open(self) -> None:
        """See `Companion`."""
        self._listener = self._bind()
        self._gatherer = Gatherer()

    async def run(self, draining: trio.Event) -> None:
        """See `Companion`."""
        assert self._gatherer is not None
        assert self._listener is not None
        gathered = Gathered()

        def answer(path: str) -> Page | None:
            obstacle = "draining" if draining.is_set() else gathered.obstacle
            return _page(path, gathered.values, obstacle, alive=not gathered.silent)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gatherer.gather, gathered)
            nursery.start_soon(serve_http, self._listener.dup(), answer)

    def close(self) -> None:
        """See `Companion`."""
        for each in (self._listener, self._gatherer):
            if each is not None:
                each.close()
        self._listener = self._gatherer = None


def _page(path: str, values: Callable[[], Values], obstacle: str | None, *, alive: bool) -> Page | None:
    if path == "/metrics":
        return Page(render(values()), content_type=_TEXT)
    if path == "/livez":
        return Page("alive\n") if alive else Page("a worker hangs, or none serves\n", 503)
    if path == "/readyz":
        return Page("ready\n") if obstacle is None else Page(f"{obstacle}\n", 503)
    return None


def _parse(listen: str) -> tuple[str, int]:
    found = _PLACE.fullmatch(listen)
    port = int(found["port"]) if found else 0
    if found is None or port > 65535:
        raise ValueError(
            f"listen must be HOST:PORT, such as '127.0.0.1:9464', '[::1]:9464' or '*:9464', not {listen!r}"
        )
    return found["v6"] or found["host"], port


def _bound(host: str, port: int) -> socket.socket:
    if host == "*":
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        return socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family, backlog=_BACKLOG)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
