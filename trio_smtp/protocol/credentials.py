"""What a client presented in a SASL exchange: one class for each kind of proof."""

from __future__ import annotations

import hmac
import secrets
from typing import ClassVar, NoReturn

import attrs

from .extras import scramp
from .values import ShowsFields

__all__ = [
    "DIGEST_SIZES",
    "SALT_SIZE",
    "USUAL_ITERATIONS",
    "CramMD5Credentials",
    "Credentials",
    "ExternalCredentials",
    "OAuthCredentials",
    "PlainCredentials",
    "ScramCredentials",
    "ScramSecret",
    "XClientCredentials",
    "make_secret",
]


class _WithoutIdentity(ShowsFields):
    """For credentials that name no identity to act as besides their user name."""

    __slots__ = ()

    authzid: ClassVar[str] = ""


class _WithoutPassword(ShowsFields):
    """For credentials that no password can be compared with."""

    __slots__ = ()

    method: str

    def validate_password(self, password: str) -> NoReturn:
        """Raise TypeError: there is no password in these credentials to compare with."""
        raise TypeError(f"{self.method} credentials hold no password to validate")


@attrs.frozen(repr=False)
class PlainCredentials(ShowsFields):
    """A user name and a password, from PLAIN or LOGIN.

    Attributes:
        method: ``"PLAIN"`` or ``"LOGIN"``.
        username: The authentication identity.
        password: The password, read as UTF-8, or as Latin-1 where it is no UTF-8; not in the repr.
        authzid: The identity to act as, when PLAIN names another one than the user name; ``""`` otherwise.
        password_octets: The password as it was sent; not in the repr. In credentials that were made without it: the
            password in UTF-8.

    RFC: RFC 4616; draft-murchison-sasl-login.
    """

    method: str
    username: str
    password: str = attrs.field(repr=False)
    authzid: str = ""
    password_octets: bytes = attrs.field(
        default=attrs.Factory(lambda self: self.password.encode(), takes_self=True), repr=False
    )

    def validate_password(self, password: str) -> bool:
        """Whether the client knows this password, compared in constant time."""
        return hmac.compare_digest(self.password.encode(), password.encode())


@attrs.frozen(repr=False)
class CramMD5Credentials(_WithoutIdentity):
    """A user name, and a digest that proves a password without sending it.

    Attributes:
        username: The authentication identity.
        challenge: The server's challenge.
        response: The digest in hexadecimal; not in the repr.
        method: ``"CRAM-MD5"``.

    RFC: RFC 2195.
    """

    username: str
    challenge: str
    response: str = attrs.field(repr=False)
    method: str = "CRAM-MD5"

    def validate_password(self, password: str) -> bool:
        """Whether the digest was made with this password, compared in constant time."""
        digest = hmac.new(password.encode(), self.challenge.encode(), "md5").hexdigest()
        return hmac.compare_digest(digest, self.response.lower())


@attrs.frozen(repr=False)
class OAuthCredentials(_WithoutPassword, _WithoutIdentity):
    """A user name and an OAuth 2.0 bearer token, from XOAUTH2 or OAUTHBEARER.

    Attributes:
        method: ``"XOAUTH2"`` or ``"OAUTHBEARER"``.
        username: The user; empty when OAUTHBEARER leaves it to the token.
        access_token: The bearer token; not in the repr.
        host: The server name the client meant (OAUTHBEARER), or None.
        port: The port it meant (OAUTHBEARER), or None.

    RFC: RFC 7628, RFC 6750.
    """

    method: str
    username: str
    access_token: str = attrs.field(repr=False)
    host: str | None = None
    port: int | None = None


@attrs.frozen(repr=False)
class ExternalCredentials(_WithoutPassword):
    """The client's TLS certificate vouches for it; see ``session.tls.peer_certificate``.

    Attributes:
        authzid: The identity to act as; ``""`` for the one the certificate names.
        method: ``"EXTERNAL"``.

    RFC: RFC 4422 appendix A.
    """

    authzid: str = ""
    method: str = "EXTERNAL"

    @property
    def username(self) -> str:
        """The identity asked for; ``""`` when the certificate is to name it."""
        return self.authzid


@attrs.frozen(repr=False)
class ScramCredentials(_WithoutPassword):
    """A user who has proved the password by SCRAM.

    Attributes:
        method: Such as ``"SCRAM-SHA-256"``.
        username: The authentication identity.
        authzid: The identity to act as, when the client names another one than the user name; ``""`` otherwise.

    RFC: RFC 5802, RFC 7677.
    """

    method: str
    username: str
    authzid: str = ""


@attrs.frozen(repr=False)
class XClientCredentials(_WithoutPassword, _WithoutIdentity):
    """A user who logged in at a trusted front end, which says so (XCLIENT LOGIN).

    Attributes:
        username: The user who logged in at the front end.
        method: ``"XCLIENT"``.
    """

    username: str
    method: str = "XCLIENT"


#: What `AuthContext.credentials` may be.
Credentials = (
    PlainCredentials
    | CramMD5Credentials
    | OAuthCredentials
    | ExternalCredentials
    | ScramCredentials
    | XClientCredentials
)


#: Octets of a SCRAM mechanism's digest, and so of its keys.
DIGEST_SIZES = {"SCRAM-SHA-1": 20, "SCRAM-SHA-256": 32, "SCRAM-SHA-512": 64}
#: Octets of a new secret's salt, and its rounds of hashing, when the caller does not choose them.
SALT_SIZE, USUAL_ITERATIONS = 32, 4096


@attrs.frozen(repr=False)
class ScramSecret(ShowsFields):
    """What a server stores to check a SCRAM proof; nobody can log in with it, or compute the password from it.

    Attributes:
        mechanism: The mechanism it was made for, without ``-PLUS``.
        salt: The salt, at least 12 octets.
        stored_key: As many octets as the mechanism's digest has.
        server_key: The same number of octets.
        iterations: From 4096 to 10,000,000.

    Raises:
        ValueError: A value with which no client could log in.

    RFC: RFC 5802 section 3.
    """

    mechanism: str
    salt: bytes = attrs.field(repr=False)
    stored_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)
    iterations: int = 4096

    def __attrs_post_init__(self) -> None:
        size = DIGEST_SIZES.get(self.mechanism)
        if size is None:
            raise ValueError(f"mechanism must be one of {', '.join(DIGEST_SIZES)}, not {self.mechanism!r}")
        if len(self.salt) < 12:
            raise ValueError(f"salt must have at least 12 octets, not {len(self.salt)}")
        if len(self.stored_key) != size or len(self.server_key) != size:
            raise ValueError(f"stored_key and server_key must have {size} octets each for {self.mechanism}")
        if not 4096 <= self.iterations <= 10_000_000:
            raise ValueError(f"iterations must be from 4096 to 10,000,000, not {self.iterations}")

    @classmethod
    def from_password(
        cls,
        password: str,
        mechanism: str = "SCRAM-SHA-256",
        *,
        iterations: int | None = None,
        salt: bytes | None = None,
    ) -> ScramSecret:
        """Make the secret of a password; costs `iterations` rounds of hashing.

        Args:
            password: The password.
            mechanism: ``"SCRAM-SHA-1"``, ``"SCRAM-SHA-256"`` or ``"SCRAM-SHA-512"``.
            iterations: None: 4096.
            salt: None: a random one.

        Raises:
            ImportError: The extra ``scram`` is not installed.
            ValueError: The mechanism, the password or a number is not allowed.
        """
        return make_secret(password, mechanism, iterations, salt)


def make_secret(password: str, mechanism: str, iterations: int | None, salt: bytes | None) -> ScramSecret:
    """See `ScramSecret.from_password`."""
    library = scramp()
    if mechanism not in DIGEST_SIZES:
        raise ValueError(f"mechanism must be one of {', '.join(DIGEST_SIZES)}, not {mechanism!r}")
    iterations = USUAL_ITERATIONS if iterations is None else iterations
    salt = secrets.token_bytes(SALT_SIZE) if salt is None else salt
    try:
        made = library.ScramMechanism(mechanism).make_auth_info(password, iterations, salt)
    except library.ScramException as exc:
        raise ValueError(str(exc)) from exc
    return ScramSecret(mechanism, *made)
