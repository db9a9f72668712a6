"""Fixtures of the tests of the inbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trio_smtp.inbox import Inbox


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """An inbox with a temporary database, as it is by default."""
    with Inbox() as made:
        yield made
