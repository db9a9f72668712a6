"""The PROXY protocol header, versions 1 and 2 (HAProxy's proxy-protocol.txt).

A header is read exactly, because what follows it may be TLS: `HeaderReader.wanted` says how many octets to read next.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import attrs

from .networks import canonical
from .values import ShowsFields

__all__ = ["HeaderReader", "ProxyError", "ProxyHeader"]

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_MAX_V1 = 107
_V1 = rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
# Version 2 and the command, in one octet.
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_PP2_AUTHORITY, _PP2_CRC32C, _PP2_UNIQUE_ID, _PP2_SSL = 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN = 0x21, 0x22


class ProxyError(ValueError):
    """The octets are not a PROXY header; the connection cannot be trusted."""


@attrs.frozen(repr=False)
class ProxyHeader(ShowsFields):
    """What a proxy in front says of a connection.

    Attributes:
        version: 1 or 2.
        local: The header names no client, so the socket's own addresses hold: the proxy speaks for itself (LOCAL, whose
            other fields and TLVs are not read), or knows no addresses (UNKNOWN, or an unspecified family or protocol).
        source: ``(address, port)`` of the client, or None.
        destination: ``(address, port)`` the client connected to, or None. IPv4-mapped IPv6 is given as IPv4, a Unix
            socket as ``unix:`` and its path, with port 0.
        tlvs: The raw values by type; the first of each type.
        authority: The name the client asked for (SNI), or None.
        unique_id: The proxy's name for the connection, or None.
        ssl: The client reached the proxy by TLS.
        ssl_version: Such as ``"TLSv1.3"``, or None.
        ssl_client_cn: The common name of the client's certificate, or None.
        ssl_verified: The client presented a certificate, and the proxy verified it.
    """

    version: Literal[1, 2]
    local: bool = False
    source: tuple[str, int] | None = None
    destination: tuple[str, int] | None = None
    tlvs: Mapping[int, bytes] = MappingProxyType({})
    authority: str | None = None
    unique_id: bytes | None = None
    ssl: bool = False
    ssl_version: str | None = None
    ssl_client_cn: str | None = None
    ssl_verified: bool = False


class HeaderReader:
    """Reads one header: feed what `wanted` asks for until `header` is there."""

    def __init__(self) -> None:
        self._data = b""
        self.header: ProxyHeader | None = None

    @property
    def wanted(self) -> int:
        """How many octets may be read next; they never reach beyond the header."""
        have = len(self._data)
        if have < 12 or self._data[:12] == _SIGNATURE:
            return self._wanted_v2() - have
        # The shortest header of version 1 has 15 octets; each octet after them may be the last.
        return max(15 - have, 1)

    def _wanted_v2(self) -> int:
        have = len(self._data)
        if have < 12:
            return 12
        return 16 if have < 16 else 16 + int.from_bytes(self._data[14:16], "big")

    def feed(self, data: bytes) -> None:
        """Take in at most `wanted` octets.

        Raises:
            ProxyError: The octets are not a header.
        """
        self._data += data
        have = self._data
        if len(have) <= 12 and _SIGNATURE.startswith(have):
            return
        if have.startswith(_SIGNATURE):
            if len(have) >= 16:
                self._check_v2_lead()
                if len(have) == self._wanted_v2():
                    self.header = _parse_v2(have)
            return
        if not (b"PROXY "[: len(have)] == have[:6]) or len(have) > _MAX_V1:
            raise ProxyError("neither version 1 nor version 2")
        if have.endswith(b"\n"):
            self.header = _parse_v1(have)

    def _check_v2_lead(self) -> None:
        lead, family = self._data[12], self._data[13]
        if lead != _V2_LOCAL and (lead != _V2_PROXY or family >> 4 > 3 or family & 15 > 2):
            raise ProxyError("unknown version, command, family or protocol")


def _parse_v1(line: bytes) -> ProxyHeader:
    if re.fullmatch(rb"PROXY UNKNOWN(?: [ -~]*)?\r\n", line):
        return ProxyHeader(1, local=True)
    match = re.fullmatch(_V1, line)
    if match is None:
        raise ProxyError("malformed version 1 header")
    family = 1 if match[1] == b"TCP4" else 2
    ends: list[tuple[str, int]] = []
    for text, port in ((match[2].decode(), int(match[4])), (match[3].decode(), int(match[5]))):
        try:
            ends.append((_address(family, text), port))
        except ValueError:
            raise ProxyError("address of another family") from None
        if port > 65_535:
            raise ProxyError("port out of range")
    return ProxyHeader(1, source=ends[0], destination=ends[1])


def _parse_v2(data: bytes) -> ProxyHeader:
    if data[12] == _V2_LOCAL:
        # Section 2.2: the receiver must "discard the protocol block including the family which is ignored".
        return ProxyHeader(2, local=True)
    family, protocol = data[13] >> 4, data[13] & 15
    block = {0: 0, 1: 12, 2: 36, 3: 216}[family]
    payload = data[16:]
    local = family == 0 or protocol == 0
    if len(payload) < block:
        raise ProxyError("the address block is cut short")
    source = destination = None
    if not local:
        source, destination = _addresses(family, payload)
    tlvs = _tlvs(payload[block:])
    crc = tlvs.get(_PP2_CRC32C)
    if crc is not None and (len(crc) != 4 or int.from_bytes(crc, "big") != _checksum(data, block)):
        raise ProxyError("wrong checksum")
    authority, unique_id = tlvs.get(_PP2_AUTHORITY), tlvs.get(_PP2_UNIQUE_ID)
    if unique_id is not None and len(unique_id) > 128:
        raise ProxyError("unique id too long")
    ssl = _ssl(tlvs.get(_PP2_SSL))
    return ProxyHeader(
        2, local, source, destination, MappingProxyType(tlvs), _text(authority), unique_id, *ssl
    )  # fmt: skip


def _address(family: int, value: str | bytes) -> str:
    if family == 1:
        return str(ipaddress.IPv4Address(value))
    return canonical(str(ipaddress.IPv6Address(value)))


def _addresses(family: int, payload: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    if family == 3:
        source, destination = (payload[i : i + 108].split(b"\0", 1)[0] for i in (0, 108))
        return (f"unix:{_text(source)}", 0), (f"unix:{_text(destination)}", 0)
    size = 4 if family == 1 else 16
    ports = struct.unpack_from("!HH", payload, 2 * size)
    return (_address(family, payload[:size]), ports[0]), (_address(family, payload[size : 2 * size]), ports[1])


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise ProxyError("text that is not UTF-8") from None
    if not text.isprintable():
        raise ProxyError("control characters")
    return text


def _tlvs(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        if position + 3 > len(data):
            raise ProxyError("a TLV is cut short")
        kind, length = data[position], int.from_bytes(data[position + 1 : position + 3], "big")
        position += 3
        if position + length > len(data):
            raise ProxyError("a TLV is cut short")
        found.setdefault(kind, data[position : position + length])
        position += length
    return found


def _ssl(value: bytes | None) -> tuple[bool, str | None, str | None, bool]:
    """PP2_TYPE_SSL: client flags, the result of verifying, and TLVs (section 2.2.6)."""
    if value is None:
        return False, None, None, False
    if len(value) < 5:
        raise ProxyError("the SSL TLV is cut short")
    client, verify = value[0], int.from_bytes(value[1:5], "big")
    inner = _tlvs(value[5:])
    presented = bool(client & 0x06)
    return bool(client & 1), _text(inner.get(_SSL_VERSION)), _text(inner.get(_SSL_CN)), presented and verify == 0


def _make_crc32c_table() -> list[int]:
    table = []
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _make_crc32c_table()


def _checksum(data: bytes, block: int) -> int:
    """CRC32C over the header as received, the checksum's own four octets taken as zero."""
    octets = bytearray(data)
    position = 16 + block
    while octets[position] != _PP2_CRC32C:
        position += 3 + int.from_bytes(octets[position + 1 : position + 3], "big")
    octets[position + 3 : position + 7] = bytes(4)
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = crc >> 8 ^ _CRC32C[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF
