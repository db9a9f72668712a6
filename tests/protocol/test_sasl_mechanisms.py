"""The SASL mechanisms as step objects: the examples of their RFCs, what is malformed, and what gives nothing away."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable
from typing import Any

import attrs
import hypothesis
import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives import hashes

from tests.sasl_support import Digest, ScramClient, certificate, cram_md5
from trio_smtp import (
    CramMD5Credentials,
    Credentials,
    ExternalCredentials,
    Mechanism,
    OAuthCredentials,
    PlainCredentials,
    ProtocolError,
    SASLContext,
    ScramCredentials,
    ScramSecret,
    SMTPError,
    XClientCredentials,
)
from trio_smtp.protocol.sasl import MECHANISMS, AuthenticationFailed, SecretNeeded
from trio_smtp.protocol.scram import Pretence, scram_with

#: The token of RFC 7628's examples.
TOKEN = "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="
SCRAM = ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")
HOST = SASLContext("mx.example.com")


@attrs.define
class Exchanged:
    """What became of an exchange."""

    challenges: list[bytes] = attrs.field(factory=list)
    asked_for: list[str] = attrs.field(factory=list)
    credentials: Credentials | None = None


Answer = bytes | Callable[[bytes], bytes]


def exchange(
    name: str,
    *answers: Answer,
    secret: ScramSecret | None = None,
    context: SASLContext = HOST,
    into: Exchanged | None = None,
    pretence: Pretence | None = None,
) -> Exchanged:
    """Answer each challenge, or what answers it, in turn; the mechanism must ask exactly so often."""
    result = into or Exchanged()
    steps = MECHANISMS[name].start(context) if pretence is None else scram_with(pretence, name, context)
    remaining = list(answers)
    try:
        step = next(steps)
        while True:
            if isinstance(step, SecretNeeded):
                result.asked_for.append(step.username)
                step = steps.send(secret)
                continue
            result.challenges.append(step)
            answer = remaining.pop(0)
            step = steps.send(answer if isinstance(answer, bytes) else answer(step))
    except StopIteration as stop:
        result.credentials = stop.value
    assert not remaining
    return result


# What RFCs and their like say


@pytest.mark.parametrize(
    ("name", "answers", "credentials"),
    [
        pytest.param(
            "PLAIN",
            [b"\0tim\0tanstaaftanstaaf"],
            PlainCredentials("PLAIN", "tim", "tanstaaftanstaaf"),
            id="RFC 4616, first",
        ),
        pytest.param(
            "PLAIN",
            [b"Ursel\0Kurt\0xipj3plmq"],
            PlainCredentials("PLAIN", "Kurt", "xipj3plmq", "Ursel"),
            id="RFC 4616, second",
        ),
        pytest.param(
            "PLAIN",
            [base64.b64decode("dGVzdAB0ZXN0ADEyMzQ=")],
            PlainCredentials("PLAIN", "test", "1234"),
            id="RFC 4954 section 4",
        ),
        *(
            pytest.param("PLAIN", [response], PlainCredentials("PLAIN", *expected), id=f"PLAIN {what}")
            for what, response, expected in (
                ("identity is the user's own", "z\xfc\0z\xfc\0pw".encode(), ("z\xfc", "pw")),
                ("identity in other letters", b"Tim\0tim\0pw", ("tim", "pw", "Tim")),
                ("empty user", b"\0\0pw", ("", "pw")),
                ("empty user, and an identity", b"tim\0\0pw", ("", "pw", "tim")),
                ("empty password", b"\0tim\0", ("tim", "")),
                ("both empty", b"\0\0", ("", "")),
            )
        ),
        *(
            pytest.param("LOGIN", answers, PlainCredentials("LOGIN", *expected), id=f"LOGIN {what}")
            for what, answers, expected in (
                ("empty user", [b"", b"pw"], ("", "pw")),
                ("empty password", [b"tim", b""], ("tim", "")),
                ("both empty", [b"", b""], ("", "")),
            )
        ),
        pytest.param(
            "PLAIN", ["\0\xfcnal\0\u20ac".encode()], PlainCredentials("PLAIN", "\xfcnal", "\u20ac"), id="UTF-8"
        ),
        pytest.param("LOGIN", [b"tim", b"tanstaaf"], PlainCredentials("LOGIN", "tim", "tanstaaf"), id="LOGIN"),
        pytest.param(
            "OAUTHBEARER",
            [f"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=Bearer {TOKEN}\1\1".encode()],
            OAuthCredentials("OAUTHBEARER", "user@example.com", TOKEN, "server.example.com", 143),
            id="RFC 7628 section 4.1",
        ),
        pytest.param(
            "OAUTHBEARER",
            [b"n,a=user@example.com,\1host=server.example.com\1port=143\1auth=\1\1"],
            OAuthCredentials("OAUTHBEARER", "user@example.com", "", "server.example.com", 143),
            id="RFC 7628 section 4.3, no token",
        ),
        pytest.param(
            "OAUTHBEARER",
            [b"y,a=a=2Cb=3Dc,\1auth=bEARER t\1mthd=POST\1\1"],
            OAuthCredentials("OAUTHBEARER", "a,b=c", "t"),
            id="RFC 5801 section 4, a name",
        ),
        pytest.param(
            "OAUTHBEARER", [b"n,,\1auth=Bearer t\1\1"], OAuthCredentials("OAUTHBEARER", "", "t"), id="no name"
        ),
        pytest.param(
            "XOAUTH2",
            [f"user=someuser@example.com\1auth=Bearer {TOKEN}\1\1".encode()],
            OAuthCredentials("XOAUTH2", "someuser@example.com", TOKEN),
            id="XOAUTH2",
        ),
        pytest.param("EXTERNAL", [b""], ExternalCredentials(), id="RFC 4422 appendix A, no identity"),
        pytest.param(
            "EXTERNAL", [b"fred@example.com"], ExternalCredentials("fred@example.com"), id="RFC 4422 appendix A"
        ),
    ],
)
def test_examples(name: str, answers: list[bytes], credentials: Credentials) -> None:
    assert exchange(name, *answers).credentials == credentials


def test_login_asks_in_the_words_that_clients_know() -> None:
    assert exchange("LOGIN", b"u", b"p").challenges == [b"Username:", b"Password:"]


def test_cram_md5_example_of_rfc_2195() -> None:
    challenge = "<1896.697170952@postoffice.reston.mci.net>"
    digest = "b913a602c7eda7a495b4e6e7334d3890"
    assert cram_md5("tim", "tanstaaftanstaaf", challenge.encode()) == (
        "dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"  # as the RFC encodes it
    )
    for response in (digest, digest.upper()):
        credentials = CramMD5Credentials("tim", challenge, response)
        assert credentials.validate_password("tanstaaftanstaaf")
        assert not credentials.validate_password("tanstaaf")


def test_cram_md5_example_of_rfc_4954() -> None:
    """Its challenge and response, decoded; the RFC keeps the password to itself."""
    response = base64.b64decode("cmpzMyBlYzNhNTlmZWQzOTVhYmExZWM2MzY3YzRmNGI0MWFjMA==")
    credentials = exchange("CRAM-MD5", response).credentials
    assert isinstance(credentials, CramMD5Credentials)
    assert (credentials.username, credentials.response) == ("rjs3", "ec3a59fed395aba1ec6367c4f4b41ac0")


def test_cram_md5_never_asks_the_same_twice() -> None:
    results = [exchange("CRAM-MD5", lambda ask: base64.b64decode(cram_md5("a user", "pw", ask))) for _ in range(2)]
    for result in results:
        (challenge,) = result.challenges
        assert challenge.startswith(b"<")
        assert challenge.endswith(b"@mx.example.com>")
        assert isinstance(result.credentials, CramMD5Credentials)
        assert result.credentials.challenge == challenge.decode()
        assert result.credentials.username == "a user"
        assert result.credentials.validate_password("pw")
    assert results[0].challenges != results[1].challenges


@pytest.mark.parametrize(
    ("name", "nonce", "salt", "dialogue"),
    [
        pytest.param(
            "SCRAM-SHA-1",
            "3rfcNHYJY1ZVvWVs7j",
            "QSXCR+Q6sek8bf92",
            (
                b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
                b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
            ),
            id="RFC 5802 section 5",
        ),
        pytest.param(
            "SCRAM-SHA-256",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            (
                b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
                b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                (
                    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
                ),
                b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ),
            id="RFC 7677 section 3",
        ),
    ],
)
def test_scram_examples(
    name: str, nonce: str, salt: str, dialogue: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda octets: nonce)
    secret = ScramSecret.from_password("pencil", name, salt=base64.b64decode(salt))
    first, server_first, final, server_final = dialogue
    result = exchange(name, first, final, b"", secret=secret)
    assert result.challenges == [b"", server_first, server_final]
    assert result.asked_for == ["user"]
    assert result.credentials == ScramCredentials(name, "user")


# What is malformed

CLIENT_FIRST = b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL"


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        *(
            pytest.param("PLAIN", [response], id=f"PLAIN {what}")
            for what, response in {
                "empty": b"",
                "one part": b"tim",
                "two parts": b"tim\0pw",
                "four parts": b"\0tim\0pw\0",
                "identity is not UTF-8": b"\xff\0tim\0pw",
                "user is not UTF-8": b"\0\xff\0pw",
            }.items()
        ),
        *(
            pytest.param("LOGIN", answers, id=f"LOGIN {what}")
            for what, answers in {
                "NUL in the user": [b"ti\0m"],
                "NUL in the password": [b"tim", b"p\0w"],
                "user is not UTF-8": [b"\xff"],
            }.items()
        ),
        *(
            pytest.param("CRAM-MD5", [response], id=f"CRAM-MD5 {what}")
            for what, response in {
                "empty": b"",
                "no digest": b"tim",
                "no user": b" b913a602c7eda7a495b4e6e7334d3890",
                "digest too short": b"tim b913a602c7eda7a495b4e6e7334d389",
                "digest too long": b"tim b913a602c7eda7a495b4e6e7334d38900",
                "digest is not hexadecimal": b"tim g913a602c7eda7a495b4e6e7334d3890",
                "NUL": b"t\0m b913a602c7eda7a495b4e6e7334d3890",
                "not UTF-8": b"\xff b913a602c7eda7a495b4e6e7334d3890",
            }.items()
        ),
        *(
            pytest.param("XOAUTH2", [response], id=f"XOAUTH2 {what}")
            for what, response in {
                "empty": b"",
                "only the end": b"\1\1",
                "no end": b"user=u\1auth=Bearer t",
                "half an end": b"user=u\1auth=Bearer t\1",
                "no user": b"auth=Bearer t\1\1",
                "empty user": b"user=\1auth=Bearer t\1\1",
                "no token": b"user=u\1\1",
                "empty token": b"user=u\1auth=\1\1",
                "no bearer": b"user=u\1auth=Basic t\1\1",
                "two tokens": b"user=u\1auth=Bearer t\1auth=Bearer s\1\1",
                "a token with a space": b"user=u\1auth=Bearer t s\1\1",
                "a token with a long s": "user=u\1auth=Bearer \u017f\1\1".encode(),
                "no key": b"user=u\1auth=Bearer t\1what\1\1",
                "not UTF-8": b"user=\xff\1auth=Bearer t\1\1",
                "NUL": b"user=u\0\1auth=Bearer t\1\1",
            }.items()
        ),
        *(
            pytest.param("OAUTHBEARER", [response], id=f"OAUTHBEARER {what}")
            for what, response in {
                "empty": b"",
                "no header": b"auth=Bearer t\1\1",
                "half a header": b"n,\1auth=Bearer t\1\1",
                "channel binding": b"p=tls-unique,,\1auth=Bearer t\1\1",
                "an empty name": b"n,a=,\1auth=Bearer t\1\1",
                "a bad escape": b"n,a=u=2D,\1auth=Bearer t\1\1",
                "only a header": b"n,,\1\1",
                "no end": b"n,,\1auth=Bearer t\1",
                "no token": b"n,,\1host=h\1\1",
                "another scheme": b"n,,\1auth=Basic t\1\1",
                "a port that is none": b"n,,\1port=smtp\1auth=Bearer t\1\1",
                "a port with a sign": b"n,,\1port=+25\1auth=Bearer t\1\1",
                "a key twice": b"n,,\1host=a\1host=b\1auth=Bearer t\1\1",
                "not UTF-8": b"n,a=\xff,\1auth=Bearer t\1\1",
            }.items()
        ),
        pytest.param("EXTERNAL", [b"\xff"], id="EXTERNAL not UTF-8"),
        pytest.param("EXTERNAL", [b"fr\0ed"], id="EXTERNAL NUL"),
        *(
            pytest.param("SCRAM-SHA-256", [response], id=f"SCRAM first: {what}")
            for what, response in {
                "empty": b"",
                "no header": b"n=user,r=fyko",
                "an unknown flag": b"x,,n=user,r=fyko",
                "no user": b"n,,r=fyko",
                "an empty user": b"n,,n=,r=fyko",
                "no nonce": b"n,,n=user",
                "an empty nonce": b"n,,n=user,r=",
                "a mandatory extension": b"n,,m=x,n=user,r=fyko",
                "a bad escape": b"n,,n=us=41er,r=fyko",
                "a user that stringprep refuses": "n,,n=us\u0007er,r=fyko".encode(),
                "a name twice": b"n,,n=user,r=fyko,n=other",
                "the nonce before the name": b"n,,r=fyko,n=user",
                "an extension before the name": b"n,,x=1,n=user,r=fyko",
                "a mandatory extension at the end": b"n,,n=user,r=fyko,m=x",
                "an empty extension": b"n,,n=user,r=fyko,x=",
                "an extension that is none": b"n,,n=user,r=fyko,xy=1",
                "a nonce with a space": b"n,,n=user,r=fy ko",
                "a nonce that is not ASCII": "n,,n=user,r=fyk\xf6".encode(),
                "a line feed at the end": b"n,,n=user,r=fyko\n",
                "an empty identity": b"n,a=,n=user,r=fyko",
                "an identity without a=": b"n,user,n=user,r=fyko",
                "an identity with a bad escape": b"n,a=us=2Der,n=user,r=fyko",
                "an identity with half an escape": b"n,a=user=,n=user,r=fyko",
                "an identity that is not UTF-8": b"n,a=\xfc,n=user,r=fyko",
                "two identities": b"n,a=user,a=user,n=user,r=fyko",
                "an identity behind the name": b"n,,n=user,a=user,r=fyko",
                "a binding without a type": b"p=,,n=user,r=fyko",
                "a binding with a bad type": b"p=tls_unique,,n=user,r=fyko",
                "a flag in upper case": b"N,,n=user,r=fyko",
                "one comma": b"n,n=user,r=fyko",
                "not UTF-8": b"n,,n=\xff,r=fyko",
                "NUL": b"n,,n=us\0er,r=fyko",
                "a comma too many": b"n,,n=user,r=fyko,",
            }.items()
        ),
        *(
            pytest.param("SCRAM-SHA-256", [CLIENT_FIRST, response], id=f"SCRAM final: {what}")
            for what, response in {
                "empty": b"",
                "no proof": b"c=biws,r=fyko",
                "no base64": b"c=biws,r=fyko,p=\xc3\xa4",
                "another nonce": b"c=biws,r=fyko,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "not UTF-8": b"\xff",
                "a bad channel binding": b"c=*,r=fyko,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            }.items()
        ),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_malformed_is_501(name: str, answers: list[bytes], known: bool) -> None:
    secret = ScramSecret.from_password("pencil") if known else None
    with pytest.raises(ProtocolError) as caught:
        exchange(name, *answers, secret=secret)
    assert (caught.value.code, caught.value.enhanced) == (501, "5.5.2")


@hypothesis.given(
    name=st.sampled_from(sorted(MECHANISMS)),
    answers=st.lists(
        st.binary(max_size=80)
        | st.from_regex(rb"[nyp](=tls-server-end-point)?,(a=b)?,n=[^\n]{0,9},r=[ -~]{0,9}.{0,5}", fullmatch=True)
        | st.from_regex(rb"c=[ -~]{0,9},r=[ -~]{0,9},p=[ -~]{0,50}", fullmatch=True)
        | st.from_regex(rb"[ny],(a=[ -~]{0,5})?,(\x01[a-z]{0,4}=?[ -~]{0,9})*\x01?\x01?", fullmatch=True),
        min_size=3,
        max_size=3,
    ),
)
def test_whatever_a_client_says_is_an_answer_or_a_refusal(name: str, answers: list[bytes]) -> None:
    context = SASLContext("mx.example.com", b"theirs", PLUS_CERTIFICATE, plus=True)
    steps = MECHANISMS[name].start(context)
    ended: Credentials | SMTPError | None = None
    try:
        step = next(steps)
        for answer in answers:
            while isinstance(step, SecretNeeded):
                step = steps.send(None)
            step = steps.send(answer)
    except StopIteration as stop:
        ended = stop.value
    except SMTPError as exc:
        ended = exc
    # The longest exchange ends with the third answer.
    assert isinstance(ended, Credentials) or (isinstance(ended, SMTPError) and ended.code in (501, 535))


# SCRAM


@pytest.mark.parametrize("name", SCRAM)
@pytest.mark.parametrize("username", ["user", "a,b=c", "\xfcnal"])
def test_scram_lets_in_whoever_has_the_password(name: str, username: str) -> None:
    client = ScramClient(name, username, "pencil")
    result = exchange(
        name, client.first(), client.final, b"", secret=ScramSecret.from_password("pencil", name, iterations=5000)
    )
    assert client.verify(result.challenges[-1])
    assert client.iterations == 5000
    assert result.asked_for == [username]
    assert result.credentials == ScramCredentials(name, username)


def refused(
    name: str, username: str, secret: ScramSecret | None, pretence: Pretence, context: SASLContext = HOST
) -> tuple[bytes, int, str]:
    """The salt and iterations of a challenge, and the text of the refusal of a wrong password."""
    client = ScramClient(name, username, "wrong")
    result = Exchanged()
    with pytest.raises(AuthenticationFailed) as caught:
        exchange(name, client.first(), client.final, secret=secret, context=context, into=result, pretence=pretence)
    assert len(result.challenges) == 2
    assert len(result.challenges[1]) == len(f"r={'n' * 24}{'n' * 64},s={base64.b64encode(client.salt).decode()},i=4096")
    return client.salt, client.iterations, str(caught.value)


@pytest.mark.parametrize("name", SCRAM)
def test_an_unknown_user_looks_like_a_wrong_password(name: str) -> None:
    pretence = Pretence()
    salt, iterations, text = refused(name, "known", ScramSecret.from_password("pencil", name), pretence)
    pretended, pretended_iterations, pretended_text = refused(name, "unknown", None, pretence)
    assert (len(pretended), pretended_iterations, pretended_text) == (len(salt), iterations, text)
    assert refused(name, "unknown", None, pretence)[0] == pretended, "the same user has the same salt again"
    assert refused(name, "another", None, pretence)[0] != pretended
    assert refused(name, "unknown", None, Pretence())[0] != pretended, "and nobody can compute it"


def test_an_unknown_user_looks_like_those_who_were_seen() -> None:
    name, pretence = "SCRAM-SHA-256", Pretence()
    before, _, _ = refused(name, "unknown", None, pretence)
    assert len(before) == 32
    seen = ScramSecret.from_password("pencil", name, iterations=9999, salt=b"sixteen octets..")
    assert refused(name, "known", seen, pretence)[:2] == (b"sixteen octets..", 9999)
    salt, iterations, _ = refused(name, "unknown", None, pretence)
    assert (len(salt), iterations) == (16, 9999)
    assert refused("SCRAM-SHA-512", "unknown", None, pretence)[1] == 4096, "mechanisms differ"


def test_the_secret_of_another_mechanism_is_none() -> None:
    client = ScramClient("SCRAM-SHA-256", "user", "pencil")
    with pytest.raises(AuthenticationFailed):
        exchange(
            "SCRAM-SHA-256", client.first(), client.final, secret=ScramSecret.from_password("pencil", "SCRAM-SHA-1")
        )


def test_nobody_logs_in_as_a_user_who_is_unknown() -> None:
    """Not even who has the secret that is made up for one."""

    class Guessed(Pretence):
        def secret_of(self, username: str, mechanism: str) -> ScramSecret:
            return ScramSecret.from_password("pencil")

    client = ScramClient("SCRAM-SHA-256", "nobody", "pencil")
    with pytest.raises(AuthenticationFailed):
        exchange("SCRAM-SHA-256", client.first(), client.final, pretence=Guessed())
    assert client.salt, "it went as far as the proof"


# SCRAM with channel binding

PLUS_CERTIFICATE = certificate(hashes.SHA384())
#: RFC 5929 section 4.1: the digest is that of the certificate's signature.
BINDING = hashlib.sha384(PLUS_CERTIFICATE).digest()
END_POINT = "p=tls-server-end-point"
PLUS = SASLContext("mx.example.com", server_certificate=PLUS_CERTIFICATE, plus=True)
KNOWN = SASLContext("mx.example.com", server_certificate=PLUS_CERTIFICATE)


def bound(name: str, context: SASLContext, flag: str, binding: bytes = b"") -> Exchanged:
    client = ScramClient(name, "user", "pencil", flag=flag, binding=binding)
    secret = ScramSecret.from_password("pencil", name.removesuffix("-PLUS"))
    result = exchange(name, client.first(), client.final, b"", secret=secret, context=context)
    assert client.verify(result.challenges[-1])
    return result


@pytest.mark.parametrize("name", SCRAM)
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda digest: digest.name)
def test_plus_is_bound_to_the_certificate(name: str, digest: Digest) -> None:
    der = certificate(digest)
    context = SASLContext(server_certificate=der)
    result = bound(f"{name}-PLUS", context, END_POINT, hashlib.new(digest.name, der).digest())
    assert result.credentials == ScramCredentials(f"{name}-PLUS", "user")


def test_a_man_in_the_middle_has_another_certificate() -> None:
    theirs = hashlib.sha256(certificate(hashes.SHA256())).digest()
    with pytest.raises(AuthenticationFailed):
        bound("SCRAM-SHA-256-PLUS", PLUS, END_POINT, theirs)


def test_a_client_that_was_told_of_no_binding_was_lied_to() -> None:
    with pytest.raises(AuthenticationFailed):
        bound("SCRAM-SHA-256", PLUS, "y")


def test_a_client_may_know_bindings_where_none_is_offered() -> None:
    assert bound("SCRAM-SHA-256", KNOWN, "y").credentials is not None


def test_a_client_may_know_no_bindings() -> None:
    assert bound("SCRAM-SHA-256", PLUS, "n").credentials is not None


@pytest.mark.parametrize("flag", ["n", "y"])
def test_plus_without_a_binding_is_refused(flag: str) -> None:
    with pytest.raises(AuthenticationFailed):
        bound("SCRAM-SHA-256-PLUS", PLUS, flag)


@pytest.mark.parametrize(
    ("name", "context", "flag"),
    [
        pytest.param("SCRAM-SHA-256-PLUS", PLUS, "p=tls-unique", id="another type"),
        pytest.param("SCRAM-SHA-256-PLUS", PLUS, "p=tls-exporter", id="a newer type"),
        pytest.param("SCRAM-SHA-256", KNOWN, END_POINT, id="none is offered"),
        pytest.param("SCRAM-SHA-256", HOST, END_POINT, id="none can be had"),
    ],
)
def test_a_binding_we_cannot_have_is_said_to_be_that(name: str, context: SASLContext, flag: str) -> None:
    with pytest.raises(ProtocolError, match="Unsupported channel binding") as caught:
        bound(name, context, flag, BINDING)
    assert (caught.value.code, caught.value.enhanced) == (501, "5.5.4")


def test_plus_is_usable_where_the_certificate_has_a_binding() -> None:
    plus = MECHANISMS["SCRAM-SHA-256-PLUS"]
    assert plus.usable(PLUS)
    assert not plus.usable(SASLContext())
    without = SASLContext(server_certificate=certificate(None), plus=True)
    assert not plus.usable(without)
    # The mechanism without -PLUS goes on working there, for clients that know bindings as well.
    for flag in ("n", "y"):
        assert bound("SCRAM-SHA-256", without, flag).credentials is not None


# Credentials and secrets


def test_external_is_usable_with_a_certificate_alone() -> None:
    assert MECHANISMS["PLAIN"].usable(SASLContext())
    assert MECHANISMS["EXTERNAL"].usable(SASLContext(peer_certificate=b"der"))
    assert not MECHANISMS["EXTERNAL"].usable(SASLContext())
    assert ExternalCredentials().username == ""
    assert ExternalCredentials("fred").username == "fred"


@pytest.mark.parametrize("method", ["PLAIN", "LOGIN"])
def test_validate_password(method: str) -> None:
    credentials = PlainCredentials(method, "user", "p\xe4ss")
    assert credentials.validate_password("p\xe4ss")
    assert not credentials.validate_password("pass")
    assert not credentials.validate_password("")


@pytest.mark.parametrize(
    "credentials",
    [
        OAuthCredentials("XOAUTH2", "user", TOKEN),
        ExternalCredentials("user"),
        ScramCredentials("SCRAM-SHA-1", "user"),
        XClientCredentials("user"),
    ],
    ids=lambda credentials: credentials.method,
)
def test_without_a_password_there_is_none_to_validate(
    credentials: OAuthCredentials | ExternalCredentials | ScramCredentials | XClientCredentials,
) -> None:
    with pytest.raises(TypeError, match=rf"{credentials.method} credentials hold no password"):
        credentials.validate_password("pw")


def test_no_repr_shows_a_secret() -> None:
    secret = ScramSecret.from_password("hunter2", salt=b"a salt of 16 oct")
    shown = repr(
        [
            PlainCredentials("PLAIN", "user", "hunter2"),
            CramMD5Credentials("user", "<challenge>", "cafe"),
            OAuthCredentials("XOAUTH2", "user", "hunter2"),
            secret,
        ]
    )
    assert "user" in shown
    for text in ("hunter2", "cafe", "a salt", repr(secret.stored_key), repr(secret.server_key)):
        assert text not in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mechanism": "SCRAM-SHA-256-PLUS"}, "mechanism must be one of SCRAM-SHA-1, "),
        ({"salt": b"eleven octs"}, "salt must have at least 12 octets, not 11"),
        ({"stored_key": bytes(20)}, "32 octets each for SCRAM-SHA-256"),
        ({"server_key": b""}, "32 octets each"),
        ({"iterations": 4095}, "iterations must be from 4096 to 10,000,000, not 4095"),
        ({"iterations": 10_000_001}, "iterations must be"),
    ],
)
def test_a_secret_that_no_client_could_prove_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attrs.evolve(ScramSecret.from_password("pencil"), **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mechanism": "SCRAM-SHA3-512"}, "mechanism must be one of"),
        ({"iterations": 1000}, "must not be < 4096"),
        ({"iterations": 0}, "must not be < 4096"),
        ({"salt": b"short"}, "at least 12 bytes"),
        ({"password": "bell\a"}, "control characters"),
    ],
)
def test_a_secret_that_cannot_be_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScramSecret.from_password(**{"password": "pencil", **arguments})


def test_without_scramp_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scramp", None)
    with pytest.raises(ImportError, match=r"pip install 'trio-smtp\[scram\]'"):
        ScramSecret.from_password("pencil")


@pytest.mark.parametrize("name", ["", "lower", "TWENTY-ONE-CHARACTERS", "SPA CE", "PL\xc4IN"])
def test_a_mechanism_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match="name must be 1 to 20 upper-case letters"):
        Mechanism(name, MECHANISMS["PLAIN"].start)
