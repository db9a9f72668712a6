"""The supervisor: keeps worker processes running until signals end them.

A supervisor has no event loop and no threads, so it can fork whenever a worker has to be replaced, and an App, a Config
and an SSLContext reach a worker as they are. It waits for signals alone.

It gives each worker its orders on a socket pair. When the supervisor is gone, however it ended, its end of the pair is
closed, and the worker drains. Orders are not signals, because terminals and service managers send theirs to all
processes of a group: a worker could not tell a second signal from its own copy of the first.

The supervisor keeps the listening sockets open: a connection that waits to be accepted when a worker dies is accepted
by the worker that takes its place.

The companions of the Apps (`App.accompany`) have places as workers have. They are ended after the last worker.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import NoReturn

import attrs
import trio

from trio_smtp.app.companion import Companion
from trio_smtp.protocol.values import ShowsFields

from .companions import accompany
from .processes import System
from .server import SMTPServer
from .shared_sockets import Listening
from .worker import DRAIN, RELOAD, STOP, Reload, work

__all__ = ["Supervisor"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: Serves in a worker until it is told to end: `worker.work`, or what stands in for it in a test.
Work = Callable[
    [Sequence[tuple[SMTPServer, Sequence[socket.socket]]], socket.socket, Reload | None, bool], Awaitable[object]
]

#: Seconds until a dead worker is replaced. The delay is doubled each time; it begins anew when the worker had lived for
#: the longest delay.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0
#: Seconds that a worker gets beyond its drain_timeout and its lifespan_timeout. Last words have a limit of 5, and the
#: handlers of on_transaction_end and those of on_close have limits of 30 each; the rest is for a machine under load.
_MARGIN = 70.0


@attrs.define(eq=False, repr=False)
class _Place(ShowsFields):
    """The place of a worker or a companion, which a process holds or will hold."""

    number: int
    #: None: a worker's place.
    companion: Companion | None = None
    pid: int | None = None
    #: The supervisor's end of the socket pair; None while there is no process.
    orders: socket.socket | None = None
    began: float = 0.0
    #: When the next process starts, and the delay before that.
    due: float = 0.0
    delay: float = 0.0

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"worker {self.number}" if self.companion is None else self.companion.name


class Supervisor:
    """Keeps workers running until signals end them.

    Args:
        listening: The servers and their sockets, which are closed at the end.
        workers: How many workers run.
        started: Called once, before the first worker starts.
        draining: Called when the first signal asks for the end.
        reload: See `serve_workers`.
        system: Signals, processes and the time; None: the real ones.
        work: Serves, in a worker; see `worker.work`.

    Attributes:
        listening: The servers and their sockets.
    """

    def __init__(
        self,
        listening: Sequence[Listening],
        workers: int,
        *,
        started: Callable[[], object] | None = None,
        draining: Callable[[], object] | None = None,
        reload: Reload | None = None,
        system: System | None = None,
        work: Work = work,
    ) -> None:
        self.listening = listening
        self._started = started or _nothing
        self._draining = draining or _nothing
        self._reload = reload
        self._reloaded = False
        self._work = work
        self._system = system or System(hangups=reload is not None)
        self._companions = list(dict.fromkeys(found for each in listening for found in each.server.app.companions))
        self._workers = [_Place(number) for number in range(workers)]
        self._places = [*self._workers, *(_Place(workers + n, each) for n, each in enumerate(self._companions))]
        configs = [each.server.config for each in listening]
        # When everything is cancelled, workers still have this: lifespans are left behind a shield.
        self._least_patience = max(config.lifespan_timeout for config in configs) + _MARGIN
        self._patience = max(config.drain_timeout for config in configs) + self._least_patience
        # When the workers that are left are killed; None: nobody has asked for the end.
        self._deadline: float | None = None
        self._ends = 0
        self._status = 0

    @property
    def workers(self) -> int:
        """How many workers run."""
        return len(self._workers)

    def run(self) -> int:
        """Run the workers until signals end them; returns the exit code (see `serve_workers`)."""
        try:
            with self._system:
                for companion in self._companions:
                    companion.open()
                self._started()
                while self._deadline is None or any(place.pid is not None for place in self._places):
                    self._start_workers()
                    self._obey(self._system.wait(self._idle_seconds()))
                    self._bury()
                    self._end_companions()
                    self._enforce_the_end()
        finally:
            for place in self._places:
                if place.orders is not None:
                    place.orders.close()
            for each in self.listening:
                each.close()
            for companion in self._companions:
                companion.close()
        return self._status

    def _idle_seconds(self) -> float | None:
        """Seconds in which only a signal can change anything; None: no limit."""
        if self._deadline is not None:
            moments = [self._deadline]
        else:
            moments = [place.due for place in self._places if place.pid is None]
        until = min(moments, default=math.inf)
        return None if until == math.inf else max(0.0, until - self._system.now())

    def _obey(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                continue  # it has ended the wait, and the dead are looked for after that
            if number not in (signal.SIGTERM, signal.SIGINT):
                self._reloaded = True
                self._order(RELOAD, self._workers)
                continue
            self._ends += 1
            if self._ends == 1:
                self._draining()
                for each in self.listening:
                    each.close()
                self._order(DRAIN, self._places)
                self._deadline = self._system.now() + self._patience
            else:
                self._status = 128 + number
                self._order(STOP, self._places)
                self._deadline = self._system.now() + (self._least_patience if self._ends == 2 else 0)

    def _order(self, order: bytes, places: Iterable[_Place]) -> None:
        for place in places:
            if place.orders is not None:
                with suppress(OSError):  # the worker just died, or reads no orders: then its deadline ends it
                    place.orders.send(order)

    def _end_companions(self) -> None:
        """End them when the last worker has ended."""
        if self._deadline is not None and all(place.pid is None for place in self._workers):
            self._order(STOP, (place for place in self._places if place.companion is not None))

    def _enforce_the_end(self) -> None:
        if self._deadline is None or self._system.now() < self._deadline:
            return
        self._deadline = math.inf
        for place in self._places:
            if place.pid is not None:
                logger.error("%s does not end: killing process %d", place.name, place.pid)
                self._system.kill(place.pid)

    def _bury(self) -> None:
        """Note which workers have died, and when the next ones start in their places."""
        for place in self._places:
            code = None if place.pid is None else self._system.ended(place.pid)
            if code is None:
                continue
            assert place.orders is not None
            place.orders.close()
            how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
            died = f"{place.name}, process {place.pid}, {how}"
            place.pid = place.orders = None
            if self._deadline is None:
                self._postpone(place, died)
            elif code != 0:
                logger.error("%s", died)
                self._status = self._status or 1

    def _postpone(self, place: _Place, why: str) -> None:
        now = self._system.now()
        lived = now - place.began
        place.delay = _FIRST_DELAY if lived >= _LONGEST_DELAY else min(_LONGEST_DELAY, place.delay * 2 or _FIRST_DELAY)
        place.due = now + place.delay
        logger.error("%s; the next one starts in %g s", why, place.delay)

    # Starting

    def _start_workers(self) -> None:
        now = self._system.now()
        if self._deadline is None:
            for place in self._places:
                if place.pid is None and place.due <= now:
                    self._start(place)

    def _start(self, place: _Place) -> None:
        place.began = self._system.now()
        try:
            ours, theirs = socket.socketpair()
            try:
                _flush()
                pid = self._system.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:
            self._postpone(place, f"{place.name} cannot be started: {error.strerror}")
            return
        ours.setblocking(False)  # a worker that does not read its orders must not stop the supervisor
        place.pid, place.orders = pid, ours
        if pid == 0:
            self._be_process(place, theirs)
        theirs.close()
        logger.info("%s is process %d", place.name, pid)

    def _be_process(self, place: _Place, orders: socket.socket) -> NoReturn:
        code = 1
        try:
            for other in self._places:
                if other.orders is not None:
                    other.orders.close()
            number, companion = place.number, place.companion
            own = {sock for each in self.listening for sock in ([] if companion else each.sockets[number])}
            for each in self.listening:
                for sock in {sock for sockets in each.sockets for sock in sockets} - own:
                    sock.close()
            if companion is not None:
                trio.run(accompany, companion, orders)
            else:
                served = [(each.server, each.sockets[number]) for each in self.listening]
                trio.run(self._work, served, orders, self._reload, self._reloaded)
            code = 0
        except BaseException:
            logger.exception("%s failed", place.name)
        finally:
            _flush()
            self._system.exit(code)


def _nothing() -> None:
    pass


def _flush() -> None:
    """Empty the buffers before a fork: the child has a copy of them, and would write their content again."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # the reader is gone, the stream closed, or None
            stream.flush()
