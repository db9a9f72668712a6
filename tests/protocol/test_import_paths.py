"""Names of the ground floor that moved to another module can still be imported from where they were."""

from __future__ import annotations

from importlib import import_module

import pytest

MOVED = [
    ("commands", "verbs", "Verb"),
    ("parameters", "xtext", "decode_xtext"),
    ("parameters", "xtext", "upper_ascii"),
    *(("parameters", "dsn", name) for name in ("DSNEnvelope", "DSNRecipient")),
    *(("parameters", "dsn", f"parse_{name}") for name in ("envid", "notify", "orcpt", "ret")),
    *(
        ("sasl", "exchange", name)
        for name in ("AuthenticationFailed", "Exchange", "Mechanism", "SASLContext", "SecretNeeded")
    ),
    ("scram", "credentials", "make_secret"),
]


@pytest.mark.parametrize(("before", "now", "name"), MOVED)
def test_a_name_that_moved(before: str, now: str, name: str) -> None:
    old, new = (import_module(f"trio_smtp.protocol.{module}") for module in (before, now))
    assert getattr(old, name) is getattr(new, name)
    assert name in old.__all__
    assert name in new.__all__


def test_the_library_of_scram() -> None:
    from trio_smtp.protocol.extras import scramp
    from trio_smtp.protocol.scram import library

    assert library is scramp
