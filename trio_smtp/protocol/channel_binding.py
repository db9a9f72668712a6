"""The channel binding ``tls-server-end-point`` (RFC 5929 section 4): a digest of the server's certificate."""

from __future__ import annotations

import hashlib
from functools import lru_cache

__all__ = ["channel_binding"]

_SEQUENCE, _OBJECT_IDENTIFIER, _CONTEXT_0 = 0x30, 0x06, 0xA0
#: The digests of signature algorithms, and of RSASSA-PSS's parameters, by the DER of the algorithm's object
#: identifier. MD5 and SHA-1 count as SHA-256 (RFC 5929 section 4.1); Ed25519 uses SHA-512.
_DIGESTS = {
    bytes.fromhex(oid): digest
    for digest, oids in {
        "sha256": (
            "2a864886f70d010104",  # RSA with MD5
            "2a864886f70d010105",  # RSA with SHA-1
            "2a864886f70d01010b",  # RSA with SHA-256
            "2a8648ce3d0401",  # ECDSA with SHA-1
            "2a8648ce3d040302",  # ECDSA with SHA-256
            "2a8648ce380403",  # DSA with SHA-1
            "608648016503040302",  # DSA with SHA-256
            "2b0e03021a",  # SHA-1
            "608648016503040201",  # SHA-256
        ),
        "sha224": ("2a864886f70d01010e", "2a8648ce3d040301", "608648016503040301", "608648016503040204"),
        "sha384": ("2a864886f70d01010c", "2a8648ce3d040303", "608648016503040202"),
        "sha512": ("2a864886f70d01010d", "2a8648ce3d040304", "608648016503040203", "2b6570"),
    }.items()
    for oid in oids
}
_RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")


@lru_cache(maxsize=64)
def channel_binding(certificate: bytes) -> bytes | None:
    """Compute the channel binding of a server's certificate.

    Args:
        certificate: The certificate, DER.

    Returns:
        The binding's data, or None: not every signature algorithm has one (RFC 5929 section 4.1).
    """
    try:
        digest = _digest_of(certificate)
    except (IndexError, ValueError):
        return None
    return None if digest is None else hashlib.new(digest, certificate).digest()


def _digest_of(certificate: bytes) -> str | None:
    """The digest that goes with the signature's algorithm (RFC 5280 section 4.1), or None.

    Raises:
        IndexError: The certificate is cut off.
        ValueError: The certificate is no DER of the expected form.
    """
    fields, _ = _contents(certificate, 0, _SEQUENCE)
    _, after_tbs = _contents(fields, 0, _SEQUENCE)
    algorithm, _ = _contents(fields, after_tbs, _SEQUENCE)
    oid, after_oid = _contents(algorithm, 0, _OBJECT_IDENTIFIER)
    if oid != _RSASSA_PSS:
        return _DIGESTS.get(oid)
    parameters, _ = _contents(algorithm, after_oid, _SEQUENCE)
    if parameters[:1] != bytes([_CONTEXT_0]):
        return "sha256"  # the default is SHA-1 (RFC 4055 section 3.1)
    tagged, _ = _contents(parameters, 0, _CONTEXT_0)
    oid, _ = _contents(_contents(tagged, 0, _SEQUENCE)[0], 0, _OBJECT_IDENTIFIER)
    return _DIGESTS.get(oid)


def _contents(der: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """The contents of the element at a place, and where the next element begins."""
    if der[at] != tag:
        raise ValueError(f"tag {der[at]:#x} where {tag:#x} must be")
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + octets]), begin + octets
    if begin + length > len(der):
        raise ValueError("cut off")
    return der[begin : begin + length], begin + length
