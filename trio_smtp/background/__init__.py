"""A server in a thread of its own, for programs that are not Trio's: synchronous ones and asyncio's."""

from .asyncio_handlers import asyncio_handler as asyncio_handler
from .server import BackgroundServer as BackgroundServer

__all__ = ["BackgroundServer", "asyncio_handler"]
