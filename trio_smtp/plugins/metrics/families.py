"""The metrics there are, and the text that Prometheus reads them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs

from trio_smtp import Histogram

__all__ = ["FAMILIES", "Family", "Values", "counters", "render", "total"]

#: Values by metric name and labels, in the order of the family's: a number, or for a histogram its counts and its sum.
Values = dict[tuple[str, ...], list[float]]


@attrs.frozen
class Family:
    """One metric.

    Attributes:
        name: Its name.
        kind: Its type.
        help: What it says.
        labels: The names of its labels.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


#: All metrics, in the order in which they are shown.
FAMILIES: Sequence[Family] = (
    Family("trio_smtp_processes", "gauge", "Processes that serve."),
    Family("trio_smtp_draining_processes", "gauge", "Processes that serve and drain."),
    Family(
        "trio_smtp_target_up", "gauge", "Whether the last check of a target succeeded in every process.", ("target",)
    ),
    Family("trio_smtp_connections", "gauge", "Sessions there are now."),
    Family(
        "trio_smtp_connections_total", "counter", "Connections that became sessions, or were refused.", ("outcome",)
    ),
    Family("trio_smtp_received_bytes_total", "counter", "Octets read from clients, after decryption."),
    Family(
        "trio_smtp_tls_handshakes_total",
        "counter",
        "TLS handshakes; failed ones have no version.",
        ("outcome", "version"),
    ),
    Family("trio_smtp_auth_total", "counter", "Ended AUTH exchanges.", ("mechanism", "outcome")),
    Family("trio_smtp_commands_total", "counter", "Replies, by the command that is answered.", ("verb", "code")),
    Family("trio_smtp_messages_total", "counter", "Messages that came, or began to.", ("outcome",)),
    Family("trio_smtp_message_bytes_total", "counter", "Octets of accepted messages."),
    Family("trio_smtp_message_seconds", "histogram", "From the 354 to the reply of a message."),
    Family("trio_smtp_handler_seconds", "histogram", "How long the handlers of a phase took.", ("phase",)),
    Family(
        "trio_smtp_delivery_seconds", "histogram", "How long handing a message to a target took.", ("target", "outcome")
    ),
)
_KINDS = {family.name: family.kind for family in FAMILIES}


def counters(values: Mapping[tuple[str, ...], list[float]]) -> Values:
    """What is still true of a process when it has ended: everything but gauges."""
    return {key: value for key, value in values.items() if _KINDS[key[0]] != "gauge"}


def total(several: Iterable[Mapping[tuple[str, ...], list[float]]]) -> Values:
    """Add the values of several processes; of `trio_smtp_target_up` the least counts."""
    together: Values = {}
    for values in several:
        for key, value in values.items():
            found = together.get(key)
            if found is None:
                together[key] = list(value)
            elif key[0] == "trio_smtp_target_up":
                together[key] = min(found, value)
            else:
                together[key] = [mine + more for mine, more in zip(found, value, strict=True)]
    return together


def render(values: Mapping[tuple[str, ...], list[float]]) -> str:
    """The text that Prometheus reads, format 0.0.4."""
    lines: list[str] = []
    for family in FAMILIES:
        lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}")
        for key in sorted(key for key in values if key[0] == family.name):
            labels = [f'{name}="{_escape(value)}"' for name, value in zip(family.labels, key[1:], strict=True)]
            if family.kind == "histogram":
                lines += _histogram(family.name, labels, values[key])
            else:
                lines.append(_sample(family.name, labels, values[key][0]))
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: list[str], value: Sequence[float]) -> Iterable[str]:
    *counts, seconds = value
    below = 0.0
    for bound, count in zip([*map(_number, Histogram.bounds), "+Inf"], counts, strict=True):
        below += count
        yield _sample(f"{name}_bucket", [*labels, f'le="{bound}"'], below)
    yield _sample(f"{name}_sum", labels, seconds)
    yield _sample(f"{name}_count", labels, below)


def _sample(name: str, labels: Sequence[str], value: float) -> str:
    return f"{name}{{{','.join(labels)}}} {_number(value)}" if labels else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
