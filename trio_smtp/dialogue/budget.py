"""What one client may use up: errors, failed logins, transactions, octets of refused messages, patience."""

from __future__ import annotations

import math

from trio_smtp.app.config import Config

__all__ = ["Budget", "discard_bound"]

#: So many times `command_timeout` may pass without a message: else a NOOP now and then would hold a place for ever.
_PATIENCE = 12
#: The least bound on what is read and thrown away for a message that is refused, in octets.
_MIN_DROPPED = 16 * 1024 * 1024


def discard_bound(config: Config) -> float:
    """The most octets of a message that are read only to be thrown away."""
    most = config.max_message_size
    return math.inf if most is None else max(_MIN_DROPPED, 2 * most)


class Budget:
    """Counts what one client has used up.

    Args:
        config: The bounds.
        now: When the session begins, in seconds.

    Attributes:
        errors: Protocol errors since the last message was accepted.
        auth_failures: Refused logins.
        dropped: Octets of refused chunks since the transaction began.
        patience_ends: When a client that has no message accepted until then is not waited for any more.
    """

    __slots__ = ("_config", "_mail_commands", "_plain_commands", "auth_failures", "dropped", "errors", "patience_ends")

    def __init__(self, config: Config, now: float) -> None:
        self._config = config
        self._mail_commands = 0
        self._plain_commands = 0
        self.dropped: int = 0
        self.errors: int = 0
        self.auth_failures: int = 0
        self.patience_ends: float = now + _PATIENCE * config.command_timeout

    def take_mail(self, most: int) -> bool:
        """Count a MAIL, refused ones as well (RFC 9422 section 4); False: there are more than `most` now."""
        self._mail_commands += 1
        return self._mail_commands <= most

    def take_plain_command(self) -> bool:
        """Count a command before an authentication that is required; False: it is one too many."""
        most = self._config.max_unauthenticated_commands
        if most is None:
            return True
        self._plain_commands += 1
        return self._plain_commands <= most

    def take_error(self) -> bool:
        """Count a protocol error; False: it is one too many."""
        self.errors += 1
        return self.errors < self._config.max_errors

    def take_auth_failure(self) -> bool:
        """Count a refused login; False: it is one too many."""
        self.auth_failures += 1
        return self.auth_failures < self._config.max_auth_failures

    def take_drop(self, size: int) -> float:
        """Count a refused chunk of so many octets; returns how many octets of it may still be dropped."""
        left = discard_bound(self._config) - self.dropped
        self.dropped += size
        return left

    def begin_transaction(self) -> None:
        """Count dropped chunks anew: they are counted for each message."""
        self.dropped = 0

    def accept_message(self, now: float) -> None:
        """A message was accepted: the client means well."""
        self.errors = 0
        self.patience_ends = now + _PATIENCE * self._config.command_timeout
