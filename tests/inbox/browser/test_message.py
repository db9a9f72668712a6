"""One message in a browser, what is done to it, and the rules."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.inbox import mails
from tests.inbox.site import Site, open_site
from tests.inbox.support import mail, put
from trio_smtp.inbox import Inbox

from .support import until, wait_for_subjects

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.program("chromium")


def open_tab(page: Page, name: str) -> None:
    """Go to a tab of the message that is shown."""
    page.click(f"[data-tab={name}]")
    page.wait_for_selector(f"section.tab.{name}")


def test_a_list_that_comes_late_leaves_the_title(site: Site, page: Page) -> None:
    site.send(mails.welcome(), recipients=["bob@example.com"])
    page.click("#rows a")
    title = "Welcome to Northwind, please confirm your address · Inbox"
    until(page, "document.title", title)
    # As a refresh of the list does that was asked for before: its place is gone when the answer comes.
    with page.expect_response("**/"):
        page.evaluate(
            """() => {
              const list = document.createElement("div");
              document.body.append(list);
              htmx.ajax("GET", "/", { source: document.body, target: list, swap: "innerHTML" });
              list.remove();
            }"""
        )
    page.wait_for_timeout(300)
    assert page.evaluate("document.title") == title


def test_a_message_and_its_tabs(site: Site, page: Page) -> None:
    page.evaluate("window.mark = 1")
    site.send(mails.welcome(), recipients=["bob@example.com", "audit@shop.example"])
    page.click("#rows a")
    frame = page.frame_locator("iframe")
    frame.locator("text=Hello Bob, good to see you").wait_for()
    assert frame.locator("img[alt=Northwind]").evaluate("image => image.naturalWidth") == 280, "cid: is put in"
    until(page, "document.title", "Welcome to Northwind, please confirm your address · Inbox")
    hidden = page.locator("#card-envelope ~ dl li", has_text="audit@shop.example")
    assert hidden.locator(".badge").inner_text() == "Bcc"
    open_tab(page, "text")
    assert page.locator("pre.text a").get_attribute("href") == "https://shop.example/confirm?token=4711"
    open_tab(page, "headers")
    assert "Northwind Shop <hello@shop.example>" in page.locator("section.headers").inner_text()
    open_tab(page, "raw")
    assert "Content-Type: multipart/mixed" in page.locator("pre.code").inner_text()
    open_tab(page, "parts")
    with page.expect_download() as download:
        page.locator("tr", has_text="terms of use.pdf").locator("text=Download").click()
    assert download.value.suggested_filename == "terms of use.pdf"
    assert download.value.path().read_bytes().startswith(b"%PDF-1.7")
    open_tab(page, "links")
    assert page.locator(".links a").first.inner_text() == "https://shop.example/confirm?token=4711"
    open_tab(page, "transcript")
    assert "mail FROM:<alice@example.com>" in page.locator("ol.transcript").inner_text()
    with page.expect_download() as download:
        page.click(".attachments >> text=first steps.ics")
    assert download.value.suggested_filename == "first steps.ics"
    with page.expect_download() as download:
        page.click("[aria-label='Download .eml']")
    assert download.value.path().read_bytes().startswith(b"From: Northwind Shop")
    assert page.evaluate("window.mark") == 1, "the page was loaded anew"


def test_the_width_of_a_phone(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(f"/view/{put(site.inbox, mails.welcome()).id}")
    page.click("#width")
    page.wait_for_selector("iframe.narrow")
    box = page.locator("iframe").bounding_box()
    assert box is not None
    assert box["width"] == 375
    page.click("#width")
    page.wait_for_selector("iframe:not(.narrow)")


def test_a_link_in_a_mail_opens_in_a_new_tab(site: Site, new_page: Callable[..., Page]) -> None:
    html = f'<a id="link" href="{site.url}/rules">Confirm</a>'
    page = new_page(f"/view/{put(site.inbox, mail('Links', html, Content_Type='text/html')).id}")
    with page.context.expect_page() as opened:
        page.frame_locator("iframe").locator("#link").click()
    opened.value.wait_for_selector("h1 >> text=Rules")
    assert "/view/" in page.url


def test_facts_of_tls_and_login(
    inbox: Inbox,
    new_page: Callable[..., Page],
    server_ssl_context: ssl.SSLContext,
    client_ssl_context: ssl.SSLContext,
) -> None:
    with open_site(inbox, ssl_context=server_ssl_context) as site:
        with smtplib.SMTP("localhost", site.smtp, timeout=20) as client:
            client.starttls(context=client_ssl_context)
            client.login("joe", "anything")
            client.sendmail("alice@example.com", ["bob@example.com"], mail("Safe"))
        page = new_page(base=site.url)
        page.click("#rows a")
        facts = page.locator("#card-envelope ~ dl").inner_text()
    assert "TLSv1.3, TLS_" in facts
    assert "for localhost" in facts
    assert "joe by PLAIN" in facts


def test_mark_as_unread_delete_and_go_on(site: Site, new_page: Callable[..., Page]) -> None:
    for subject in ("One", "Two", "Three"):
        put(site.inbox, mail(subject))
    page = new_page()
    page.click("#rows >> text=Two")
    page.click("[data-act=unread]")
    wait_for_subjects(page, "Three", "Two", "One")
    assert page.locator(".row.unread").count() == 3
    page.click("#rows >> text=Two")
    page.wait_for_selector("article")
    page.keyboard.press("Delete")
    until(page, "document.querySelector('h1').textContent", "One")
    page.click("[data-act=delete]")
    until(page, "document.querySelector('h1').textContent", "Three")
    page.click("#back")
    wait_for_subjects(page, "Three")


def test_tags_are_edited(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(f"/view/{put(site.inbox, mail('Tagged', X_Tags='old')).id}")
    page.click("[data-act=tags]")
    page.fill("#tags-text", "new, two words")
    page.keyboard.press("Enter")
    page.wait_for_selector(".when .tag >> text=two words")
    page.wait_for_selector("#side-tags >> text=new")
    assert list(site.inbox.store.tags()) == ["new", "two words"]


def test_release(new_page: Callable[..., Page], site: Site) -> None:
    inbox = Inbox(relay=f"smtp://127.0.0.1:{site.smtp}?allow=*@example.com")
    with inbox, open_site(inbox) as relaying:
        identifier = relaying.send(mail("Released"), recipients=["bob@example.com", "eve@elsewhere.example"])
        page = new_page(f"/view/{identifier}", base=relaying.url)
        page.click("[data-act=release]")
        page.click("#release-send")
        page.wait_for_selector("#release-problem >> text=does not match the allow list: eve@elsewhere.example")
        page.fill("#release-to", "bob@example.com")
        page.click("#release-send")
        page.wait_for_selector("text=Released to bob@example.com.")
    released = site.inbox.store.latest()
    assert released is not None
    assert released.headline.subject == "Released"


def test_rules_are_added_edited_and_deleted(site: Site, page: Page) -> None:
    page.click("#side-rules a")
    page.wait_for_selector("#no-rules")
    page.fill("#rule", "rcpt frobnicate")
    page.click("#rule-save")
    page.wait_for_selector("#rule-problem >> text=frobnicate")
    page.click("[data-example='connect delay 5']")
    assert page.locator("#rule").input_value() == "connect delay 5"
    page.fill("#rule", "rcpt to=bob@* fail 552 times=1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rules tbody tr")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        site.send(mail("Refused"))
    site.send(mail("Accepted"))
    page.click("#side-list a")
    wait_for_subjects(page, "Accepted")
    page.click("#side-rules a")
    page.wait_for_selector("#rules")
    assert page.locator("#rules td.number").inner_text() == "1"
    page.click("[data-rule-act=edit]")
    page.fill("#rule", "mail fail 450")
    page.click("#rule-save")
    page.wait_for_selector("#rules >> text=mail fail 450")
    assert len(site.inbox.rules) == 1
    page.click("[data-rule-act=delete]")
    page.wait_for_selector("#no-rules")
    assert len(site.inbox.rules) == 0


def test_below_a_path(inbox: Inbox, new_page: Callable[..., Page]) -> None:
    with open_site(inbox, root_path="/mail") as site:
        page = new_page("/mail/", base=site.url)
        site.send(mails.welcome())
        page.click("#rows a")
        page.frame_locator("iframe").locator("text=Hello Bob").wait_for()
        page.keyboard.press("Delete")
        page.wait_for_selector("text=No mail yet")
        assert page.url.endswith("/mail/")


def test_links_that_are_followed_in_haste(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(f"/view/{put(site.inbox, mails.welcome()).id}")
    page.evaluate("for (const name of ['text', 'raw', 'links']) document.querySelector(`[data-tab=${name}]`).click()")
    page.wait_for_selector("section.tab.links")
    page.wait_for_timeout(200)
    assert page.locator("main").count() == page.locator("#sidebar").count() == 1
    assert page.url.endswith("?tab=links")
