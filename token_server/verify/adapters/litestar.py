"""Litestar: a guard for applications, routers and handlers; the claims are `request.auth`.

A guard and no dependency, because Litestar leaves out a dependency that no parameter names: the
route would be open. Refusals are Litestar HTTPExceptions (RFC 6750).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from litestar import Response
from litestar.connection import ASGIConnection, Request
from litestar.exceptions import HTTPException
from litestar.handlers.base import BaseRouteHandler

from token_server.verify.adapters.protection import Protection, Requirement
from token_server.verify.errors import TokenError

_Connection = ASGIConnection[Any, Any, Any, Any]
_Guard = Callable[[_Connection, BaseRouteHandler], Awaitable[None]]


class Protect(Protection):
    """`guards=[protect("orders:read")]`, with `protect = Protect(verifier)`."""

    def __call__(
        self, *scopes: str, any_scope: Sequence[str] = (), optional: bool = False
    ) -> _Guard:
        """Demands all of `scopes`, and one of `any_scope`. With `optional` a request without token
        passes, and `request.auth` is None."""
        requirement = Requirement.of(scopes, any_scope, optional=optional)

        async def guard(connection: _Connection, _handler: BaseRouteHandler) -> None:
            try:
                values = connection.headers.getall("authorization", [])
                connection.scope["auth"] = await self.admit(values, requirement)
            except TokenError as error:
                raise self._refused(error) from error

        return guard

    def answer(self, _request: Request[Any, Any, Any], error: TokenError) -> Response[Any]:
        """For `exception_handlers={TokenError: protect.answer}`: makes `request.auth.require(...)`
        in a handler's body the same refusal as a guard's."""
        refusal = self.refusal(error)
        return Response(
            {"status_code": refusal.status, "detail": refusal.description},
            status_code=refusal.status,
            headers=dict(refusal.headers),
        )

    def _refused(self, error: TokenError) -> HTTPException:
        refusal = self.refusal(error)
        return HTTPException(
            detail=refusal.description,
            status_code=refusal.status,
            headers=dict(refusal.headers),
        )
