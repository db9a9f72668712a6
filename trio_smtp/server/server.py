"""SMTPServer: listeners, limits, drain."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from trio_smtp.app.application import App, Phase, lifespans_of
from trio_smtp.app.config import Config
from trio_smtp.app.session import Session
from trio_smtp.app.stats import Stats
from trio_smtp.connection.connection import Connection
from trio_smtp.connection.handshake import TLS
from trio_smtp.connection.places import Place, Places
from trio_smtp.connection.watch import Watch
from trio_smtp.dialogue.log import facts
from trio_smtp.dialogue.service import Service
from trio_smtp.net.accepting import accept
from trio_smtp.net.closing import LINGER_SECONDS, close, linger
from trio_smtp.net.endpoints import endpoints_of
from trio_smtp.net.readiness import Readiness
from trio_smtp.net.server_names import note_server_names
from trio_smtp.net.steady_log import steady_loggers
from trio_smtp.net.tls_object import improve
from trio_smtp.net.transport import Outbox
from trio_smtp.net.unix import UnixFile, open_unix_listener
from trio_smtp.protocol.errors import Aborted
from trio_smtp.protocol.networks import canonical
from trio_smtp.protocol.replies import Reply
from trio_smtp.protocol.verbs import Verb

__all__ = ["SMTPServer", "close_listeners", "open_listeners"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: Refusals that are being said at a time; over that, connections are closed without a word.
_MAX_REFUSALS = 100
_REFUSAL_LIMIT = 5.0


class SMTPServer:
    """Serves one App under one Config, on any number of listeners and streams.

    Args:
        app: The handlers. Registering more is an error from now on.
        config: Limits, clocks and switches.

    Attributes:
        app: As given.
        config: As given.
        stats: The counters.
        listeners: The listeners being served.
    """

    def __init__(self, app: App, config: Config | None = None) -> None:
        if not isinstance(app, App):
            raise TypeError(f"app must be an App, not {app!r}")
        steady_loggers()
        self.app = app
        self.config: Config = Config() if config is None else config
        self._service = Service(app, self.config)
        self._tls = TLS(self.config.ssl_context)
        self.stats: Stats = self._service.stats
        self.listeners: list[trio.abc.Listener[trio.abc.Stream]] = []
        if Phase.DATA not in self._service.chains:
            logger.warning("the App has no on_data handler: every message will be refused")
        if self.config.auth_required and Phase.AUTH not in self._service.chains:
            logger.warning("auth_required, but the App has no on_auth handler: every sender will be refused")
        if self.config.ssl_context is not None:
            self.reload_tls(self.config.ssl_context)
        self._places = Places(self.config)
        self._connections: dict[Connection, Place] = {}
        self._socket_files: dict[object, UnixFile] = {}
        self._refusals = 0
        self._accepting: set[trio.CancelScope] = set()
        self._drain_begun = trio.Event()
        self._ends = trio.lowlevel.ParkingLot()

    @property
    def port(self) -> int | None:
        """The port of the first listener; None where it is on a Unix socket, and where there is no listener."""
        for listener in self.listeners[:1]:
            if isinstance(listener, trio.SocketListener):
                name = listener.socket.getsockname()
                if isinstance(name, tuple):
                    return int(name[1])
        return None

    @property
    def draining(self) -> bool:
        """Whether `drain` has been called."""
        return self._drain_begun.is_set()

    @property
    def sessions(self) -> list[Session]:
        """The live sessions."""
        return [connection.session for connection in self._connections]

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """The context of the next handshakes, or None."""
        return self._tls.context

    def reload_tls(self, ssl_context: ssl.SSLContext) -> None:
        """Use this context for handshakes from now on; sessions that are secure already go on as they are.

        Args:
            ssl_context: A server-side context.

        Raises:
            TypeError: Not an SSLContext.
            ValueError: The server was made without TLS, so no client expects it.
        """
        if not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError(f"ssl_context must be an ssl.SSLContext, not {ssl_context!r}")
        if self.config.ssl_context is None:
            raise ValueError("reload_tls needs a Config with an ssl_context to replace")
        note_server_names(ssl_context)
        improve(ssl_context)
        self._tls.use(ssl_context)

    # Serving

    async def serve_tcp(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on TCP and serve until cancelled or drained.

        Args:
            host: A name or address; None: the Config's.
            port: A port, 0 for any free one; None: the Config's.
            task_status: ``started()`` gives the listeners.

        Raises:
            OSError: The address cannot be had.
        """
        await self.serve_listeners(await self.listen_tcp(host=host, port=port), task_status=task_status)

    async def listen_tcp(self, *, host: str | None = None, port: int | None = None) -> list[trio.SocketListener]:
        """Open TCP listeners for `serve_listeners`.

        Args:
            host: A name or address; None: the Config's.
            port: A port, 0 for any free one; None: the Config's.

        Raises:
            OSError: The address cannot be had.
        """
        port = self.config.port if port is None else port
        host = self.config.host if host is None else host
        try:
            return await trio.open_tcp_listeners(port, host=host, backlog=self.config.backlog)
        except OSError as exc:
            exc.add_note(f"it was to listen on {host=}, {port=}")
            raise

    async def serve_unix(
        self,
        path: str | Path | None = None,
        *,
        mode: int | None = None,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen on a Unix socket and serve until cancelled or drained; its file is removed at the end.

        Args:
            path: Where; None: the Config's. A stale socket file is replaced.
            mode: The file's permissions; None: the Config's.
            task_status: ``started()`` gives the listeners.

        Raises:
            OSError: The path cannot be had.
            ValueError: There is no path.
        """
        await self.serve_listeners([self.listen_unix(path, mode=mode)], task_status=task_status)

    def listen_unix(self, path: str | Path | None = None, *, mode: int | None = None) -> trio.SocketListener:
        """Open a Unix socket listener for `serve_listeners`, which removes its file at the end.

        Args:
            path: Where; None: the Config's.
            mode: The file's permissions; None: the Config's.

        Raises:
            OSError: The path cannot be had.
            ValueError: There is no path.
        """
        path = self.config.unix_path if path is None else path
        if path is None:
            raise ValueError("path: neither given nor in the Config (unix_path)")
        mode = self.config.unix_mode if mode is None else mode
        listener, file = open_unix_listener(path, mode=mode, backlog=self.config.backlog)
        self._socket_files[listener] = file
        return listener

    async def serve_listeners(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve connections from these listeners until cancelled or drained; they are closed at the end.

        Args:
            listeners: Any trio listeners.
            task_status: ``started()`` gives them.

        Raises:
            RuntimeError: Another call serves the App, which has lifespans; see `App.running`.
        """
        self.listeners.extend(listener for listener in listeners if listener not in self.listeners)
        try:
            async with lifespans_of(self.app).around(self):
                await self._serve_listeners(listeners, task_status)
        finally:
            await close_listeners(self, listeners)

    async def _serve_listeners(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        task_status: trio.TaskStatus[list[trio.SocketListener]],
    ) -> None:
        with Outbox().at_work() as outbox:
            readiness = Readiness()
            async with self._watching(readiness.run) as watch, trio.open_nursery() as nursery:
                start = partial(self._start, nursery=nursery, watch=watch)
                with self._accepting_scope():
                    async with trio.open_nursery() as acceptors:
                        for listener in listeners:
                            acceptors.start_soon(accept, listener, start, outbox, readiness)
                        task_status.started(list(listeners))  # type: ignore[arg-type]
                await self._close_listeners(listeners)

    @contextmanager
    def _accepting_scope(self) -> Iterator[None]:
        with trio.CancelScope() as accepting:
            self._accepting.add(accepting)
            if self._drain_begun.is_set():
                accepting.cancel()
            try:
                yield
            finally:
                self._accepting.discard(accepting)

    async def _close_listeners(self, listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> None:
        for listener in listeners:
            if listener in self.listeners:
                self.listeners.remove(listener)
                await trio.aclose_forcefully(listener)
                if listener in self._socket_files:
                    self._socket_files.pop(listener).remove()

    async def serve_stream(
        self, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[Session] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve one connection to its end; the stream is closed. No limit on connections holds here.

        Args:
            stream: Any trio stream, an in-memory one included.
            task_status: ``started()`` gives the Session.

        Raises:
            RuntimeError: Another call serves the App, which has lifespans; see `App.running`.
        """
        begun = False
        try:
            async with lifespans_of(self.app).around(self):
                session = self._session_of(stream)
                connection = self._new_connection(stream, session, self._places.take_anyway(session.remote_address))
                task_status.started(session)
                async with self._watching() as watch:
                    begun = True
                    await connection.run(watch, self._forget)
        finally:
            if not begun:
                await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def _watching(self, *beside: Callable[[], Awaitable[None]]) -> AsyncIterator[Watch]:
        watch = Watch(self.config)
        async with trio.open_nursery() as nursery:
            for each in (watch.run, *beside):
                nursery.start_soon(each)
            yield watch
            nursery.cancel_scope.cancel()

    def drain(self) -> None:
        """Stop accepting, tell idle clients 421, let transactions in flight end within `drain_timeout`.

        Safe to call from any task of the same run, more than once.
        """
        if self._drain_begun.is_set():
            return
        self._drain_begun.set()
        for scope in self._accepting:
            scope.cancel()
        for connection in self._connections:
            connection.drain(self.config.drain_timeout)

    async def wait_draining(self) -> None:
        """Wait until `drain` has been called: handlers that wait for a long time end that then."""
        await self._drain_begun.wait()

    async def abort_connections(self, *, reset: bool = True) -> None:
        """End all connections without a word, as `Context.abort` does, and wait for their ends; others may begin.

        Args:
            reset: The clients' systems see a reset; otherwise the end of the connection.
        """
        aborted = set(self._connections)
        for connection in aborted:
            with suppress(Aborted):
                connection.session._abort(reset=reset)  # noqa: SLF001 - what a context calls
        await trio.lowlevel.checkpoint()
        while not aborted.isdisjoint(self._connections):
            await self._ends.park()

    def _start(self, stream: trio.abc.Stream, nursery: trio.Nursery, watch: Watch) -> None:
        """Serve a new connection, or refuse it."""
        session = self._session_of(stream)
        place = self._places.take(session.remote_address)
        if isinstance(place, Place):
            nursery.start_soon(self._new_connection(stream, session, place).run, watch, self._forget)
            return
        self.stats.connections_refused += 1
        logger.warning("peer=%s refused: %s", session.remote_address, place.text, extra=facts(session, "refused"))
        nursery.start_soon(self._refuse, stream, None if self._refusals >= _MAX_REFUSALS else place)
        self._refusals += 1

    def _session_of(self, stream: trio.abc.Stream) -> Session:
        """A session that knows who is at the other end, where the stream does."""
        session = Session(lmtp=self.config.lmtp, app=self.app)
        endpoints = endpoints_of(stream)
        if endpoints.remote is not None:
            session.remote_address, session.remote_port = canonical(endpoints.remote[0]), endpoints.remote[1]
            session.original_peer = session.remote_address, session.remote_port
            session.client_hostname = f"[{session.remote_address}]"
        if endpoints.local is not None:
            session.local_address, session.local_port = canonical(endpoints.local[0]), endpoints.local[1]
        return session

    def _new_connection(self, stream: trio.abc.Stream, session: Session, place: Place) -> Connection:
        """Count a connection from here on: the task that serves it begins later, and a limit must hold now."""
        self._connections[connection := Connection(self._service, self._tls, stream, session, place)] = place
        self.stats.connections_accepted += 1
        self.stats.connections_open += 1
        if self._drain_begun.is_set():
            connection.drain(self.config.drain_timeout)
        return connection

    def _forget(self, connection: Connection) -> None:
        """The connection is over."""
        self._connections.pop(connection).leave()
        self._ends.unpark_all()
        self.stats.connections_open -= 1

    async def _refuse(self, stream: trio.abc.Stream, refusal: Reply | None) -> None:
        try:
            # On an implicit-TLS port nothing can be said without a handshake.
            if refusal is not None and not (self.config.implicit_tls or isinstance(stream, trio.SSLStream)):
                self.stats.count_reply(Verb.GREETING, refusal.code)
                with trio.move_on_after(_REFUSAL_LIMIT) as limit:
                    await stream.send_all(refusal.encode())
                    limit.deadline = trio.current_time() + LINGER_SECONDS
                    await linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # nobody there to be refused
        finally:
            self._refusals -= 1
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _REFUSAL_LIMIT):
                await close(stream)


async def open_listeners(server: SMTPServer) -> list[trio.SocketListener]:
    """Open the listeners that a server's Config names; they are in ``server.listeners`` from now on.

    Raises:
        OSError: The address cannot be had.
        ValueError: The host is no name.
    """
    path = server.config.unix_path
    listeners = await server.listen_tcp() if path is None else [server.listen_unix(path)]
    server.listeners.extend(listeners)
    return listeners


async def close_listeners(server: SMTPServer, listeners: Iterable[trio.abc.Listener[trio.abc.Stream]]) -> None:
    """Close those of these listeners that are still open, and remove the files of Unix sockets."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _REFUSAL_LIMIT):
        await server._close_listeners(listeners)  # noqa: SLF001 - for those of this folder that open them
