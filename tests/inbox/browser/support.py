"""What tests of the pages share."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["until", "wait_for_subjects"]


def until(page: Page, expression: str, value: Any = True, *, seconds: float = 10) -> None:
    """Wait until an expression has a value. Playwright's own way needs `eval`, which the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while (found := page.evaluate(expression)) != value:
        assert time.monotonic() < deadline, f"{expression} is {json.dumps(found)}, not {json.dumps(value)}"
        page.wait_for_timeout(30)


def wait_for_subjects(page: Page, *expected: str) -> None:
    """Wait until the list shows these and no others."""
    script = "[...document.querySelectorAll('#rows .subject bdi')].map(each => each.textContent)"
    until(page, script, list(expected))
