"""Django: a decorator for views and a middleware; the claims are in `request.claims` (RFC 6750).

For plain and coroutine views, functions and `View.as_view()`, under WSGI and ASGI. Refusals are
JsonResponses. Not for a class's `dispatch`: a coroutine view would look like a plain one there.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.decorators import sync_and_async_middleware

from token_server.verify.adapters.protection import Protection, Requirement
from token_server.verify.errors import TokenError

_View = TypeVar("_View", bound=Callable[..., Any])


class Protect(Protection):
    """`@protect("orders:read")` on a view, with `protect = Protect(verifier)`."""

    def __call__(
        self, *scopes: str, any_scope: Sequence[str] = (), optional: bool = False
    ) -> Callable[[_View], _View]:
        """Demands all of `scopes`, and one of `any_scope`. With `optional` a request without token
        passes, and `request.claims` is None."""
        requirement = Requirement.of(scopes, any_scope, optional=optional)

        def decorate(view: _View) -> Any:
            guarded: Any = functools.wraps(view)(self._guard(view, requirement))
            if not requirement.optional:
                # No browser adds a bearer token by itself, so there is nothing to forge. Where the
                # token is optional, a session cookie may decide: CSRF protection stays.
                guarded.csrf_exempt = True
            return guarded

        return decorate

    def middleware(
        self, *scopes: str, any_scope: Sequence[str] = (), optional: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """For every view at once: `authenticated = protect.middleware()` in a module of yours, and
        `"yourproject.module.authenticated"` in MIDDLEWARE."""
        requirement = Requirement.of(scopes, any_scope, optional=optional)

        def install(get_response: Callable[..., Any]) -> Callable[..., Any]:
            guarded: Any = self._guard(get_response, requirement)
            guarded.process_exception = self._process_exception
            return guarded  # type: ignore[no-any-return]

        return sync_and_async_middleware(install)  # type: ignore[no-any-return]

    def _guard(self, view: Callable[..., Any], requirement: Requirement) -> Any:
        guard = self._guard_async if iscoroutinefunction(view) else self._guard_sync
        return guard(view, requirement)

    def _guard_async(self, view: Callable[..., Any], requirement: Requirement) -> Any:
        async def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                request.claims = await self.admit(_authorization_of(request), requirement)
                return await view(request, *args, **kwargs)
            except TokenError as error:
                return self._answer(error)

        return guarded

    def _guard_sync(self, view: Callable[..., Any], requirement: Requirement) -> Any:
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                request.claims = self.admit_sync(_authorization_of(request), requirement)
                return view(request, *args, **kwargs)
            except TokenError as error:
                return self._answer(error)

        return guarded

    def _process_exception(self, _request: HttpRequest, error: Exception) -> HttpResponse | None:
        """As a middleware: a view's own `claims.require(...)` is a refusal, not a 500."""
        return self._answer(error) if isinstance(error, TokenError) else None

    def _answer(self, error: TokenError) -> HttpResponse:
        refusal = self.refusal(error)
        return JsonResponse(refusal.problem(), status=refusal.status, headers=refusal.headers)


def _authorization_of(request: HttpRequest) -> list[str]:
    """Servers join repeated headers with a comma, which `read_bearer` refuses."""
    value = request.META.get("HTTP_AUTHORIZATION")
    return [] if value is None else [value]
