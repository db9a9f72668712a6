"""What the Maildir writes in front of a message about whom it was sent to and whom it was delivered to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from trio_smtp import Address, App, DataContext, MailFromContext, RcptToContext
from trio_smtp.delivery.maildir import maildir
from trio_smtp.testing import open_client

from .maildir_support import MESSAGE, body_of


@attrs.frozen
class Row:
    """What is sent, what handlers make of it, and the fields of each file."""

    what: str
    recipients: list[str]
    rewritten: Mapping[str, str | list[str]]
    fields: Mapping[str, str]
    per_recipient: bool = False
    parameters: str = ""


ROWS = [
    Row("nothing is rewritten", ["b@example.com"], {}, {"": "D b@example.com"}),
    Row(
        "an alias",
        ["info@example.com"],
        {"info@example.com": "b@example.com"},
        {"": "O info@example.com, D b@example.com"},
    ),
    Row(
        "two aliases of one mailbox stand before it",
        ["info@example.com", "c@example.com", "sales@example.com"],
        {"info@example.com": "b@example.com", "sales@example.com": "b@example.com"},
        {"": "O info@example.com, O sales@example.com, D b@example.com, D c@example.com"},
    ),
    Row(
        "an alias, and the mailbox itself",
        ["b@example.com", "info@example.com"],
        {"info@example.com": "b@example.com"},
        {"": "O info@example.com, D b@example.com"},
    ),
    Row(
        "the same alias twice",
        ["info@example.com", "info@example.com"],
        {"info@example.com": "b@example.com"},
        {"": "O info@example.com, D b@example.com"},
    ),
    Row(
        "rewritten twice: the first is the original",
        ["info@example.com"],
        {"info@example.com": ["staff@example.com", "b@example.com"]},
        {"": "O info@example.com, D b@example.com"},
    ),
    Row("rewritten into itself", ["b@example.com"], {"b@example.com": "b@example.com"}, {"": "D b@example.com"}),
    Row(
        "only the case is another",
        ["B@EXAMPLE.COM"],
        {"B@EXAMPLE.COM": "b@example.com"},
        {"": "O B@EXAMPLE.COM, D b@example.com"},
    ),
    Row("without a domain", ["Postmaster"], {"Postmaster": "b@example.com"}, {"": "O Postmaster, D b@example.com"}),
    Row(
        "a quoted local part",
        ['"a b"@example.com'],
        {'"a b"@example.com': "b@example.com"},
        {"": 'O "a b"@example.com, D b@example.com'},
    ),
    Row(
        "an original in UTF-8",
        ["bücher@example.com"],
        {"bücher@example.com": "b@example.com"},
        {"": "O bücher@example.com, D b@example.com"},
        parameters=" SMTPUTF8",
    ),
    Row(
        "a mailbox in UTF-8",
        ["b@example.com"],
        {"b@example.com": "bücher@example.com"},
        {"": "O b@example.com, D bücher@example.com"},
    ),
    Row(
        "each folder names its own",
        ["info@example.com", "c@example.com", "sales@example.com"],
        {"info@example.com": "b@example.com", "sales@example.com": "b@example.com", "c@example.com": "d@example.com"},
        {
            "b@example.com": "O info@example.com, O sales@example.com, D b@example.com",
            "d@example.com": "O c@example.com, D d@example.com",
        },
        per_recipient=True,
    ),
    Row(
        "mailboxes that share a folder",
        ["info@example.com", "B@example.com"],
        {"info@example.com": "b@example.com"},
        {"b@example.com": "O info@example.com, D b@example.com, D B@example.com"},
        per_recipient=True,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
async def test_fields_say_what_a_recipient_was_rewritten_from(tmp_path: Path, row: Row) -> None:
    app = App()

    @app.on_rcpt_to
    async def rewrite(ctx: RcptToContext) -> None:
        targets = row.rewritten.get(ctx.address.address, [])
        for target in [targets] if isinstance(targets, str) else targets:
            ctx.address = Address.parse(target)

    app.use(maildir(tmp_path, per_recipient=row.per_recipient))
    async with open_client(app) as client:
        await client.ehlo()
        await client.command(f"MAIL FROM:<a@example.org>{row.parameters}")
        for recipient in row.recipients:
            assert (await client.command(f"RCPT TO:<{recipient}>")).code == 250
        await client.command("DATA")
        await client.send_bytes(MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert (await client.read_reply()).code == 250
    for folder, fields in row.fields.items():
        (file,) = (tmp_path / folder / "new").iterdir()
        lines = file.read_text("utf-8", "surrogateescape").split("\n")
        wanted = [
            f"{'X-Original-To' if field.startswith('O ') else 'Delivered-To'}: {field[2:]}"
            for field in fields.split(", ")
        ]
        assert lines[0] == "Return-Path: <a@example.org>"
        assert [line.rstrip("\r") for line in lines[1 : len(wanted) + 1]] == wanted
        assert lines[len(wanted) + 1].startswith("Received: from ")
        assert body_of(file) == MESSAGE
    assert len(list(tmp_path.glob("*/new" if row.per_recipient else "new"))) == len(row.fields)


async def test_a_rewritten_sender_has_no_field_for_its_original(tmp_path: Path) -> None:
    """As with SRS: bounces go to what was made of it."""
    app = App()

    @app.on_mail_from
    async def rewrite(ctx: MailFromContext) -> None:
        ctx.address = Address.parse("srs0=a@forward.example")

    async with open_client(app.use(maildir(tmp_path))) as client:
        await client.ehlo()
        await client.send_message("", ["b@example.com"], MESSAGE)
    (file,) = (tmp_path / "new").iterdir()
    assert file.read_bytes().startswith(
        b"Return-Path: <srs0=a@forward.example>\r\nDelivered-To: b@example.com\r\nReceived: "
    )


async def test_a_recipient_that_a_handler_adds_has_no_original(tmp_path: Path) -> None:
    app = App()

    @app.on_data
    async def add(ctx: DataContext) -> None:
        ctx.envelope.rcpt_to.append(Address.parse("archive@example.com"))

    async with open_client(app.use(maildir(tmp_path))) as client:
        await client.ehlo()
        await client.send_message("a@example.org", ["b@example.com"], MESSAGE)
    (file,) = (tmp_path / "new").iterdir()
    assert file.read_bytes().startswith(
        b"Return-Path: <a@example.org>\r\nDelivered-To: b@example.com\r\nDelivered-To: archive@example.com\r\nRec"
    )
