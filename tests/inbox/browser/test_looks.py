"""How the pages look: light, dark, narrow and wide, and to those who do not see them; and the pictures of the docs."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.inbox_pictures import PICTURES, Scene, save, size_of
from tests.inbox.site import Site
from tests.inbox.support import mail, put

from .support import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.program("chromium")

axe = pytest.importorskip("axe_playwright_python.sync_playwright")


@pytest.fixture
def scene(site: Site) -> Scene:
    """An inbox with some mail."""
    return Scene.fill(site)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_serious_fault_for_those_who_do_not_see(
    scene: Scene, new_page: Callable[..., Page], scheme: str, width: int
) -> None:
    page = new_page(None, color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    paths = ["/", "/?query=zebra", "/?query=is:failed", "/rules", f"/view/{scene.welcome}", f"/view/{scene.refused}"]
    for path in [*paths, *(f"/view/{scene.welcome}?tab={tab}" for tab in ("text", "parts", "transcript"))]:
        page.goto(scene.site.url + path)
        page.wait_for_selector("body[data-live=yes]")
        # Frames of mail are the sender's; their documents run no scripts, axe's included.
        found = axe.Axe().run(page, options={"iframes": False, "resultTypes": ["violations"]})
        faults = [
            (each["id"], [node["target"] for node in each["nodes"]][:5])
            for each in found.response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert faults == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_colors_follow_the_scheme(scene: Scene, new_page: Callable[..., Page]) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light, dark = (new_page(color_scheme=scheme).evaluate(background) for scheme in ("light", "dark"))
    assert light == "rgb(246, 247, 249)"
    assert dark == "rgb(20, 23, 28)"


def test_the_menu_of_a_narrow_page(scene: Scene, new_page: Callable[..., Page]) -> None:
    page = new_page(viewport={"width": 360, "height": 700})
    assert page.locator("#sidebar").is_hidden()
    page.click("#menu")
    assert page.locator("#menu").get_attribute("aria-expanded") == "true"
    page.click("#side-unread a")
    page.wait_for_selector("main[data-query='is:unread']")
    until(page, "document.body.classList.contains('menu-open')", value=False)


def test_the_tab_that_is_shown_is_in_view_on_a_narrow_page(scene: Scene, new_page: Callable[..., Page]) -> None:
    place = "document.querySelector('.tabs [aria-current]').getBoundingClientRect()"
    page = new_page(f"/view/{scene.welcome}?tab=transcript", viewport={"width": 360, "height": 700})
    assert 0 <= page.evaluate(f"{place}.left") < page.evaluate(f"{place}.right") <= 360
    page.evaluate("document.querySelector('.tabs').scrollLeft = 1000")
    page.click("[data-tab=links]")
    page.wait_for_selector("section.tab.links")
    until(page, f"{place}.left >= 0 && {place}.right <= 360")


def test_a_very_long_subject_leaves_room_for_the_message(site: Site, new_page: Callable[..., Page]) -> None:
    put(site.inbox, mail("on and on " * 200))
    page = new_page(viewport={"width": 360, "height": 700})
    page.click("#rows a")
    page.wait_for_selector(".message-head")
    heading = page.locator("h1")
    assert heading.evaluate("each => each.offsetHeight") < 160
    assert str(heading.get_attribute("title")).startswith("on and on on and on")


def test_ages_grow_old_in_the_readers_zone(site: Site, new_page: Callable[..., Page]) -> None:
    put(site.inbox, mail("Old"), created=1_780_266_600.0)  # 2026-05-31 22:30 UTC
    page = new_page(timezone_id="Asia/Tokyo", locale="en-US")
    until(page, "document.querySelector('#rows time').textContent", "2026-06-01")
    assert page.locator("#rows time").get_attribute("title") == "Jun 1, 2026, 7:30:00 AM"


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_of_the_docs_can_be_made(
    scene: Scene, new_page: Callable[..., Page], tmp_path: Path, name: str
) -> None:
    picture = PICTURES[name]
    page = new_page(None, **picture.options)
    save(page, scene, picture, tmp_path / name)
    committed = Path(__file__).parents[3] / "docs" / "inbox" / name
    assert size_of(tmp_path / name) == size_of(committed), "run python docs/inbox_pictures.py"
    assert committed.stat().st_size < 150_000


def test_a_refusal_is_in_the_scene(scene: Scene) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        scene.site.send(mail("Again"), recipients=["nobody@example.com"])
