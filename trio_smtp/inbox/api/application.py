"""The layers of the application, the outermost last: routes, users, safety."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from starlette.routing import Router

from trio_smtp.inbox.page import page_routes

from .routes import api_routes
from .safety import Safety
from .service import Service
from .types import ASGIApp, InboxLike
from .users import Users

__all__ = ["build"]


def build(
    inbox: InboxLike, *, root_path: str, allowed_hosts: Iterable[str], max_message_size: int, users: Path | None
) -> ASGIApp:
    """Make the application; see `make_application`."""
    service = Service(inbox, max_message_size=max_message_size)
    application: ASGIApp = Router([*api_routes(service), *page_routes(service)], redirect_slashes=False)
    if users is not None:
        application = Users(application, users)
    return Safety(application, root_path=root_path, allowed_hosts=allowed_hosts)
