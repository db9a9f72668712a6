"""XCLIENT and XFORWARD attributes, by Postfix's XCLIENT_README and XFORWARD_README."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.xclient import XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES, parse_attributes


@pytest.mark.parametrize(
    ("argument", "attributes"),
    [
        pytest.param(
            "NAME=spike.porcupine.org ADDR=168.100.189.2",
            {"NAME": "spike.porcupine.org", "ADDR": "168.100.189.2"},
            id="XCLIENT_README, first example",
        ),
        pytest.param(
            "HELO=spike.porcupine.org PROTO=ESMTP", {"HELO": "spike.porcupine.org", "PROTO": "ESMTP"}, id="the second"
        ),
        pytest.param("name=a.example", {"NAME": "a.example"}, id="names in any case"),
        pytest.param("NAME=a.example  ADDR=192.0.2.1 ", {"NAME": "a.example", "ADDR": "192.0.2.1"}, id="more spaces"),
        pytest.param("NAME=[UNAVAILABLE]", {"NAME": None}, id="no name"),
        pytest.param("NAME=[tempunavail]", {"NAME": None}, id="a name that cannot be had now, in any case"),
        pytest.param("ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE]", {"ADDR": None, "PORT": None}, id="no address"),
        pytest.param("ADDR=IPV6:2001:DB8:0:0::1", {"ADDR": "2001:db8::1"}, id="IPv6, made canonical"),
        pytest.param("ADDR=ipv6:::1", {"ADDR": "::1"}, id="the prefix in any case"),
        pytest.param("ADDR=IPV6:::ffff:192.0.2.1", {"ADDR": "192.0.2.1"}, id="IPv4-mapped IPv6 as IPv4"),
        pytest.param("PORT=0", {"PORT": "0"}, id="the least port"),
        pytest.param("PORT=65535", {"PORT": "65535"}, id="the last port"),
        pytest.param("LOGIN=user+40example.com", {"LOGIN": "user@example.com"}, id="xtext"),
        pytest.param("LOGIN=a+20b", {"LOGIN": "a b"}, id="a space, encoded"),
        pytest.param(
            "DESTADDR=192.0.2.9 DESTPORT=25 REVERSE_NAME=x.example",
            {"DESTADDR": "192.0.2.9", "DESTPORT": "25", "REVERSE_NAME": "x.example"},
            id="where it came to",
        ),
        pytest.param("PROTO=smtp", {"PROTO": "smtp"}, id="a protocol in any case"),
        pytest.param("PROTO=LMTP", {"PROTO": "LMTP"}, id="LMTP"),
        pytest.param(f"HELO={'x' * 255}", {"HELO": "x" * 255}, id="255 octets"),
        pytest.param(f"HELO={'+78' * 255}", {"HELO": "x" * 255}, id="255 octets, decoded"),
    ],
)
def test_xclient(argument: str, attributes: dict[str, str | None]) -> None:
    assert parse_attributes(argument, "XCLIENT") == attributes


@pytest.mark.parametrize(
    ("argument", "attributes"),
    [
        pytest.param(
            "NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP",
            {"NAME": "spike.porcupine.org", "ADDR": "168.100.189.2", "PROTO": "ESMTP"},
            id="XFORWARD_README, the example",
        ),
        pytest.param("HELO=spike.porcupine.org", {"HELO": "spike.porcupine.org"}, id="its second line"),
        pytest.param("IDENT=4F2A SOURCE=LOCAL", {"IDENT": "4F2A", "SOURCE": "LOCAL"}, id="a queue's name"),
        pytest.param("SOURCE=remote PORT=25", {"SOURCE": "remote", "PORT": "25"}, id="from elsewhere"),
        pytest.param("PROTO=QMQP", {"PROTO": "QMQP"}, id="another protocol"),
        pytest.param("ADDR=[UNAVAILABLE]", {"ADDR": None}, id="no address"),
    ],
)
def test_xforward(argument: str, attributes: dict[str, str | None]) -> None:
    assert parse_attributes(argument, "XFORWARD") == attributes


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param("", id="nothing"),
        pytest.param("   ", id="spaces"),
        pytest.param("NAME", id="no value"),
        pytest.param("NAME=", id="an empty value"),
        pytest.param("=x", id="no name"),
        pytest.param("COLOUR=red", id="another name"),
        pytest.param("IDENT=x", id="one of XFORWARD's"),
        pytest.param("NAME=a name=b", id="twice"),
        pytest.param("NAME=a+2", id="half a hexchar"),
        pytest.param("NAME=a=b", id="no xtext"),
        pytest.param("NAME=+00", id="a NUL"),
        pytest.param("HELO=+0D+0AQUIT", id="a line end"),
        pytest.param("LOGIN=+C3+BC", id="not ASCII"),
        pytest.param(f"HELO={'x' * 256}", id="256 octets"),
        pytest.param("ADDR=mx.example.com", id="no address"),
        pytest.param("ADDR=192.0.2", id="half an address"),
        pytest.param("ADDR=192.0.2.01", id="a leading zero"),
        pytest.param("ADDR=2001:db8::1", id="IPv6 without its prefix"),
        pytest.param("ADDR=IPV6:192.0.2.1", id="IPv4 with the prefix"),
        pytest.param("ADDR=IPV6:", id="the prefix alone"),
        pytest.param("ADDR=IPV6:fe80::1%eth0", id="a zone"),
        pytest.param("DESTADDR=x", id="no address either"),
        pytest.param("PORT=65536", id="a port too high"),
        pytest.param("PORT=-1", id="a negative port"),
        pytest.param("PORT=+2B25", id="a signed port"),
        pytest.param("DESTPORT=smtp", id="a named port"),
        pytest.param("PORT=000025", id="six digits"),
        pytest.param("PROTO=HTTP", id="another protocol"),
        pytest.param("NAME=good.example PORT=bad", id="one good, one bad"),
    ],
)
def test_what_xclient_refuses(argument: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_attributes(argument, "XCLIENT")
    assert (caught.value.code, caught.value.enhanced) == (501, "5.5.4")


@pytest.mark.parametrize(
    "argument",
    [
        pytest.param("HELO=a+20b", id="white space"),
        pytest.param("LOGIN=x", id="one of XCLIENT's"),
        pytest.param("SOURCE=ELSEWHERE", id="another source"),
        pytest.param("ADDR=x", id="no address"),
    ],
)
def test_what_xforward_refuses(argument: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_attributes(argument, "XFORWARD")
    assert (caught.value.code, caught.value.enhanced) == (501, "5.5.4")


@given(
    st.one_of(
        st.text(),
        st.lists(st.tuples(st.sampled_from([*XCLIENT_ATTRIBUTES, *XFORWARD_ATTRIBUTES]), st.text()).map("=".join)).map(
            " ".join
        ),
    ),
    st.sampled_from(["XCLIENT", "XFORWARD"]),
)
def test_values_are_printable_ascii_whatever_is_sent(argument: str, verb: str) -> None:
    try:
        found = parse_attributes(argument, verb)
    except ProtocolError:
        return
    assert found
    for name, value in found.items():
        assert name in (XCLIENT_ATTRIBUTES if verb == "XCLIENT" else XFORWARD_ATTRIBUTES)
        assert value is None or (value.isascii() and value.isprintable() and len(value) <= 255)
