"""How the pages write sizes, ages and addresses."""

from __future__ import annotations

import pytest

from trio_smtp.inbox.page import formats
from trio_smtp.inbox.page.rendering import address


@pytest.mark.parametrize(
    ("octets", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (9_940, "9.9 kB"), (9_960, "10 kB"), (23_000_000, "23 MB")],
)
def test_sizes(octets: int, text: str) -> None:
    assert formats.size(octets) == text


def test_sizes_that_are_round() -> None:
    assert formats.size(999_600) == "1.0 MB"
    assert formats.size(5 * 10**15) == "5,000 TB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "now"),
        (59, "now"),
        (60, "1 min"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (86_400, "1 d"),
        (604_800, "2026-05-24"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    now = 1_780_236_000.0  # 2026-05-31 14:00 UTC
    assert formats.age(now - seconds, now) == text


def test_addresses_leave_out_what_is_empty() -> None:
    assert address("/", query="", start=0) == "/"
    assert address("/", query='tag:"a b"', start=50) == "/?query=tag%3A%22a%20b%22&start=50"
