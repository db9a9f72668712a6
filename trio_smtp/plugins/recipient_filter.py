"""Take mail for one's own domains only."""

from __future__ import annotations

from collections.abc import Iterable

from trio_smtp import App, Plugin, RcptToContext
from trio_smtp.plugins._domains import domain_set

__all__ = ["recipient_filter"]


def recipient_filter(domains: Iterable[str], *, message: str = "Relay access denied") -> Plugin:
    """Refuse recipients outside of some domains with 550 5.7.1 at RCPT.

    `postmaster` without a domain is always let through, as every server has to. Subdomains are domains of their own.

    Args:
        domains: The domains mail is taken for, in Unicode or with A-labels (``xn--``), in any case; address literals
            with their brackets.
        message: The text of the refusal.

    Returns:
        A plugin.

    Raises:
        ValueError: `domains` is empty, or something in it is no domain.

    Example:
        >>> app.use(recipient_filter(["example.com", "example.org"]))

    RFC: RFC 5321 sections 3.6.2, 4.5.1 and 7.9.
    """
    accepted = domain_set(domains)
    if not accepted:
        raise ValueError("domains must name at least one domain: without any no recipient could pass")

    async def refuse_others(ctx: RcptToContext) -> None:
        address = ctx.address
        if address.domain in accepted or (not address.domain and address.local_part.lower() == "postmaster"):
            return
        ctx.reject(message, 550, enhanced="5.7.1")

    def install(app: App) -> None:
        app.on_rcpt_to(refuse_others)

    return install
