"""Clients of Mailpit that others wrote, against a real server: npm's mailpit-api, the commands of cypress-mailpit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import trio

from trio_smtp.inbox import Inbox

from .web_support import open_web

HERE = Path(__file__).parent
#: The versions that the API was checked with.
PACKAGES = ("mailpit-api@2.1.0", "cypress-mailpit@2.0.0")
_INSTALL = ("install", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--omit=peer")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What npm has installed; skips where npm cannot."""
    directory = tmp_path_factory.mktemp("npm")
    # Without "type" Node takes the commands, which use import, for another kind of module and warns.
    (directory / "package.json").write_text(json.dumps({"private": True}))
    done = subprocess.run(
        ["npm", *_INSTALL, *PACKAGES], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.skip(f"npm cannot install {', '.join(PACKAGES)}: {done.stderr.strip()[-200:]}")
    commands = directory / "node_modules" / "cypress-mailpit" / "package.json"
    # The package is compiled for bundlers: its files are modules that say import, and nothing says so to Node.
    commands.write_text(json.dumps(json.loads(commands.read_text()) | {"type": "module"}))
    return directory


@pytest.mark.program("npm")
@pytest.mark.program("node")
async def test_clients_of_mailpit_find_what_they_expect(inbox: Inbox, packages: Path) -> None:
    async with open_web(inbox) as (port, _):
        command = ["node", str(HERE / "clients.mjs"), f"http://127.0.0.1:{port}", str(packages)]
        with trio.fail_after(100):
            done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    assert done.stdout == b"all as they expect\n", done.stderr.decode()
