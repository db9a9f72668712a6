"""The client's side of SASL: credentials, the choice of a mechanism, and the answers to challenges."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import attrs

from trio_smtp.protocol.extras import scramp
from trio_smtp.protocol.values import ShowsFields

__all__ = ["Auth", "BearerToken", "Exchange", "External", "Password", "make_exchange", "plain_response"]

#: A server may not make the client compute for longer than so many iterations take (about half a second).
MAX_ITERATIONS = 1_000_000
_ITERATIONS = re.compile(r"(?:^|,)i=([0-9]{1,7})(?:,|$)")


@attrs.frozen(repr=False)
class Password(ShowsFields):
    """A user name and a password: for SCRAM, CRAM-MD5, PLAIN and LOGIN.

    Attributes:
        username: Who.
        password: Not in the repr.
        authzid: The identity to act as (PLAIN alone), or empty.
        mechanisms: Those that may be used, the best first; None: the strongest that the server offers.
    """

    username: str
    password: str = attrs.field(repr=False)
    authzid: str = ""
    mechanisms: tuple[str, ...] | None = None


@attrs.frozen(repr=False)
class BearerToken(ShowsFields):
    """A user name and an OAuth 2.0 access token: for OAUTHBEARER and XOAUTH2.

    Attributes:
        username: Who.
        access_token: Not in the repr.
    """

    username: str
    access_token: str = attrs.field(repr=False)


@attrs.frozen
class External:
    """The client's certificate says who it is (EXTERNAL).

    Attributes:
        authzid: The identity to act as, or empty.
    """

    authzid: str = ""


#: What a client may present.
Auth = Password | BearerToken | External


class Exchange(Protocol):
    """One exchange of a mechanism; its methods only compute."""

    @property
    def name(self) -> str:
        """The mechanism."""
        ...

    @property
    def initial(self) -> bytes | None:
        """What goes with the command; None: the server speaks first."""
        ...

    @property
    def complete(self) -> bool:
        """The server may say 235 now: it has proved what it has to prove."""
        ...

    def respond(self, challenge: bytes) -> bytes:
        """Answer a challenge.

        Raises:
            ValueError: The challenge is not one of this mechanism, or the server's proof is wrong.
        """
        ...


def plain_response(username: str, password: str, authzid: str = "") -> bytes:
    """What a client says by PLAIN (RFC 4616)."""
    return f"{authzid}\0{username}\0{password}".encode()


class _Told:
    """A mechanism whose answers do not depend on what the server says."""

    complete: bool = True

    def __init__(self, name: str, initial: bytes | None, *answers: bytes) -> None:
        self.name: str = name
        self.initial: bytes | None = initial
        self._answers = list(answers)

    def respond(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise ValueError("a challenge too many")
        return self._answers.pop(0)


class _CramMD5:
    """RFC 2195."""

    name: str = "CRAM-MD5"
    initial: bytes | None = None
    complete: bool = True

    def __init__(self, given: Password) -> None:
        self._given = given
        self._answered = False

    def respond(self, challenge: bytes) -> bytes:
        if self._answered:  # a server could ask without an end, and collect digests
            raise ValueError("a challenge too many")
        self._answered = True
        digest = hmac.new(self._given.password.encode(), challenge, "md5").hexdigest()
        return f"{self._given.username} {digest}".encode()


class _Scram:
    """RFC 5802; the server's proof is checked, so that a server that knows no secret is found out."""

    def __init__(self, name: str, given: Password, binding: bytes | None) -> None:
        self.name: str = name
        channel = None if binding is None else ("tls-server-end-point", binding)
        self._client = scramp().ScramClient([name], given.username, given.password, channel_binding=channel)
        self.initial: bytes | None = self._client.get_client_first().encode()
        self.complete: bool = False
        self._steps: list[Callable[[str], str]] = [self._first, self._final]

    def respond(self, challenge: bytes) -> bytes:
        if not self._steps:
            raise ValueError("a challenge too many")
        try:
            return self._steps.pop(0)(challenge.decode()).encode()
        except scramp().ScramException:
            raise ValueError("the server's SCRAM message is wrong") from None

    def _first(self, challenge: str) -> str:
        match = _ITERATIONS.search(challenge)
        if match is None or not 0 < int(match[1]) <= MAX_ITERATIONS:
            raise ValueError("no number of iterations, or too many")
        self._client.set_server_first(challenge)
        answer: str = self._client.get_client_final()
        return answer

    def _final(self, challenge: str) -> str:
        self._client.set_server_final(challenge)
        self.complete = True
        return ""


_PLAINTEXT = ("PLAIN", "LOGIN")
_SCRAM = ("SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1")


def make_exchange(
    given: Auth, offered: Iterable[str], *, plaintext: bool, binding: bytes | None, server: tuple[str, int]
) -> Exchange | None:
    """Choose the strongest mechanism that fits.

    Args:
        given: What the client presents.
        offered: The mechanisms of the server.
        plaintext: The connection is private: a password or a token may go over it.
        binding: The data of the channel binding tls-server-end-point, or None.
        server: Its name and port, for OAUTHBEARER.

    Returns:
        The exchange, or None: no mechanism fits.

    Raises:
        ImportError: SCRAM alone is left, and its extra is not installed.
    """
    names = frozenset(offered)
    if isinstance(given, External):
        return _Told("EXTERNAL", given.authzid.encode()) if "EXTERNAL" in names else None
    if isinstance(given, BearerToken):
        return _bearer(given, names, server) if plaintext else None
    makers = _password_mechanisms(given, binding)
    order: Sequence[str] = [*makers] if given.mechanisms is None else [name.upper() for name in given.mechanisms]
    missing: ImportError | None = None
    for name in order:
        if name in names and name in makers and (plaintext or name not in _PLAINTEXT):
            try:
                return makers[name]()
            except ImportError as error:  # something weaker may do
                missing = error
    if missing is not None:
        raise missing
    return None


def _password_mechanisms(given: Password, binding: bytes | None) -> Mapping[str, Callable[[], Exchange]]:
    """What makes the exchange of each mechanism, the strongest first."""
    username, password = given.username.encode(), given.password.encode()
    makers: dict[str, Callable[[], Exchange]] = {}
    if not given.authzid:  # scramp has no other identity to act as
        if binding is not None:
            makers |= {f"{name}-PLUS": lambda name=f"{name}-PLUS": _Scram(name, given, binding) for name in _SCRAM}  # type: ignore[misc]
        makers |= {name: lambda name=name: _Scram(name, given, binding) for name in _SCRAM}  # type: ignore[misc]
        makers["CRAM-MD5"] = lambda: _CramMD5(given)
    makers["PLAIN"] = lambda: _Told("PLAIN", plain_response(given.username, given.password, given.authzid))
    if not given.authzid:
        makers["LOGIN"] = lambda: _Told("LOGIN", None, username, password)
    return makers


def _bearer(given: BearerToken, names: frozenset[str], server: tuple[str, int]) -> Exchange | None:
    token = given.access_token
    if "OAUTHBEARER" in names:  # RFC 7628; the answer to its error is an octet 1
        who = given.username.replace("=", "=3D").replace(",", "=2C")
        host, port = server
        message = f"n,a={who},\1host={host}\1port={port}\1auth=Bearer {token}\1\1"
        return _Told("OAUTHBEARER", message.encode(), b"\1")
    if "XOAUTH2" in names:
        return _Told("XOAUTH2", f"user={given.username}\1auth=Bearer {token}\1\1".encode(), b"")
    return None
