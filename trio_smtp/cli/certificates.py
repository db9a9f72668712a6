"""The certificates of the command's listeners: the settings they come from, and how they are loaded anew."""

from __future__ import annotations

import logging
import ssl
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

from trio_smtp import SMTPServer
from trio_smtp.tls import MODERN_SUITES, create_context

from .errors import RUNTIME, CommandError, reason_of

__all__ = ["client_context", "make_context", "reload_certificates"]

logger: logging.Logger = logging.getLogger("trio_smtp")


_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


@attrs.frozen
class _Files:
    """The files of a context, from which it can be made again."""

    cert: Path
    arguments: Mapping[str, Any]

    def load(self) -> ssl.SSLContext:
        return create_context(self.cert, **self.arguments)


# The files that the context of a listener was made of.
_sources: weakref.WeakKeyDictionary[ssl.SSLContext, _Files] = weakref.WeakKeyDictionary()


def make_context(settings: Mapping[str, Any], where: str, directory: Path) -> ssl.SSLContext:
    """Make a listener's context.

    Args:
        settings: The settings that begin with ``tls_``.
        where: Names the listener in errors.
        directory: Relative paths start here.

    Raises:
        CommandError: The settings contradict each other, or a file cannot be used.
    """
    if "tls_cert" not in settings:
        for option in settings:
            if option != "tls_self_signed":
                raise CommandError(f"{where}{option} needs tls_cert")
        return _self_signed()
    if settings.get("tls_self_signed"):
        raise CommandError(f"{where}tls_self_signed contradicts tls_cert")
    arguments: dict[str, Any] = {"sni": _names(settings.get("tls_sni", ()), where, directory)}
    for option, argument in (("tls_key", "key"), ("tls_client_ca", "ca")):
        if option in settings:
            arguments[argument] = directory / settings[option]
    if "tls_min_version" in settings:
        arguments["min_version"] = _version(settings["tls_min_version"], where)
    if "tls_client_certificates" in settings:
        arguments["client_certificates"] = settings["tls_client_certificates"]
    files = _Files(directory / settings["tls_cert"], arguments)
    try:
        context = files.load()
    except OSError as error:
        raise CommandError(f"{where}cannot read {error.filename}: {reason_of(error)}", RUNTIME) from error
    except ValueError as error:
        raise CommandError(f"{where}{error}", RUNTIME) from error
    _sources[context] = files
    return context


def _version(text: str, where: str) -> ssl.TLSVersion:
    version = _VERSIONS.get(text)
    if version is None:
        raise CommandError(f"{where}tls_min_version must be one of {', '.join(_VERSIONS)}, not {text!r}")
    return version


def _names(entries: Iterable[str], where: str, directory: Path) -> dict[str, tuple[Path, Path | None]]:
    """Read ``NAME=CERT:KEY``, or ``NAME=CERT`` where the certificate's file has the key."""
    names: dict[str, tuple[Path, Path | None]] = {}
    for entry in entries:
        name, _, files = entry.partition("=")
        cert, colon, key = files.partition(":")
        if not name or not cert or bool(colon) is not bool(key):
            raise CommandError(f"{where}tls_sni must be NAME=CERT:KEY, not {entry!r}")
        if name in names:
            raise CommandError(f"{where}tls_sni has {name} twice")
        names[name] = directory / cert, directory / key if key else None
    return names


def _self_signed() -> ssl.SSLContext:
    try:
        import trustme
    except ImportError as error:
        raise CommandError(
            "tls_self_signed needs the extra testing: pip install 'trio-smtp[testing]'", RUNTIME
        ) from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_ciphers(MODERN_SUITES)
    trustme.CA().issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context


def client_context(ca: str | None, *, verify: bool) -> ssl.SSLContext:
    """Make a client's context.

    Args:
        ca: A PEM file of the authorities to trust; None: the system's.
        verify: False: any certificate will do.

    Raises:
        CommandError: The file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise CommandError(f"cannot use {ca}: {reason_of(error)}", RUNTIME) from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def reload_certificates(server: SMTPServer) -> Path | None:
    """Load a listener's certificates anew, for handshakes from now on.

    When they cannot be loaded, the certificates in force stay, and the log says why.

    Args:
        server: The listener's server; nothing is done when its context was not made of files.

    Returns:
        The certificate's file, or None when nothing was loaded.
    """
    context = server.config.ssl_context
    files = _sources.get(context) if context is not None else None
    if files is None:
        return None
    try:
        server.reload_tls(await trio.to_thread.run_sync(files.load))
    except (OSError, ValueError) as error:
        logger.error("the certificates in force stay: %s", error)
        return None
    return files.cert
