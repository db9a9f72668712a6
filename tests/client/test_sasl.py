"""The client's side of SASL, against the server's side of the library and against wrong servers."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import pytest

from trio_smtp.client import BearerToken, External, Password
from trio_smtp.client.sasl import Auth, Exchange, make_exchange

ALICE = Password("alice", "secret")


def choose(
    given: Auth, offered: Iterable[str], *, plaintext: bool = True, binding: bytes | None = None
) -> Exchange | None:
    return make_exchange(given, offered, plaintext=plaintext, binding=binding, server=("mx.example", 587))


EVERY = ["LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-512", "X"]


@pytest.mark.parametrize(
    ("given", "offered", "plaintext", "binding", "name"),
    [
        (ALICE, EVERY, True, None, "SCRAM-SHA-512"),
        (ALICE, EVERY, True, b"x", "SCRAM-SHA-256-PLUS"),
        (ALICE, EVERY[:4], True, None, "SCRAM-SHA-1"),
        (ALICE, EVERY[:3], False, None, "CRAM-MD5"),
        (ALICE, EVERY[:2], True, None, "PLAIN"),
        (ALICE, EVERY[:1], True, None, "LOGIN"),
        (ALICE, EVERY[:2], False, None, None),
        (ALICE, [], True, None, None),
        (Password("alice", "secret", mechanisms=("x", "login", "plain")), EVERY, True, None, "LOGIN"),
        (Password("alice", "secret", authzid="bob"), EVERY, True, None, "PLAIN"),
        (External(), [*EVERY, "EXTERNAL"], False, None, "EXTERNAL"),
        (External(), EVERY, False, None, None),
        (BearerToken("alice", "t"), ["XOAUTH2", "OAUTHBEARER"], True, None, "OAUTHBEARER"),
        (BearerToken("alice", "t"), ["XOAUTH2"], True, None, "XOAUTH2"),
        (BearerToken("alice", "t"), ["XOAUTH2"], False, None, None),
        (BearerToken("alice", "t"), ["PLAIN"], True, None, None),
    ],
)
def test_the_strongest_that_fits(
    given: Auth, offered: list[str], plaintext: bool, binding: bytes | None, name: str | None
) -> None:
    exchange = choose(given, offered, plaintext=plaintext, binding=binding)
    assert (None if exchange is None else exchange.name) == name


@pytest.mark.parametrize(
    ("given", "offered", "initial", "answers"),
    [
        (ALICE, "PLAIN", b"\0alice\0secret", []),
        (Password("alice", "secret", "bob"), "PLAIN", b"bob\0alice\0secret", []),
        (ALICE, "LOGIN", None, [b"alice", b"secret"]),
        (External("bob"), "EXTERNAL", b"bob", []),
        (BearerToken("alice", "t"), "XOAUTH2", b"user=alice\1auth=Bearer t\1\1", [b""]),
        (
            BearerToken("a,=", "t"),
            "OAUTHBEARER",
            b"n,a=a=2C=3D,\1host=mx.example\1port=587\1auth=Bearer t\1\1",
            [b"\1"],
        ),
    ],
)
def test_what_is_said(given: Auth, offered: str, initial: bytes | None, answers: list[bytes]) -> None:
    exchange = choose(given, [offered])
    assert exchange is not None
    assert exchange.initial == initial
    assert [exchange.respond(b"anything") for _ in answers] == answers
    assert exchange.complete
    with pytest.raises(ValueError, match="too many"):
        exchange.respond(b"more")


def test_cram_md5() -> None:
    # RFC 2195 section 2
    exchange = choose(Password("tim", "tanstaaftanstaaf"), ["CRAM-MD5"], plaintext=False)
    assert exchange is not None
    assert exchange.initial is None
    answer = exchange.respond(b"<1896.697170952@postoffice.reston.mci.net>")
    assert answer == b"tim b913a602c7eda7a495b4e6e7334d3890"


@pytest.mark.parametrize(
    ("challenge", "why"),
    [
        (b"r=x,s=c2FsdA==", "iterations"),
        (b"r=x,s=c2FsdA==,i=0", "iterations"),
        (b"r=x,s=c2FsdA==,i=9999999", "iterations"),
        (b"r=x,s=c2FsdA==,i=99999999999", "iterations"),
        (b"r=x,s=c2FsdA==,i=4096", "wrong"),
        (b"\xff", "decode"),
    ],
)
def test_a_server_s_first_scram_message_that_is_wrong(challenge: bytes, why: str) -> None:
    exchange = choose(ALICE, ["SCRAM-SHA-256"])
    assert exchange is not None
    with pytest.raises(ValueError, match=why):
        exchange.respond(challenge)


def test_a_server_that_knows_no_secret_is_found_out() -> None:
    exchange = choose(ALICE, ["SCRAM-SHA-256"])
    assert exchange is not None
    assert exchange.initial is not None
    nonce = exchange.initial.rpartition(b"r=")[2]
    exchange.respond(b"r=" + nonce + b"more,s=c2FsdHNhbHRzYWx0c2FsdA==,i=4096")
    assert not exchange.complete
    with pytest.raises(ValueError, match="wrong"):
        exchange.respond(b"v=" + base64.b64encode(b"x" * 32))
    assert not exchange.complete
    with pytest.raises(ValueError, match="too many"):
        exchange.respond(b"")


def test_something_weaker_where_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("SCRAM needs the extra scram: pip install 'trio-smtp[scram]'")

    monkeypatch.setattr("trio_smtp.client.sasl.scramp", missing)
    exchange = choose(ALICE, ["SCRAM-SHA-256", "PLAIN"])
    assert exchange is not None
    assert exchange.name == "PLAIN"
    with pytest.raises(ImportError, match=r"trio-smtp\[scram\]"):
        choose(ALICE, ["SCRAM-SHA-256"])


def test_no_secret_is_shown() -> None:
    assert "secret" not in repr(ALICE)
    assert "hidden" not in repr(BearerToken("alice", "hidden"))
