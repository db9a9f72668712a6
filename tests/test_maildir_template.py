"""Maildirs whose paths hold the recipient's domain and local part."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_smtp import App
from trio_smtp.delivery.maildir import folder_part
from trio_smtp.delivery.maildir_template import maildir_template
from trio_smtp.testing import open_client


def make_maildir(path: Path) -> None:
    for name in ("tmp", "new", "cur"):
        (path / name).mkdir(parents=True)


async def answers(app: App, *recipients: str) -> list[str]:
    async with open_client(app, local_domain=None) as client:
        await client.ehlo()
        await client.command("MAIL FROM:<a@example.org>")
        replies = [await client.command(f"RCPT TO:<{recipient}>") for recipient in recipients]
        await client.command("DATA")
        replies.append(await client.command("Subject: hi\r\n\r\nhello\r\n."))
        return [f"{reply.code} {reply.enhanced}" for reply in replies]


async def test_who_has_a_maildir_gets_mail_and_nobody_else(tmp_path: Path) -> None:
    make_maildir(tmp_path / "example.com" / "alice")
    (tmp_path / "example.com" / "half").mkdir()
    app = App().use(maildir_template(tmp_path / "{domain}" / "{local_part}"))
    found = await answers(
        app, "Alice@EXAMPLE.com", "half@example.com", "bob@example.com", "alice@example.net", "postmaster"
    )
    assert found == ["250 2.1.5", "550 5.1.1", "550 5.1.1", "550 5.1.1", "550 5.1.1", "250 2.0.0"]
    (message,) = (tmp_path / "example.com/alice/new").iterdir()
    assert b"Delivered-To: Alice@EXAMPLE.com\r\n" in message.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["example.com"]


@pytest.mark.parametrize("local_part", ['"."', '".."', '"../../etc"', '"/etc/passwd"', '"a/b"', '""', "-x", '"."".."'])
async def test_nobody_leaves_the_directory(local_part: str, tmp_path: Path) -> None:
    root = tmp_path / "mail"
    app = App().use(maildir_template(f"{root}/{{domain}}/{{local_part}}/in", create=True))
    await answers(app, f"{local_part}@example.com")
    made = {str(path.relative_to(tmp_path)).replace("mail/example.com/", "") for path in tmp_path.rglob("in")}
    assert len(made) == (0 if local_part in {'"."', '".."', '""', '"."".."'} else 1)
    assert all(path.count("/") == 1 and not path.startswith(".") for path in made)
    assert [each.name for each in tmp_path.iterdir()] == ["mail"]


async def test_create_makes_all_of_the_way(tmp_path: Path) -> None:
    app = App().use(maildir_template(tmp_path / "mail" / "{domain}" / "x-{local_part}" / "in", create=True))
    assert await answers(app, "bob@example.com", "eve@example.com") == ["250 2.1.5", "250 2.1.5", "250 2.0.0"]
    folders = [tmp_path / "mail/example.com/x-bob/in/new", tmp_path / "mail/example.com/x-eve/in/new"]
    assert [len(list(folder.iterdir())) for folder in folders] == [1, 1]
    assert (tmp_path / "mail/example.com").stat().st_mode & 0o777 == 0o700


async def test_a_disk_that_is_gone_refuses_nobody_for_good(tmp_path: Path) -> None:
    base = tmp_path / "mail"
    base.mkdir()
    app = App().use(maildir_template(base / "{local_part}"))
    base.rmdir()
    assert (await answers(app, "bob@example.com"))[0] == "451 4.3.0"


async def test_parents_that_cannot_be_made(tmp_path: Path) -> None:
    app = App().use(maildir_template(tmp_path / "{domain}" / "{local_part}", create=True))
    (tmp_path / "example.com").touch()
    assert await answers(app, "bob@example.com") == ["250 2.1.5", "451 4.3.0"]


def test_a_root_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot use the Maildir"):
        App().use(maildir_template(tmp_path / "mail" / "{local_part}"))


@pytest.mark.parametrize("root", ["in/{user}", "in/{domain", "in/domain}", "in/{}", "{{domain}}", "in"])
def test_templates_that_are_none(root: str) -> None:
    with pytest.raises(ValueError, match=r"root .*\{domain\}"):
        maildir_template(root)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Alice", "alice"),
        ('"a b"', "a%20b"),
        ("..", "%2e."),
        (".", "%2e"),
        ("", "%"),
        ("a/b", "a%2fb"),
        ("exämple.com", "ex%c3%a4mple.com"),
        ("[127.0.0.1]", "%5b127.0.0.1%5d"),
    ],
)
def test_parts_of_paths(text: str, part: str) -> None:
    assert folder_part(text) == part
    assert len(folder_part(text * 300)) <= 200
