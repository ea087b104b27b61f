"""Starlette: a decorator for endpoints; the claims are in `request.state.claims` (RFC 6750).

Works on functions and on methods of HTTPEndpoint, coroutine or not, and on WebSocket endpoints.
Refusals are HTTPExceptions, so an application's own exception handlers may reword them.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from token_server.verify.adapters.protection import Protection, Requirement
from token_server.verify.errors import TokenError

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])


class Protect(Protection):
    """`@protect("orders:read")` on an endpoint, with `protect = Protect(verifier)`."""

    def __call__(
        self, *scopes: str, any_scope: Sequence[str] = (), optional: bool = False
    ) -> Callable[[_Endpoint], _Endpoint]:
        """Demands all of `scopes`, and one of `any_scope`. With `optional` a request without token
        passes, and `request.state.claims` is None."""
        requirement = Requirement.of(scopes, any_scope, optional=optional)

        def decorate(endpoint: _Endpoint) -> Any:
            # Starlette runs plain functions in a thread, where waiting for keys blocks nobody.
            guard = self._guard_async if inspect.iscoroutinefunction(endpoint) else self._guard_sync
            return functools.wraps(endpoint)(guard(endpoint, requirement))

        return decorate

    def _guard_async(
        self, endpoint: Callable[..., Any], requirement: Requirement
    ) -> Callable[..., Any]:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                connection = _connection_in(args)
                connection.state.claims = await self.admit(
                    authorization_of(connection), requirement
                )
                return await endpoint(*args, **kwargs)
            except TokenError as error:
                raise self._refused(error) from error

        return guarded

    def _guard_sync(
        self, endpoint: Callable[..., Any], requirement: Requirement
    ) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                connection = _connection_in(args)
                connection.state.claims = self.admit_sync(authorization_of(connection), requirement)
                return endpoint(*args, **kwargs)
            except TokenError as error:
                raise self._refused(error) from error

        return guarded

    def _refused(self, error: TokenError) -> HTTPException:
        refusal = self.refusal(error)
        return HTTPException(refusal.status, refusal.description, refusal.headers)


def authorization_of(connection: HTTPConnection) -> list[str]:
    """All values: a second `Authorization` header must be seen to be refused."""
    return connection.headers.getlist("authorization")


def _connection_in(args: tuple[Any, ...]) -> HTTPConnection:
    """The Request or WebSocket: first for a function, after `self` for a method."""
    for argument in args[:2]:
        if isinstance(argument, HTTPConnection):
            return argument
    raise TypeError("protect() belongs directly on a Starlette endpoint: no request was passed")
