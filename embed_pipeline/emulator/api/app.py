"""The Starlette application: routes, error handlers and middleware."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Mount

from embed_pipeline.emulator.api import assets, queries, tasks, uploads
from embed_pipeline.emulator.api.answers import refused
from embed_pipeline.emulator.api.middleware import Middleware
from embed_pipeline.emulator.control import routes as control
from embed_pipeline.emulator.platform import Platform
from embed_pipeline.emulator.rules.refusal import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

BASE_PATH = "/v1.3"
_log = logging.getLogger(__name__)


def build_app(platform: Platform, *, hosts: Collection[str] | None = None) -> Middleware:
    """Build the application that serves a platform.

    Args:
        platform: The platform, started and closed by the caller.
        hosts: The names and addresses by which it may be reached, beside those of loopback. None allows any.

    Returns:
        An ASGI application.
    """
    app = Starlette(
        routes=[
            # Multipart uploads before assets: their path would else be taken for an asset's id.
            Mount(
                BASE_PATH,
                routes=[*queries.ROUTES, *tasks.ROUTES, *uploads.ROUTES, *assets.ROUTES],
            ),
            uploads.CHUNK_ROUTE,
            Mount("/_emulator", routes=control.ROUTES),
        ],
        exception_handlers={Refusal: _on_refusal, 404: _on_unknown, 405: _on_method, ClientDisconnect: _on_hung_up},
    )
    app.state.platform = platform
    return Middleware(app, platform, hosts)


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 - Starlette's handlers are typed for any exception
    return refused(request, error)


async def _on_hung_up(_request: Request, _error: Exception) -> Response:
    """Log no error for a client that was killed in the middle of its request."""
    return Response(status_code=499)


async def _on_unknown(request: Request, _error: Exception) -> Response:
    message = f"There is no such endpoint; every path of the API begins with {BASE_PATH}."
    return refused(request, Refusal(message, code="resource_not_exist", status=404))


async def _on_method(request: Request, error: Exception) -> Response:
    headers = dict(getattr(error, "headers", None) or {})
    message = "This endpoint does not serve that method."
    return refused(request, Refusal(message, code="method_not_allowed", status=405, headers=headers))
