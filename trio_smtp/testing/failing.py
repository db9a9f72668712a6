"""Failing: a method for each act of the failure rules."""

from __future__ import annotations

from typing import Unpack

from trio_smtp.plugins.faults import CertificateFault, Place, Rule, Rules, When

__all__ = ["Failing"]


class Failing:
    """Something that can be told to fail.

    Each method adds a rule, which the methods return: ``rule.hits`` says how often it has acted. The filters and counts
    are those of `trio_smtp.plugins.faults.Rule`: ``to``, ``sender``, ``user``, ``peer``, ``times``, ``after``,
    ``every``, ``probability``, ``seed``.

    """

    def __init__(self) -> None:
        self._rules = Rules()

    @property
    def rules(self) -> Rules:
        """The rules, in order; see `trio_smtp.plugins.faults.Rules`.

        Raises:
            RuntimeError: This is a process that was forked from the server's, which would not see a change.
        """
        self._check_process()
        return self._rules

    def _check_process(self) -> None:
        """Raises RuntimeError in a process that was forked from the server's."""

    def fail(
        self,
        at: Place,
        code: int = 451,
        text: str = "Failed by a rule",
        *,
        enhanced: str | None = None,
        **when: Unpack[When],
    ) -> Rule:
        """Refuse with a reply."""
        return self.rules.fail(at, code, text, enhanced=enhanced, **when)

    def delay(self, at: Place, seconds: float, **when: Unpack[When]) -> Rule:
        """Wait before going on."""
        return self.rules.delay(at, seconds, **when)

    def disconnect(self, at: Place, *, before_reply: bool = True, **when: Unpack[When]) -> Rule:
        """Close the connection; at ``end`` the message was taken, and the client cannot know that."""
        return self.rules.disconnect(at, before_reply=before_reply, **when)

    def reset(self, at: Place, **when: Unpack[When]) -> Rule:
        """Reset the connection without a reply."""
        return self.rules.reset(at, **when)

    def throttle(self, at: Place, octets_per_second: float, **when: Unpack[When]) -> Rule:
        """Read a ``body`` slowly; elsewhere hold the reply back."""
        return self.rules.throttle(at, octets_per_second, **when)

    def rate_limit(self, at: Place, count: int, per: float, **when: Unpack[When]) -> Rule:
        """Let `count` events pass in `per` seconds, and refuse the others."""
        return self.rules.rate_limit(at, count, per, **when)

    def greylist(self, seconds: float, **when: Unpack[When]) -> Rule:
        """Refuse a recipient until so many seconds after the first try."""
        return self.rules.greylist(seconds, **when)

    def garbage(self, at: Place, **when: Unpack[When]) -> Rule:
        """Send a line that is no reply."""
        return self.rules.garbage(at, **when)

    def truncate(self, at: Place, **when: Unpack[When]) -> Rule:
        """Send half a reply, and nothing after it."""
        return self.rules.truncate(at, **when)

    def no_starttls(self, **when: Unpack[When]) -> Rule:
        """Do not offer STARTTLS."""
        return self.rules.no_starttls(**when)

    def bad_certificate(self, fault: CertificateFault, **when: Unpack[When]) -> Rule:
        """Present a certificate that clients should refuse: ``"expired"``, ``"self-signed"`` or ``"wrong-host"``."""
        return self.rules.bad_certificate(fault, **when)

    def close_after(self, octets: int, **when: Unpack[When]) -> Rule:
        """Close the connection in the body, after so many octets."""
        return self.rules.close_after(octets, **when)
