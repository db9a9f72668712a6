"""Importing the library imports little besides Trio. How long it takes is measured by ``benchmarks/run.py``."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import trio_smtp

ROOT = Path(trio_smtp.__file__).parent.parent

#: Modules outside of the library that it imports when trio has not done so before.
ALLOWED = {
    "secrets",  # the id of a session, nonces
    "ipaddress",  # networks in Config; before Python 3.13 pathlib brings it along, and so trio does
}

SCRIPT = """
import ssl, sys
import attrs, trio

def refuse(*args, **kwargs):
    raise AssertionError("an SSL context was made at import")

ssl.SSLContext.__new__ = refuse
before = {*sys.modules}
import trio_smtp
print(*{*sys.modules} - before)
"""


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """What `import trio_smtp` imports after `import trio`, in a process of its own that can make no SSL context."""
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(finished.stdout.split())


def test_nothing_is_imported_besides_trio_but_what_has_a_reason(imported: set[str]) -> None:
    assert "trio_smtp.server.server" in imported
    # Where modules of the library are compiled, their code is in a library of its own (mypyc).
    others = {name for name in imported if name.partition(".")[0] != "trio_smtp" and not name.endswith("__mypyc")}
    assert others <= ALLOWED


@pytest.mark.parametrize(
    "module", ["argparse", "cryptography", "datetime", "email", "importlib.metadata", "json", "scramp", "tomllib"]
)
def test_what_few_need_is_imported_by_them(imported: set[str], module: str) -> None:
    assert module not in imported


@pytest.mark.parametrize(
    "module",
    [
        "app.received",
        "cli",
        "delivery",
        "plugins",
        "protocol.scram",
        "server.shared_sockets",
        "server.supervisor",
        "testing",
    ],
)
def test_what_the_library_has_for_a_few_is_imported_by_them(imported: set[str], module: str) -> None:
    assert f"trio_smtp.{module}" not in imported


def test_the_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(trio_smtp), "__version__", raising=False)
    assert trio_smtp.__version__ == importlib.metadata.version("trio-smtp")
    assert "__version__" in vars(trio_smtp), "looked up once"


def test_a_package_that_is_not_installed_has_a_version_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delitem(vars(trio_smtp), "__version__", raising=False)
    monkeypatch.setattr("importlib.metadata.version", version)
    assert trio_smtp.__version__ == "0+unknown"
    del trio_smtp.__version__


@pytest.mark.parametrize("name", ["version", "__versions__", "Server"])
def test_a_name_that_does_not_exist_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'trio_smtp' has no attribute '{name}'"):
        getattr(trio_smtp, name)
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from trio_smtp import {name}")
