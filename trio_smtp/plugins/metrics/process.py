"""What one process has counted, and whether it is ready."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs
import trio

from trio_smtp import Histogram, Running, Session, SMTPError, Stats

from .families import Values, counters, total

__all__ = ["Check", "Process", "Report"]

#: Says whether a target can be reached: raises, or returns False, when it cannot.
Check = Callable[[], Awaitable[object]]

_CHECK_SECONDS = 3.0
_BETWEEN_CHECKS = 5.0
#: So many targets have a label of their own; further ones are counted together.
_MAX_TARGETS = 50


@attrs.define
class Report:
    """What a process says of itself.

    Attributes:
        values: What it has counted.
        draining: It takes no new mail.
        targets: Whether each target that is checked is up; None: it was not checked yet.
    """

    values: Values
    draining: bool
    targets: dict[str, bool | None]

    @property
    def obstacle(self) -> str | None:
        """Why the process is not ready; None: it is."""
        if self.draining:
            return "draining"
        return next(
            (
                f"target {'down' if up is False else 'not checked yet'}: {name}"
                for name, up in self.targets.items()
                if not up
            ),
            None,
        )

    def encode(self) -> bytes:
        """The report as octets."""
        values = [[*key, value] for key, value in self.values.items()]
        return json.dumps([values, self.draining, self.targets], separators=(",", ":")).encode()

    @classmethod
    def decode(cls, octets: bytes) -> Report:
        """A report that was encoded."""
        values, draining, targets = json.loads(octets)
        return cls({tuple(key): value for *key, value in values}, draining, targets)


class Process:
    """Counts in this process.

    Args:
        checks: The checks of targets, by the target's name.
    """

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._targets: dict[str, bool | None] = dict.fromkeys(checks)
        self._serving: list[Running] = []
        # Of what was served before.
        self._past: Values = {}
        self._deliveries: dict[tuple[str, str], Histogram] = {}

    @property
    def idle(self) -> bool:
        """No App is served."""
        return not self._serving

    @contextmanager
    def serving(self, running: Running) -> Iterator[bool]:
        """Count for an App as long as it is served; gives whether it is the first."""
        self._serving.append(running)
        try:
            yield len(self._serving) == 1
        finally:
            self._serving.remove(running)
            self._past = total([self._past, counters(_values_of(running.stats()))])

    @contextmanager
    def delivering(self, _: Session, target: str) -> Iterator[None]:
        """Measure a delivery."""
        began, outcome = trio.current_time(), "failed"
        try:
            yield
            outcome = "accepted"
        except SMTPError as refusal:
            outcome = "refused" if refusal.reply.code >= 500 else "deferred"
            raise
        except trio.Cancelled:
            outcome = "cancelled"
            raise
        finally:
            known = any(target == other for other, _ in self._deliveries)
            if not known and len({other for other, _ in self._deliveries}) >= _MAX_TARGETS:
                target = "other"
            self._deliveries.setdefault((target, outcome), Histogram()).observe(trio.current_time() - began)

    def report(self) -> Report:
        """What was counted up to now."""
        draining = any(server.draining for running in self._serving for server in running.servers)
        values = total([self._past, *(_values_of(running.stats()) for running in self._serving)])
        for (target, outcome), histogram in self._deliveries.items():
            values["trio_smtp_delivery_seconds", target, outcome] = _numbers(histogram)
        for target, up in self._targets.items():
            values["trio_smtp_target_up", target] = [bool(up)]
        values["trio_smtp_processes",] = [1]
        values["trio_smtp_draining_processes",] = [int(draining)]
        return Report(values, draining, dict(self._targets))

    async def check_targets(self) -> None:
        """Check the targets every few seconds, until cancelled."""
        while self._checks:
            async with trio.open_nursery() as nursery:
                for name, check in self._checks.items():
                    nursery.start_soon(self._check, name, check)
            await trio.sleep(_BETWEEN_CHECKS)

    async def _check(self, name: str, check: Check) -> None:
        up = False
        try:
            with trio.move_on_after(_CHECK_SECONDS):
                up = await check() is not False
        except Exception:  # whatever is wrong, the target is not to be had
            up = False
        self._targets[name] = up


def _values_of(stats: Stats) -> Values:
    values: Values = {
        ("trio_smtp_connections",): [stats.connections_open],
        ("trio_smtp_connections_total", "accepted"): [stats.connections_accepted],
        ("trio_smtp_connections_total", "refused"): [stats.connections_refused],
        ("trio_smtp_received_bytes_total",): [stats.octets_received],
        ("trio_smtp_messages_total", "accepted"): [stats.messages_accepted],
        ("trio_smtp_messages_total", "refused"): [stats.messages_refused],
        ("trio_smtp_messages_total", "incomplete"): [stats.messages_incomplete],
        ("trio_smtp_tls_handshakes_total", "failed", ""): [stats.tls_failures],
    }
    measures = stats.measures
    assert measures is not None  # the plugin has asked for them
    values["trio_smtp_message_bytes_total",] = [measures.message_octets]
    values["trio_smtp_message_seconds",] = _numbers(measures.message_seconds)
    for version, count in measures.tls_versions.items():
        values["trio_smtp_tls_handshakes_total", "completed", version] = [count]
    for (mechanism, outcome), count in measures.auth.items():
        values["trio_smtp_auth_total", mechanism, outcome] = [count]
    for (verb, code), count in stats.commands.items():
        values["trio_smtp_commands_total", verb, str(code)] = [count]
    for phase, histogram in measures.handler_seconds.items():
        values["trio_smtp_handler_seconds", phase] = _numbers(histogram)
    return values


def _numbers(histogram: Histogram) -> list[float]:
    return [*histogram.counts, histogram.sum]
