"""FastAPI: a dependency that gives the claims and shows in the OpenAPI document (RFC 6750).

For routes, routers and whole applications, HTTP and WebSocket. Refusals are FastAPI's
HTTPException, so an application's own exception handlers may reword them.
"""

from collections.abc import Sequence

from fastapi import HTTPException, Request
from fastapi.openapi.models import HTTPBearer
from fastapi.responses import JSONResponse
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from token_server.verify.adapters.protection import Protection, Requirement
from token_server.verify.claims import Claims
from token_server.verify.errors import TokenError


class Protect(Protection):
    """`Depends(protect("orders:read"))`, with `protect = Protect(verifier)`."""

    def __call__(
        self, *scopes: str, any_scope: Sequence[str] = (), optional: bool = False
    ) -> "ProtectedBy":
        """Demands all of `scopes`, and one of `any_scope`. With `optional` a request without token
        passes, and the dependency gives None."""
        return ProtectedBy(self, Requirement.of(scopes, any_scope, optional=optional))

    async def answer(self, _request: Request, error: Exception) -> JSONResponse:
        """For `exception_handlers={TokenError: protect.answer}`: makes `claims.require(...)` in a
        route's body the same refusal as the dependency's.

        (The dependency could do that itself if it yielded the claims; each request of each route
        would then cost half as much again.)
        """
        if not isinstance(error, TokenError):
            raise error  # registered for something else
        refusal = self.refusal(error)
        return JSONResponse(
            {"detail": refusal.description}, refusal.status, headers=dict(refusal.headers)
        )


class ProtectedBy(SecurityBase):
    """What `Depends` calls. Gives Claims, or None where `optional`."""

    def __init__(self, protection: Protection, requirement: Requirement) -> None:
        self._protection = protection
        self._requirement = requirement
        self.scheme_name = "AccessToken"
        self.model = HTTPBearer(
            bearerFormat="JWT",
            description="An access token in the form of RFC 9068.",
        )

    async def __call__(self, connection: HTTPConnection) -> Claims | None:
        try:
            values = connection.headers.getlist("authorization")
            return await self._protection.admit(values, self._requirement)
        except TokenError as error:
            refusal = self._protection.refusal(error)
            headers = dict(refusal.headers)
            raise HTTPException(refusal.status, refusal.description, headers) from error
