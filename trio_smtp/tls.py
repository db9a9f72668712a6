"""TLS contexts out of PEM files: a certificate, others by the name a client asks for (SNI), client certificates."""

from __future__ import annotations

import binascii
import logging
import re
import ssl
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

__all__ = ["MODERN_SUITES", "certificate_of", "create_context"]

logger: logging.Logger = logging.getLogger("trio_smtp")

#: A path to a PEM file.
_File = str | Path
_Password = str | bytes | Callable[[], str | bytes]

#: Suites of TLS 1.2 with forward secrecy and authenticated encryption (AEAD), as OpenSSL writes a list of them.
MODERN_SUITES = "ECDH+AESGCM:ECDH+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!aDSS"
#: The same, and behind them what clients of TLS 1.0 and 1.1 know.
_OLD_SUITES = f"{MODERN_SUITES}:ECDH+AES:DHE+AES:RSA+AES:!AESCCM"
#: Versions that OpenSSL lets in at its usual security level; others need level 0 from OpenSSL 3 on.
_MODERN = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED)

# OpenSSL loads certificates under these three labels. What a TRUSTED label encloses is more than the certificate.
_CERTIFICATE = r"(?ms)^-----BEGIN ((?:TRUSTED |X509 )?CERTIFICATE)-----(.*?)^-----END \1-----"
# The certificate (DER) that each context presents. Channel binding needs it (RFC 5929 section 4), and Python cannot ask
# a context for it.
_certificates: weakref.WeakKeyDictionary[ssl.SSLContext, bytes] = weakref.WeakKeyDictionary()


def create_context(
    cert: _File,
    key: _File | None = None,
    *,
    password: _Password | None = None,
    ca: _File | None = None,
    client_certificates: Literal["none", "optional", "required"] = "none",
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ciphers: str | None = None,
    sni: Mapping[str, tuple[_File, _File | None]] | None = None,
) -> ssl.SSLContext:
    """Make a server-side context from PEM files.

    Args:
        cert: The certificate, and behind it the chain.
        key: The private key; None: it is in `cert`.
        password: Of encrypted keys, or a function that returns it.
        ca: Certificates (a file, or a directory as OpenSSL has them) that client certificates are checked against.
        client_certificates: Whether clients are asked for a certificate. The handshake fails when a client presents one
            that does not pass the check; with ``"required"`` also when it presents none.
        min_version: The oldest TLS version to accept. One before TLS 1.2 lowers OpenSSL's security level to 0, which
            lets old ciphers and weak keys in as well; the log has a warning.
        ciphers: The suites of TLS 1.2 and older, as `ssl.SSLContext.set_ciphers` takes them. None: those with forward
            secrecy and authenticated encryption (AEAD); with an older `min_version` what its clients know besides.
        sni: Other certificates and keys by the name a client asks for: an exact name, or ``*.`` and a domain, which
            stands for any one label before that domain. For any other name, and for none, `cert` is presented.

    Returns:
        The context.

    RFC:
        RFC 6066 section 3 (SNI).

    Raises:
        OSError: A file cannot be read; the text names it.
        ValueError: A file does not hold what it should, or arguments contradict each other; the text names them.
    """
    if client_certificates not in ("none", "optional", "required"):
        raise ValueError(f"client_certificates must be 'none', 'optional' or 'required', not {client_certificates!r}")
    if client_certificates != "none" and ca is None:
        raise ValueError(f"client_certificates={client_certificates!r} needs ca, to check them against")
    ciphers = _suites(min_version, ciphers)
    context = _load(cert, key, password, min_version, ciphers)
    names = {_host_name(name): _load(*files, password, min_version, ciphers) for name, files in (sni or {}).items()}
    for each in (context, *names.values()):
        _ask_clients(each, ca, client_certificates)
    if names:
        context.sni_callback = _chooser(names)
    return context


def _suites(min_version: ssl.TLSVersion, ciphers: str | None) -> str:
    """The suites, with the security level that the oldest version needs; a low one is a warning in the log."""
    if min_version in _MODERN:
        return ciphers or MODERN_SUITES
    logger.warning("min_version lets TLS before 1.2 in: OpenSSL's security level is 0, and old ciphers are offered")
    ciphers = ciphers or _OLD_SUITES
    return ciphers if "@SECLEVEL" in ciphers else f"{ciphers}:@SECLEVEL=0"


def _load(
    cert: _File, key: _File | None, password: _Password | None, min_version: ssl.TLSVersion, ciphers: str
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as exc:
        raise ValueError(f"ciphers: {ciphers!r} names no usable suite") from exc
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python, for old versions: the log has a warning
        context.minimum_version = min_version
    # No client needs renegotiation, and attackers have used it; TLS 1.3 is without it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    for file in (cert, key):
        if file is not None:
            Path(file).read_bytes()  # raises an OSError that names the file; OpenSSL's error does not

    def ask() -> str | bytes:
        # Called for encrypted keys. If there were no such function, OpenSSL would ask on the terminal.
        if password is None:
            raise ValueError(f"{key or cert}: the key is encrypted, and no password was given")
        return password() if callable(password) else password

    try:
        context.load_cert_chain(cert, key, ask)
    except ssl.SSLError as exc:
        files = f"{cert}" if key is None else f"{cert} and {key}"
        what = f"{files}: no usable certificate and private key ({exc.reason or exc})"
        raise ValueError(what + _missing(cert, key)) from exc
    own = re.search(_CERTIFICATE, Path(cert).read_text("ascii", "replace"))
    if own is not None and not own[1].startswith("TRUSTED"):
        _certificates[context] = binascii.a2b_base64(own[2])
    return context


def _missing(cert: _File, key: _File | None) -> str:
    """What is not in the files, as more of an error's text."""
    if re.search(_CERTIFICATE, Path(cert).read_text("ascii", "replace")) is None:
        return f"; {cert} has no certificate"
    if "PRIVATE KEY-----" not in Path(key or cert).read_text("ascii", "replace"):
        return f"; {key or cert} has no private key" + ("" if key else ": name the key's file as well (key, --tls-key)")
    return ""


def _ask_clients(context: ssl.SSLContext, ca: _File | None, client_certificates: str) -> None:
    if ca is None:
        return
    context.verify_mode = {
        "none": ssl.CERT_NONE,
        "optional": ssl.CERT_OPTIONAL,
        "required": ssl.CERT_REQUIRED,
    }[client_certificates]
    try:
        if Path(ca).is_dir():
            context.load_verify_locations(capath=ca)
        else:
            Path(ca).read_bytes()
            context.load_verify_locations(cafile=ca)
    except ssl.SSLError as exc:
        raise ValueError(f"{ca}: no usable certificates ({exc.reason or exc})") from exc


def _host_name(name: str) -> str:
    lowered = name.lower().rstrip(".")
    if not re.fullmatch(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", lowered):
        raise ValueError(f"sni: {name!r} is no host name in ASCII, and none with '*.' before it")
    return lowered


def _chooser(
    names: Mapping[str, ssl.SSLContext],
) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    def choose(sslobj: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        wanted = (name or "").lower().rstrip(".")
        chosen = names.get(wanted) or names.get("*." + wanted.partition(".")[2])
        if chosen is not None:
            sslobj.context = chosen

    return choose


def certificate_of(context: ssl.SSLContext) -> bytes | None:
    """The certificate that a context presents when clients ask for no name.

    Args:
        context: Any context.

    Returns:
        The certificate in DER, or None: `create_context` did not make the context, or the certificate's label is
        ``TRUSTED CERTIFICATE``.
    """
    return _certificates.get(context)
