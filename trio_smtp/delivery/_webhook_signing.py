"""How a webhook's requests are identified and signed: Standard Webhooks, and Postal's signature."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

__all__ = ["Identity", "postal_signer", "read_secrets", "sign"]

_PREFIX = "whsec_"
#: Octets of a key that Standard Webhooks asks for.
_SHORTEST, _LONGEST = 24, 64


def read_secrets(given: str | Sequence[str]) -> list[tuple[str, bytes]]:
    """Read one secret or several: the text of each, and its key.

    Raises:
        ValueError: One is not ``whsec_`` and base64 of 24 to 64 octets, or there is none. Its text is not shown.
    """
    texts = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise ValueError("secret: at least one is needed")
    return [(text, _key(text)) for text in texts]


def _key(text: str) -> bytes:
    wanted = f"secret must be {_PREFIX!r} and base64 of {_SHORTEST} to {_LONGEST} octets"
    encoded = text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else ""
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(wanted) from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(wanted)
    return key


class Identity:
    """Makes the webhook-id of an envelope and a message's octets: the same for the same message, sent again.

    Each part of the envelope has its length before it, so that no two envelopes look the same.

    Args:
        sender: The sender as the client sent it.
        recipients: The recipients as the client sent them.
    """

    def __init__(self, sender: str, recipients: Iterable[str]) -> None:
        self._digest = hashlib.sha256()
        for part in (sender, *recipients):
            octets = part.encode("utf-8", "surrogatepass")
            self._digest.update(b"%d:%b" % (len(octets), octets))
        self._digest.update(b"\n")

    def update(self, chunk: bytes) -> None:
        """Take the next octets of the message."""
        self._digest.update(chunk)

    @property
    def id(self) -> str:
        """The webhook-id of what was taken."""
        return f"msg_{self._digest.hexdigest()}"


def sign(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature: one signature of each key, the newest first, separated by blanks."""
    head = f"{message_id}.{timestamp}.".encode()
    signatures = []
    for key in keys:
        signature = hmac.new(key, head, hashlib.sha256)
        signature.update(body)
        signatures.append(f"v1,{base64.b64encode(signature.digest()).decode()}")
    return " ".join(signatures)


def postal_signer(pem: str | bytes) -> Callable[[bytes], str]:
    """Make what signs a body as Postal does: RSA with SHA-1 and PKCS #1 v1.5, in base64.

    Args:
        pem: An RSA private key without a password.

    Raises:
        ImportError: The package ``cryptography`` is not installed.
        ValueError: The key cannot be read, or is not RSA's.
    """
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
    except ImportError as error:
        raise ImportError("postal_key needs the extra webhook: pip install 'trio-smtp[webhook]'") from error
    try:
        key = serialization.load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, None)
    except (ValueError, TypeError):  # TypeError: it has a password
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("postal_key must be an RSA private key in PEM, without a password")
    private: rsa.RSAPrivateKey = key

    def signature(body: bytes) -> str:
        # Postal's receivers check SHA-1; Standard Webhooks' signature stands beside it.
        return base64.b64encode(private.sign(body, padding.PKCS1v15(), hashes.SHA1())).decode()  # noqa: S303

    return signature
