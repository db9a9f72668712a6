"""IP addresses: the form in which they are shown and compared, trusted networks, and what counts as one host."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

__all__ = ["Network", "canonical", "host_key", "to_networks", "trusts"]

#: A network of IP addresses.
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def canonical(address: str) -> str:
    """Write an address in the form that sessions, logs and comparisons use.

    Args:
        address: IPv4 or IPv6, as a socket or a front end gives it.

    Returns:
        IPv6 in its canonical form without its zone, IPv4-mapped IPv6 as IPv4. A text without a colon is returned
        unchanged and unchecked, because IPv4 has only one form.

    Raises:
        ValueError: The address has a colon and is not IPv6.

    RFC: RFC 5952; RFC 4291 section 2.5.5.2; RFC 4007 section 11 (the zone).
    """
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    return str(ip.ipv4_mapped or ip)


def to_networks(networks: Iterable[Network | str]) -> tuple[Network, ...]:
    """Read networks, such as ``"10.0.0.0/8"``; a single address is a network of one.

    Raises:
        ValueError: An entry is not a network.
    """
    return tuple(each if isinstance(each, Network) else ipaddress.ip_network(each) for each in networks)


def trusts(networks: Iterable[Network], address: str | None) -> bool:
    """Whether an address is inside one of the networks; None, a peer without an address, never is.

    Raises:
        ValueError: There are networks, and `address` is not an IP address.
    """
    if not networks or address is None:
        return False
    ip = ipaddress.ip_address(address)
    return any(ip in network for network in networks)


def host_key(address: str | None) -> str:
    """What connections are counted by: an IPv4 address, or an IPv6 network of 64 bits.

    One host can have all addresses of such a network (RFC 4291 section 2.5.1).

    Args:
        address: In the form that `canonical` gives, or None.

    Returns:
        ``""`` for None.
    """
    if address is None or ":" not in address:
        return address or ""
    return str(ipaddress.ip_network((address, 64), strict=False))
