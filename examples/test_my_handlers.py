"""Your own handlers tested in memory: no socket, no port, no waiting.

The functions below are tests for pytest-trio (``pytest examples/test_my_handlers.py`` with ``trio_mode = true``);
without pytest ``python examples/test_my_handlers.py`` runs them too.
"""

import trio

from trio_smtp import App, DataContext, RcptToContext
from trio_smtp.testing import open_client, play

app = App()
app.state.stored = []


@app.on_rcpt_to
async def known_only(ctx: RcptToContext) -> None:
    if ctx.address.local_part != "bob":
        ctx.reject("No such user", 550, enhanced="5.1.1")


@app.on_data
async def store(ctx: DataContext) -> None:
    app.state.stored.append(await ctx.stream.read())


async def test_bob_gets_his_mail() -> None:
    async with open_client(app) as client:
        await client.ehlo()
        reply = await client.send_message("alice@example.com", ["bob@example.com"], b"Subject: Hi\r\n\r\nHello\r\n")
        assert reply.code == 250
        assert app.state.stored[-1] == b"Subject: Hi\r\n\r\nHello\r\n"
        assert client.session.transaction == 1


async def test_others_are_unknown() -> None:
    async with open_client(app, hostname="mx.example.com") as client:
        assert client.greeting.text.startswith("mx.example.com")
        await client.ehlo()
        await client.command("MAIL FROM:<alice@example.com>")
        reply = await client.command("RCPT TO:<carol@example.com>")
        assert (reply.code, reply.enhanced, reply.text) == (550, "5.1.1", "No such user")


# "..." stands for any text.
DIALOGUE = """\
S: 220 mx.example.com ...
C: HELO client.example.com
S: 250 mx.example.com
C: MAIL FROM:<alice@example.com>
S: 250 ...
C: RCPT TO:<carol@example.com>
S: 550 No such user
C: QUIT
S: 221 ...
"""


async def test_a_whole_dialogue() -> None:
    await play(app, DIALOGUE, hostname="mx.example.com")


async def main() -> None:
    for test in (test_bob_gets_his_mail, test_others_are_unknown, test_a_whole_dialogue):
        await test()
        print(f"{test.__name__}: ok")


if __name__ == "__main__":
    trio.run(main)
