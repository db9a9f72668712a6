"""Plugins that many servers want, each a small file on the public API alone: read one to see how yours would look."""

from __future__ import annotations

from trio_smtp.plugins.denylist import denylist as denylist
from trio_smtp.plugins.logger import logger as logger
from trio_smtp.plugins.password_file import password_file as password_file
from trio_smtp.plugins.received_loop import received_loop as received_loop
from trio_smtp.plugins.recipient_filter import recipient_filter as recipient_filter
from trio_smtp.plugins.sender_block import sender_block as sender_block

__all__ = ["denylist", "logger", "password_file", "received_loop", "recipient_filter", "sender_block"]
