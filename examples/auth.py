"""AUTH against hashed passwords. Hashing is slow on purpose, so it runs in a thread, and only a few at a time.

The listener is a loopback address: passwords in the clear are allowed for that reason alone. A server for others wants
TLS, see starttls.py; AUTH is then offered after STARTTLS, without `allow_insecure_auth`.
"""

import hashlib
import hmac
import secrets

import attrs
import trio

from trio_smtp import App, AuthContext, Config, DataContext, MailFromContext, PlainCredentials, run


@attrs.frozen
class HashedPassword:
    """What a server keeps of a password: nobody can log in with it."""

    salt: bytes
    key: bytes = attrs.field(repr=False)


def scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def hash_password(password: str) -> HashedPassword:
    salt = secrets.token_bytes(16)
    return HashedPassword(salt, scrypt(password, salt))


def matches(password: str, stored: HashedPassword) -> bool:
    return hmac.compare_digest(scrypt(password, stored.salt), stored.key)


USERS = {"alice@example.com": hash_password("correct horse battery staple")}
#: Checked for users that do not exist, so that the answer takes as long for them.
NOBODY = hash_password(secrets.token_hex())

app = App()
#: Each hash takes 16 MiB and a core.
hashing = trio.CapacityLimiter(2)


@app.on_auth
async def check_password(ctx: AuthContext) -> None:
    if not isinstance(ctx.credentials, PlainCredentials):
        ctx.reject("Unsupported mechanism", 535)
    username, password = ctx.credentials.username, ctx.credentials.password
    stored = USERS.get(username, NOBODY)
    if await trio.to_thread.run_sync(matches, password, stored, limiter=hashing):
        ctx.accept(username)


@app.on_mail_from
async def own_address_only(ctx: MailFromContext) -> None:
    if ctx.address.address != ctx.session.user:
        ctx.reject("That is not your address", 553, enhanced="5.7.1")


@app.on_data
async def take(ctx: DataContext) -> None:
    await ctx.stream.discard()
    print(f"a message of {ctx.session.user}")


if __name__ == "__main__":
    run(app, Config(port=8025, auth_required=True, allow_insecure_auth=True))
