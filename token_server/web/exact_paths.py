"""Requests for a path that is written in the code go straight to its handler.

Litestar's router and its two layers of exception handling cost as much as everything that a token
request needs besides its signature, and it takes `//oauth2//token/` for `/oauth2/token`. It still
answers for the mounts and for whatever is no path of ours. Decides nothing about methods.
"""

from collections.abc import Awaitable, Sequence

from litestar.enums import ScopeType
from litestar.handlers import ASGIRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send


class ExactPaths:
    """ASGI in, ASGI out."""

    def __init__(self, handlers: Sequence[ASGIRouteHandler], rest: ASGIApp) -> None:
        """`handlers` without mounts; `rest` gets what none of them is for."""
        self._handlers: dict[str, ASGIApp] = {
            path: handler.fn for handler in handlers for path in handler.paths
        }
        self._rest = rest

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._handlers)

    @property
    def rest(self) -> ASGIApp:
        return self._rest

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == ScopeType.HTTP:
            path = scope["path"]
            handler = self._handlers.get(path)
            if handler is not None:
                scope["path_template"] = path
                return handler(scope, receive, send)
        return self._rest(scope, receive, send)
