"""The web pages. They stand on `Service`: the inbox with its store and events, and the helpers that the API has too.

Pages are rendered here, and work without scripts as far as they only show. What changes something is a request to the
API that the page's script sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from trio_smtp.inbox.api.service import Service

__all__ = ["page_routes"]


def page_routes(service: Service) -> Sequence[BaseRoute]:
    """The routes of the pages, which are asked after the API's: ``/view/{id}.html`` is one of these.

    Args:
        service: What answers are made of.
    """
    from .pages import routes

    return routes(service)
