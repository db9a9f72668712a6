"""A certificate authority for tests, and contexts of both sides. Made once in a process, when they are first wanted."""

from __future__ import annotations

import atexit
import os
import shutil
import ssl
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import trustme

__all__ = ["Certificates", "certificates"]

#: Who the server is.
_NAMES = ("localhost", "127.0.0.1", "::1")


@attrs.frozen
class Certificates:
    """The authority and a certificate of a server on the loopback interface.

    Attributes:
        ca: The authority; nobody trusts it but who was told to.
        directory: Has `ca_file`; removed at the end of the process.
    """

    ca: trustme.CA
    directory: Path
    _leaf: trustme.LeafCert

    @property
    def ca_file(self) -> Path:
        """The authority's certificate as a PEM file."""
        return self.directory / "ca.pem"

    def server_context(self) -> ssl.SSLContext:
        """Make a context for a server: each has its own, because failures change contexts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._leaf.configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Make a context for a client that trusts the authority alone."""
        context = ssl.create_default_context(cadata=self.ca.cert_pem.bytes().decode())
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        return context


@cache
def certificates() -> Certificates:
    """The certificates of this process.

    Raises:
        ImportError: trustme is not installed; the text names the extra.
    """
    try:
        import trustme
    except ImportError as exc:
        raise ImportError("tls needs the extra testing: pip install 'trio-smtp[testing]'") from exc
    directory = Path(tempfile.mkdtemp(prefix="trio-smtp-testing-"))
    atexit.register(_remove, directory, os.getpid())
    ca = trustme.CA()
    made = Certificates(ca, directory, ca.issue_cert(*_NAMES))
    ca.cert_pem.write_to_path(made.ca_file)
    return made


def _remove(directory: Path, process: int) -> None:
    if process == os.getpid():  # a process that was forked leaves the file to its parent
        shutil.rmtree(directory, ignore_errors=True)
