"""A webhook's connections: where they lead, how long they may take, and what is read of an answer.

Nothing of an answer is trusted. Its status decides; its body is neither decoded nor kept, and at most `_MAX_BODY`
octets of it are received, so that the connection can be used again. Redirects are not followed, and no cookies kept:
httpx2's transport, which is used here without its client, does neither.
"""

from __future__ import annotations

import base64
import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import attrs
import trio

if TYPE_CHECKING:
    import httpx2

__all__ = ["NoAnswer", "Poster", "Target", "environment_proxy", "parse_target"]

#: Octets of a body that are sent at a time.
_PIECE = 65_536
#: Octets of an answer's body that are received at most.
_MAX_BODY = 65_536
#: Seconds that the body of an answer may take: its status has decided already.
_BODY_SECONDS = 1.0
#: Seconds that an idle connection is kept. Servers close theirs after five seconds and more.
_IDLE_SECONDS = 4.0
_CLOSING_SECONDS = 5.0
_MAX_REASON = 200


class NoAnswer(Exception):
    """There was no answer; the text says why, in printable ASCII."""


@attrs.frozen
class Target:
    """Where requests go.

    Attributes:
        url: Without user and password.
        name: The scheme, the host and the port: what a log may show, as a path may be a secret too.
        authorization: The field Authorization that the URL's user and password make, or None.
    """

    url: str = attrs.field(repr=False)
    name: str
    authorization: str | None = attrs.field(repr=False)


def parse_target(url: str) -> Target:
    """Read a URL.

    Raises:
        ValueError: It is none of http or https, or has a fragment or odd characters. The text does not show it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("url cannot be read: its host or port is wrong") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("url must begin with http:// or https://, and name a host")
    if parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("url must be printable ASCII without blanks and without a fragment")
    place = f"[{host}]" if ":" in host else host
    if port is not None:
        place += f":{port}"
    authorization = None
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    plain = SplitResult(parts.scheme, place, parts.path or "/", parts.query, "").geturl()
    return Target(plain, f"{parts.scheme}://{place}", authorization)


def environment_proxy(target: Target) -> str | None:
    """The proxy that the environment names for a URL (``HTTPS_PROXY``, ``NO_PROXY`` and so on), or None."""
    parts = urlsplit(target.url)
    if proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


@attrs.define(eq=False)
class Poster:
    """Posts bodies to a target.

    Args:
        target: Where they go.
        connect_timeout: Seconds for connecting, TLS included.
        read_timeout: Seconds in which something must be received or sent.
        total_timeout: Seconds for a request and the head of its answer, waiting for a connection included.
        max_connections: So many are open at most.
        ssl_context: For https.
        trust_env: Use the proxies that the environment names.
        transport: What requests go through instead of connections, or None.

    Raises:
        ImportError: The extra ``webhook`` is not installed.
        ValueError: A number is out of range; the text names it.
    """

    target: Target
    connect_timeout: float
    read_timeout: float
    total_timeout: float
    max_connections: int
    ssl_context: ssl.SSLContext | None
    trust_env: bool
    transport: httpx2.AsyncBaseTransport | None
    _open: httpx2.AsyncBaseTransport | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout", "total_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of seconds above 0, not {getattr(self, name)!r}")
        if self.max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {self.max_connections!r}")
        try:
            import httpx2  # noqa: F401 - so that it is missed now and not with the first message
        except ImportError as error:
            raise ImportError("webhook needs the extra webhook: pip install 'trio-smtp[webhook]'") from error

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have connections until the end of the block."""
        transport = self.transport or self._make_transport()
        self._open = transport
        try:
            yield
        finally:
            self._open = None
            with trio.CancelScope(deadline=trio.current_time() + _CLOSING_SECONDS, shield=True):
                await transport.aclose()

    def _make_transport(self) -> httpx2.AsyncBaseTransport:
        import httpx2

        context = self.ssl_context or ssl.create_default_context()
        limits = httpx2.Limits(
            max_connections=self.max_connections,
            max_keepalive_connections=self.max_connections,
            keepalive_expiry=_IDLE_SECONDS,
        )
        proxy = environment_proxy(self.target) if self.trust_env else None
        return httpx2.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits, proxy=proxy)

    async def post(self, content: bytes, headers: Mapping[str, str]) -> int:
        """Post a body; returns the answer's status.

        Raises:
            NoAnswer: The time was over, there was no connection, or the answer was none.
        """
        import httpx2

        if self._open is None:
            raise RuntimeError("webhook: the App's lifespans are not entered; serve it, or use `app.running()`")
        timeout = {
            "connect": self.connect_timeout,
            "read": self.read_timeout,
            "write": self.read_timeout,
            "pool": self.total_timeout,
        }
        given = {**headers, "content-length": str(len(content))}
        request = httpx2.Request(
            "POST", self.target.url, content=_Pieces(content), headers=given, extensions={"timeout": timeout}
        )
        with trio.move_on_after(self.total_timeout):
            try:
                response = await self._open.handle_async_request(request)
            except (httpx2.TransportError, OSError) as error:
                raise NoAnswer(_reason(error)) from error
            await _finish(response)
            return response.status_code
        raise NoAnswer(f"no answer within {self.total_timeout:g} s")


class _Pieces:
    """A body in pieces, each of which has its own time to be sent: a large one on a slow line needs many.

    Args:
        content: The body.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece = self._content[self._position : self._position + _PIECE]
        if not piece:
            raise StopAsyncIteration
        self._position += len(piece)
        return piece


async def _finish(response: httpx2.Response) -> None:
    """Receive what is left of an answer, so far as that is little, and give the connection back.

    Whatever fails here changes nothing: the status has come.
    """
    import httpx2

    with trio.CancelScope(deadline=trio.current_time() + _BODY_SECONDS, shield=True) as scope:
        try:
            received = 0
            stream = response.stream
            assert isinstance(stream, AsyncIterable)
            async for chunk in stream:  # not decoded: a small answer may be a large one, compressed
                received += len(chunk)
                if received > _MAX_BODY:
                    scope.cancel()  # leaving the loop would leave the generators of httpx2 open
        except (httpx2.TransportError, OSError):
            pass
    with trio.CancelScope(deadline=trio.current_time() + _CLOSING_SECONDS, shield=True):
        await response.aclose()


def _reason(error: Exception) -> str:
    """Why there was no answer: strangers' octets may be in the text."""
    text = ascii(str(error))[1:-1][:_MAX_REASON]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
