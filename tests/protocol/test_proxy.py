"""The PROXY protocol header, versions 1 and 2: what is one, what is none, and that not an octet too many is read."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_smtp.protocol.proxy import HeaderReader, ProxyError, ProxyHeader

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
INET = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56_324, 25)
INET6 = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed + struct.pack("!HH", 1, 65_535)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")


def v2(
    block: bytes = INET, tlvs: bytes = b"", *, lead: int = 0x21, family: int = 0x11, length: int | None = None
) -> bytes:
    body = block + tlvs
    return SIGNATURE + struct.pack("!BBH", lead, family, len(body) if length is None else length) + body


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def crc32c(data: bytes) -> int:
    """CRC-32C by its definition: the polynomial 1EDC6F41, reflected."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checked(block: bytes = INET, before: bytes = b"", after: bytes = b"", **fields: Any) -> bytes:
    """A version 2 header with its checksum, TLVs before and behind it."""
    zero = v2(block, before + tlv(3, bytes(4)) + after, **fields)
    position = 16 + len(block) + len(before) + 3
    return zero[:position] + struct.pack("!I", crc32c(zero)) + zero[position + 4 :]


def read(wire: bytes, step: int | None = None) -> tuple[ProxyHeader | None, int]:
    """Feed what is wanted, at most `step` octets at a time; the header, and how many octets it took."""
    reader, position = HeaderReader(), 0
    while reader.header is None and position < len(wire):
        assert reader.wanted >= 1
        size = min(reader.wanted, step or len(wire))
        reader.feed(wire[position : position + size])
        position += min(size, len(wire) - position)
    return reader.header, position


def header(wire: bytes) -> ProxyHeader:
    """The header, whatever is behind it and however it is cut; not an octet behind it is taken."""
    whole, taken = read(wire + b"\x16\x03\x01EHLO x\r\n")
    assert taken == len(wire)
    for step in (1, 2, 3, 5, 11):
        assert read(wire + b"\r\n\r\n\0", step) == (whole, len(wire))
    assert whole is not None
    return whole


# --- Version 1 ---

LONGEST = b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n"


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        pytest.param(
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            ProxyHeader(1, source=("192.168.0.1", 56324), destination=("192.168.0.11", 443)),
            id="section 2.1, the example",
        ),
        pytest.param(
            b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n",
            ProxyHeader(1, source=("255.255.255.255", 65535), destination=("0.0.0.0", 0)),
            id="the ends of the ranges",
        ),
        pytest.param(
            b"PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:2 1 2\r\n",
            ProxyHeader(1, source=("2001:db8::1", 1), destination=("2001:db8::2", 2)),
            id="IPv6 in either case, shown canonical",
        ),
        pytest.param(
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
            ProxyHeader(1, source=("192.0.2.1", 1), destination=("::1", 2)),
            id="IPv4-mapped IPv6 as IPv4",
        ),
        pytest.param(
            LONGEST,
            ProxyHeader(1, source=(":".join(["ffff"] * 8), 65535), destination=(":".join(["ffff"] * 8), 65535)),
            id="the longest with addresses: 104 octets",
        ),
        pytest.param(b"PROXY UNKNOWN\r\n", ProxyHeader(1, local=True), id="the shortest"),
        pytest.param(b"PROXY UNKNOWN 1.2.3.4 x\r\n", ProxyHeader(1, local=True), id="UNKNOWN and anything"),
        pytest.param(
            b"PROXY UNKNOWN " + LONGEST[len("PROXY TCP6 ") :], ProxyHeader(1, local=True), id="the longest: 107 octets"
        ),
    ],
)
def test_version_1(wire: bytes, expected: ProxyHeader) -> None:
    assert header(wire) == expected


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", id="LF alone"),
        pytest.param(b"PROXY UNKNOWN\n\r\n", id="LF before CRLF"),
        pytest.param(b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", id="lower case"),
        pytest.param(b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", id="the family in lower case"),
        pytest.param(b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", id="two spaces"),
        pytest.param(b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", id="two spaces between addresses"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", id="a space at the end"),
        pytest.param(b"PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n", id="a tab"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", id="a port is missing"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", id="a port too many"),
        pytest.param(b"PROXY TCP4\r\nxxx\r\n", id="no addresses"),
        pytest.param(b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", id="an address with a leading zero"),
        pytest.param(b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", id="256"),
        pytest.param(b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", id="three numbers"),
        pytest.param(b"PROXY TCP4 192.0.2.1. 192.0.2.2 1 2\r\n", id="a dot at the end"),
        pytest.param(b"PROXY TCP4 ::1 ::2 1 2\r\n", id="IPv6 under TCP4"),
        pytest.param(b"PROXY TCP4 192.0.2.1 ::2 1 2\r\n", id="one of each"),
        pytest.param(b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", id="IPv4 under TCP6"),
        pytest.param(b"PROXY TCP6 fe80::1%1 ::2 1 2\r\n", id="a zone"),
        pytest.param(b"PROXY TCP6 1::2::3 ::2 1 2\r\n", id="two double colons"),
        pytest.param(b"PROXY TCP6 1:2:3:4:5:6:7 ::2 1 2\r\n", id="seven groups"),
        pytest.param(b"PROXY TCP6 00001::2 ::2 1 2\r\n", id="five digits"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", id="port 65536"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999\r\n", id="port 99999"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", id="a port with a leading zero"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 00\r\n", id="a port of two zeros"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", id="a port with a sign"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n", id="a negative port"),
        pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.2 1e1 2\r\n", id="no number"),
        pytest.param("PROXY TCP4 192.0.2.1 192.0.2.2 \u0661 2\r\n".encode(), id="another script's digit"),
        pytest.param(b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", id="another family"),
        pytest.param(b"PROXY UNKNOWNX\r\n", id="not quite UNKNOWN"),
        pytest.param(b"PROXY UNKNOWN \x00\r\n", id="a NUL"),
        pytest.param(b"PROXY UNKNOWN \xff\r\n", id="not ASCII"),
        pytest.param(b"PROXY UNKNOWN \rx\r\n", id="a CR in the middle"),
        pytest.param(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", id="108 octets"),
        pytest.param(b"PROXY " + b"x" * 200, id="without an end"),
        pytest.param(b"EHLO client.example\r\n", id="SMTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), id="TLS"),
        pytest.param(b"PROXX TCP4 192.0.2.1 192.0.2.2 1 2\r\n", id="not quite PROXY"),
        pytest.param(b"\r\n\r\n\0\r\nQUIX\n" + bytes(20), id="not quite the signature"),
    ],
)
def test_what_is_no_version_1(line: bytes) -> None:
    for step in (None, 1, 7):
        with pytest.raises(ProxyError):
            read(line, step)


@pytest.mark.parametrize("size", range(len(LONGEST)))
def test_half_a_line_is_no_header_yet(size: int) -> None:
    assert read(LONGEST[:size]) == (None, size)
    assert read(LONGEST[:size], 1) == (None, size)


# --- Version 2 ---

LOCAL = ProxyHeader(2, local=True)
CLIENT = ProxyHeader(2, source=("192.0.2.1", 56324), destination=("198.51.100.2", 25))


def with_tlvs(wire: bytes, tlvs: dict[int, bytes], **fields: Any) -> None:
    found = header(wire)
    assert (found.source, found.tlvs) == (CLIENT.source, tlvs)
    for name, value in fields.items():
        assert getattr(found, name) == value, name


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        pytest.param(v2(), CLIENT, id="2.2.1: TCP over IPv4"),
        pytest.param(v2(family=0x12), CLIENT, id="UDP over IPv4"),
        pytest.param(
            v2(INET6, family=0x21),
            ProxyHeader(2, source=("2001:db8::1", 1), destination=("2001:db8::2", 65535)),
            id="TCP over IPv6",
        ),
        pytest.param(
            v2(ip_address("::ffff:192.0.2.1").packed + INET6[16:], family=0x21),
            ProxyHeader(2, source=("192.0.2.1", 1), destination=("2001:db8::2", 65535)),
            id="IPv4-mapped IPv6 as IPv4",
        ),
        pytest.param(
            v2(UNIX, family=0x31),
            ProxyHeader(2, source=("unix:/run/client", 0), destination=("unix:/run/server", 0)),
            id="a Unix socket",
        ),
        pytest.param(
            v2(b"127.0.0.1".ljust(216, b"\0"), family=0x31),
            ProxyHeader(2, source=("unix:127.0.0.1", 0), destination=("unix:", 0)),
            id="a Unix socket whose path looks like an address",
        ),
        pytest.param(
            v2(b"x" * 216, family=0x31),
            ProxyHeader(2, source=("unix:" + "x" * 108, 0), destination=("unix:" + "x" * 108, 0)),
            id="Unix paths without a NUL",
        ),
        pytest.param(v2(b"", lead=0x20, family=0), LOCAL, id="2.2: LOCAL, as health checks send it"),
        pytest.param(v2(b"", family=0), LOCAL, id="PROXY from an unspecified family"),
        pytest.param(v2(family=0x10), LOCAL, id="PROXY by an unspecified protocol"),
    ],
)
def test_version_2(wire: bytes, expected: ProxyHeader) -> None:
    assert header(wire) == expected


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(v2(lead=0x11), id="version 1"),
        pytest.param(v2(lead=0x31), id="version 3"),
        pytest.param(v2(lead=0x22), id="command 2"),
        pytest.param(v2(lead=0x2F), id="command 15"),
        pytest.param(v2(family=0x41), id="family 4"),
        pytest.param(v2(family=0xF1), id="family 15"),
        pytest.param(v2(family=0x13), id="protocol 3"),
        pytest.param(v2(family=0x1F), id="protocol 15"),
        pytest.param(v2(b""), id="no address block"),
        pytest.param(v2(INET[:-1]), id="IPv4 addresses cut short"),
        pytest.param(v2(INET6[:-1], family=0x21), id="IPv6 addresses cut short"),
        pytest.param(v2(INET, family=0x21), id="IPv4 addresses under IPv6"),
        pytest.param(v2(UNIX[:-1], family=0x31), id="Unix addresses cut short"),
        pytest.param(v2(b"\xff" * 216, family=0x31), id="a Unix path that is not UTF-8"),
        pytest.param(v2(b"/a\nb".ljust(216, b"\0"), family=0x31), id="a Unix path with a line end"),
        pytest.param(v2(INET, b"\x01"), id="a TLV of one octet"),
        pytest.param(v2(INET, b"\x01\x00"), id="a TLV of two octets"),
        pytest.param(v2(INET, b"\x01\x00\x01"), id="a TLV longer than the header"),
        pytest.param(v2(INET, b"\x01\xff\xffx"), id="a TLV much longer than the header"),
        pytest.param(v2(INET, tlv(4, b"") + b"\0"), id="an octet behind a TLV"),
        pytest.param(v2(INET, tlv(2, b"\xff")), id="an authority that is not UTF-8"),
        pytest.param(v2(INET, tlv(2, b"a\r\nb")), id="an authority with a line end"),
        pytest.param(v2(INET, tlv(5, bytes(129))), id="a unique id of 129 octets"),
        pytest.param(v2(INET, tlv(3, bytes(4))), id="a wrong checksum"),
        pytest.param(v2(INET, tlv(3, b"")), id="an empty checksum"),
        pytest.param(v2(INET, tlv(3, bytes(5))), id="a checksum of five octets"),
        pytest.param(v2(INET, tlv(0x20, b"\x01\0\0\0")), id="SSL cut short"),
        pytest.param(v2(INET, tlv(0x20, b"\x01\0\0\0\0\x21")), id="a TLV inside SSL cut short"),
        pytest.param(v2(INET, tlv(0x20, b"\x01\0\0\0\0" + tlv(0x22, b"\xc3"))), id="a common name that is not UTF-8"),
        pytest.param(v2(INET, tlv(0x20, b"\x01\0\0\0\0" + tlv(0x22, b"a\0b"))), id="a common name with a NUL"),
        pytest.param(v2(b"", b"\x01\x00", family=0), id="an unspecified family with a TLV cut short"),
        pytest.param(v2(b"x" * 9, family=0), id="an unspecified family and nine octets of anything"),
        pytest.param(v2(INET, tlv(3, bytes(4)), family=0x10), id="an unspecified protocol with a wrong checksum"),
        pytest.param(checked()[:-1] + b"\x00", id="a checksum with another last octet"),
        pytest.param(checked().replace(INET[:4], b"\xcb\0\x71\1"), id="another address than the checksum's"),
    ],
)
def test_what_is_no_version_2(wire: bytes) -> None:
    for step in (None, 1, 7):
        with pytest.raises(ProxyError):
            read(wire, step)


@pytest.mark.parametrize("family", [0x00, 0x10, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x13, 0x1F, 0x41, 0xFF])
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="nothing, as health checks send it"),
        pytest.param(b"x", id="one octet"),
        pytest.param(b"x" * 9, id="nine octets of anything"),
        pytest.param(INET, id="IPv4 addresses"),
        pytest.param(INET6, id="IPv6 addresses"),
        pytest.param(INET6[:-1], id="IPv6 addresses cut short"),
        pytest.param(UNIX, id="Unix paths"),
        pytest.param(b"\xff" * 216, id="Unix paths that are not UTF-8"),
        pytest.param(INET + tlv(2, b"mx.example.com"), id="addresses and a TLV"),
        pytest.param(tlv(2, b"a\r\nb"), id="an authority with a line end"),
        pytest.param(tlv(5, bytes(129)), id="a unique id of 129 octets"),
        pytest.param(INET + b"\x01\xff\xffx", id="a TLV longer than the header"),
        pytest.param(b"\x01\x00", id="a TLV cut short"),
        pytest.param(INET + tlv(3, bytes(4)), id="a wrong checksum"),
        pytest.param(tlv(3, b""), id="an empty checksum"),
        pytest.param(tlv(0x20, b"\x01"), id="SSL cut short"),
        pytest.param(SIGNATURE, id="the signature again"),
        pytest.param(b"EHLO x\r\n", id="what looks like the next protocol"),
        pytest.param(bytes(65_535), id="all the length there is"),
    ],
)
def test_local_has_its_block_skipped_unread_whatever_it_is(block: bytes, family: int) -> None:
    assert header(v2(block, lead=0x20, family=family)) == LOCAL


def test_a_wrong_lead_is_refused_before_the_rest_is_waited_for() -> None:
    with pytest.raises(ProxyError, match="unknown version, command, family or protocol"):
        read(v2(lead=0x41, length=65_535)[:16])


def test_no_octet_is_wanted_that_may_be_the_next_protocols() -> None:
    wire = v2(INET, tlv(4, b"padding"))
    reader = HeaderReader()
    wanted = []
    position = 0
    while reader.header is None:
        wanted.append(reader.wanted)
        reader.feed(wire[position : position + reader.wanted])
        position += wanted[-1]
    assert wanted == [12, 4, len(wire) - 16]


@pytest.mark.parametrize("size", range(len(v2(INET, tlv(4, b"xyz")))))
def test_half_a_version_2_header_is_none_yet(size: int) -> None:
    wire = v2(INET, tlv(4, b"xyz"))
    assert read(wire[:size]) == (None, size)
    assert read(wire[:size], 1) == (None, size)


def test_a_header_of_all_the_length_there_is() -> None:
    found = header(v2(INET, tlv(4, bytes(65_535 - 12 - 3))))
    assert len(found.tlvs[4]) == 65_520


# --- TLVs ---


def test_tlvs_are_kept() -> None:
    tlvs = tlv(1, b"h2") + tlv(2, b"mx.example.com") + tlv(5, b"\0\xffid") + tlv(0xEA, b"vpc") + tlv(4, b"")
    kept = {1: b"h2", 2: b"mx.example.com", 5: b"\0\xffid", 0xEA: b"vpc", 4: b""}
    with_tlvs(v2(INET, tlvs), kept, authority="mx.example.com", unique_id=b"\0\xffid", ssl=False)


def test_the_first_of_each_type_counts() -> None:
    with_tlvs(
        v2(INET, tlv(2, b"first.example") + tlv(2, b"second.example")), {2: b"first.example"}, authority="first.example"
    )


def test_an_authority_in_utf8() -> None:
    with_tlvs(
        v2(INET, tlv(2, "b\xfccher.example".encode())), {2: b"b\xc3\xbccher.example"}, authority="b\xfccher.example"
    )


def test_a_unique_id_of_128_octets() -> None:
    with_tlvs(v2(INET, tlv(5, b"x" * 128)), {5: b"x" * 128}, unique_id=b"x" * 128)


def test_tlvs_of_a_proxy_that_knows_no_addresses() -> None:
    found = header(v2(b"", tlv(2, b"mx.example.com"), family=0))
    assert (found.local, found.source, found.authority) == (True, None, "mx.example.com")


@pytest.mark.parametrize(
    ("client", "verify", "inner", "expected"),
    [
        pytest.param(0x01, 1, b"", (True, None, None, False), id="TLS"),
        pytest.param(0x01, 0, b"", (True, None, None, False), id="nothing presented, nothing verified"),
        pytest.param(0x03, 0, b"", (True, None, None, True), id="a certificate of this connection"),
        pytest.param(0x05, 0, b"", (True, None, None, True), id="a certificate of this session"),
        pytest.param(0x07, 10, b"", (True, None, None, False), id="a certificate that was not verified"),
        pytest.param(0x00, 0, b"", (False, None, None, False), id="no TLS"),
        pytest.param(
            0x07,
            0,
            tlv(0x21, b"TLSv1.3") + tlv(0x22, "J\xfcrg".encode()) + tlv(0x23, b"TLS_AES_128_GCM_SHA256"),
            (True, "TLSv1.3", "J\xfcrg", True),
            id="version and common name",
        ),
        pytest.param(0x01, 1, tlv(0x21, b""), (True, "", None, False), id="an empty version"),
    ],
)
def test_what_the_proxy_says_of_tls(
    client: int, verify: int, inner: bytes, expected: tuple[bool, str | None, str | None, bool]
) -> None:
    value = struct.pack("!BI", client, verify) + inner
    found = header(v2(INET, tlv(0x20, value)))
    assert (found.ssl, found.ssl_version, found.ssl_client_cn, found.ssl_verified) == expected
    assert found.tlvs == {0x20: value}


# --- The checksum ---


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert header(checked()).source is not None


@pytest.mark.parametrize("block", [pytest.param((INET, 0x11), id="IPv4"), pytest.param((INET6, 0x21), id="IPv6")])
@pytest.mark.parametrize("before", [b"", tlv(1, b"h2") + tlv(4, b"\x03\x00\x04")])
@pytest.mark.parametrize("after", [b"", tlv(2, b"mx.example.com"), tlv(0x20, b"\x01\0\0\0\0")])
def test_a_right_checksum(block: tuple[bytes, int], before: bytes, after: bytes) -> None:
    addresses, family = block
    assert header(checked(addresses, before, after, family=family)).source is not None


def test_the_checksum_covers_every_octet() -> None:
    wire = checked(INET, tlv(1, b"h2"))
    assert read(wire)[0] is not None
    types_and_lengths = {12, 14, 15, 28, 29, 30, 33, 34, 35}
    for position in sorted(set(range(12, len(wire))) - types_and_lengths):
        changed = bytearray(wire)
        changed[position] ^= 0x03  # 13: from TCP to UDP over IPv4, which is as good
        with pytest.raises(ProxyError, match="wrong checksum"):
            read(bytes(changed))
    changed = bytearray(wire)
    changed[28] ^= 0x03  # a TLV of another type
    with pytest.raises(ProxyError, match="wrong checksum"):
        read(bytes(changed))


def test_octets_behind_the_header_are_not_in_the_checksum() -> None:
    wire = checked()
    assert read(wire + b"EHLO x\r\n")[1] == len(wire)


# --- Anything ---


@given(st.binary(max_size=300), st.integers(1, 400))
@example(SIGNATURE, 1)
@example(SIGNATURE + b"\x21\x11\x00\x00", 3)
@example(b"PROXY UNKNOWN\r\n", 4)
def test_any_octets_are_a_header_or_an_error(wire: bytes, step: int) -> None:
    try:
        found, taken = read(wire, step)
    except ProxyError:
        return
    assert found is not None or taken == len(wire)


@given(
    st.integers(0x1E, 0x23),
    st.integers(0, 0x45),
    st.binary(max_size=240),
    st.lists(st.tuples(st.integers(0, 0x30), st.binary(max_size=20)), max_size=4),
)
def test_any_version_2_header_is_read_the_same_however_it_is_cut(
    lead: int, family: int, block: bytes, tlvs: list[tuple[int, bytes]]
) -> None:
    wire = v2(block, b"".join(tlv(*each) for each in tlvs), lead=lead, family=family)
    outcomes: list[object] = []
    for step in (None, 1, 13):
        try:
            outcomes.append(read(wire + b"x", step))
        except ProxyError as exc:
            outcomes.append(str(exc))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    if isinstance(outcomes[0], tuple):
        assert outcomes[0][1] == len(wire)


_ADDRESSES = st.one_of(
    st.tuples(st.just("TCP4"), st.ip_addresses(v=4), st.ip_addresses(v=4)),
    st.tuples(st.just("TCP6"), st.ip_addresses(v=6), st.ip_addresses(v=6)),
)


@given(_ADDRESSES, st.integers(0, 65_535), st.integers(0, 65_535))
def test_both_versions_say_the_same(ends: tuple[str, Any, Any], source: int, destination: int) -> None:
    family, ours, theirs = ends
    packed = ours.packed + theirs.packed + struct.pack("!HH", source, destination)
    line = f"PROXY {family} {ours} {theirs} {source} {destination}\r\n".encode()
    first = header(line)
    second = header(v2(packed, family=0x11 if family == "TCP4" else 0x21))
    assert (first.source, first.destination) == (second.source, second.destination)
    assert first.source is not None
    assert first.source[1] == source
    assert ip_address(first.source[0]) in (ours, getattr(ours, "ipv4_mapped", None))
