"""Where messages go: plugins that store or pass on what was accepted.

Each is a function in a module of the same name: ``from trio_smtp.delivery.maildir import maildir``.
"""

from __future__ import annotations

__all__: list[str] = []
