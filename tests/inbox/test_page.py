"""The pages as the server renders them, without a browser."""

from __future__ import annotations

import re
import time
from importlib import resources

import pytest

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api.safety import PAGE_POLICY
from trio_smtp.inbox.store import StorageError
from trio_smtp.plugins.faults import Fail, Rule

from . import mails
from .support import mail, open_api, open_smtp, put

BOXES = b"".join(b"b%d@example.com, " % number for number in range(120))


def text_of(html: str) -> str:
    """What a page says, without its marks."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


async def test_an_empty_inbox_says_how_to_send_a_first_message(inbox: Inbox) -> None:
    inbox.smtp_address = "[::1]:2525"
    async with open_api(inbox) as api:
        page = await api.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "No mail yet" in page.text
    assert "smtplib.SMTP(&#34;::1&#34;, 2525).sendmail(" in page.text
    assert "any user" not in page.text


async def test_an_empty_inbox_says_that_any_user_is_let_in_where_it_is_so(inbox: Inbox) -> None:
    inbox.capture(accept_any_user=True)
    async with open_api(inbox) as api:
        page = await api.get("/")
    assert "127.0.0.1:1025, without TLS, with any user and password or none." in text_of(page.text).replace(" ,", ",")


@pytest.mark.parametrize(
    ("place", "host"), [("0.0.0.0:1025", "127.0.0.1"), ("[::]:1025", "::1"), (":1025", "127.0.0.1")]
)
async def test_the_first_message_goes_to_an_address_that_can_be_connected_to(
    inbox: Inbox, place: str, host: str
) -> None:
    inbox.smtp_address = place
    async with open_api(inbox) as api:
        assert f"smtplib.SMTP(&#34;{host}&#34;, 1025)" in (await api.get("/")).text


async def test_every_page_has_the_policy_and_nothing_inline(inbox: Inbox) -> None:
    row = put(inbox, mails.welcome())
    async with open_api(inbox) as api:
        for path in ("/", f"/view/{row.id}", f"/view/{row.id}?tab=parts", "/rules", "/sidebar", "/view/none"):
            page = await api.get(path)
            assert page.headers["content-security-policy"] == PAGE_POLICY
            assert page.headers["cross-origin-resource-policy"] == "same-origin"
            assert page.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?! src=)", page.text)


async def test_a_row_shows_who_what_and_when(inbox: Inbox) -> None:
    put(inbox, mails.welcome(), recipients=("bob@example.com", "audit@shop.example"), created=time.time() - 300)
    async with open_api(inbox) as api:
        page = await api.get("/")
    said = text_of(page.text)
    for expected in ("Northwind Shop", "to bob@example.com , sales@shop.example , audit@shop.example", "5 min"):
        assert expected in said
    assert "Welcome to Northwind, please confirm your address" in said
    assert 'class="row unread"' in page.text
    assert 'title="2 attachments"' in page.text


async def test_a_list_has_pages(inbox: Inbox) -> None:
    for number in range(60):
        put(inbox, mail(f"Number {number}"))
    async with open_api(inbox) as api:
        first, second = (await api.get("/")).text, (await api.get("/?start=50")).text
        behind = (await api.get("/?start=500")).text
    assert "50 of 60" in first
    assert 'href="/?start=50"' in first
    assert "60 of 60" in second
    assert 'rel="prev" href="/"' in second
    assert "Number 0<" in second
    assert "Number 9<" in behind, "what stood there is deleted: the last page is shown"


async def test_hostile_words_are_escaped(inbox: Inbox) -> None:
    row = put(inbox, mail("<script>alert(1)</script>", "<b>&", From='"<i>" <x@example.com>', X_Tags="<u>"))
    async with open_api(inbox) as api:
        for path in ("/", f"/view/{row.id}", f"/view/{row.id}?tab=raw", "/?query=<script>x"):
            text = (await api.get(path)).text
            assert "<script>" not in text
            assert "<i>" not in text


async def test_a_search_and_what_is_wrong_with_it(inbox: Inbox) -> None:
    put(inbox, mail("Apples"))
    put(inbox, mail("Pears"))
    async with open_api(inbox) as api:
        found, none, wrong = [await api.get("/", params={"query": text}) for text in ("apples", "plums", "before:x")]
    assert "Apples" in found.text
    assert "Pears" not in found.text
    assert "Nothing is found" in none.text
    assert wrong.status_code == 400
    assert "before: needs a date" in wrong.text


@pytest.mark.parametrize(("query", "said"), [("is:failed", "Nothing has failed"), ("is:unread", "All read")])
async def test_empty_lists_say_what_they_are(inbox: Inbox, query: str, said: str) -> None:
    async with open_api(inbox) as api:
        assert said in (await api.get("/", params={"query": query})).text


async def test_a_mailbox_for_each_recipient_of_the_envelope(inbox: Inbox) -> None:
    put(inbox, mail("One"), recipients=("Bob@example.com", "audit@example.com"))
    put(inbox, mail("Two"), recipients=("bob@example.com",))
    put(inbox, mail("Three", To="jimbob@example.com"), recipients=("jimbob@example.com",))
    assert inbox.store.mailboxes(2) == {"bob@example.com": 2, "audit@example.com": 1}
    async with open_api(inbox) as api:
        side = (await api.get("/sidebar")).text
        found = (await api.get("/", params={"query": 'mailbox:"bob@example.com"'})).text
        others = (await api.get("/", params={"query": "-mailbox:bob@example.com"})).text
    assert 'href="/?query=mailbox%3A%22bob%40example.com%22"' in side
    assert "One" in found
    assert "Two" in found
    assert "Three" not in found
    assert "Three" in others


async def test_mailboxes_are_not_counted_at_each_look(inbox: Inbox) -> None:
    from trio_smtp.inbox.page import sidebar

    looks = []
    side = sidebar.Sidebar(inbox)
    count = inbox.store.mailboxes

    def slow(most: int) -> dict[str, int]:
        looks.append(most)
        time.sleep(0.05)
        return count(most)

    inbox.store.mailboxes = slow  # type: ignore[method-assign]
    assert side.look().mailboxes == side.look().mailboxes == {}
    assert looks == [50]


async def test_a_message_is_marked_as_read(inbox: Inbox) -> None:
    row = put(inbox)
    async with open_api(inbox) as api:
        await api.get(f"/view/{row.id}")
        await api.get(f"/view/{row.id}")
    found = inbox.store.find(row.id)
    assert found is not None
    assert found.read


async def test_the_envelope_stands_beside_the_header(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        await client.auth_plain("joe", "secret")
        recipients = ["bob@example.com", "hidden@example.com"]
        await client.send_message("bounce@example.com", recipients, mail("Hello", "Text", Cc="carl@example.com"))
    row = inbox.store.latest()
    assert row is not None
    async with open_api(inbox) as api:
        said = text_of((await api.get(f"/view/{row.id}")).text)
    assert "From Alice &lt;alice@example.com&gt; To bob@example.com Cc carl@example.com" in said
    assert "Sender bounce@example.com" in said
    assert "Recipients bob@example.com hidden@example.com Bcc" in said
    assert "Client 192.0.2.1 as" in said
    assert "TLS none Login joe by PLAIN" in said


async def test_facts_of_tls_are_shown(inbox: Inbox) -> None:
    from .support import arrival

    made = arrival(mail())
    facts = dict(made.envelope) | {
        "SenderParameters": {"SIZE": "10", "SMTPUTF8": True},
        "Recipients": [{"Address": "bob@example.com", "Parameters": {"NOTIFY": "NEVER", "X": True}}],
        "TLS": {"Version": "TLSv1.3", "Cipher": "TLS_AES_256_GCM_SHA384", "ServerName": "mx.example.com"},
    }
    import attrs

    row = inbox.store.add(attrs.evolve(made, envelope=facts))
    async with open_api(inbox) as api:
        said = text_of((await api.get(f"/view/{row.id}")).text)
    assert "TLSv1.3, TLS_AES_256_GCM_SHA384 for mx.example.com" in said
    assert "SIZE=10 SMTPUTF8" in said
    assert "NOTIFY=NEVER X" in said


async def test_each_tab_shows_its_part(inbox: Inbox) -> None:
    async with open_smtp(inbox) as client:
        await client.send_message("alice@example.com", ["bob@example.com"], mails.welcome())
    row = inbox.store.latest()
    assert row is not None
    async with open_api(inbox) as api:
        tabs = {
            name: (await api.get(f"/view/{row.id}?tab={name}")).text
            for name in ("", "html", "text", "headers", "raw", "parts", "links", "transcript", "nonsense")
        }
    assert f'src="/view/{row.id}.html?embed=1"' in tabs["html"]
    assert tabs[""] == tabs["html"] == tabs["nonsense"]
    assert (
        '<a href="https://shop.example/confirm?token=4711" rel="noopener noreferrer" target="_blank">' in tabs["text"]
    )
    assert "Northwind Shop &lt;hello@shop.example&gt;" in tabs["headers"]
    assert "Content-Transfer-Encoding: base64" in tabs["raw"]
    assert f'href="/api/v1/message/{row.id}/part/1.2.2"' in tabs["parts"]
    assert f'src="/api/v1/message/{row.id}/part/1.2.2/thumb"' in tabs["parts"]
    assert '<a href="https://shop.example/confirm?token=4711" hx-boost="false"' in tabs["links"]
    assert "rcpt to:&lt;bob@example.com&gt;" in tabs["transcript"].lower()


async def test_encoded_words_are_shown_in_both_forms(inbox: Inbox) -> None:
    row = put(inbox, mail("=?utf-8?q?Gr=C3=BC=C3=9Fe?="))
    async with open_api(inbox) as api:
        page = (await api.get(f"/view/{row.id}?tab=headers")).text
    assert "Grüße" in page
    assert "=?utf-8?q?Gr=C3=BC=C3=9Fe?=" in page


async def test_images_from_elsewhere_are_offered_and_asked_for(inbox: Inbox) -> None:
    row = put(inbox, mails.welcome())
    plain = put(inbox, mail("Plain", "<p>Nothing", Content_Type="text/html"))
    async with open_api(inbox) as api:
        before, after, none = [
            (await api.get(path)).text
            for path in (f"/view/{row.id}", f"/view/{row.id}?tab=html&remote=1&width=narrow", f"/view/{plain.id}")
        ]
    assert "Load images" in before
    assert "Images from elsewhere are loaded." in after
    assert f'src="/view/{row.id}.html?embed=1&amp;remote=1"' in after
    assert 'class="narrow"' in after
    assert "Images from elsewhere" not in none


async def test_long_things_are_cut_off_and_can_be_downloaded(inbox: Inbox) -> None:
    row = put(
        inbox,
        mail("Long", "word " * 60_000, To=BOXES.decode()),
        recipients=tuple(f"r{n}@x.example" for n in range(120)),
    )
    async with open_api(inbox) as api:
        pages = {name: (await api.get(f"/view/{row.id}?tab={name}")).text for name in ("text", "raw", "headers")}
    assert "The rest, 100 kB, is not shown" in text_of(pages["text"]).replace("100,002 B", "100 kB")
    assert "is not shown" in pages["raw"]
    assert "and 70 more" in text_of(pages["headers"])
    assert f'href="/api/v1/message/{row.id}/envelope"' in pages["headers"]
    assert all(len(page) < 400_000 for page in pages.values())


async def test_what_has_nothing_says_so(inbox: Inbox) -> None:
    row = put(inbox, b"\r\n\r\n", recipients=())
    async with open_api(inbox) as api:
        said = {
            name: text_of((await api.get(f"/view/{row.id}?tab={name}")).text)
            for name in ("text", "headers", "links", "transcript")
        }
        everything = text_of((await api.get("/")).text)
    assert "The message has no text." in said["text"]
    assert "The message has no header that can be read" in said["headers"]
    assert "The message has no links." in said["links"]
    assert "The message came by the API" in said["transcript"]
    assert "It has no addresses and no date." in said["text"]
    assert "no sender to nobody" in everything


async def test_what_was_refused_and_what_broke(inbox: Inbox) -> None:
    inbox.rules.add("rcpt to=bob@* fail 550")
    async with open_smtp(inbox) as client:
        for line in ("MAIL FROM:<alice@example.com>", "RCPT TO:<bob@example.com>", "QUIT"):
            await client.command(line)
    put(inbox, mail("Half"), state="broken")
    async with open_api(inbox) as api:
        listed = (await api.get("/?query=is:failed")).text
        identifiers = re.findall(r'data-id="([^"]+)"', listed)
        shown = [text_of((await api.get(f"/view/{identifier}")).text) for identifier in identifiers]
    assert "550 5.7.1 Failed by a rule" in listed
    assert "no message" in listed
    assert any("Refused. The client was told: 550 5.7.1 Failed by a rule" in each for each in shown)
    assert any("Broken off." in each for each in shown)
    assert any("No message came." in each for each in shown)


async def test_newer_and_older_messages_stay_inside_of_the_search(inbox: Inbox) -> None:
    rows = [put(inbox, mail(subject)) for subject in ("Red one", "Blue", "Red two", "Red three")]
    assert inbox.store.beside(rows[1].id) == (rows[2].id, rows[0].id)
    async with open_api(inbox) as api:
        page = (await api.get(f"/view/{rows[2].id}?query=red")).text
    assert f'id="newer" href="/view/{rows[3].id}?query=red"' in page
    assert f'id="older" href="/view/{rows[0].id}?query=red"' in page


async def test_a_message_that_goes_while_it_is_looked_at(inbox: Inbox) -> None:
    row = put(inbox)
    inbox.store.octets = lambda _: None  # type: ignore[method-assign,assignment]
    async with open_api(inbox) as api:
        page = await api.get(f"/view/{row.id}")
    assert page.status_code == 404
    assert "Message not found" in page.text


async def test_release_is_offered_where_there_is_a_relay() -> None:
    with Inbox(relay="smtp://mail.example.com:587?allow=*@example.com") as inbox:
        row = put(inbox)
        async with open_api(inbox) as api:
            page = (await api.get(f"/view/{row.id}")).text
    assert 'data-act="release"' in page
    assert "mail.example.com:587" in page


async def test_rules_are_listed(inbox: Inbox) -> None:
    inbox.rules.add("rcpt to=bob@* fail 452 times=1")
    inbox.rules.add(Rule(at="rcpt", to=lambda _: True, act=Fail(550)))
    async with open_api(inbox) as api:
        page = (await api.get("/rules")).text
    assert 'data-line="rcpt to=bob@* fail 452 times=1"' in page
    assert "rcpt … fail" in page
    assert page.count('data-rule-act="edit"') == 1, "what only Python can write is not edited"
    assert page.count('data-rule-act="delete"') == 2


async def test_every_example_is_a_rule(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        page = (await api.get("/rules")).text
    assert "There are no rules" in page
    for line in re.findall(r'data-example="([^"]+)"', page):
        inbox.rules.add(line)
    assert len(inbox.rules) == 6


async def test_paths_begin_with_the_root(inbox: Inbox) -> None:
    row = put(inbox)
    async with open_api(inbox, root_path="/mail") as api:
        for path in ("/mail", "/mail/"):
            page = await api.get(path)
            assert page.status_code == 200
            assert f'href="/mail/view/{row.id}"' in page.text
            assert 'data-root="/mail"' in page.text
        assert (await api.get("/mail/static/inbox.css")).status_code == 200


async def test_what_is_not_there_is_a_page(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        for path in ("/nothing/here", "/view/none"):
            page = await api.get(path)
            assert page.status_code == 404
            assert "Show all mail" in page.text
        assert (await api.get("/api/v1/nothing")).text == "Not Found", "programs get no page"
        assert (await api.get("/static/../pages.py")).status_code == 404
        assert (await api.get("/static/pages.py")).status_code == 404


async def test_a_database_that_cannot_be_read_is_words(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("it is gone")

    for name in ("page", "totals"):
        monkeypatch.setattr(inbox.store, name, fail)
    async with open_api(inbox) as api:
        page = await api.get("/")
    assert page.status_code == 503
    assert "The database cannot be used: it is gone" in page.text
    assert "the database cannot be read: it is gone" in page.text


async def test_static_files_are_in_the_package_and_keep_by_their_version(inbox: Inbox) -> None:
    folder = resources.files("trio_smtp.inbox.page")
    names = {each.name for each in (folder / "static").iterdir()}
    assert "htmx.LICENSE.txt" in names
    assert {each.name for each in (folder / "templates").iterdir()} >= {"page.html", "list.html", "message.html"}
    async with open_api(inbox) as api:
        page = (await api.get("/")).text
        for name in names:
            answer = await api.get(f"/static/{name}?v=1")
            assert answer.status_code == 200
            assert answer.content == (folder / "static" / name).read_bytes()
            assert "immutable" in answer.headers["cache-control"]
        assert (await api.get("/static/inbox.js")).headers["cache-control"] == "no-store"
    for name in ("inbox.css", "htmx.min.js", "keyed.js", "inbox.js", "actions.js", "keys.js"):
        assert re.search(rf"/static/{re.escape(name)}\?v=[0-9a-f]{{12}}", page)
