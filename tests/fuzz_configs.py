"""The Configs under which fuzz/fuzz.py speaks with a server; test_golden.py records its seeds under them."""

from __future__ import annotations

from functools import partial

from trio_smtp import Config, Session
from trio_smtp.protocol import sasl

__all__ = ["FUZZ_CONFIGS"]

_config = partial(Config, hostname="mx.example")


async def _no_secret(username: str, session: Session) -> None:
    return None


FUZZ_CONFIGS: dict[str, Config] = {
    "defaults": _config(max_errors=1000),
    "everything": _config(
        max_errors=1000,
        strict_addresses=False,
        unknown_parameters="allow",
        bare_newline="normalize",
        allow_insecure_auth=True,
        auth_mechanisms=[name for name in sasl.MECHANISMS if not name.endswith("-PLUS")],
        scram_lookup=_no_secret,
        max_auth_failures=1000,
        dsn=True,
        binarymime=True,
        requiretls=True,
        deliver_by=10,
        mt_priority=True,
        future_release=10**6,
        xclient=["192.0.2.1"],
        xforward=["192.0.2.1"],
        max_data_line=100,
        max_message_size=1000,
    ),
    "lmtp": _config(max_errors=1000, lmtp=True, max_recipients=3, max_message_size=None),
    "auth": _config(auth_required=True, allow_insecure_auth=True, max_command_line=512),
}
