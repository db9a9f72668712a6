"""What the tests of metrics share: a request, and the values on the page."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import trio

from trio_smtp.plugins.metrics import Metrics

__all__ = ["eventually", "get", "request", "values", "values_of"]

_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="[^"]*",?)*)\})? ([0-9.e+-]+)')


async def request(plugin: Metrics, octets: bytes, *, then_end: bool = False) -> bytes:
    """Send octets; gives all that comes back."""
    assert plugin.address is not None
    async with await trio.open_tcp_stream(*plugin.address) as stream:
        await stream.send_all(octets)
        if then_end:
            await stream.send_eof()
        answer = b""
        with trio.fail_after(30):
            while piece := await stream.receive_some():
                answer += piece
    return answer


async def get(plugin: Metrics, path: str) -> tuple[int, str]:
    """The status and the text of a page."""
    answer = await request(plugin, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


async def eventually(reached: Callable[[], Awaitable[object]]) -> None:
    """Wait until it is so."""
    for _ in range(600):
        if await reached():
            return
        await trio.sleep(0.05)
    raise AssertionError("that never happened")


async def values(plugin: Metrics) -> dict[str, float]:
    """What the page says now."""
    return values_of((await get(plugin, "/metrics"))[1])


def values_of(page: str) -> dict[str, float]:
    """The samples by name and labels, as they are written."""
    found: dict[str, float] = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            found[line.rpartition(" ")[0]] = float(match[3])
    return found
