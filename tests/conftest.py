"""Fixtures for every test. Certificates and contexts are made once, by sync fixtures: no event loop is involved."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import ssl
from pathlib import Path

import attrs
import pytest
import trustme

from tests.exhaustive import is_exhaustive

#: Where the package is not installed, its pytest plugin has no entry point.
pytest_plugins = [
    name
    for name in ("trio_smtp_pytest",)
    if all(found.value != name for found in importlib.metadata.entry_points(group="pytest11"))
]

TESTS = Path(__file__).parent
# The client of Redis is not for the oldest trio.
collect_ignore_glob = [] if importlib.util.find_spec("coredis") else ["test_redis_*.py"]
#: The names and the address in the server's certificate.
SERVER_NAMES = ("localhost", "mx.example.com", "127.0.0.1")


@attrs.frozen
class CertificateFiles:
    """A certificate chain and its private key as PEM files."""

    cert: Path
    key: Path


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A certificate authority that nobody but these tests trusts."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_certificate(ca: trustme.CA) -> trustme.LeafCert:
    """The server's certificate, for `SERVER_NAMES`."""
    return ca.issue_cert(*SERVER_NAMES)


@pytest.fixture(scope="session")
def server_ssl_context(server_certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context. Shared by the whole run: a test that changes a context makes its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_certificate.configure_cert(context)
    return context


@pytest.fixture(scope="session")
def client_ssl_context(ca: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts `ca` alone. Shared by the whole run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def certificate_files(
    server_certificate: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory
) -> CertificateFiles:
    """The server's certificate and key on disk, as an operator has them."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    for number, blob in enumerate(server_certificate.cert_chain_pems):
        blob.write_to_path(cert, append=number > 0)
    server_certificate.private_key_pem.write_to_path(key)
    return CertificateFiles(cert, key)


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate on disk, for programs that take a CA file."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `tests.exhaustive` names."""
    for item in items:
        if isinstance(item, pytest.Function) and is_exhaustive(
            item.path.relative_to(TESTS).as_posix(), item.originalname
        ):
            item.add_marker(pytest.mark.exhaustive)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``program("swaks")`` where swaks is not installed."""
    for marker in item.iter_markers("program"):
        for name in marker.args:
            if shutil.which(name) is None:
                pytest.skip(f"{name} is not installed")
