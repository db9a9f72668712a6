"""Makes text of octets, and of the encoded words in header fields; never raises, whatever the character set is."""

from __future__ import annotations

import base64
import binascii
import codecs
import quopri
import re

__all__ = ["decode_text", "decode_words"]

#: Codecs of Python that are no character sets, or take time out of proportion.
_NO_CHARSETS = frozenset({"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"})
#: The encoded text ends before the next "=?", unless that is a padding and the end of the word ("=?="): each character
#: is looked at for one word alone, however many words begin and never end.
_WORD = re.compile(r"=\?([A-Za-z0-9_.:+*-]{1,40})\?([bBqQ])\?((?:(?!=\?[^=])[!-~ ])*?)\?=")
#: What stands between two encoded words is left out (RFC 2047 section 6.2).
_BETWEEN = re.compile(r"(\?=)[ \t\r\n]+(?==\?[A-Za-z0-9_.:+*-]{1,40}\?[bBqQ]\?)")


def decode_text(octets: bytes, charset: str = "utf-8") -> str:
    """Decode a text: in its character set, or else as UTF-8, or else as Latin-1, which has a letter for every octet.

    Args:
        octets: The text as it was sent.
        charset: What the message calls its character set; any string.

    Returns:
        The text, lines ended by LF, without surrogates.
    """
    text = _decoded(octets, charset)
    if text is None:
        text = _decoded(octets, "utf-8")
    text = octets.decode("latin-1") if text is None else text
    return text.replace("\r\n", "\n").encode("utf-8", "replace").decode()


def decode_words(text: str) -> str:
    """Decode the encoded words in a header field; those that cannot be decoded stay as they are.

    Args:
        text: The field's text.

    RFC: RFC 2047.
    """
    if "=?" not in text:
        return text
    return _WORD.sub(_decode_word, _BETWEEN.sub(r"\1", text))


def _decode_word(match: re.Match[str]) -> str:
    charset, encoding, encoded = match[1].partition("*")[0], match[2].lower(), match[3]
    try:
        if encoding == "b":
            octets = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
        else:
            octets = quopri.decodestring(encoded.replace("_", "=20").encode("ascii"), header=False)
    except binascii.Error:
        return match[0]
    decoded = _decoded(octets, charset)
    if decoded is None:
        return match[0]
    # Line ends and other control characters would make a second field of it, where somebody shows it; surrogates that
    # some character sets have cannot be shown.
    return "".join(character if character.isprintable() else " " for character in decoded)


def _decoded(octets: bytes, charset: str) -> str | None:
    """The text; None: the octets are none of that character set, or there is no such set."""
    try:
        codec = codecs.lookup(charset)
        if codec.name.replace("-", "_") in _NO_CHARSETS:
            return None
        # bytes.decode takes no codecs that are not for text.
        return octets.decode(codec.name)
    except (LookupError, ValueError, TypeError):
        return None
