"""Reads mail as people see it: text of fields, addresses, bodies, attachments, links, codes. Nothing in here raises.

A stranger's message may be broken in any way: two subjects, an unknown character set, a boundary that never comes,
parts nested a thousand deep. Each function gives what can be read, and an empty text or list where there is nothing.

The functions take any message of the package `email`; `read_octets` makes one that suits them best.
"""

from __future__ import annotations

from .addresses import mailboxes_in
from .message import (
    Attachment,
    attachments,
    field_addresses,
    fields,
    html_body,
    message_text,
    read_octets,
    text_body,
)
from .texts import code_in, links, text_of_html
from .words import decode_text, decode_words

__all__ = [
    "Attachment",
    "attachments",
    "code_in",
    "decode_text",
    "decode_words",
    "field_addresses",
    "fields",
    "html_body",
    "links",
    "mailboxes_in",
    "message_text",
    "read_octets",
    "text_body",
    "text_of_html",
]
