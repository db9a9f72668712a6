"""A Dovecot of our own for tests: LMTP on a Unix socket, Sieve, and mailboxes that may be full. Root starts it.

It ends with the test, and by itself if the tests are killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from .front_ends_support import LIFETIME, PATIENCE

__all__ = ["Dovecot", "dovecot", "needs_dovecot"]

needs_dovecot = [
    pytest.mark.program("dovecot"),
    pytest.mark.skipif(not Path("/usr/lib/dovecot/lmtp").exists(), reason="Debian's dovecot-lmtpd is missing"),
    pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot starts as root only"),
]

CONF = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
first_valid_uid = 1
postmaster_address = postmaster@example.org
auth_username_format = %Ln
mail_location = maildir:~/Maildir
mail_plugins = quota
plugin {{
  quota = maildir:mailbox
  quota_grace = 0
  sieve = file:~/.dovecot.sieve
}}
protocol lmtp {{
  mail_plugins = $mail_plugins {sieve}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
passdb {{
  driver = passwd-file
  args = username_format=%Ln {directory}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Ln {directory}/users
}}
{settings}
"""


@attrs.frozen
class Dovecot:
    """A Dovecot that runs.

    Attributes:
        directory: Where everything is.
        url: Of its LMTP server, for the client.
    """

    directory: Path

    @property
    def url(self) -> str:
        return f"lmtp+unix://{self.directory}/run/lmtp"

    def messages(self, user: str, folder: str = "") -> list[bytes]:
        """What a user has, each with LF for line ends as Dovecot stores it, in the order of arrival."""
        mailbox = self.directory / "home" / user / "Maildir" / folder
        files = [*(mailbox / "new").glob("*"), *(mailbox / "cur").glob("*")]
        return [file.read_bytes() for file in sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name))]


@contextmanager
def _directory() -> Iterator[Path]:
    # Not in tmp_path: the user whose mail it is must be able to get there.
    directory = Path(tempfile.mkdtemp(prefix="trio-smtp-dovecot-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@asynccontextmanager
async def dovecot(
    users: Mapping[str, str], *, scripts: Mapping[str, str] | None = None, settings: str = ""
) -> AsyncIterator[Dovecot]:
    """Run one.

    Args:
        users: By name: a limit of the mailbox such as ``"10k"``, or ``""`` for none.
        scripts: The Sieve script of a user, by name; needs Debian's dovecot-sieve.
        settings: More lines for its configuration.
    """
    with _directory() as directory:
        lines = [
            f"{user}::nobody:nogroup::{directory}/home/{user}::"
            + (f"userdb_quota_rule=*:storage={limit}" if limit else "")
            for user, limit in users.items()
        ]
        (directory / "users").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for user in users:
            home = directory / "home" / user
            home.mkdir(parents=True)
            if user in (scripts or {}):
                (home / ".dovecot.sieve").write_text((scripts or {})[user], encoding="utf-8")
            shutil.chown(home, "nobody", "nogroup")
        conf = directory / "dovecot.conf"
        sieve = "sieve" if scripts else ""
        conf.write_text(CONF.format(directory=directory, sieve=sieve, settings=settings), encoding="utf-8")
        command = ["timeout", str(LIFETIME), "dovecot", "-F", "-c", str(conf)]
        run = partial(trio.run_process, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(run)
            found = Dovecot(directory)
            with trio.fail_after(PATIENCE):
                while not (directory / "run" / "lmtp").exists():
                    assert process.poll() is None, (directory / "log").read_text(encoding="utf-8", errors="replace")
                    await trio.sleep(0.05)
            try:
                yield found
            finally:
                process.terminate()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + PATIENCE):
                    await process.wait()
