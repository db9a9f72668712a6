"""The outermost layer: looks at every request, websockets included, before anything else does.

The next browser tab is hostile: a page of a stranger can send requests to this server. So `Host` must be a name of this
machine (a stranger's name that leads here is none), and the `Origin` of whatever changes something must be this server.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from .types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["MAIL_POLICY", "PAGE_POLICY", "Safety", "mail_policy"]

logger: logging.Logger = logging.getLogger("trio_smtp.inbox")

#: Of the web pages.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_MAIL = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src {images}; style-src"
    " 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
#: Of HTML that came by mail.
MAIL_POLICY = _MAIL.format(images="data:")
#: Of everything else.
_POLICY = "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # Browsers look up the hosts of links beforehand: the name's server would see that somebody looks at the mail.
    (b"x-dns-prefetch-control", b"off"),
    (b"cache-control", b"no-store"),
)
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?\.?", re.ASCII)
_ROOT = re.compile(r"(/[A-Za-z0-9._~-]+)*", re.ASCII)
#: Whoever asks whether the server lives may call it by any name.
_FOR_ANY_HOST = frozenset({"/livez", "/readyz"})
_MAX_QUERY = 32_768


def mail_policy(*, remote_images: bool) -> str:
    """The policy of HTML that came by mail.

    Args:
        remote_images: Whoever looks at it has asked for images from elsewhere.
    """
    return _MAIL.format(images="data: https: http:") if remote_images else MAIL_POLICY


class Safety:
    """The outermost layer.

    Args:
        application: What is protected.
        root_path: Where it is mounted, such as ``"/mail"``; requests without it are answered too.
        allowed_hosts: Names that requests may be for, besides IP addresses, ``localhost`` and ``*.localhost``.

    Raises:
        ValueError: `root_path` does not begin with a slash, or a host is none.
    """

    def __init__(self, application: ASGIApp, *, root_path: str, allowed_hosts: Iterable[str]) -> None:
        self._application = application
        self._root = root_path.rstrip("/")
        if not _ROOT.fullmatch(self._root):
            raise ValueError(f"root_path must look like '/mail', not {root_path!r}")
        if isinstance(allowed_hosts, str):
            raise ValueError(f"allowed_hosts must be several names, not {allowed_hosts!r}")
        self._hosts = frozenset(name.lower().removesuffix(".") for name in allowed_hosts)
        for name in self._hosts:
            if not _NAME.fullmatch(name):
                raise ValueError(f"allowed_hosts: {name!r} is no host name")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        scope = self._placed(scope)
        problem = self._problem(scope)
        if problem is not None:
            await _refuse(scope, receive, send, *problem)
        elif scope["type"] == "websocket":
            await self._application(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _with_defaults(message.get("headers", ()))}
            await send(message)

        try:
            await self._application(scope, receive, send_safely)
        except Exception:
            logger.exception("a request failed: %s %s", scope["method"], ascii(scope["path"]))
            if started:
                raise
            await _refuse(scope, receive, send, 500, "Internal error; the log says more")

    def _placed(self, scope: Scope) -> Scope:
        """The scope, with slashes collapsed, and `root_path` where the path begins with it."""
        path = re.sub("/{2,}", "/", scope["path"])
        mounted = scope.get("root_path", "")
        whole = mounted + self._root
        if self._root and not mounted.endswith(self._root) and f"{path}/".startswith(f"{whole}/"):
            mounted = whole
        return {**scope, "path": path, "root_path": mounted}

    def _problem(self, scope: Scope) -> tuple[int, str] | None:
        """Why a request is refused: status and text; None: it is not."""
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        any_host = scope["path"].removeprefix(scope["root_path"]) in _FOR_ANY_HOST
        host = _split_host(hosts[0]) if len(hosts) == 1 else None
        if not any_host and (host is None or not self._allowed(host[0])):
            return 421, "This server does not answer for that Host; --allow-host, or allowed_hosts, allows a name"
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if not reads and any(not _same_place(origin, host) for origin in origins):
            return 403, "Requests of other origins are refused"
        if len(scope.get("query_string", b"")) > _MAX_QUERY:
            return 414, "The query is too long"
        return None

    def _allowed(self, name: str) -> bool:
        if name in self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _split_host(text: str) -> tuple[str, int | None] | None:
    """The name or address, lower case, and the port; None for what is malformed."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_.-]{1,253}))(?::([0-9]{1,5}))?", text, re.ASCII)
    if match is None:
        return None
    name = (match[1] or match[2]).lower().removesuffix(".")
    return name, int(match[3]) if match[3] else None


def _same_place(origin: str, host: tuple[str, int | None] | None) -> bool:
    """Whether an Origin is the server that the request was sent to. ``null`` is none."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    found = _split_host(parts.netloc)
    default = _PORTS.get(parts.scheme)
    if found is None or host is None or default is None:
        return False
    return found[0] == host[0] and (port or default) == (host[1] or default)


def _with_defaults(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return given + [header for header in _HEADERS if header[0] not in names]


async def _live(receive: Receive, send: Send) -> None:
    """Answer the events of a lifespan, which nothing here needs."""
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": message["type"] + ".complete"})


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = _with_defaults(
        [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    )
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the client sees a 403
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
