"""The API, which is Mailpit's, with a few paths more, as an ASGI application."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .types import ASGIApp, InboxLike

__all__ = ["make_application"]


def make_application(
    inbox: InboxLike,
    *,
    root_path: str,
    allowed_hosts: Iterable[str],
    max_message_size: int,
    users: Path | None = None,
) -> ASGIApp:
    """Make the ASGI application of an inbox.

    Args:
        inbox: The inbox.
        root_path: Where it is mounted, when what mounts it does not say so.
        allowed_hosts: Names that requests may be for, besides local ones.
        max_message_size: Octets of a message that is sent or imported.
        users: A file of users and passwords; who is none of them gets nothing. None: everybody may look.

    Raises:
        ImportError: The extra ``inbox`` is not installed; the text names it.
        OSError: The file of users cannot be read.
        ValueError: `root_path` or a host is malformed, or the file of users is.
    """
    try:
        import starlette as starlette  # asks whether it is there
    except ImportError as error:
        raise ImportError("the inbox needs the extra inbox: pip install 'trio-smtp[inbox]'") from error
    from .application import build

    return build(
        inbox, root_path=root_path, allowed_hosts=allowed_hosts, max_message_size=max_message_size, users=users
    )
