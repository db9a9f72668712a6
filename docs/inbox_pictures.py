"""Makes the pictures of docs/inbox.md: an inbox with some mail, in headless Chromium.

Run it as ``python docs/inbox_pictures.py`` after the pages have changed. It needs the extra ``test``, and chromium.
tests/inbox/browser/test_looks.py makes the same pictures in each run.
"""

from __future__ import annotations

import io
import shutil
import smtplib
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from PIL import Image

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from tests.inbox import mails  # noqa: E402 - after the path
from tests.inbox.site import Site, open_site  # noqa: E402
from trio_smtp.inbox import Inbox  # noqa: E402
from trio_smtp.inbox.store import parse_query  # noqa: E402
from trio_smtp.reading import field_addresses, read_octets  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["PICTURES", "Picture", "Scene", "save", "size_of"]


@attrs.frozen
class Scene:
    """An inbox with some mail.

    Attributes:
        site: Where it is.
        welcome: The id of a message in HTML.
        refused: The id of a refused client.
    """

    site: Site
    welcome: str
    refused: str

    @classmethod
    def fill(cls, site: Site) -> Scene:
        """Send some mail, and have some refused."""
        store = site.inbox.store
        for number in range(4100, 4120):
            order = mails.order(number)
            site.send(order, recipients=field_addresses(read_octets(order), "To"))
        store.mark(None, read=True)
        for number in range(4172, 4175):
            order = mails.order(number)
            site.send(order, recipients=field_addresses(read_octets(order), "To"))
        welcome = site.send(
            mails.welcome(),
            sender="bounces@shop.example",
            recipients=["bob@example.com", "sales@shop.example", "audit@shop.example"],
        )
        site.inbox.rules.add("rcpt to=nobody@* fail 550")
        site.inbox.rules.add("end to=late@* delay 5 times=3")
        with suppress(smtplib.SMTPRecipientsRefused):
            site.send(mails.order(4180), recipients=["nobody@example.com"])
        deadline = time.monotonic() + 10
        while (refused := store.latest(parse_query("is:failed"))) is None:
            assert time.monotonic() < deadline, "no refusal was stored"
            time.sleep(0.02)
        return cls(site, welcome, refused.id)


@attrs.frozen(kw_only=True)
class Picture:
    """A picture.

    Attributes:
        path: Of the page, made of the scene.
        width: Of the window.
        height: Likewise.
        dark: The colour scheme.
    """

    path: Callable[[Scene], str]
    width: int = 1280
    height: int = 760
    dark: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Of the browser's context."""
        scheme = "dark" if self.dark else "light"
        return {"viewport": {"width": self.width, "height": self.height}, "color_scheme": scheme}


PICTURES: dict[str, Picture] = {
    "list.png": Picture(path=lambda _: "/"),
    "list-dark.png": Picture(path=lambda _: "/", dark=True),
    "message.png": Picture(path=lambda scene: f"/view/{scene.welcome}", height=900),
    "message-narrow.png": Picture(path=lambda scene: f"/view/{scene.welcome}", width=360, height=760),
    "transcript.png": Picture(path=lambda scene: f"/view/{scene.refused}?tab=transcript", height=820),
    "rules.png": Picture(path=lambda _: "/rules", height=700),
}


def save(page: Page, scene: Scene, picture: Picture, file: Path) -> None:
    """Take a picture, with few colours so that the file is small."""
    page.goto(scene.site.url + picture.path(scene))
    page.wait_for_selector("body[data-live=yes]")
    for frame in page.frames:
        frame.wait_for_load_state()
    # Ports differ from run to run; the usual one is shown.
    page.evaluate("document.querySelector('.foot p').textContent = 'SMTP on 127.0.0.1:1025'")
    page.wait_for_timeout(300)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(file) as image:
        return image.size


def main() -> None:
    from playwright.sync_api import sync_playwright

    folder = DOCS / "inbox"
    folder.mkdir(exist_ok=True)
    with Inbox() as inbox, open_site(inbox) as site, sync_playwright() as playwright:
        scene = Scene.fill(site)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, picture in PICTURES.items():
            page = browser.new_page(**picture.options)
            save(page, scene, picture, folder / name)
            print(f"{name}: {(folder / name).stat().st_size:,} octets")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
