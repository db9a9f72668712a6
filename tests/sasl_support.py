"""The client's side of SASL mechanisms, written from the RFCs and independent of what the server uses."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import secrets

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import Encoding

#: What a certificate may be signed with here.
Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


def b64(data: bytes | str) -> str:
    """Base64 of octets, or of a text's."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def plain(username: str, password: str, authzid: str = "") -> str:
    """An encoded PLAIN response (RFC 4616)."""
    return b64(f"{authzid}\0{username}\0{password}")


def xoauth2(username: str, token: str) -> str:
    """An encoded XOAUTH2 response."""
    return b64(f"user={username}\1auth=Bearer {token}\1\1")


def oauthbearer(username: str, token: str, more: str = "") -> str:
    """An encoded OAUTHBEARER response (RFC 7628 section 3.1); `more` is other pairs, each with ^A at its end."""
    return b64(f"n,a={username},\1{more}auth=Bearer {token}\1\1")


def cram_md5(username: str, password: str, challenge: bytes) -> str:
    """An encoded CRAM-MD5 response (RFC 2195)."""
    return b64(f"{username} {hmac.new(password.encode(), challenge, 'md5').hexdigest()}")


class ScramClient:
    """One SCRAM exchange (RFC 5802 sections 3 and 5).

    Args:
        mechanism: Its name; ``-PLUS`` does not matter.
        username: As it is; commas and equals signs are escaped here.
        password: ASCII.
        flag: The GS2 flag: ``n``, ``y``, or ``p=`` and a type of channel binding.
        binding: The channel binding's data.
        authzid: The authorization identity; escape commas and equals signs yourself.
        extensions: What both messages say besides, with a comma at the beginning.
    """

    def __init__(
        self,
        mechanism: str,
        username: str,
        password: str,
        *,
        flag: str = "n",
        binding: bytes = b"",
        authzid: str = "",
        extensions: str = "",
    ) -> None:
        self._hash = mechanism.removesuffix("-PLUS").removeprefix("SCRAM-").replace("-", "").lower()
        self._password = password.encode()
        self._header = f"{flag},{f'a={authzid}' if authzid else ''},"
        self._binding = binding
        self._nonce, self._extensions = secrets.token_hex(12), extensions
        self._bare = f"n={username.replace('=', '=3D').replace(',', '=2C')},r={self._nonce}{extensions}"
        self._signature = b""
        #: The salt and the number of iterations that the server sent.
        self.salt = b""
        self.iterations = 0

    def first(self) -> bytes:
        """The client's first message."""
        return (self._header + self._bare).encode()

    def final(self, server_first: bytes) -> bytes:
        """The client's final message, in answer to the server's first."""
        fields = dict(part.split("=", 1) for part in server_first.decode().split(","))
        assert fields["r"].startswith(self._nonce)
        self.salt, self.iterations = base64.b64decode(fields["s"], validate=True), int(fields["i"])
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, self.salt, self.iterations)
        client_key = self._hmac(salted, b"Client Key")
        without_proof = f"c={b64(self._header.encode() + self._binding)},r={fields['r']}{self._extensions}"
        message = f"{self._bare},{server_first.decode()},{without_proof}".encode()
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), message)
        mask = self._hmac(hashlib.new(self._hash, client_key).digest(), message)
        proof = bytes(ours ^ theirs for ours, theirs in zip(client_key, mask, strict=True))
        return f"{without_proof},p={b64(proof)}".encode()

    def verify(self, server_final: bytes) -> bool:
        """Whether the server knows the secret too."""
        return server_final == f"v={b64(self._signature)}".encode()

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.new(key, message, self._hash).digest()


def certificate(algorithm: Digest | None) -> bytes:
    """A certificate (DER), signed with that digest; None: by Ed448, which has no channel binding."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.example.com")])
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm else ed448.Ed448PrivateKey.generate()
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)
