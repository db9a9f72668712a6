"""The list in a browser: live, searched, selected, deleted."""

from __future__ import annotations

import re
import smtplib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.inbox import mails
from tests.inbox.site import Site
from tests.inbox.support import mail, put

from .support import until, wait_for_subjects

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.program("chromium")


def subjects(page: Page) -> list[str]:
    """The subjects that the list shows."""
    return page.locator("#rows .subject bdi").all_inner_texts()


def test_a_mail_that_comes_while_the_page_is_open_appears(site: Site, page: Page) -> None:
    page.evaluate("window.mark = 1")
    assert page.locator("#empty h2").inner_text() == "No mail yet"
    assert page.title() == "All mail · Inbox"
    site.send(mails.order(4711))
    page.wait_for_selector("#rows .row.unread")
    assert page.locator("#empty").is_hidden()
    site.send(mail("Second"))
    until(page, "document.querySelectorAll('#rows .row').length === 2")
    assert page.locator("#rows .subject bdi").first.inner_text() == "Second"
    until(page, "document.title === '(2) All mail · Inbox'")
    assert page.locator("#side-list .count").inner_text() == "2"
    assert page.evaluate("window.mark") == 1, "the page was loaded anew"


def test_what_has_not_changed_is_not_touched(site: Site, page: Page) -> None:
    for subject in ("One", "Two"):
        site.send(mail(subject))
    wait_for_subjects(page, "Two", "One")
    page.evaluate(
        "window.rows = [...document.querySelectorAll('#rows .row')]; window.bar = document.querySelector('#bar')"
    )
    page.locator("#rows input").nth(1).check()
    page.locator("#rows a").nth(1).focus()
    site.send(mail("Three"))
    wait_for_subjects(page, "Three", "Two", "One")
    assert page.evaluate("window.rows.every((row, at) => row === document.querySelectorAll('#rows .row')[at + 1])")
    assert page.evaluate("window.bar === document.querySelector('#bar')")
    assert page.locator("#rows input").nth(2).is_checked()
    assert page.evaluate("document.activeElement === window.rows[1].querySelector('a')")
    assert page.locator("#bar [data-act=delete]").inner_text() == "Delete 1"


def test_a_first_message_can_be_copied(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    page.click("[data-copy=first]")
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert f'smtplib.SMTP("127.0.0.1", {site.smtp}).sendmail(' in copied


def test_the_command_for_a_first_message_works(site: Site, page: Page) -> None:
    import subprocess

    command = page.locator("#first").inner_text()
    subprocess.run(["sh", "-c", command], check=True, timeout=20)
    wait_for_subjects(page, "Hello")


def test_pages_of_the_list(site: Site, new_page: Callable[..., Page]) -> None:
    for number in range(60):
        put(site.inbox, mail(f"Number {number}"))
    page = new_page()
    assert page.locator("#rows .row").count() == 50
    page.click("#paging [rel=next]")
    page.wait_for_selector("#paging [rel=prev]")
    assert subjects(page)[-1] == "Number 0"
    assert page.url.endswith("/?start=50")
    page.go_back()
    page.wait_for_selector("#paging [rel=next]")
    assert page.locator("#rows .row").count() == 50


def test_several_are_selected_and_deleted(site: Site, new_page: Callable[..., Page]) -> None:
    for subject in ("One", "Two", "Three"):
        put(site.inbox, mail(subject))
    page = new_page()
    page.locator("#rows input").nth(0).check()
    page.locator("#rows input").nth(2).check()
    page.click("#bar [data-act=delete]")
    wait_for_subjects(page, "Two")
    assert page.locator(".toast").inner_text().startswith("2 messages deleted.")
    assert site.inbox.store.totals().total == 1


def test_several_are_marked_as_read_and_unread(site: Site, new_page: Callable[..., Page]) -> None:
    for subject in ("One", "Two"):
        put(site.inbox, mail(subject))
    page = new_page()
    page.check("#all")
    page.click("#bar [data-act=read]")
    page.wait_for_selector("#rows .row.unread", state="detached")
    until(page, "document.title === 'All mail · Inbox'")
    page.locator("#rows input").nth(1).check()
    page.click("#bar [data-act=unread]")
    page.wait_for_selector("#rows .row.unread")
    assert site.inbox.store.totals().unread == 1


def test_all_are_marked_as_read_then_deleted(site: Site, new_page: Callable[..., Page]) -> None:
    for number in range(3):
        put(site.inbox, mail(f"Number {number}"))
    page = new_page()
    page.click("text=Mark all read")
    page.wait_for_selector("#rows .row.unread", state="detached")
    page.click("text=Delete all")
    page.click("#ask >> text=Cancel")
    assert page.locator("#rows .row").count() == 3
    page.click("text=Delete all")
    page.click("#ask-yes")
    page.wait_for_selector("text=No mail yet")
    assert site.inbox.store.totals().total == 0


def test_a_search_and_what_is_done_to_all_it_finds(site: Site, new_page: Callable[..., Page]) -> None:
    for subject in ("Red apple", "Green apple", "Pear"):
        put(site.inbox, mail(subject, X_Tags="fruit" if "apple" in subject else ""))
    page = new_page()
    page.keyboard.press("/")
    page.keyboard.type("subject:apple")
    page.keyboard.press("Enter")
    wait_for_subjects(page, "Green apple", "Red apple")
    site.send(mail("Apple cake"))
    wait_for_subjects(page, "Apple cake", "Green apple", "Red apple")
    page.click("text=Delete all")
    assert page.locator("#ask-text").inner_text() == "Delete all 3 messages of this search?"
    page.click("#ask-yes")
    page.wait_for_selector("text=Nothing is found")
    page.click("#side-list a")
    wait_for_subjects(page, "Pear")
    page.fill("#q", "before:nonsense")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=before: needs a date such as")


def test_mailboxes_and_tags(site: Site, page: Page) -> None:
    site.send(mail("For both", X_Tags="blue"), recipients=["bob@example.com", "audit@example.com"])
    site.send(mail("For Bob"), recipients=["bob@example.com"])
    page.wait_for_selector("#side-mailboxes >> text=audit@example.com")
    page.click("#side-mailboxes >> text=audit@example.com")
    wait_for_subjects(page, "For both")
    until(page, "document.querySelector('#sidebar [aria-current] .name')?.textContent", "audit@example.com")
    page.click("#side-mailboxes >> text=bob@example.com")
    wait_for_subjects(page, "For Bob", "For both")
    page.click("#side-tags >> text=blue")
    wait_for_subjects(page, "For both")


def test_keys(site: Site, new_page: Callable[..., Page]) -> None:
    for subject in ("One", "Two", "Three"):
        put(site.inbox, mail(subject))
    page = new_page()
    press = page.keyboard.press
    press("j")
    press("j")
    assert page.evaluate("document.activeElement.querySelector('.subject bdi').textContent") == "Two"
    press("r")
    until(page, "document.querySelectorAll('.row.unread').length === 2")
    assert page.evaluate("document.activeElement.querySelector('.subject bdi').textContent") == "Two"
    press("r")
    until(page, "document.querySelectorAll('.row.unread').length === 3")
    press("k")
    press("x")
    assert page.locator("#rows input").nth(0).is_checked()
    press("Delete")
    wait_for_subjects(page, "Two", "One")
    assert page.evaluate("document.activeElement.querySelector('.subject bdi').textContent") == "Two"
    press("Enter")
    page.wait_for_selector("article")
    assert page.locator("h1").inner_text() == "Two"
    press("j")
    until(page, "document.querySelector('h1').textContent === 'One'")
    press("k")
    until(page, "document.querySelector('h1').textContent === 'Two'")
    press("u")
    wait_for_subjects(page, "Two", "One")
    press("?")
    assert page.locator("#keys").is_visible()
    press("Escape")
    press("/")
    page.keyboard.type("jx/")
    assert page.locator("#q").input_value() == "jx/"


def test_two_pages_show_the_same(site: Site, new_page: Callable[..., Page]) -> None:
    first, second = new_page(), new_page()
    site.send(mail("For both"))
    for page in (first, second):
        wait_for_subjects(page, "For both")
    first.click("#rows a")
    first.wait_for_selector("article")
    second.wait_for_selector("#rows .row:not(.unread)")
    second.keyboard.press("j")
    second.keyboard.press("Delete")
    second.wait_for_selector("text=No mail yet")
    first.wait_for_selector("text=This message is deleted.")


def test_notifications_after_consent(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(None)
    page.add_init_script(
        """window.told = [];
        window.Notification = class extends EventTarget {
          static permission = "default";
          static async requestPermission() { return (Notification.permission = "granted"); }
          constructor(title, options) { super(); window.told.push([title, options.body]); }
        };
        document.hasFocus = () => false;"""
    )
    page.goto(site.url)
    page.wait_for_selector("body[data-live=yes]")
    site.send(mail("Before consent"))
    wait_for_subjects(page, "Before consent")
    assert page.evaluate("window.told") == []
    page.click("#notify")
    page.wait_for_selector("text=Do not notify me")
    site.send(mail("After consent"))
    until(page, "window.told.length === 1")
    assert page.evaluate("window.told") == [["After consent", "Alice"]]
    page.click("#notify")
    page.wait_for_selector("text=Notify me of new mail")


def test_messages_are_imported_and_exported(site: Site, page: Page, tmp_path: Path) -> None:
    (tmp_path / "one.eml").write_bytes(mails.welcome())
    (tmp_path / "none.eml").write_bytes(b"")
    page.set_input_files("#import", [tmp_path / "one.eml"])
    wait_for_subjects(page, "Welcome to Northwind, please confirm your address")
    assert page.locator(".toast").inner_text().startswith("1 message imported.")
    page.set_input_files("#import", [tmp_path / "none.eml"])
    page.wait_for_selector("text=none.eml: the body must be a message")
    with page.expect_download() as download:
        page.click("text=Export all")
    with tarfile.open(download.value.path()) as archive:
        files = [archive.extractfile(member) for member in archive.getmembers() if member.isfile()]
        assert [file.read() for file in files if file is not None] == [mails_octets(site)]


def mails_octets(site: Site) -> bytes:
    """The only message."""
    latest = site.inbox.store.latest()
    assert latest is not None
    octets = site.inbox.store.octets(latest.id)
    assert octets is not None
    return octets


def test_files_that_are_dropped_are_imported(page: Page) -> None:
    page.evaluate(
        """() => {
          const files = new DataTransfer();
          files.items.add(new File(["Subject: Dropped\\r\\n\\r\\nText\\r\\n"], "a.eml"));
          for (const type of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(type, { dataTransfer: files, bubbles: true, cancelable: true }));
        }"""
    )
    wait_for_subjects(page, "Dropped")


def test_what_was_refused_is_shown(site: Site, page: Page) -> None:
    site.inbox.rules.add("rcpt to=bob@* fail 550")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        site.send(mail("Refused"))
    page.wait_for_selector("#side-failed .count")
    page.click("#side-failed a")
    page.wait_for_selector(".row.failed")
    assert page.locator(".row.failed .snippet").inner_text() == "550 5.7.1 Failed by a rule"
    page.click(".row.failed a")
    page.wait_for_selector(".note.bad >> text=Refused.")
    assert "RCPT TO:<bob@example.com>" in re.sub("rcpt", "RCPT", page.locator("ol.transcript").inner_text())


def test_a_page_catches_up_after_the_connection_was_lost(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(None)
    routes: list[Any] = []

    def pass_on(socket: Any) -> None:
        socket.connect_to_server()
        routes.append(socket)

    page.route_web_socket(re.compile("/api/events$"), pass_on)
    page.goto(site.url)
    page.wait_for_selector("body[data-live=yes]")
    routes[0].close()
    page.wait_for_selector("#offline", state="visible")
    site.send(mail("Meanwhile"))
    wait_for_subjects(page, "Meanwhile")
    assert page.locator("#offline").is_hidden()


def test_a_server_that_does_not_answer_is_said_in_words(site: Site, new_page: Callable[..., Page]) -> None:
    put(site.inbox, mail("One"))
    page = new_page()
    page.route("**/api/v1/**", lambda route: route.abort())
    page.keyboard.press("j")
    page.keyboard.press("Delete")
    page.wait_for_selector(".toast.bad >> text=The inbox does not answer.")


def test_five_hundred_mails_in_a_row_do_not_hang_the_page(site: Site, page: Page) -> None:
    for number in range(500):
        put(site.inbox, mail(f"Number {number}"))
    until(page, "document.querySelector('#side-list .count')?.textContent === '500'", seconds=20)
    assert page.locator("#rows .row").count() == 50
    assert subjects(page)[0] == "Number 499"
