"""The servers that are measured against each other: how each is started, which version it is, why one is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from processes import environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS = "trio_smtp"
PEERS = ("aiosmtpd", "smtp-sink", "smtp-server")


class Missing(Exception):
    """A server is not there; the text says what to install."""


class Contender(NamedTuple):
    """A server that can be started."""

    name: str
    #: "{port}" stands for the port.
    command: list[str]
    #: What it is, for the table's head: names and versions.
    version: str
    #: A certificate and its key are two more arguments.
    takes_certificate: bool = True
    #: A Python program that prints how many seconds what it stands on takes to import, and how many it takes itself.
    startup: list[str] | None = None


def _asked(command: list[str], missing: str) -> str:
    """What a command prints."""
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True, cwd=HERE / "servers", env=environment()
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise Missing(missing) from exc
    return finished.stdout.strip()


def _startup(python: str, base: str, module: str) -> list[str]:
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from time import process_time as now
begin = now(); import {base}
middle = now(); import {module}
print(middle - begin, now() - middle)
"""
    return [python, "-c", script]


def ours(python: str, *, name: str = OURS) -> Contender:
    """The library under an interpreter.

    Raises:
        Missing: The interpreter is not there, or lacks what the library needs.
    """
    script = """
import platform
from importlib.metadata import version
print(platform.python_implementation(), platform.python_version(), version("trio"), version("attrs"))
"""
    versions = _asked([python, "-c", script], f"{python} has no trio or attrs: {python} -m pip install trio attrs")
    kind, number, trio, attrs = versions.split()
    with (ROOT / "pyproject.toml").open("rb") as file:
        own = tomllib.load(file)["project"]["version"]
    return Contender(
        name,
        [python, str(HERE / "servers" / "trio_smtp_server.py"), "{port}"],
        f"trio_smtp {own} (trio {trio}, attrs {attrs}, {kind} {number})",
        startup=_startup(python, "trio", "trio_smtp"),
    )


def ours_by_version(pythons: list[str]) -> list[Contender]:
    """The library under several interpreters, each named by its version."""
    found: list[Contender] = []
    for python in pythons:
        contender = ours(python)
        version = contender.version.removesuffix(")").rpartition(" ")[2]
        found.append(contender._replace(name=f"{OURS} on {version}"))
    return found


def _aiosmtpd() -> Contender:
    version = _asked(
        [sys.executable, "-c", "import aiosmtpd, platform; print(aiosmtpd.__version__, platform.python_version())"],
        "pip install aiosmtpd",
    )
    own, python = version.split()
    return Contender(
        "aiosmtpd",
        [sys.executable, str(HERE / "servers" / "aiosmtpd_server.py"), "{port}"],
        f"aiosmtpd {own} (Python {python})",
        startup=_startup(sys.executable, "asyncio", "aiosmtpd.smtp"),
    )


def _smtp_sink() -> Contender:
    program = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/libexec/postfix")
    if program is None:
        raise Missing("it comes with postfix (apt install postfix)")
    try:
        version = _asked(["postconf", "-h", "-d", "mail_version"], "")
    except Missing:
        version = ""
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return Contender(
        "smtp-sink",
        [program, *user, "-m", "5000", "127.0.0.1:{port}", "1000"],
        f"smtp-sink of Postfix {version}".strip(),
        takes_certificate=False,
    )


def _smtp_server() -> Contender:
    version = _asked(
        ["node", "-p", "require('smtp-server/package.json').version + ' ' + process.versions.node"],
        "npm install smtp-server (NODE_PATH says where it is)",
    )
    own, node = version.split()
    return Contender(
        "smtp-server",
        ["node", str(HERE / "servers" / "smtp_server.js"), "{port}"],
        f"smtp-server {own} (Node.js {node})",
    )


def peer(name: str) -> Contender:
    """One of the PEERS.

    Raises:
        Missing: It is not installed.
    """
    return {"aiosmtpd": _aiosmtpd, "smtp-sink": _smtp_sink, "smtp-server": _smtp_server}[name]()
