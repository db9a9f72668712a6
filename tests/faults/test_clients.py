"""The table of docs/failures.md: what real clients make of the failures."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.socket_support import port_of, serving

from .clients import Call, has_nodemailer, with_aiosmtplib, with_curl, with_nodemailer, with_smtplib, with_swaks
from .support import Taken

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
#: What clients wait for in vain. (nodemailer waits for a greeting on a connection that is closed.)
_WAITING = re.compile(r"\w+ (delay|throttle|truncate|garbage)|connect disconnect")


def table() -> list[tuple[str, ...]]:
    """The rows below "What clients make of it"."""
    section = PAGE.read_text(encoding="utf-8").partition("### What clients make of it\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip(" `") for cell in row.strip("|").split(" | ")) for row in rows]


ROWS = table()


def test_the_table_is_found_and_has_every_act_that_a_client_meets() -> None:
    assert len(ROWS) > 30
    assert {len(row) for row in ROWS} == {7}


async def check(
    row: tuple[str, ...], column: int, send: Callable[[Call], Awaitable[str]], ca: trustme.CA, ca_file: Path
) -> None:
    """One client sends one message to a server with the row's rule: both go as the table says."""
    rule, expected, outcome = row[0], row[column], row[6]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    taken = Taken(rule, ca=ca)
    patience = 3 if _WAITING.match(rule) else 20
    async with serving(taken.app, ssl_context=context, allow_insecure_auth=True) as server:
        call = Call(port_of(server), ca_file, rule.startswith("tls"), rule.startswith("auth"), patience)
        seen = await send(call)
    assert any(seen.startswith(one) for one in expected.split(" or ")), f"{rule}: {seen}, not {expected}"
    assert seen in expected or "exit" in expected or "mismatch" in expected
    if outcome != "perhaps":
        assert len(taken.messages) == (outcome == "yes")
    assert rule.startswith("quit") or all(each.hits for each in taken.rules)  # not every client waits for QUIT's reply


Row = tuple[str, ...]
_WAIT = [row for row in ROWS if _WAITING.match(row[0])]
_GROUPS = [(row,) for row in ROWS if row not in _WAIT]
#: The rows one by one, but those where the clients wait all at once.
each_row = pytest.mark.parametrize("rows", [*_GROUPS, _WAIT], ids=[*(row[0] for (row,) in _GROUPS), "waiting"])


class Clients:
    """Checks rows against clients.

    Args:
        ca: The authority.
        ca_file: Its certificate.
        directory: Where programs run.
    """

    def __init__(self, ca: trustme.CA, ca_file: Path, directory: Path) -> None:
        self.ca = ca
        self.ca_file = ca_file
        self.directory = directory

    async def check(self, rows: Sequence[Row], column: int, send: Callable[..., Awaitable[str]]) -> None:
        """Let a client send one message for each row, all at once."""
        async with trio.open_nursery() as nursery:
            for row in rows:
                client = partial(send, directory=self.directory)
                nursery.start_soon(check, row, column, client, self.ca, self.ca_file)


@pytest.fixture
def clients(ca: trustme.CA, ca_file: Path, tmp_path: Path) -> Clients:
    return Clients(ca, ca_file, tmp_path)


@each_row
async def test_smtplib(rows: Sequence[Row], clients: Clients) -> None:
    await clients.check(rows, 1, with_smtplib)


@each_row
async def test_aiosmtplib(rows: Sequence[Row], clients: Clients) -> None:
    await clients.check(rows, 2, with_aiosmtplib)


@pytest.fixture(scope="module")
def nodemailer() -> None:
    """Skip where node has no nodemailer."""
    if not has_nodemailer():
        pytest.skip("nodemailer is not installed")


@pytest.mark.program("node")
@pytest.mark.usefixtures("nodemailer")
@each_row
async def test_nodemailer(rows: Sequence[Row], clients: Clients) -> None:
    await clients.check(rows, 3, with_nodemailer)


@pytest.mark.program("curl")
@each_row
async def test_curl(rows: Sequence[Row], clients: Clients) -> None:
    await clients.check(rows, 4, with_curl)


@pytest.mark.program("swaks")
@each_row
async def test_swaks(rows: Sequence[Row], clients: Clients) -> None:
    await clients.check(rows, 5, with_swaks)
