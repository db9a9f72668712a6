"""A Dovecot of our own: its LMTP server with Sieve and quotas, on a Unix socket, until the test ends."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from tests.front_ends_support import LIFETIME, PATIENCE

CONF = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = root
default_internal_group = root
default_login_user = root
mail_location = maildir:{directory}/mail/%n
mail_home = {directory}/mail/%n/home
mail_save_crlf = yes
lda_mailbox_autocreate = yes
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {directory}/users
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
protocol lmtp {{
  mail_plugins = sieve quota
}}
plugin {{
  sieve = file:{directory}/sieve/%n.sieve
  quota = maildir:User quota
  quota_rule = *:storage=100M
}}
"""
#: Whom it has; nobody else.
USERS = {"alice": "", "bob": "", "full": "userdb_quota_rule=*:bytes=10B"}
NOBODY = 65_534


@attrs.frozen
class Dovecot:
    """One that runs."""

    directory: Path

    @property
    def url(self) -> str:
        return f"lmtp+unix://{self.directory}/run/lmtp"

    def mails(self, user: str, folder: str = "") -> list[bytes]:
        """The messages of a user's folder."""
        return [path.read_bytes() for path in sorted((self.directory / "mail" / user / folder / "new").glob("*"))]

    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")


@asynccontextmanager
async def dovecot(directory: Path, sieve: dict[str, str]) -> AsyncIterator[Dovecot]:
    """Run it in the foreground; its Sieve scripts by user."""
    for name in ("mail", "sieve"):
        (directory / name).mkdir()
        os.chown(directory / name, NOBODY, NOBODY)
    for user, script in sieve.items():
        (directory / "sieve" / f"{user}.sieve").write_text(script, encoding="utf-8")
    users = (f"{name}::{NOBODY}:{NOBODY}::{directory}/mail/{name}::{extra}\n" for name, extra in USERS.items())
    (directory / "users").write_text("".join(users), encoding="utf-8")
    conf = directory / "dovecot.conf"
    conf.write_text(CONF.format(directory=directory), encoding="utf-8")
    command = ["timeout", str(LIFETIME), "dovecot", "-F", "-c", str(conf)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.run_process, command, check=False, capture_stdout=True, capture_stderr=True))
        with trio.fail_after(PATIENCE):
            while not (directory / "run" / "lmtp").exists():  # noqa: ASYNC110 - Dovecot tells nobody
                await trio.sleep(0.05)
        yield Dovecot(directory)
        nursery.cancel_scope.cancel()
