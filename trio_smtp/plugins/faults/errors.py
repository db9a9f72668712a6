"""The error of a rule that cannot be."""

from __future__ import annotations

__all__ = ["RuleError"]


class RuleError(ValueError):
    """A rule is malformed: the text names the field, and what is allowed."""
