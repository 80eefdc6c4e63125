"""Lean's endpoints as an ASGI application, and the sandbox's own under `/_sandbox/`."""

from __future__ import annotations

import itertools

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lean_resources.sandbox.data_routes import DataRoutes
from lean_resources.sandbox.directory_routes import DirectoryRoutes
from lean_resources.sandbox.faults import Faults
from lean_resources.sandbox.gateway import Gateway
from lean_resources.sandbox.oauth import Issuer
from lean_resources.sandbox.refresh_routes import RefreshRoutes
from lean_resources.sandbox.store import Store


class Api:
    """Lean's endpoints over a store.

    Args:
        store: The sandbox's state.
        issuer: Issues and reads credentials.
        faults: The faults to apply.
        gzip: Whether to compress long answers for clients that accept it.
        has_events: Whether events are listed.
    """

    def __init__(
        self,
        store: Store,
        issuer: Issuer,
        faults: Faults,
        *,
        gzip: bool = True,
        has_events: bool = True,
    ) -> None:
        numbers = itertools.count(1)
        self.gateway = Gateway(store.clock, store.world.seed, issuer, faults, numbers, gzip=gzip)
        self.directory = DirectoryRoutes(store)
        self.data = DataRoutes(store, numbers)
        self.refreshes = RefreshRoutes(store, has_events=has_events)

    def app(self, own_routes: list[Route]) -> ASGIApp:
        """The ASGI application."""
        table = [*self.directory.table(), *self.data.table(), *self.refreshes.table()]
        routes = [Route("/oauth2/token", self.gateway.token, methods=["POST"]), *own_routes]
        for path in dict.fromkeys(path for _, path, _ in table):
            handlers = {method: handler for method, at, handler in table if at == path}
            endpoint = self.gateway.endpoint(path, handlers)
            routes.append(Route(path, endpoint, methods=list(handlers)))
        inner = Starlette(
            routes=routes,
            exception_handlers={
                404: self.gateway.error(404, "INVALID_URL"),
                405: self.gateway.error(405, "INVALID_HTTP_METHOD"),
            },
        )
        inner.router.redirect_slashes = False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                path = scope["path"]
                if len(path) > 1 and path.endswith("/"):
                    scope = {**scope, "path": path.rstrip("/") or "/"}
                scope["sandbox.send"] = send
            await inner(scope, receive, send)

        return app
