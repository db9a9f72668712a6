"""Decoding of parameters' values: xtext (RFC 3461 section 4), and keywords put into upper case."""

from __future__ import annotations

import re

__all__ = ["decode_xtext", "upper_ascii"]

# Seldom used: re compiles the patterns when they are, and keeps them.
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*"
_HEXCHAR = r"(?:\+[0-9A-Fa-f]{2})+"


def decode_xtext(value: str) -> str:
    """Decode xtext; octets that are not ASCII are read as UTF-8, and hexadecimal digits in lower case too.

    Raises:
        ValueError: The value is not xtext, or its octets are not UTF-8.

    RFC: RFC 3461 section 4.
    """
    if not re.fullmatch(_XTEXT, value):
        raise ValueError("not valid xtext")
    if "+" not in value:
        return value
    try:
        return re.sub(_HEXCHAR, lambda match: bytes.fromhex(match[0].replace("+", "")).decode(), value)
    except UnicodeDecodeError:
        raise ValueError("not valid xtext") from None


def upper_ascii(value: str | bool) -> str:
    """Put a parameter's value in upper case.

    Returns:
        ``""`` for a parameter without a value, and for a value that is not ASCII: the upper case of a dotless i is an
        ASCII I, which would make a keyword of a word that is none.
    """
    return value.upper() if isinstance(value, str) and value.isascii() else ""
