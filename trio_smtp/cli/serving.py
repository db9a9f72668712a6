"""Serving, as the command does it: listeners, signals, and the lines that say where it listens."""

from __future__ import annotations

import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trio_smtp import App, Config, SMTPServer
from trio_smtp.net.nurseries import open_bare_nursery
from trio_smtp.server.processes import System
from trio_smtp.server.serving import make_servers, serve_servers
from trio_smtp.server.shared_sockets import listen_all
from trio_smtp.server.supervisor import Supervisor

from .errors import RUNTIME, CommandError, reason_of
from .handed_over import Sockets
from .logs import show
from .service_manager import ManagedSystem, keep_telling, tell_ready, tell_reloading, tell_stopping

__all__ = ["Address", "Configs", "first_message", "place_of", "serve_all", "supervise"]

#: A Unix socket's path, or a host (None: all of this machine's) and a port.
Address = str | tuple[str | None, int]
#: As `trio_smtp.serve` takes them.
Configs = Sequence[Config | tuple[App, Config]]

#: What a client on this machine connects to where the server listens on every interface.
_LOOPBACK: dict[str | None, str] = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not listened on


async def serve_all(
    app: App,
    configs: Configs,
    what: str,
    *,
    sockets: Sockets = (),
    serve: Callable[..., Awaitable[None]] = serve_servers,
) -> int:
    """Serve the App under every Config until signals end it.

    Args:
        app: The handlers.
        configs: One for each listener; a pair ``(App, Config)`` is another App's.
        what: The first line that is printed when all of them listen.
        sockets: Of each listener that does not open its own; see `handed_over.sockets_for`.
        serve: Serves all servers, as `serve_servers` does.

    Returns:
        The exit code.

    Raises:
        CommandError: An address cannot be had; nothing is served.
    """
    group = _Group(make_servers(app, configs))
    if sockets:
        serve = partial(serve, handed_over=_by_server(group.servers, sockets))

    def started() -> None:
        group.accept()
        _announce([(server.config, _addresses_of(server)) for server in group.servers], what)
        tell_ready(what)

    async with open_bare_nursery() as nursery:
        nursery.start_soon(keep_telling)
        await nursery.start(group.obey_signals, nursery)
        await serve(group.servers, started, explain=lambda server, error: _cannot_listen(server.config, error))
        nursery.cancel_scope.cancel()
    return group.status


class _Group:
    """The servers of one process, and what signals do to them."""

    def __init__(self, servers: list[SMTPServer]) -> None:
        self.servers = servers
        # All of them accept connections.
        self._accepting = False
        #: The exit code.
        self.status = 0

    def accept(self) -> None:
        """From now on there is something to drain."""
        self._accepting = True

    async def obey_signals(self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        """Drain at the first signal, and cancel the nursery at the second one, or at the first while servers start."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            number = await self._next_but_hangups(signals)
            if self._accepting:
                _show_finishing()
                for server in self.servers:
                    server.drain()
                number = await self._next_but_hangups(signals)
            self.status = 128 + number
            nursery.cancel_scope.cancel()

    async def _next_but_hangups(self, signals: AsyncIterator[int]) -> int:
        """The next signal that is not SIGHUP; at each SIGHUP the certificates are loaded anew."""
        while (number := await anext(signals)) == signal.SIGHUP:
            tell_reloading()
            for server in self.servers:
                await _load_anew(server)
            tell_ready()
        return number


async def _load_anew(server: SMTPServer) -> None:
    from .certificates import reload_certificates

    file = await reload_certificates(server)
    if file is not None:
        show(f"Loaded {file} anew")


def supervise(
    app: App, configs: Configs, what: str, workers: int, *, sockets: Sockets = (), system: System | None = None
) -> int:
    """Serve the App under every Config in several processes until signals end them.

    Args:
        app: The handlers.
        configs: One for each listener; a pair ``(App, Config)`` is another App's.
        what: The first line that is printed when all of them listen.
        workers: How many processes serve.
        sockets: As for `serve_all`.
        system: Signals, processes and the time; None: the real ones.

    Returns:
        The exit code.

    Raises:
        CommandError: An address cannot be had; nothing is served.
    """
    servers = make_servers(app, configs)
    listening = listen_all(
        servers,
        workers,
        explain=lambda server, error: _cannot_listen(server.config, error),
        handed_over=_by_server(servers, sockets),
    )

    def started() -> None:
        places = [
            (each.server.config, _addresses(sock.getsockname() for sock in each.sockets[0])) for each in listening
        ]
        _announce(places, f"{what} ({workers} workers)")
        tell_ready(f"{what} ({workers} workers)")

    system = system or ManagedSystem(hangups=True)
    return Supervisor(
        listening, workers, started=started, draining=_show_finishing, reload=_load_anew, system=system
    ).run()


def _by_server(servers: Iterable[SMTPServer], sockets: Sockets) -> dict[SMTPServer, Sequence[socket.socket]]:
    return {server: its for server, its in zip(servers, sockets, strict=False) if its is not None}


def _cannot_listen(config: Config, error: OSError | ValueError) -> CommandError:
    place = place_of(config.unix_path or (config.host, config.port))
    return CommandError(f"cannot listen on {place}: {reason_of(error)}", RUNTIME)


def _show_finishing() -> None:
    tell_stopping()
    show("Finishing what is under way; a second signal stops at once.")


def _announce(places: Sequence[tuple[Config, list[Address]]], what: str) -> None:
    show(what)
    for config, addresses in places:
        tls = " (TLS)" if config.implicit_tls else " (STARTTLS)" if config.ssl_context else ""
        for address in addresses:
            show(f"Listening on {place_of(address)}{tls}")
    config, addresses = places[0]
    first = first_message(addresses[0], config)
    if first is not None:
        show(f"Send a first message:\n  {first}")


def _addresses_of(server: SMTPServer) -> list[Address]:
    return _addresses(
        listener.socket.getsockname() for listener in server.listeners if isinstance(listener, trio.SocketListener)
    )


def _addresses(names: Iterable[Any]) -> list[Address]:
    """The addresses of sockets, from what their getsockname() gives."""
    return [_address(name) for name in names]


def _address(name: Any) -> Address:
    if isinstance(name, bytes):  # a Unix socket without a file; its name begins with NUL
        return "@" + name[1:].decode("utf-8", "backslashreplace")
    return str(Path(name).absolute()) if isinstance(name, str) else (name[0], name[1])


def place_of(address: Address) -> str:
    """The address as people write it, such as ``[::1]:25``."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"{f'[{host}]' if host and ':' in host else host or '*'}:{port}"


def first_message(address: Address, config: Config) -> str | None:
    """A shell command that sends a first message to a listener; None where smtplib cannot send one.

    smtplib accepts every certificate by default, and only its LMTP client knows Unix sockets.
    """
    unix = isinstance(address, str)
    if config.proxy_protocol or (unix and (config.implicit_tls or str(address).startswith("@"))):
        return None
    client = "LMTP" if unix else "SMTP_SSL" if config.implicit_tls else "SMTP"
    where = repr(address) if isinstance(address, str) else f"{_LOOPBACK.get(address[0], address[0])!r}, {address[1]}"
    steps = [
        "import smtplib",
        f"c = smtplib.{client}({where})",
        *([f"c.ehlo_msg = '{'lhlo' if config.lmtp else 'ehlo'}'"] if config.lmtp is not unix else []),
        *(["c.starttls()"] if config.starttls_required else []),
        *(["c.login('USER', 'PASSWORD')"] if config.auth_required else []),
        r"c.sendmail('you@example.com', ['me@example.com'], 'Subject: Hello\n\nIt works.\n')",
        "c.quit()",
    ]
    return f'{shlex.quote(sys.executable)} -c "{"; ".join(steps)}"'
