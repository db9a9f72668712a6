"""Refuse mail by the sender's domain."""

from __future__ import annotations

from collections.abc import Iterable

from trio_smtp import App, MailFromContext, Plugin
from trio_smtp.plugins._domains import domain_set

__all__ = ["sender_block"]


def sender_block(domains: Iterable[str], *, message: str = "Sender rejected") -> Plugin:
    """Refuse senders of some domains, and of every subdomain of them, with 550 5.7.1 at MAIL.

    The null sender ``<>`` has no domain and passes.

    Args:
        domains: Domain names, in Unicode or with A-labels (``xn--``), in any case.
        message: The text of the refusal.

    Returns:
        A plugin.

    Raises:
        ValueError: Something in `domains` is no domain name.

    Example:
        >>> app.use(sender_block(["spam.example"]))  # bulk.spam.example too

    RFC: RFC 5321 section 7.9.
    """
    blocked = domain_set(domains)

    async def refuse_blocked(ctx: MailFromContext) -> None:
        domain = ctx.address.domain
        while domain:
            if domain in blocked:
                ctx.reject(message, 550, enhanced="5.7.1")
            domain = domain.partition(".")[2]

    def install(app: App) -> None:
        app.on_mail_from(refuse_blocked)

    return install
