"""The API, path by path: names, cases and statuses are Mailpit's."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from typing import Any

import pytest
import trio

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api.operations import OPERATIONS
from trio_smtp.inbox.store import StorageError, StorageFull

from .support import mail, open_api, put

PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
MIXED = (
    b"From: Alice <alice@example.com>\r\nTo: Bob <bob@example.com>\r\nCc: carl@example.com\r\n"
    b"Reply-To: desk@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <one@example.com>\r\n"
    b"Date: Sun, 31 May 2026 18:30:00 +0200\r\nX-Tags: work, urgent\r\n"
    b"List-Unsubscribe: <https://example.com/u>, <mailto:u@example.com>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\n"
    b"--m\r\nContent-Type: multipart/related; boundary=r\r\n\r\n"
    b"--r\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n"
    b"--a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello https://example.com/x\r\n"
    b"--a\r\nContent-Type: text/html\r\n\r\n<!doctype html><p>Hello <img src=\"cid:dot\"> <img src='cid:gone'></p>\r\n"
    b"--a--\r\n"
    b"--r\r\nContent-Type: image/gif\r\nContent-ID: <dot>\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.b64encode(PIXEL)
    + b"\r\n--r--\r\n"
    b'--m\r\nContent-Type: application/pdf; name="../../etc/a b.pdf"\r\nContent-Disposition: attachment\r\n\r\n%PDF\r\n'
    b"--m--\r\n"
)


async def test_an_empty_list(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        response = await api.get("/api/v1/messages")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "total": 0,
        "unread": 0,
        "count": 0,
        "messages_count": 0,
        "messages_unread": 0,
        "start": 0,
        "tags": [],
        "messages": [],
    }


async def test_a_row_has_what_mailpits_has(inbox: Inbox) -> None:
    row = put(inbox, MIXED, recipients=("bob@example.com", "eve@example.com"), username="joe")
    async with open_api(inbox) as api:
        (shown,) = (await api.get("/api/v1/messages")).json()["messages"]
    created = shown.pop("Created")
    assert created.endswith("Z")
    assert shown == {
        "ID": row.id,
        "MessageID": "one@example.com",
        "Read": False,
        "From": {"Name": "Alice", "Address": "alice@example.com"},
        "To": [{"Name": "Bob", "Address": "bob@example.com"}],
        "Cc": [{"Name": "", "Address": "carl@example.com"}],
        "Bcc": [{"Name": "", "Address": "eve@example.com"}],
        "ReplyTo": [{"Name": "", "Address": "desk@example.com"}],
        "Subject": "Grüße",
        "Username": "joe",
        "Tags": ["joe", "urgent", "work"],
        "Size": len(MIXED),
        "Attachments": 1,
        "Snippet": "Hello https://example.com/x",
        "State": "accepted",
        "Reply": "",
    }


async def test_a_message_has_what_mailpits_has_and_is_read_then(inbox: Inbox) -> None:
    row = put(inbox, MIXED, recipients=("bob@example.com", "eve@example.com"))
    async with open_api(inbox) as api:
        shown = (await api.get(f"/api/v1/message/{row.id}")).json()
        listed = (await api.get("/api/v1/messages")).json()
    assert listed["unread"] == 0
    assert listed["messages"][0]["Read"] is True
    attachment = {
        "PartID": "2",
        "FileName": "a b.pdf",
        "ContentType": "application/pdf",
        "ContentID": "",
        "Size": 4,
        "Checksums": {
            "MD5": hashlib.md5(b"%PDF").hexdigest(),
            "SHA1": hashlib.sha1(b"%PDF").hexdigest(),
            "SHA256": hashlib.sha256(b"%PDF").hexdigest(),
        },
    }
    assert shown["Attachments"] == [attachment]
    assert [(each["PartID"], each["ContentID"], each["FileName"]) for each in shown["Inline"]] == [
        ("1.2", "dot", "dot")
    ]
    assert shown["Text"] == "Hello https://example.com/x"
    assert shown["HTML"].startswith("<!doctype html>")
    assert shown["Date"] == "2026-05-31T18:30:00+02:00"
    assert shown["ReturnPath"] == "alice@example.com"
    assert shown["Bcc"] == [{"Name": "", "Address": "eve@example.com"}]
    assert shown["Links"] == ["https://example.com/x"]
    assert shown["ListUnsubscribe"] == {
        "Header": "<https://example.com/u>, <mailto:u@example.com>",
        "Links": ["https://example.com/u", "mailto:u@example.com"],
        "Errors": "",
        "HeaderPost": "List-Unsubscribe=One-Click",
    }


@pytest.mark.parametrize(
    ("header", "post", "error"),
    [
        ("https://example.com", "", "List-Unsubscribe has no link in angle brackets"),
        ("<ftp://example.com>", "", "List-Unsubscribe has a link that is neither http, https nor mailto"),
        ("<https://example.com>", "yes", "List-Unsubscribe-Post must be List-Unsubscribe=One-Click"),
    ],
)
async def test_what_is_wrong_with_list_unsubscribe(inbox: Inbox, header: str, post: str, error: str) -> None:
    put(inbox, mail(List_Unsubscribe=header, List_Unsubscribe_Post=post))
    async with open_api(inbox) as api:
        assert (await api.get("/api/v1/message/latest")).json()["ListUnsubscribe"]["Errors"] == error


async def test_pages_of_a_list(inbox: Inbox) -> None:
    for number in range(5):
        put(inbox, mail(f"Number {number}"))
    async with open_api(inbox) as api:
        listed = (await api.get("/api/v1/messages?start=1&limit=2")).json()
        odd = (await api.get("/api/v1/messages?start=x&limit=-1")).json()
        none = (await api.get("/api/v1/messages?limit=0")).json()
    assert [row["Subject"] for row in listed["messages"]] == ["Number 3", "Number 2"]
    assert (listed["count"], listed["messages_count"], listed["start"]) == (2, 5, 1)
    assert (odd["start"], odd["count"]) == (0, 5)
    assert none["count"] == 0


async def test_search_and_delete_by_search(inbox: Inbox) -> None:
    put(inbox, mail("Apples"))
    put(inbox, mail("Pears"))
    async with open_api(inbox) as api:
        found = (await api.get("/api/v1/search", params={"query": "subject:apples"})).json()
        assert (found["messages_count"], found["total"]) == (1, 2)
        deleted = await api.delete("/api/v1/search", params={"query": "subject:apples"})
        assert (deleted.status_code, deleted.text) == (200, "ok")
        assert [row["Subject"] for row in (await api.get("/api/v1/messages")).json()["messages"]] == ["Pears"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("query", ["", " ", "from:", "...", "before:never", "larger:x", "a" * 2001, "a " * 51])
async def test_a_search_for_nothing_or_nonsense(inbox: Inbox, method: str, query: str) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        response = await api.request(method, "/api/v1/search", params={"query": query})
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    assert inbox.store.totals().total == 1


async def test_marking_as_read(inbox: Inbox) -> None:
    rows = [put(inbox, mail(f"Number {number}")) for number in range(3)]
    async with open_api(inbox) as api:

        async def unread_after(**body: Any) -> int:
            response = await api.put("/api/v1/messages", json=body)
            assert (response.status_code, response.text) == (200, "ok")
            return inbox.store.totals().unread

        assert await unread_after(Read=True, IDs=[rows[0].id, "nobody"]) == 2
        assert await unread_after(Read=True, Search="subject:1") == 1
        assert await unread_after(Read=True) == 0
        assert await unread_after() == 3
        both = await api.put("/api/v1/messages", json={"Read": True, "IDs": ["x"], "Search": "y"})
        assert both.status_code == 400
        assert (await api.put("/api/v1/messages", json={"Read": True, "Search": "..."})).status_code == 400


async def test_deleting(inbox: Inbox) -> None:
    rows = [put(inbox) for _ in range(4)]
    async with open_api(inbox) as api:

        async def left_after(**options: Any) -> int:
            response = await api.request("DELETE", "/api/v1/messages", **options)
            assert (response.status_code, response.text) == (200, "ok")
            return inbox.store.totals().total

        assert await left_after(json={"IDs": [rows[0].id, rows[1].id, "nobody"]}) == 2
        broken = await api.request("DELETE", "/api/v1/messages", content=b'{"IDs": [')
        assert broken.status_code == 400
        assert inbox.store.totals().total == 2
        assert await left_after() == 0
        put(inbox)
        assert await left_after(json={"IDs": []}) == 0


@pytest.mark.parametrize(
    "body",
    [b"[]", b'"x"', b'{"IDs": 1}', b'{"IDs": [1]}', b'{"ids": "x"}', b'{"IDs": {}}', b"\xff", b"[" * 100_000, b"nan"],
)
async def test_bodies_that_are_not_as_they_should_be(inbox: Inbox, body: bytes) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        assert (await api.request("DELETE", "/api/v1/messages", content=body)).status_code == 400
        assert (await api.put("/api/v1/messages", content=body)).status_code == 400
    assert inbox.store.totals().total == 1


async def test_bodies_are_bounded(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        assert (await api.put("/api/v1/tags", content=b" " * 1_048_577)).status_code == 413
        many = {"IDs": ["x"] * 10_001}
        assert (await api.put("/api/v1/messages", json=many)).status_code == 400


async def test_the_latest_message_in_every_path(inbox: Inbox) -> None:
    put(inbox, MIXED)
    put(inbox, mail("Newest"))
    async with open_api(inbox) as api:
        assert (await api.get("/api/v1/message/latest")).json()["Subject"] == "Newest"
        older = {"query": "subject:grüße"}
        assert (await api.get("/api/v1/message/latest", params=older)).json()["Subject"] == "Grüße"
        assert (await api.get("/api/v1/message/latest/raw", params=older)).content == MIXED
        assert (await api.get("/api/v1/message/latest/headers", params=older)).json()["Message-Id"] == [
            "<one@example.com>"
        ]
        assert (await api.get("/api/v1/message/latest/part/2", params=older)).content == b"%PDF"
        assert (await api.get("/view/latest.txt", params=older)).text == "Hello https://example.com/x"
        assert (await api.get("/api/v1/message/latest", params={"query": "subject:none"})).status_code == 404
        assert (await api.get("/api/v1/message/latest", params={"query": "before:x"})).status_code == 400


@pytest.mark.parametrize(
    "path", ["", "/headers", "/raw", "/parts", "/part/0", "/part/0/thumb", "/envelope", "/transcript"]
)
@pytest.mark.parametrize("name", ["latest", "nobody", "a-b", "%C3%A9"])
async def test_a_message_that_is_not_there(inbox: Inbox, path: str, name: str) -> None:
    async with open_api(inbox) as api:
        response = await api.get(f"/api/v1/message/{name}{path}")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/plain")


async def test_downloads(inbox: Inbox) -> None:
    row = put(inbox, MIXED)
    async with open_api(inbox) as api:
        whole = await api.get(f"/api/v1/message/{row.id}/raw?dl=1")
        shown = await api.get(f"/api/v1/message/{row.id}/raw")
        part = await api.get(f"/api/v1/message/{row.id}/part/2")
        unnamed = await api.get(f"/api/v1/message/{row.id}/part/1.1.1")
    assert whole.headers["content-disposition"].startswith(f'attachment; filename="{row.id}.eml"')
    assert whole.headers["content-type"] == "message/rfc822"
    assert shown.headers["content-type"] == "text/plain; charset=utf-8"
    assert part.headers["content-type"] == "application/pdf"
    assert part.headers["content-disposition"] == "attachment; filename=\"a_b.pdf\"; filename*=utf-8''a%20b.pdf"
    assert part.headers["x-content-type-options"] == "nosniff"
    assert unnamed.headers["content-disposition"].startswith('attachment; filename="part-1.1.1"')


@pytest.mark.parametrize("part", ["1", "9", "1.1.9", "x", "1" * 400, "0"])
async def test_parts_that_are_not_there(inbox: Inbox, part: str) -> None:
    put(inbox, MIXED)
    async with open_api(inbox) as api:
        assert (await api.get(f"/api/v1/message/latest/part/{part}")).status_code == 404


async def test_the_tree_of_parts(inbox: Inbox) -> None:
    put(inbox, MIXED)
    async with open_api(inbox) as api:
        tree = (await api.get("/api/v1/message/latest/parts")).json()
    assert [(each["PartID"], each["Depth"], each["Kind"]) for each in tree] == [
        ("0", 0, ""),
        ("1", 1, ""),
        ("1.1", 2, ""),
        ("1.1.1", 3, "text"),
        ("1.1.2", 3, "html"),
        ("1.2", 2, "inline"),
        ("2", 1, "attachment"),
    ]


async def test_envelope_and_transcript(inbox: Inbox) -> None:
    row = put(inbox)
    inbox.store.set_transcript(row.id, [{"From": "client", "Text": "NOOP", "At": 0}]).result()
    async with open_api(inbox) as api:
        assert (await api.get(f"/api/v1/message/{row.id}/envelope")).json()["Sender"] == "alice@example.com"
        shown = (await api.get(f"/api/v1/message/{row.id}/transcript")).json()
    assert shown["Lines"] == [{"From": "client", "Text": "NOOP", "At": 0}]


@pytest.mark.parametrize("check", ["html-check", "link-check", "sa-check"])
async def test_checks_are_not_offered(inbox: Inbox, check: str) -> None:
    async with open_api(inbox) as api:
        response = await api.get(f"/api/v1/message/latest/{check}")
    assert response.status_code == 501
    assert response.json()["Error"].startswith(f"{check} is not offered")


async def test_tags(inbox: Inbox) -> None:
    one, two = put(inbox), put(inbox)
    async with open_api(inbox) as api:

        async def ok(method: str, path: str, body: object = None) -> None:
            response = await api.request(method, path, json=body)
            assert (response.status_code, response.text) == (200, "ok")

        await ok("PUT", "/api/v1/tags", {"IDs": [one.id, two.id], "Tags": ["new  <b>", "Old", "!"]})
        assert (await api.get("/api/v1/tags")).json() == ["new b", "Old"]
        await ok("PUT", "/api/v1/tags/old", {"Name": "Ancient!"})
        assert (await api.get("/api/v1/tags")).json() == ["Ancient", "new b"]
        await ok("DELETE", "/api/v1/tags/new%20b")
        await ok("PUT", "/api/v1/tags", {"IDs": [one.id]})
        assert (await api.get("/api/v1/messages")).json()["messages"][1]["Tags"] == []
        assert (await api.get("/api/v1/info")).json()["Tags"] == {"Ancient": 1}
        assert (await api.request("PUT", "/api/v1/tags/none", json={"Name": "x"})).status_code == 404
        assert (await api.request("PUT", "/api/v1/tags/Ancient", json={"Name": "!"})).status_code == 400
        assert (await api.delete("/api/v1/tags/none")).status_code == 404


async def test_info_and_web_ui(inbox: Inbox) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        info = (await api.get("/api/v1/info")).json()
        web = (await api.get("/api/v1/webui")).json()
        assert (await api.get("/livez")).text == "ok"
        assert (await api.get("/readyz")).text == "ok"
    assert (info["Messages"], info["Unread"], info["Failures"], info["Problem"]) == (1, 1, 0, "")
    assert info["DatabaseSize"] > 0
    assert set(info) >= {"Version", "LatestVersion", "Database", "RuntimeStats"}
    assert web["MessageRelay"]["Enabled"] is False
    assert web["ChaosEnabled"] is True


async def test_the_html_of_a_message(inbox: Inbox) -> None:
    put(inbox, MIXED)
    async with open_api(inbox) as api:
        shown = await api.get("/view/latest.html")
        remote = await api.get("/view/latest.html?remote=1")
    data = "data:image/gif;base64," + base64.b64encode(PIXEL).decode()
    assert shown.text.startswith('<!doctype html><base target="_blank">')
    assert f'src="{data}"' in shown.text
    assert "cid:" not in shown.text
    policy = shown.headers["content-security-policy"]
    assert policy == (
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src"
        " 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    assert remote.headers["content-security-policy"] == policy.replace("img-src data:", "img-src data: https: http:")


async def test_a_message_without_html_has_no_view(inbox: Inbox) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        assert (await api.get("/view/latest.html")).status_code == 404


async def test_images_are_bounded(inbox: Inbox) -> None:
    big = base64.b64encode(PIXEL + b"\0" * 3_000_000)
    part = b"--r\r\nContent-Type: image/gif\r\nContent-ID: <%s>\r\nContent-Transfer-Encoding: base64\r\n\r\n%s\r\n"
    html = b"<img src=cid:a><img src=cid:b><img src=cid:a><img src=cid:v>"
    svg = b"--r\r\nContent-Type: image/svg+xml\r\nContent-ID: <v>\r\n\r\n<svg/>\r\n"
    octets = (
        b"Content-Type: multipart/related; boundary=r\r\n\r\n--r\r\nContent-Type: text/html\r\n\r\n" + html + b"\r\n"
    )
    octets += part % (b"a", big) + part % (b"b", big) + svg + b"--r--\r\n"
    put(inbox, octets)
    async with open_api(inbox) as api:
        shown = (await api.get("/view/latest.html")).text
    assert len(shown) < 4_500_000
    assert shown.count("data:image/gif") == 4
    assert "svg" not in shown


async def test_latest_leads_to_its_page(inbox: Inbox) -> None:
    row = put(inbox)
    async with open_api(inbox, root_path="/mail") as api:
        response = await api.get("/mail/view/latest")
    assert response.status_code == 302
    assert response.headers["location"] == f"/mail/view/{row.id}"


async def test_failures_are_a_list_of_their_own(inbox: Inbox) -> None:
    put(inbox, mail("Fine"))
    put(inbox, mail("Bad"), state="refused")
    async with open_api(inbox) as api:
        assert [row["Subject"] for row in (await api.get("/api/v1/failures")).json()["messages"]] == ["Bad"]
        assert [row["Subject"] for row in (await api.get("/api/v1/messages")).json()["messages"]] == ["Fine"]


async def test_waiting_looks_at_what_is_there_first(inbox: Inbox) -> None:
    put(inbox, mail("Old"))
    put(inbox, mail("Newer", "a code"))
    async with open_api(inbox) as api:
        shown = (await api.get("/api/v1/wait", params={"query": "code"})).json()
        assert shown["Subject"] == "Newer"
        assert (await api.get("/api/v1/wait")).json()["Subject"] == "Newer"
    assert inbox.store.totals().unread == 1


async def test_waiting_for_a_message_that_comes(inbox: Inbox) -> None:
    async with open_api(inbox) as api, trio.open_nursery() as nursery:

        async def come() -> None:
            await trio.sleep(0.05)
            await trio.to_thread.run_sync(lambda: (put(inbox, mail("Other")), put(inbox, mail("Wanted"))))

        nursery.start_soon(come)
        with trio.fail_after(10):
            response = await api.get("/api/v1/wait", params={"query": "subject:wanted", "timeout": "8"})
    assert response.json()["Subject"] == "Wanted"
    assert len(inbox.store.events) == 0


async def test_waiting_in_vain(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        response = await api.get("/api/v1/wait", params={"query": "nothing", "timeout": "0.05"})
        assert response.status_code == 408
        assert response.json() == {"Error": "no such message came within 0.05 s"}
        for timeout in ("301", "-1", "x", "1e3", "nan"):
            assert (await api.get("/api/v1/wait", params={"timeout": timeout})).status_code == 400


async def test_import_and_export(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        first = await api.post("/api/v1/import", content=MIXED)
        await api.post("/api/v1/import", content=mail("Second"))
        assert (await api.post("/api/v1/import", content=b" ")).status_code == 400
        await api.get(f"/api/v1/message/{first.json()['ID']}")
        response = await api.get("/api/v1/export")
        one = await api.get("/api/v1/export", params={"query": "subject:second"})
    files = unpacked(response.content)
    assert list(files.values()) == [MIXED, mail("Second")]
    names = list(files)
    assert names[0].startswith("maildir/cur/")
    assert names[0].endswith(":2,S")
    assert names[1].startswith("maildir/new/")
    assert len(unpacked(one.content)) == 1


def unpacked(octets: bytes) -> dict[str, bytes]:
    """The files of a tar archive."""
    with tarfile.open(fileobj=io.BytesIO(octets)) as archive:
        found = {info.name: archive.extractfile(info) for info in archive}
        return {name: file.read() for name, file in found.items() if file is not None}


async def test_imports_are_bounded(inbox: Inbox) -> None:
    async with open_api(inbox, max_message_size=100) as api:
        assert (await api.post("/api/v1/import", content=b"x" * 101)).status_code == 413


async def test_large_exports(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [put(inbox, mail(f"Number {number}")) for number in range(201)]
    real = inbox.store.octets
    # One is deleted while the archive is made.
    monkeypatch.setattr(inbox.store, "octets", lambda name: None if name == rows[5].id else real(name))
    async with open_api(inbox) as api:
        assert len(unpacked((await api.get("/api/v1/export")).content)) == 200


@pytest.mark.parametrize("path", ["", "/raw", "/envelope", "/transcript"])
async def test_a_message_that_is_deleted_meanwhile(inbox: Inbox, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(inbox)
    for look in ("octets", "envelope", "transcript"):
        monkeypatch.setattr(inbox.store, look, lambda _: None)
    async with open_api(inbox) as api:
        assert (await api.get(f"/api/v1/message/latest{path}")).status_code == 404


@pytest.mark.parametrize(("error", "status"), [(StorageFull("full"), 507), (StorageError("broken"), 503)])
async def test_a_database_that_cannot_be_used(
    inbox: Inbox, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(inbox.store, "mark", fail)
    async with open_api(inbox) as api:
        response = await api.put("/api/v1/messages", json={"Read": True})
    assert (response.status_code, str(error) in response.text) == (status, True)


async def test_bodies_without_a_length_are_bounded_and_may_break_off(inbox: Inbox) -> None:
    async def answer(*messages: dict[str, Any]) -> int:
        waiting, sent = iter(messages), []

        async def receive() -> dict[str, Any]:
            return next(waiting)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "PUT",
            "path": "/api/v1/messages",
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        await inbox.asgi()(scope, receive, send)
        return int(sent[0]["status"])

    piece = {"type": "http.request", "body": b" " * 600_000, "more_body": True}
    assert await answer(piece, piece) == 413
    assert await answer(piece, {"type": "http.disconnect"}) == 400
    assert await answer(piece, {"type": "http.request", "body": b"{}"}) == 200


async def test_paths_and_methods_that_are_not_there(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        assert (await api.get("/nothing")).status_code == 404
        assert (await api.patch("/api/v1/messages")).status_code == 405
        assert (await api.head("/api/v1/messages")).status_code == 200


async def test_the_description_names_every_operation(inbox: Inbox) -> None:
    async with open_api(inbox) as api:
        description = (await api.get("/api/v1/swagger.json")).json()
    described = {(method.upper(), path) for path, methods in description["paths"].items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    assert json.dumps(description)
