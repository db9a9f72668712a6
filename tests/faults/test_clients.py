"""The table of docs/failures.md: what real clients make of the failures."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.socket_support import port_of, serving

from .clients import Call, with_aiosmtplib, with_curl, with_smtplib, with_swaks
from .support import Taken

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
#: Acts for whose end a client would wait, or whose outcome a client waits for in vain.
_WAITING = ("delay", "throttle", "truncate", "garbage")


def table() -> list[tuple[str, ...]]:
    """The rows below "What clients make of it"."""
    section = PAGE.read_text(encoding="utf-8").partition("### What clients make of it\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip(" `") for cell in row.strip("|").split(" | ")) for row in rows]


ROWS = table()


def test_the_table_is_found_and_has_every_act_that_a_client_meets() -> None:
    assert len(ROWS) > 30
    assert {len(row) for row in ROWS} == {6}


async def check(
    row: tuple[str, ...], column: int, send: Callable[[Call], Awaitable[str]], ca: trustme.CA, ca_file: Path
) -> None:
    """One client sends one message to a server with the row's rule: both go as the table says."""
    rule, expected, outcome = row[0], row[column], row[5]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    taken = Taken(rule, ca=ca)
    patience = 2 if rule.split()[1] in _WAITING else 20
    async with serving(taken.app, ssl_context=context, allow_insecure_auth=True) as server:
        call = Call(port_of(server), ca_file, rule.startswith("tls"), rule.startswith("auth"), patience)
        seen = await send(call)
    assert any(seen.startswith(one) for one in expected.split(" or ")), f"{rule}: {seen}, not {expected}"
    assert seen in expected or "exit" in expected or "mismatch" in expected
    if outcome != "perhaps":
        assert len(taken.messages) == (outcome == "yes")
    assert all(each.hits for each in taken.rules)


each_row = pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])


@each_row
async def test_clients_in_python(row: tuple[str, ...], ca: trustme.CA, ca_file: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check, row, 1, with_smtplib, ca, ca_file)
        nursery.start_soon(check, row, 2, with_aiosmtplib, ca, ca_file)


@pytest.mark.program("curl")
@each_row
async def test_curl(row: tuple[str, ...], ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    await check(row, 3, partial(with_curl, directory=tmp_path), ca, ca_file)


@pytest.mark.program("swaks")
@each_row
async def test_swaks(row: tuple[str, ...], ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    await check(row, 4, partial(with_swaks, directory=tmp_path), ca, ca_file)
