"""Several processes that serve the same listeners: `serve_workers`.

Python runs in one core; a server that needs more of them needs processes. The listening sockets are opened first; then
a `Supervisor` forks the workers, each of which runs an event loop of its own.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from trio_smtp.app.application import App
from trio_smtp.app.config import Config

from .server import SMTPServer
from .worker import Reload

if TYPE_CHECKING:
    from .processes import System
    from .supervisor import Supervisor

__all__ = ["Reload", "make_supervisor", "serve_workers"]


def serve_workers(
    app: App,
    config: Config | Sequence[Config] | None = None,
    *,
    workers: int,
    sockets: Sequence[socket.socket] | None = None,
    started: Callable[[list[socket.socket]], object] | None = None,
    reload: Reload | None = None,
) -> int:
    """Serve in several processes that share the listeners, until signals end them.

    Call it in place of ``trio.run(serve, app, config)``. It is a plain function because it forks processes, which is
    safe only in a process without an event loop and without other threads. Every worker has its own copy of what the
    program made before the call: `SMTPServer.stats`, `App.state` and the Config's limits on connections count for one
    worker.

    The first SIGTERM or SIGINT drains every worker, a second one stops them at once, a third one kills them. A worker
    that has not ended 70 seconds after its `drain_timeout` and its `lifespan_timeout` is killed. A worker that ends by
    itself is replaced after a tenth of a second; when its successors end as well the delay grows to ten seconds. When
    this process dies, the workers drain. A worker that gets a SIGTERM drains and is replaced.

    Args:
        app: The handlers.
        config: Where to listen, and limits; several for several listeners. None: a `Config` with its defaults.
        workers: How many processes serve.
        sockets: Listening sockets in place of what the Config names, such as those of a service manager; closed at the
            end.
        started: Called once with the listening sockets, one for each address, before the first worker starts.
        reload: An async function that is awaited in each worker with each of its servers on SIGHUP, for
            `SMTPServer.reload_tls` and the like; also before a worker that starts after a SIGHUP serves. None: SIGHUP
            keeps the action it has.

    Returns:
        An exit code: 0 after a drain, 1 when a worker failed while it drained, 128 plus a signal's number when a second
        signal stopped the workers.

    Raises:
        OSError: The system refuses an address.
        RuntimeError: The process cannot fork here: it is inside a running event loop, in a thread that is not the main
            one, or on a system without ``os.fork``.
        ValueError: `workers` is less than 1, or `sockets` are given with more than one Config.
    """
    return make_supervisor(app, config, workers=workers, sockets=sockets, started=started, reload=reload).run()


def make_supervisor(
    app: App,
    config: Config | Sequence[Config] | None = None,
    *,
    workers: int,
    sockets: Sequence[socket.socket] | None = None,
    started: Callable[[list[socket.socket]], object] | None = None,
    reload: Reload | None = None,
    system: System | None = None,
) -> Supervisor:
    """Open the listeners and make the supervisor that `serve_workers` runs.

    Args:
        app: As for `serve_workers`, and so are `config`, `workers`, `sockets`, `started` and `reload`.
        config: Where to listen.
        workers: How many processes serve.
        sockets: Listening sockets in place of what the Config names.
        started: Called once, before the first worker starts.
        reload: Awaited in each worker on SIGHUP.
        system: Signals, processes and the time; None: the real ones.

    Raises:
        OSError: As `serve_workers`, and so are RuntimeError and ValueError.
    """
    _check_that_it_can_fork()
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers!r}")
    configs = [config] if config is None or isinstance(config, Config) else list(config)
    if not configs or (sockets is not None and len(configs) != 1):
        raise ValueError(f"{len(configs)} Configs: there must be one at least, and one alone where sockets are given")
    # Only a program with several processes needs these modules; the others start sooner without them.
    from .shared_sockets import Listening, listen_all
    from .supervisor import Supervisor

    servers = [SMTPServer(app, each) for each in configs]
    listening = listen_all(servers, workers) if sockets is None else [Listening(servers[0], [sockets] * workers)]
    opened = [sock for each in listening for sock in each.sockets[0]]
    return Supervisor(listening, workers, started=started and (lambda: started(opened)), reload=reload, system=system)


def _check_that_it_can_fork() -> None:
    if not hasattr(os, "fork"):
        raise RuntimeError("serve_workers needs os.fork, which this system does not have")
    if _inside_a_run():
        raise RuntimeError("serve_workers runs event loops of its own: call it in place of trio.run, not inside it")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve_workers must be called from the main thread: signals come there")


def _inside_a_run() -> bool:
    # trio.lowlevel.in_trio_run is younger than the oldest trio that will do.
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True
