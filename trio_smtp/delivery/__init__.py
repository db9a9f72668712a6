"""Where messages go: plugins that store or pass on what was accepted."""

from __future__ import annotations

from trio_smtp.delivery.maildir import maildir as maildir

__all__ = ["maildir"]
