"""Turn away clients by address."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from trio_smtp import App, ConnectContext, Plugin

__all__ = ["denylist"]

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network


def denylist(addresses: Iterable[str | _Address | _Network], *, message: str = "Access denied") -> Plugin:
    """Refuse connections from addresses and networks with 554 5.7.1, in place of the greeting.

    A look-up costs one step for each length of prefix in the list, however long the list is. Clients without an
    address (on a Unix socket, or in memory) are let in.

    Args:
        addresses: Addresses and networks, IPv4 and IPv6, such as ``"192.0.2.1"`` and ``"2001:db8::/32"``.
        message: The text of the refusal.

    Returns:
        A plugin.

    Raises:
        ValueError: Something in `addresses` is neither an address nor a network.

    Example:
        >>> app.use(denylist(["192.0.2.1", "198.51.100.0/24", "2001:db8::/32"]))

    RFC: RFC 5321 section 3.1 (554 in place of the greeting).
    """
    if isinstance(addresses, str | bytes):
        raise ValueError(f"addresses must be several addresses, such as [{addresses!r}], not one string")
    networks = frozenset(map(_network, addresses))
    prefixes = {version: sorted({n.prefixlen for n in networks if n.version == version}) for version in (4, 6)}

    async def refuse_denied(ctx: ConnectContext) -> None:
        if ctx.session.remote_address is None:
            return
        # A link-local address may have its interface behind it, as in fe80::1%eth0.
        peer = ip_address(ctx.session.remote_address.partition("%")[0])
        if any(ip_network((peer, prefix), strict=False) in networks for prefix in prefixes[peer.version]):
            ctx.reject(message, 554, enhanced="5.7.1")

    def install(app: App) -> None:
        app.on_connect(refuse_denied)

    return install


def _network(entry: str | _Address | _Network) -> _Network:
    if not isinstance(entry, str | _Address | _Network):
        # ip_network takes a number for an address, which is a mistake in a list of addresses.
        raise ValueError(f"addresses must be IP addresses and networks, not {entry!r}")
    try:
        network = ip_network(entry)
    except ValueError as error:
        raise ValueError(f"addresses must be IP addresses and networks, not {entry!r}: {error}") from None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        # A session shows an IPv4-mapped address as IPv4.
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network
