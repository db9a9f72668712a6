"""What a client is told when a delivery cannot store its message."""

from __future__ import annotations

import errno

from trio_smtp import SMTPError

__all__ = ["refusal"]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def refusal(error: OSError) -> SMTPError:
    """452 4.3.1 for a full disk or an exceeded quota, 451 4.3.0 for any other failure; raise it from the error."""
    if error.errno in _NO_SPACE:
        return SMTPError("Insufficient system storage", 452, "4.3.1")
    return SMTPError("Local error in processing", 451, "4.3.0")
