"""Gives many messages at once: a tar archive with a Maildir in it."""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from trio_smtp.inbox.store import Query, Summary

from .service import Service

__all__ = ["export"]

_BLOCK = tarfile.BLOCKSIZE
_ROWS = 200


async def export(service: Service, request: Request) -> Response:
    """GET /api/v1/export."""
    query = service.query(request)
    rows = [row async for row in _rows(service, query or None)]
    headers = {"content-disposition": 'attachment; filename="maildir.tar"'}
    return StreamingResponse(_archive(service, rows), headers=headers, media_type="application/x-tar")


async def _rows(service: Service, query: Query | None) -> AsyncIterator[Summary]:
    """All messages that the search finds, the oldest last."""
    start = 0
    while True:
        page = await service.run(service.inbox.store.page, query, start=start, limit=_ROWS)
        for row in page.rows:
            yield row
        start += _ROWS
        if len(page.rows) < _ROWS:
            return


async def _archive(service: Service, rows: list[Summary]) -> AsyncIterator[bytes]:
    for folder in ("maildir", "maildir/cur", "maildir/new", "maildir/tmp"):
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o700
        yield info.tobuf(tarfile.PAX_FORMAT)
    for row in reversed(rows):
        octets = await service.run(service.inbox.store.octets, row.id)
        if octets is None:
            continue  # it was deleted meanwhile
        place = f"cur/{int(row.created)}.{row.id}.inbox:2,S" if row.read else f"new/{int(row.created)}.{row.id}.inbox"
        info = tarfile.TarInfo(f"maildir/{place}")
        info.size, info.mtime, info.mode = len(octets), int(row.created), 0o600
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield octets
        yield b"\0" * (-len(octets) % _BLOCK)
    yield b"\0" * (2 * _BLOCK)
