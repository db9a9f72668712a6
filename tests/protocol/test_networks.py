"""IP addresses: their canonical form, trusted networks, what counts as one host."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from trio_smtp.protocol.networks import canonical, host_key, to_networks, trusts


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", id="IPv4"),
        pytest.param("2001:DB8:0:0:0:0:0:1", "2001:db8::1", id="RFC 5952: IPv6, shortened and in lower case"),
        pytest.param("::", "::", id="the unspecified address"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", id="IPv4-mapped IPv6"),
        pytest.param("::ffff:c000:201", "192.0.2.1", id="IPv4-mapped IPv6 in hexadecimal"),
        pytest.param("fe80::1%eth0", "fe80::1", id="RFC 4007: a zone is dropped"),
        pytest.param("::ffff:192.0.2.1%1", "192.0.2.1", id="IPv4-mapped IPv6 with a zone"),
    ],
)
def test_canonical(address: str, expected: str) -> None:
    assert canonical(address) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize("address", ["1::2::3", "unix:/run/socket", "[::1]:25", "::1/64"])
def test_what_has_a_colon_and_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(address)


NETWORKS = to_networks(["10.0.0.0/8", ip_network("2001:db8::/32"), "192.0.2.1"])


def test_networks_are_read() -> None:
    assert (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("192.0.2.1/32")) == NETWORKS
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        to_networks(["10.0.0.1/8"])


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8:1::1", True),
        ("2001:db9::1", False),
        ("::1", False),
        (None, False),
    ],
)
def test_trusts(address: str | None, trusted: bool) -> None:
    assert trusts(NETWORKS, address) is trusted
    assert trusts((), address) is False


@pytest.mark.parametrize(
    ("address", "key"),
    [
        pytest.param(None, "", id="no address"),
        pytest.param("192.0.2.1", "192.0.2.1", id="IPv4"),
        pytest.param("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="IPv6: its network of 64 bits"),
    ],
)
def test_host_key(address: str | None, key: str) -> None:
    assert host_key(address) == key
