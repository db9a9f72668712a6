"""An inbox for development: catches what programs send, and shows it on web pages and by Mailpit's API."""

from __future__ import annotations

from .inbox import Inbox as Inbox

__all__ = ["Inbox"]
