"""Users with passwords, and Apps that know them."""

from __future__ import annotations

from pathlib import Path

from argon2 import PasswordHasher

from trio_smtp import App, Reply
from trio_smtp.plugins import password_file
from trio_smtp.testing import open_client

PASSWORD = "Sesame-Open"
#: Hashes that cost next to nothing.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HASH = CHEAP.hash(PASSWORD)


def app_with(*files: Path) -> App:
    """An App that knows the users of these files."""
    app = App()
    for file in files:
        app.use(password_file(file))
    return app


async def log_in(app: App, username: str, password: str, authzid: str = "") -> Reply:
    """AUTH PLAIN in a session of its own."""
    async with open_client(app, allow_insecure_auth=True) as client:
        await client.ehlo()
        reply = await client.auth_plain(username, password, authzid)
        assert client.session.user == (username if reply.code == 235 else None)
        return reply
