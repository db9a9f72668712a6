"""Asks for a user and a password, by HTTP's Basic authentication."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from pathlib import Path

import anyio
import anyio.to_thread

from trio_smtp.plugins.password_file import PasswordFile

from .types import ASGIApp, Receive, Scope, Send

__all__ = ["Users"]

#: Who probes whether the server lives has no password.
_OPEN = frozenset({"/livez", "/readyz"})
#: Seconds for which a password that was right is not checked again: a check takes long on purpose.
_REMEMBERED = 60.0
_MAX_REMEMBERED = 1_000
_MAX_HASHING = 2
_MAX_HEADER = 2_000
_TEXT = b"Log in"


class Users:
    """The layer that lets only users in.

    Args:
        application: What is protected.
        path: The file of users, as `trio_smtp.plugins.password_file` has it.

    Raises:
        ImportError: The extra ``argon2`` is not installed.
        OSError: The file cannot be read.
        ValueError: The file is malformed.
    """

    def __init__(self, application: ASGIApp, path: Path) -> None:
        self._application = application
        self._file = PasswordFile(path.absolute())
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[float, str]] = {}
        self._limiter: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, when it has the password of a user."""
        if scope["path"].removeprefix(scope["root_path"]) in _OPEN:
            await self._application(scope, receive, send)
            return
        user = await self._user(scope)
        if user is not None:
            await self._application({**scope, "user": user}, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the client sees a 403
        else:
            headers = [
                (b"www-authenticate", b'Basic realm="trio-smtp inbox", charset="UTF-8"'),
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(_TEXT)).encode()),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _TEXT})

    async def _user(self, scope: Scope) -> str | None:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1 or len(given[0]) > _MAX_HEADER:
            return None
        digest = hashlib.blake2b(given[0], key=self._key).digest()
        known = self._known.get(digest)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        pair = _credentials(given[0])
        if pair is None:
            return None
        if self._limiter is None:  # belongs to the event loop
            self._limiter = anyio.CapacityLimiter(_MAX_HASHING)
        if not await anyio.to_thread.run_sync(self._file.check, *pair, limiter=self._limiter):
            return None
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[digest] = time.monotonic() + _REMEMBERED, pair[0]
        return pair[0]


def _credentials(header: bytes) -> tuple[str, str] | None:
    """User and password of an Authorization header."""
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None
