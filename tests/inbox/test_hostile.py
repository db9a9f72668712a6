"""The worst that a stranger's page, program or mail sends to the inbox's web side, each by itself."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any

import httpx
import pytest
import trio

from trio_smtp.inbox import Inbox
from trio_smtp.inbox.api import thumbnails
from trio_smtp.inbox.relay import Relay

from .support import BASE, open_api, put
from .test_sending import picture

#: What every answer has, whatever it is.
DEFENCES = {
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-dns-prefetch-control": "off",
}
SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
SURROGATE = "\ud800"


def raw(path: str) -> httpx.URL:
    """A URL whose path is sent as it is written here."""
    return httpx.URL(BASE).copy_with(raw_path=path.encode())


PATHS = [
    "/",
    "//",
    "//evil.example//",
    "/%2f%2fevil.example",
    "/%5cevil.example",
    "/\\evil.example",
    "/..",
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/static/..%2fpages.py",
    "/static/%2e%2e/pages.py",
    "/static/inbox.css%00.js",
    "/static//inbox.css",
    "/view/..%2f..%2fetc%2fpasswd",
    "/view/%00",
    "/view/%ff",
    "/view/latest%0d%0aX-Evil:%201",
    "/view/" + "a" * 30_000,
    "/view/.html",
    "/view/latest.html.txt",
    "/api/v1/message/%00",
    "/api/v1/message/latest/part/..%2f0",
    "/api/v1/message/latest/part/" + "0." * 199 + "0",
    "/api/v1/message/latest/part/99999999999999999999",
    "/api/v1/message/latest/part/0/thumb/x",
    "/?query=%00%ff%22%27%3B--%25_*%20NEAR(%20OR%20AND%20%7B",
    "/?query=" + "%22a%22%20" * 50,
    "/?query=larger:" + "9" * 15 + "gb",
    "/?query=smaller:" + "9" * 15 + ".9gb&start=99999999999999&limit=-1",
    "/?query=before:0001-01-01T00:00:00-23:59",
    "/?query=a&tz=..%2f..%2f..%2fetc%2fpasswd",
    "/?query=" + SCRIPT.replace(" ", "%20").replace('"', "%22"),
    "/view/latest?tab=" + SCRIPT.replace(" ", "%20").replace('"', "%22"),
    "/view/latest?query=" + SCRIPT.replace(" ", "%20").replace('"', "%22"),
    "/api/v1/search?query=larger:" + "9" * 15 + "gb",
    "/api/v1/search?query=tag:%22a%20-%22%22",
    "/api/v1/search?query=mailbox:%25",
    "/view/latest?query=" + SCRIPT.replace(" ", "%20").replace('"', "%22") + "&remote=1&width=narrow",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "FOO"])
@pytest.mark.parametrize("path", PATHS, ids=range(len(PATHS)))
async def test_paths_lead_nowhere_else(inbox: Inbox, path: str, method: str, caplog: pytest.LogCaptureFixture) -> None:
    row = put(inbox)
    async with open_api(inbox) as api:
        headers = {b"x-http-method-override": b"DELETE", b"cookie": b"a=\xff"}
        response = await api.request(method, raw(path), headers=headers)
    assert response.status_code < 500
    assert inbox.store.find(row.id) is not None
    assert DEFENCES.items() <= dict(response.headers).items()
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers.get("location", f"/view/{row.id}") == f"/view/{row.id}"
    assert "set-cookie" not in response.headers
    assert "x-evil" not in response.headers
    assert "<script>alert" not in response.text
    assert "<img src=x" not in response.text
    assert "root:" not in response.text
    assert "import annotations" not in response.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("name", ["if-none-match", "if-modified-since", "range", "if-range", "te", "expect"])
async def test_headers_that_ask_for_a_part_or_nothing_change_nothing(inbox: Inbox, name: str) -> None:
    put(inbox)
    async with open_api(inbox) as api:
        for path in ("/", "/static/inbox.css", "/api/v1/message/latest/raw"):
            usual = await api.get(path)
            other = await api.get(path, headers={name: "*" if "none" in name else "bytes=0-0,1-1,2-2,-5,9999999999-"})
            assert (other.status_code, len(other.content)) == (200, len(usual.content))


#: Bodies, the path that takes each, and the status.
BODIES: list[tuple[str, str, Any, int]] = [
    ("POST", "/api/v1/message/latest/release", {"To": [f"{SURROGATE}@example.com"]}, 400),
    ("POST", "/api/v1/message/latest/release", ["a@example.com\r\nRCPT TO:<b@example.com>"], 400),
    ("POST", "/api/v1/message/latest/release", ["a@example.com> SIZE=1"], 400),
    ("POST", "/api/v1/message/latest/release", ["\u202ea@example.com"], 400),
    ("POST", "/api/v1/message/latest/release", ["-oQ/tmp"], 400),
    ("PUT", "/api/v1/tags", {"IDs": [SURROGATE, "\0", "'; --"], "Tags": [f"{SURROGATE}\"';--"]}, 200),
    ("PUT", "/api/v1/tags/%00", {"Name": "a"}, 404),
    ("PUT", "/api/v1/tags/%FF", {"Name": SURROGATE + "a"}, 404),
    ("PUT", "/api/v1/messages", {"Search": SURROGATE}, 400),
    ("PUT", "/api/v1/messages", {"Search": f"larger:{SURROGATE}"}, 400),
    ("PUT", "/api/v1/messages", {"Search": "smaller:999999999999999gb"}, 200),
    ("PUT", "/api/v1/messages", {"IDs": [SURROGATE, "\0"]}, 200),
    ("DELETE", "/api/v1/messages", {"IDs": [SURROGATE, "%", "*", "' OR 1=1 --"]}, 200),
    ("POST", "/api/v1/rules", f"rcpt to={SURROGATE} fail", 200),
    ("POST", "/api/v1/rules", {"at": "rcpt", "act": "fail", "text": f"{SURROGATE}\r\n250 ok", "id": SURROGATE}, 200),
    ("POST", "/api/v1/rules", {"at": "rcpt", "act": "fail", "id": SCRIPT, "text": SCRIPT, "to": SCRIPT}, 200),
    ("POST", "/api/v1/rules", {"at": [SURROGATE], "act": SURROGATE}, 400),
    ("POST", "/api/v1/rules", "rcpt fail 451 " + "x" * 20_000, 413),
    ("PUT", "/api/v1/chaos", {"Sender": {"ErrorCode": 9**999}}, 400),
    ("POST", "/api/v1/send", {"From": {"Email": "a@example.com\r\nX: y"}}, 400),
    ("POST", "/api/v1/send", {"From": {"Email": "a@example.com"}, "Headers": {"A\r\nB": "c"}}, 400),
    ("POST", "/api/v1/send", {"From": {"Email": "a@example.com"}, "Headers": {SURROGATE: "c"}}, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BODIES, ids=range(len(BODIES)))
async def test_bodies_are_taken_or_refused_and_the_pages_still_show(
    method: str, path: str, body: Any, status: int
) -> None:
    with Inbox(relay="smtp://127.0.0.1:1") as inbox:
        row = put(inbox)
        async with open_api(inbox) as api:
            response = await api.request(method, path, content=json.dumps(body))
            assert (response.status_code, DEFENCES.items() <= dict(response.headers).items()) == (status, True)
            for page in ("/", f"/view/{row.id}", "/rules"):
                shown = await api.get(page)
                assert shown.status_code == 200
                assert "<script>alert" not in shown.text
                assert "<img src=x" not in shown.text


@pytest.mark.parametrize("body", [b"[" * 900_000, b'{"a":' * 150_000, b"9" * 100_000, b"\xff\xfe", b'"\0"', b"NaN"])
async def test_json_that_is_none_or_too_deep(inbox: Inbox, body: bytes) -> None:
    async with open_api(inbox) as api:
        for path in ("/api/v1/messages", "/api/v1/tags", "/api/v1/rules", "/api/v1/chaos"):
            assert (await api.put(path, content=body)).status_code == 400


async def test_what_is_sent_by_the_api_has_no_fields_that_its_texts_bring(inbox: Inbox) -> None:
    evil = "x\r\nBcc: evil@example.com\r\n\r\nbody\u2028\x85\v\f\0" + SURROGATE
    box = {"Email": "a@example.com", "Name": evil}
    draft = {
        "From": box,
        "To": [box],
        "ReplyTo": [box],
        "Subject": evil,
        "Tags": [evil],
        "Headers": {"X-Evil": evil},
        "Text": evil,
        "Attachments": [{"Content": "", "Filename": evil + '".txt', "ContentID": evil + ">", "ContentType": evil}],
    }
    async with open_api(inbox) as api:
        assert (await api.post("/api/v1/send", content=json.dumps(draft))).status_code == 200
        fields = (await api.get("/api/v1/message/latest/headers")).json()
        parts = (await api.get("/api/v1/message/latest/parts")).json()
    assert "Bcc" not in fields
    assert [part["Kind"] for part in parts] == ["", "text", "inline"]


FIELDS = ("From", "To", "Cc", "Bcc", "Reply-To", "Sender", "Subject", "Date", "Message-ID", "List-Unsubscribe", SCRIPT)


@pytest.mark.parametrize("tab", ["html", "text", "headers", "raw", "parts", "links", "transcript"])
async def test_no_field_of_a_message_is_markup_anywhere(inbox: Inbox, tab: str) -> None:
    head = "".join(f"{name.replace(' ', '')}: {SCRIPT} <{SCRIPT}@x>\r\n" for name in FIELDS)
    links = " ".join(
        f"<a href={quote}{scheme}alert(1){quote}>x</a>"
        for quote in ("'", '"')
        for scheme in (
            "javascript:",
            " JaVaScRiPt:",
            "java\tscript:",
            "&#106;avascript:",
            "vbscript:",
            "data:text/html,",
        )
    )
    body = f"{links} https://a.example/{SCRIPT} javascript:alert(1)"
    part = f'--b\r\nContent-Type: %s; name="{SCRIPT}"; charset="{SCRIPT}"\r\nContent-ID: <{SCRIPT}>\r\n%s\r\n{body}\r\n'
    named = 'Content-Disposition: attachment; filename="\'\\"><script>alert(1)</script>"\r\n'
    octets = f'{head}X-Tags: {SCRIPT}\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    octets += f"--b\r\n\r\n{body}\r\n--b\r\nContent-Type: text/html\r\n\r\n{body}\r\n"
    octets += part % ("text/plain", "") + part % ("image/svg+xml", "") + part % ("text/html", named) + "--b--\r\n"
    row = put(inbox, octets.encode(), recipients=(f"{SCRIPT}@example.com",), username=SCRIPT)
    async with open_api(inbox) as api:
        for path in (f"/view/{row.id}?tab={tab}", "/", "/sidebar", "/?query=script"):
            response = await api.get(path)
            assert response.status_code == 200
            assert "<script>alert" not in response.text
            assert "<img src=x" not in response.text
            for scheme in ("javascript:", "vbscript:", "data:text", "java\tscript:"):
                assert f'href="{scheme}' not in response.text.lower()
        shown = (await api.get("/api/v1/message/latest")).json()
        assert all(link.startswith("https://a.example/") for link in shown["Links"])


@pytest.mark.parametrize(
    "name",
    [
        'a"; filename="b.html',
        "a\r\n X: y",
        "=?utf-8?q?a=0D=0AX:_y?=",
        "=?utf-8?q?=E2=80=AEgpj.exe?=",
        "=?utf-8?q?=00?=",
        "../../etc/passwd",
        "..\\..\\x",
        "=?utf-8?q?..=2F..=2Fx?=",
        "a" * 7_000,
        "\xe9\xff",
        "...",
    ],
)
async def test_names_of_downloads(inbox: Inbox, name: str) -> None:
    quoted = name.replace('"', '\\"')
    octets = f'Content-Type: text/html\r\nContent-Disposition: inline; filename="{quoted}"\r\n\r\n<script>'
    put(inbox, octets.encode("latin-1"))
    async with open_api(inbox) as api:
        response = await api.get("/api/v1/message/latest/part/0")
    value = response.headers["content-disposition"]
    plain, _, encoded = value.removeprefix('attachment; filename="').partition("\"; filename*=utf-8''")
    assert response.status_code == 200
    assert "x" not in response.headers
    assert response.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    for each in (plain, encoded):
        assert each.isascii()
        assert not set(each) & set('"/\\;\r\n\0 ')
        assert "%2f" not in each.lower()
        assert "%e2%80%ae" not in each.lower()
    assert len(plain) <= 255


async def test_an_html_of_references_does_not_swell(inbox: Inbox) -> None:
    put(inbox, b"Content-Type: text/html\r\n\r\n" + b"cid:a " * 600_000)
    async with open_api(inbox) as api:
        shown = (await api.get("/view/latest.html")).text
    assert len(shown) < 3 * 4_194_304


async def test_one_image_is_decoded_at_a_time(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = most = 0
    lock = threading.Lock()

    def slow(content: bytes) -> bytes:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.01)
        with lock:
            decoding -= 1
        return thumbnails.BLANK

    monkeypatch.setattr("trio_smtp.inbox.api.message.thumbnail", slow)
    put(inbox, b"Content-Type: image/png\r\n\r\n" + picture(5, 5))
    async with open_api(inbox) as api, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(api.get, "/api/v1/message/latest/part/0/thumb")
    assert most == 1


@pytest.mark.parametrize(
    "url",
    [
        "smtp://user:pa:secret@host:x",
        "smtp://user:secret@x@host:x",
        "smtp://user:x@secret@host:x",
        "smtp://user:se/secret@host",
        "smtp://user:secret#x@host",
        "smtp://user:secret?x@host/y",
        "smtp://user:secret\u2100@host",
        "smtp://user:secret@[host",
        "smtp://user:secret@host?x=1",
        "user:secret@host",
    ],
)
def test_no_password_of_a_relay_is_in_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="a relay is written") as caught:
        Relay.parse(url)
    assert "secret" not in str(caught.value).replace("host", "")
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_no_password_of_a_relay_is_in_an_answer_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Inbox(relay="smtp://user:secret@127.0.0.1:1") as inbox:
        row = put(inbox)
        async with open_api(inbox) as api:
            answers = [await api.get(path) for path in ("/", f"/view/{row.id}", "/api/v1/webui", "/api/v1/info")]
            answers.append(await api.post("/api/v1/message/latest/release", json={"To": ["a@example.com"]}))
    assert answers[-1].status_code == 400
    assert not any("secret" in answer.text for answer in answers)
    assert "secret" not in caplog.text + repr(inbox.relay)
