"""The name a client asks for in its TLS handshake (SNI, RFC 6066 section 3), for the task that shakes hands.

OpenSSL tells the name to a callback of the context, which knows neither the stream nor the connection. But the callback
runs inside the task that shakes hands, and that task has set a function that is given the name (`hearing_server_name`).
"""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

__all__ = ["hearing_server_name", "note_server_names"]

_hearers: weakref.WeakKeyDictionary[trio.lowlevel.Task, Callable[[str | None], None]] = weakref.WeakKeyDictionary()
_noting: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()


def note_server_names(context: ssl.SSLContext) -> None:
    """Have the names that clients ask for told to those who hear them (`hearing_server_name`).

    A callback that the context has already is called as before. A second call for the same context does nothing.

    Args:
        context: A server-side context.
    """
    if context in _noting:
        return
    _noting.add(context)
    chained = context.sni_callback

    def note(sslobj: ssl.SSLObject, name: str | None, of: ssl.SSLContext) -> int | None:
        try:
            heard = _hearers.get(trio.lowlevel.current_task())
        except RuntimeError:  # the context serves other programs too, and this handshake is in no task
            heard = None
        if heard is not None:
            heard(name)
        # typeshed has `str` for the name, but a client may send none.
        return chained(sslobj, name, of) if chained is not None else None  # type: ignore[arg-type]

    context.sni_callback = note


@contextmanager
def hearing_server_name(heard: Callable[[str | None], None]) -> Iterator[None]:
    """Hear the name that the client asks for while this task shakes hands.

    Args:
        heard: Called with the name, or with None when the client sends none. Not called when the context's names are
            not noted (`note_server_names`), and never for handshakes of other tasks.
    """
    task = trio.lowlevel.current_task()
    _hearers[task] = heard
    try:
        yield
    finally:
        del _hearers[task]
