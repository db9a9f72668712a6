"""`serve`: opens what one Config or several name, and serves it in one process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import cast

import trio

from trio_smtp.app.application import App, lifespans_of
from trio_smtp.app.config import Config
from trio_smtp.net.nurseries import open_bare_nursery

from .server import SMTPServer, close_listeners, open_listeners

__all__ = ["make_servers", "serve", "serve_listening", "serve_servers", "take_sockets"]


async def serve(
    app: App,
    config: Config | Sequence[Config | tuple[App, Config]] | None = None,
    *,
    task_status: trio.TaskStatus[SMTPServer] | trio.TaskStatus[list[SMTPServer]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Open the listeners the Config names and serve until cancelled or drained.

    Args:
        app: The handlers.
        config: Where to listen, and limits. None: a `Config` with its defaults. A list: several listeners; a pair
            ``(App, Config)`` in it is another App's.
        task_status: ``started()`` gives the `SMTPServer`, or for a list of Configs the list of servers.

    Raises:
        OSError: An address cannot be had; nothing is served.
        RuntimeError: Another call serves the App, which has lifespans; see `App.running`.
        TypeError: `config` is something else.
        ValueError: `config` is an empty list.
    """
    servers = make_servers(app, config)
    if config is None or isinstance(config, Config):
        started = cast("trio.TaskStatus[SMTPServer]", task_status)
        await serve_servers(servers, lambda: started.started(servers[0]))
    else:
        all_started = cast("trio.TaskStatus[list[SMTPServer]]", task_status)
        await serve_servers(servers, lambda: all_started.started(servers))


def make_servers(app: App, config: Config | Sequence[Config | tuple[App, Config]] | None) -> list[SMTPServer]:
    """A server for each Config.

    Raises:
        TypeError: `config` is none of what `serve` takes.
        ValueError: It is an empty list.
    """
    if config is None or isinstance(config, Config):
        return [SMTPServer(app, config)]
    servers = []
    for each in config:
        match each:
            case Config():
                servers.append(SMTPServer(app, each))
            case (App() as other, Config() as its_config):
                servers.append(SMTPServer(other, its_config))
            case _:
                raise TypeError(f"each must be a Config or a pair (App, Config), not {each!r}")
    if not servers:
        raise ValueError("there must be one Config at least")
    return servers


async def serve_servers(
    servers: Sequence[SMTPServer],
    started: Callable[[], object],
    *,
    explain: Callable[[SMTPServer, OSError | ValueError], Exception] | None = None,
    handed_over: Mapping[SMTPServer, Sequence[socket.socket]] | None = None,
) -> None:
    """Open the listeners of several servers and serve them until cancelled or drained.

    Args:
        servers: Their Configs name where to listen.
        started: Called when all of them accept connections.
        explain: Makes the exception that is raised instead, out of the server that cannot listen and the reason.
        handed_over: Listening sockets in place of what a server's Config names; closed at the end.

    Raises:
        OSError: An address cannot be had; nothing is served. See `explain`.
        ValueError: A host is no name; likewise.
    """
    listening: list[tuple[SMTPServer, Sequence[trio.SocketListener]]] = []
    try:
        for server in servers:
            if handed_over and server in handed_over:
                listening.append((server, take_sockets(server, handed_over[server])))
                continue
            try:
                listening.append((server, await open_listeners(server)))
            except (OSError, ValueError) as error:
                if explain is None:
                    raise
                raise explain(server, error) from error
        await serve_listening(listening, started)
    finally:
        for server, listeners in listening:
            await close_listeners(server, listeners)


def take_sockets(server: SMTPServer, sockets: Iterable[socket.socket]) -> list[trio.SocketListener]:
    """Make listeners of listening sockets; they are in ``server.listeners`` from now on."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    server.listeners.extend(listeners)
    return listeners


async def serve_listening(
    listening: Iterable[tuple[SMTPServer, Sequence[trio.SocketListener]]], started: Callable[[], object]
) -> None:
    """Enter the lifespans of every App, and serve.

    Args:
        listening: The servers, and the listeners of each.
        started: Called when all of them accept connections.
    """
    by_app: dict[App, list[SMTPServer]] = {}
    for server, _ in listening:
        by_app.setdefault(server.app, []).append(server)
    async with AsyncExitStack() as stack:
        for app, servers in by_app.items():
            await stack.enter_async_context(lifespans_of(app).around_all(servers))
        async with open_bare_nursery() as nursery:
            for server, listeners in listening:
                await nursery.start(server.serve_listeners, listeners)
            started()
