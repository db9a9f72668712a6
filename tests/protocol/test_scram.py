"""SCRAM: authorization identities, what scramp's client and the RFCs' arithmetic make of it, and what is malformed."""

from __future__ import annotations

import base64
import hashlib
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.sasl_support import ScramClient, certificate
from tests.sasl_support import b64 as encoded
from trio_smtp import Credentials, ProtocolError, SASLContext, ScramCredentials, ScramSecret, SMTPError
from trio_smtp.protocol.channel_binding import channel_binding
from trio_smtp.protocol.extras import scramp
from trio_smtp.protocol.sasl import MECHANISMS, AuthenticationFailed, SecretNeeded

NAME = "SCRAM-SHA-256"
SECRETS = {name: ScramSecret.from_password("pencil", name) for name in ("SCRAM-SHA-1", NAME, "SCRAM-SHA-512")}
SECRET = SECRETS[NAME]
DER = certificate(hashes.SHA256())
BINDING = hashlib.sha256(DER).digest()
#: Where -PLUS is offered too.
PLUS = SASLContext("mx.example.com", server_certificate=DER, plus=True)
HOST = SASLContext("mx.example.com")
END_POINT = "p=tls-server-end-point"

Final = Callable[[bytes], bytes]


def exchange(
    first: bytes, final: Final, *, name: str = NAME, secret: ScramSecret | None = SECRET, context: SASLContext = HOST
) -> tuple[list[bytes], Credentials]:
    """The server's two messages, and the credentials."""
    steps = MECHANISMS[name].start(context)
    assert next(steps) == b""
    needed = steps.send(first)
    assert isinstance(needed, SecretNeeded)
    challenge = steps.send(secret)
    assert isinstance(challenge, bytes)
    outcome = steps.send(final(challenge))
    assert isinstance(outcome, bytes)
    with pytest.raises(StopIteration) as stop:
        steps.send(b"")
    return [challenge, outcome], stop.value.value


# Authorization identities


@pytest.mark.parametrize(
    ("username", "authzid", "expected"),
    [
        pytest.param("ali", "ali", "", id="the user's own, as Cyrus SASL sends it"),
        pytest.param("ali", "", "", id="none"),
        pytest.param("ali", "bob", "bob", id="another"),
        pytest.param("ali", "Ali", "Ali", id="in other letters"),
        pytest.param("z\xfc@example.com", "z\xfc@example.com", "", id="UTF-8"),
        pytest.param("a,b=c", "a=2Cb=3Dc", "", id="escaped"),
        pytest.param("a=2Cb", "a=3D2Cb", "", id="an escape that is escaped"),
        pytest.param("ali", "bob=2Ccarol=3D", "bob,carol=", id="another, escaped"),
    ],
)
@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("flag", ["n", "y", END_POINT])
def test_an_authorization_identity(name: str, flag: str, username: str, authzid: str, expected: str) -> None:
    bound = flag == END_POINT
    client = ScramClient(name, username, "pencil", flag=flag, binding=BINDING if bound else b"", authzid=authzid)
    secret, method = SECRETS[name], f"{name}-PLUS" if bound else name
    context = PLUS if bound else HOST
    messages, credentials = exchange(client.first(), client.final, name=method, secret=secret, context=context)
    assert client.verify(messages[1])
    assert credentials == ScramCredentials(method, username, expected)


@pytest.mark.parametrize("secret", [SECRET, None], ids=["known", "unknown"])
def test_the_proof_covers_the_identity(secret: ScramSecret | None) -> None:
    """Who changes the identity on its way, in the first message or in both, is found out."""
    client = ScramClient(NAME, "ali", "pencil", authzid="ali")
    other = client.first().replace(b"a=ali", b"a=bob")
    header = encoded("n,a=bob,").encode()

    def in_both(challenge: bytes) -> bytes:
        return client.final(challenge).replace(encoded("n,a=ali,").encode(), header)

    for final in (client.final, in_both):
        with pytest.raises(AuthenticationFailed):
            exchange(other, final, secret=secret)


# Downgrades


@pytest.mark.parametrize(
    ("name", "context", "sent", "repeated"),
    [
        pytest.param(f"{NAME}-PLUS", PLUS, END_POINT, "n", id="no binding in the end"),
        pytest.param(NAME, PLUS, "n", "y", id="another flag"),
        pytest.param(NAME, HOST, "y", "n", id="a flag changed on its way"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, None], ids=["known", "unknown"])
def test_the_final_message_repeats_the_header(
    name: str, context: SASLContext, sent: str, repeated: str, secret: ScramSecret | None
) -> None:
    client = ScramClient(NAME, "ali", "pencil", flag=repeated)
    first = client.first().replace(repeated.encode(), sent.encode(), 1)
    with pytest.raises(AuthenticationFailed):
        exchange(first, client.final, name=name, context=context, secret=secret)


def test_a_binding_is_taken_without_plus_where_plus_is_offered() -> None:
    client = ScramClient(NAME, "ali", "pencil", flag=END_POINT, binding=BINDING)
    _, credentials = exchange(client.first(), client.final, context=PLUS)
    assert credentials == ScramCredentials(NAME, "ali")


# Final messages


def _edited(edit: Callable[[str], str]) -> Callable[[Final], Final]:
    def wrap(final: Final) -> Final:
        return lambda challenge: edit(final(challenge).decode()).encode()

    return wrap


def _proof(text: str, proof: bytes) -> str:
    return text[: text.rindex(",p=") + 3] + encoded(proof)


def _proof_of(text: str) -> bytes:
    return base64.b64decode(text[text.rindex(",p=") + 3 :])


MALFORMED: dict[str, Callable[[str], str]] = {
    "another nonce": lambda text: text.replace("r=", "r=x", 1),
    "a nonce with a character less": lambda text: text.replace(",p=", "", 1)[:-45] + text[text.rindex(",p=") :],
    "no binding": lambda text: text[text.index(",") + 1 :],
    "an empty binding": lambda text: "c=" + text[text.index(",") :],
    "a binding that is no base64": lambda text: text.replace("c=", "c=*", 1),
    "a binding with its padding cut": lambda text: text.replace("biws", "biw", 1),
    "no proof": lambda text: text[: text.rindex(",")],
    "an empty proof": lambda text: text[: text.rindex("p=") + 2],
    "a proof that is no base64": lambda text: f"{text}*",
    "a proof that is not ASCII": lambda text: f"{text}\xe4",
    "a proof with data behind its padding": lambda text: f"{text}QQ==",
    "a proof with a line feed": lambda text: f"{text}\n",
    "a comma at the end": lambda text: f"{text},",
    "an extension behind the proof": lambda text: f"{text},x=1",
    "a mandatory extension": lambda text: f"m=x,{text}",
    "a mandatory extension inside": lambda text: text.replace(",p=", ",m=x,p="),
    "two proofs": lambda text: text + text[text.rindex(",p=") :],
    "a space before it": lambda text: f" {text}",
    "upper case": lambda text: text.replace("c=", "C=", 1),
}

WRONG: dict[str, Callable[[str], str]] = {
    "a proof of zeros": lambda text: _proof(text, bytes(32)),
    "a proof with a bit changed": lambda text: _proof(text, bytes([_proof_of(text)[0] ^ 1, *_proof_of(text)[1:]])),
    "a proof that is too short": lambda text: _proof(text, _proof_of(text)[:31]),
    "a proof that is too long": lambda text: _proof(text, _proof_of(text) + b"\0"),
    "an extension that the proof does not cover": lambda text: text.replace(",p=", ",x=1,p="),
    "another header": lambda text: text.replace("c=biws", "c=eSws"),
    "a header with data behind it": lambda text: text.replace("c=biws", "c=biwsAA=="),
}


@pytest.mark.parametrize("secret", [SECRET, None], ids=["known", "unknown"])
@pytest.mark.parametrize("what", [*MALFORMED, *WRONG])
def test_a_final_message_that_is_not_right(what: str, secret: ScramSecret | None) -> None:
    client = ScramClient(NAME, "ali", "pencil")
    with pytest.raises(SMTPError) as caught:
        exchange(client.first(), _edited({**MALFORMED, **WRONG}[what])(client.final), secret=secret)
    error = caught.value
    assert (error.code, error.enhanced) == ((501, "5.5.2") if what in MALFORMED else (535, "5.7.8"))
    assert isinstance(error, ProtocolError if what in MALFORMED else AuthenticationFailed)


def test_optional_extensions_are_passed_over_and_covered() -> None:
    client = ScramClient(NAME, "ali", "pencil", extensions=",x=1,Y=2,x=3")
    messages, credentials = exchange(client.first(), client.final)
    assert client.verify(messages[1])
    assert credentials == ScramCredentials(NAME, "ali")


# scramp's client


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    name=st.sampled_from(sorted(SECRETS)),
    plus=st.booleans(),
    username=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1, max_size=20),
    password=st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    salt=st.binary(min_size=12, max_size=40),
    wrong=st.sampled_from(["", "x"]),
)
def test_round_trips_with_the_client_of_scramp(
    *, name: str, plus: bool, username: str, password: str, salt: bytes, wrong: str
) -> None:
    method, binding = (f"{name}-PLUS", ("tls-server-end-point", BINDING)) if plus else (name, None)
    secret = ScramSecret.from_password(password, name, salt=salt)
    client = scramp().ScramClient([method], username, password + wrong, channel_binding=binding)

    def final(challenge: bytes) -> bytes:
        client.set_server_first(challenge.decode())
        return str(client.get_client_final()).encode()

    first, context = client.get_client_first().encode(), PLUS if plus else HOST
    if wrong:
        with pytest.raises(AuthenticationFailed):
            exchange(first, final, name=method, secret=secret, context=context)
        return
    messages, credentials = exchange(first, final, name=method, secret=secret, context=context)
    client.set_server_final(messages[1].decode())  # raises when the server's signature is wrong
    assert credentials == ScramCredentials(method, username)


def test_nonces_are_never_used_twice() -> None:
    client = ScramClient(NAME, "ali", "pencil")
    challenges = [exchange(client.first(), client.final)[0][0] for _ in range(20)]
    assert len(set(challenges)) == 20


# User names


@pytest.mark.parametrize(
    "username", ["a\x07b", "a\x7fb", "a\x85b", "\ue000", "\ufffd", "\u2028", "\u202e", "\U000e0001"]
)
def test_a_user_name_with_what_rfc_4013_prohibits(username: str) -> None:
    steps = MECHANISMS[NAME].start(HOST)
    next(steps)
    with pytest.raises(ProtocolError, match="Malformed SCRAM message"):
        steps.send(f"n,,n={username},r=fyko".encode())


# The channel binding


def _signed(key: Any, algorithm: Any, pss: bool = False) -> bytes:
    import datetime as dt

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.example.com")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    if pss:
        salted = padding.PSS(padding.MGF1(algorithm), padding.PSS.DIGEST_LENGTH)
        return builder.sign(key, algorithm, rsa_padding=salted).public_bytes(Encoding.DER)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def by_scramp(der: bytes) -> bytes:
    return bytes(importlib.import_module("scramp.core").CBindData.from_der(der))


RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("key", "algorithm", "pss"),
    [
        *(
            (RSA, digest, pss)
            for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
            for pss in (False, True)
        ),
        (RSA, hashes.SHA224(), False),
        (ed25519.Ed25519PrivateKey.generate(), None, False),
    ],
)
def test_the_binding_is_the_digest_of_the_signature(key: Any, algorithm: Any, pss: bool) -> None:
    der = _signed(key, algorithm, pss)
    digest = algorithm.name if algorithm is not None else "sha512"
    assert channel_binding(der) == hashlib.new(digest, der).digest() == by_scramp(der)


def _der(tag: int, contents: bytes) -> bytes:
    return bytes([tag, len(contents)]) + contents


def _with_algorithm(*parts: bytes) -> bytes:
    return _der(0x30, _der(0x30, b"") + _der(0x30, b"".join(parts)) + b"\x03\x01\x00")


def _oid(octets: str) -> bytes:
    return _der(0x06, bytes.fromhex(octets))


PSS = _oid("2a864886f70d01010a")


@pytest.mark.parametrize(
    ("der", "digest"),
    [
        pytest.param(_with_algorithm(_oid("2a864886f70d010104")), "sha256", id="RSA with MD5"),
        pytest.param(_with_algorithm(_oid("2a864886f70d010105")), "sha256", id="RSA with SHA-1"),
        pytest.param(_with_algorithm(_oid("2a8648ce3d0401")), "sha256", id="ECDSA with SHA-1"),
        pytest.param(_with_algorithm(PSS, _der(0x30, b"")), "sha256", id="PSS by its defaults"),
        pytest.param(_with_algorithm(PSS, _der(0x30, _der(0xA3, b"\x02\x01\x01"))), "sha256", id="PSS, other fields"),
        pytest.param(
            _with_algorithm(PSS, _der(0x30, _der(0xA0, _der(0x30, _oid("2b0e03021a"))))), "sha256", id="PSS, SHA-1"
        ),
        pytest.param(
            _with_algorithm(PSS, _der(0x30, _der(0xA0, _der(0x30, _oid("608648016503040202"))))),
            "sha384",
            id="PSS, SHA-384",
        ),
        pytest.param(_with_algorithm(PSS, _der(0x30, _der(0xA0, _der(0x30, _oid("2a03"))))), None, id="PSS, unknown"),
        pytest.param(_with_algorithm(PSS), None, id="PSS without parameters"),
        pytest.param(_with_algorithm(_oid("2a03")), None, id="unknown"),
        pytest.param(_with_algorithm(b"\x05\x00"), None, id="no object identifier"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"\x30", None, id="no length"),
        pytest.param(b"\x30\x05\x30\x00", None, id="cut off"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", None, id="a length beyond all measure"),
    ],
)
def test_certificates_of_few_words(der: bytes, digest: str | None) -> None:
    assert channel_binding(der) == (None if digest is None else hashlib.new(digest, der).digest())


def test_a_certificate_that_is_cut_off_has_no_binding_and_raises_nothing() -> None:
    assert {channel_binding(DER[:end]) for end in itertools.islice(range(len(DER)), 0, None, 7)} == {None}
