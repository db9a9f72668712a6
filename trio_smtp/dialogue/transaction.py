"""DATA (RFC 5321 section 4.1.1.4) and BDAT (RFC 3030): how a message begins and how it is answered."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trio_smtp.app.application import Phase
from trio_smtp.app.contexts import DataStartContext
from trio_smtp.connection.transfer import TOO_LARGE, ClientClock, Transfer, discard_bound
from trio_smtp.protocol.commands import Command, Verb
from trio_smtp.protocol.errors import ProtocolError
from trio_smtp.protocol.framing import NEED_DATA, BodyChunk, EndOfBody
from trio_smtp.protocol.machine import State
from trio_smtp.protocol.replies import Reply

from .outcomes import EndSession

if TYPE_CHECKING:
    from trio_smtp.connection.connection import Connection

__all__ = ["receive_chunk", "receive_message"]

_START = Reply(354, "End data with <CR><LF>.<CR><LF>")
# Looking a member up in its Enum takes ten times as long as a name of the module.
_DATA, _DATA_START, _DATA_VERB, _END_OF_DATA = Phase.DATA, Phase.DATA_START, Verb.DATA, Verb.END_OF_DATA
_NO_HANDLER = Reply(554, "This server takes no mail", "5.3.5")


async def receive_message(conn: Connection, command: Command) -> Reply | None:
    """The whole of a DATA command; returns a reply only when it is refused before the 354."""
    if conn.session.envelope.body_type == "BINARYMIME":
        raise ProtocolError("BINARYMIME needs BDAT", 503, "5.5.1")
    reply = await _begin(conn)
    if reply.code >= 400:
        return reply
    conn.write(reply, enhanced=False)
    conn.machine.advance(_DATA_VERB, reply.code)
    if not conn.flush_soon():
        await conn.flush()
    conn.framer.start_body()
    await _take_whole(conn)
    return None


async def _begin(conn: Connection) -> Reply:
    """May a message come? `on_data_start` is asked; the 354 that says so is not sent to a client that uses BDAT."""
    if _DATA not in conn.chains:
        return _NO_HANDLER
    if _DATA_START not in conn.chains:
        return _START
    return await conn.phase(_DATA_START, DataStartContext(conn.session, _START))


async def _take_whole(conn: Connection) -> None:
    """Take a message whose octets come without another command between them."""
    transfer = Transfer(conn)
    try:
        reply = await transfer.run()
    except BaseException:
        _note_incomplete(conn, transfer)
        raise
    _conclude(conn, transfer, reply)


def _note_incomplete(conn: Connection, transfer: Transfer) -> None:
    conn.stats.messages_incomplete += 1
    transfer.log()


def _note_given_up(conn: Connection, transfer: Transfer) -> None:
    """Nothing is left to be noted where the message was answered, or given up before."""
    if conn.transfer is transfer:
        conn.transfer = None
        _note_incomplete(conn, transfer)


def _conclude(conn: Connection, transfer: Transfer | None, reply: Reply) -> None:
    """Answer a message (in LMTP once for each recipient) and begin a new transaction.

    Args:
        conn: Whose.
        transfer: The message; None: it was refused before it was whole.
        reply: What its handlers ended with.
    """
    replies: Sequence[Reply] = (reply,)
    if conn.config.lmtp:
        refused = transfer.refused if transfer is not None else {}
        replies = [refused.get(recipient, reply) for recipient in conn.session.envelope.rcpt_to]
    accepted, closing = False, 0
    for each in replies:
        conn.write(each)
        if each.code < 400:
            accepted = True
        elif each.code in (421, 521):
            closing = each.code
    if accepted:
        conn.stats.messages_accepted += 1
        conn.errors = 0
        conn.delivered_at = conn.now()
    elif transfer is not None:
        conn.stats.messages_refused += 1
    if transfer is not None:
        transfer.log(replies)
    conn.machine.advance(_END_OF_DATA, closing or reply.code)
    conn.session.transaction += 1
    conn.begin_transaction_anew()


async def receive_chunk(conn: Connection, command: Command) -> None:
    """One BDAT command. Whatever its reply, its octets are read first: they are no commands."""
    try:
        conn.admit(Verb.BDAT)
    except ProtocolError:
        await _swallow(conn, command.size)
        raise
    if conn.machine.state is State.BDAT:
        await _next_chunk(conn, command)
        return
    reply = await _begin(conn)
    if reply.code >= 400:
        await _refuse_chunk(conn, command, reply)
        return
    await conn.flush()
    conn.machine.advance(Verb.BDAT, reply.code)
    if command.last:
        conn.framer.start_chunk(command.size)
        await _take_whole(conn)
        return
    transfer = conn.transfer = Transfer(conn)

    async def read() -> None:
        await _feed(conn, transfer, command)
        await conn.take_commands(lambda: conn.transfer is transfer)
        await conn.flush()
        _note_given_up(conn, transfer)  # by RSET, HELO or QUIT

    try:
        await transfer.side_by_side(read)
    except BaseException:
        _note_given_up(conn, transfer)
        raise


async def _next_chunk(conn: Connection, command: Command) -> None:
    if conn.transfer is None:
        assert conn.chunk_refusal is not None
        await _refuse_chunk(conn, command, conn.chunk_refusal)
        return
    await _feed(conn, conn.transfer, command)


async def _feed(conn: Connection, transfer: Transfer, command: Command) -> None:
    """Put a chunk into a message that is on its way, and answer it."""
    refusal = await transfer.take_chunk(command.size)
    if refusal is None and command.last:
        transfer.sink.end()
        await transfer.wait_for_handlers()
        conn.transfer = None
        _conclude(conn, transfer, transfer.judge())
    elif refusal is None:
        conn.write(Reply(250, f"{command.size} octets received", "2.0.0"))
    else:
        conn.transfer = None
        conn.chunk_refusal = refusal
        if command.last:
            _conclude(conn, transfer, refusal)
        else:
            conn.stats.messages_refused += 1
            transfer.log([refusal])
            _answer_refused(conn, refusal)


async def _refuse_chunk(conn: Connection, command: Command, refusal: Reply) -> None:
    """The message is refused: its chunks are swallowed, each with the same reply, up to the last."""
    await _swallow(conn, command.size)
    if conn.machine.state is not State.BDAT:
        conn.machine.advance(Verb.BDAT, 250)
    if conn.chunk_refusal is None:  # any other was counted when it was refused
        conn.stats.messages_refused += 1
    conn.chunk_refusal = refusal
    if command.last:
        _conclude(conn, None, refusal)
    else:
        _answer_refused(conn, refusal)


def _answer_refused(conn: Connection, refusal: Reply) -> None:
    conn.write(refusal)
    conn.machine.advance(Verb.BDAT, refusal.code)


async def _swallow(conn: Connection, size: int) -> None:
    """Read the octets of a chunk and drop them.

    Raises:
        EndSession: There are too many, or the client is gone or too slow.
    """
    clock, bound = ClientClock(conn), discard_bound(conn)
    conn.framer.start_chunk(size)
    while True:
        event = conn.framer.next_event()
        if event is NEED_DATA:
            await clock.receive()
        elif isinstance(event, EndOfBody):
            return
        else:
            assert isinstance(event, BodyChunk)
            conn.swallowed += len(event.data)
            if conn.swallowed > bound:
                conn.log(logging.WARNING, "too much of a refused message")
                raise EndSession("abuse", TOO_LARGE)
