"""Chromium, and an inbox to look at. A browser lives for one module: while one runs, asyncio cannot be used."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.inbox.site import Site, open_site
from trio_smtp.inbox import Inbox

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: What Chromium says of documents that came by mail: that they were kept from something.
_OF_MAIL = re.compile(r"/view/\w+\.html|about:srcdoc|sandboxed|Framing|htmx:(afterRequest|sendAbort|abort)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless, with a new profile."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def site(inbox: Inbox) -> Iterator[Site]:
    """An inbox that is served."""
    with open_site(inbox) as made:
        yield made


@pytest.fixture
def new_page(browser: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Makes pages, each in a browser context of its own; no script of theirs may fail."""
    contexts = []
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        where = f"{message.location['url']} {message.text}"
        if message.type == "error" and not _OF_MAIL.search(where) and "Failed to load resource" not in where:
            problems.append(where)

    def make(path: str | None = "/", *, base: str = site.url, **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(f"{error.stack}"))
        if path is not None:
            page.goto(base + path)
            page.wait_for_selector("body[data-live=yes]")
        return page

    yield make
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(new_page: Callable[..., Page]) -> Page:
    """The list, live."""
    return new_page()
