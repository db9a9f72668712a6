"""Certificates that clients should refuse, chosen for each handshake."""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .acts import CertificateFault

if TYPE_CHECKING:
    import trustme

__all__ = ["BadCertificates", "choose_certificates"]

#: Asked at each handshake; returns what is wrong with the certificate to be presented, or None.
Chooser = Callable[[], ssl.SSLContext | None]


class BadCertificates:
    """Makes certificates with a fault when they are first wanted.

    Args:
        ca: Signs them, so that clients which trust it see no other fault; None: one that nobody trusts.
    """

    def __init__(self, ca: trustme.CA | None = None) -> None:
        self._ca = ca
        self._contexts: dict[CertificateFault, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, fault: CertificateFault) -> ssl.SSLContext:
        """A context that presents a certificate with that fault."""
        with self._lock:
            if fault not in self._contexts:
                self._contexts[fault] = self._make(fault)
            return self._contexts[fault]

    def _make(self, fault: CertificateFault) -> ssl.SSLContext:
        import trustme

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if fault == "self-signed":
            itself = trustme.CA()
            _load(context, itself.cert_pem.bytes() + itself.private_key_pem.bytes())
            return context
        self._ca = self._ca or trustme.CA()
        if fault == "expired":
            now = dt.datetime.now(dt.UTC)
            month = dt.timedelta(days=30)
            names = ("localhost", "127.0.0.1", "::1")
            made = self._ca.issue_cert(*names, not_before=now - 2 * month, not_after=now - month)
        else:
            made = self._ca.issue_cert("wrong-host.invalid")
        made.configure_cert(context)
        return context


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "certificate.pem")
        file.write_bytes(pem)
        context.load_cert_chain(file)


# The choosers of each context; the context's callback stays when they have gone.
_choosers: weakref.WeakKeyDictionary[ssl.SSLContext, list[Chooser]] = weakref.WeakKeyDictionary()


class choose_certificates:  # noqa: N801 - a context manager is written like a function
    """Let a chooser replace the context of each handshake, inside the block. Names asked for (SNI) work as before.

    Args:
        context: The server's context.
        chooser: Returns the context that goes in its place, or None. The first chooser that returns one decides.
    """

    def __init__(self, context: ssl.SSLContext, chooser: Chooser) -> None:
        self._context = context
        self._chooser = chooser

    def __enter__(self) -> None:
        if self._context not in _choosers:
            _choosers[self._context] = []
            _chain(self._context)
        _choosers[self._context].append(self._chooser)

    def __exit__(self, *_: object) -> None:
        _choosers[self._context].remove(self._chooser)


def _chain(context: ssl.SSLContext) -> None:
    before = context.sni_callback

    def choose(sslobj: ssl.SSLObject, name: str | None, of: ssl.SSLContext) -> int | None:
        # typeshed has `str` for the name, but a client may send none.
        answer = before(sslobj, name, of) if before is not None else None  # type: ignore[arg-type]
        for chooser in _choosers.get(of, ()):
            chosen = chooser()
            if chosen is not None:
                sslobj.context = chosen
                break
        return answer

    context.sni_callback = choose
