"""Flask: a decorator for views; the claims are in `flask.g.claims` (RFC 6750).

Refusals are werkzeug HTTPExceptions with a JSON body, so `app.errorhandler(401)` and the like may
reword them. Verification happens in the worker's thread, for coroutine views, too.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flask import current_app, g, request
from werkzeug.exceptions import HTTPException

from token_server.verify.adapters.protection import Protection, Refusal, Requirement
from token_server.verify.errors import TokenError

_View = TypeVar("_View", bound=Callable[..., Any])


class Protect(Protection):
    """`@protect("orders:read")` below `@app.get(...)`, with `protect = Protect(verifier)`."""

    def __call__(
        self, *scopes: str, any_scope: Sequence[str] = (), optional: bool = False
    ) -> Callable[[_View], _View]:
        """Demands all of `scopes`, and one of `any_scope`. With `optional` a request without token
        passes, and `g.claims` is None."""
        requirement = Requirement.of(scopes, any_scope, optional=optional)

        def decorate(view: _View) -> Any:
            @functools.wraps(view)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                try:
                    # A WSGI server joins repeated headers with a comma, which is refused.
                    values = request.headers.getlist("Authorization")
                    g.claims = self.admit_sync(values, requirement)
                    return current_app.ensure_sync(view)(*args, **kwargs)
                except TokenError as error:
                    raise TokenRefused(self.refusal(error)) from error

            return guarded

        return decorate


class TokenRefused(HTTPException):
    """401, 403, 400 or 503 with its challenge; `refusal` says the rest."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.description)
        self.code = refusal.status
        self.refusal = refusal

    def get_body(self, *_args: Any, **_kwargs: Any) -> str:
        return json.dumps(self.refusal.problem())

    def get_headers(self, *_args: Any, **_kwargs: Any) -> list[tuple[str, str]]:
        return [("Content-Type", "application/json"), *self.refusal.headers.items()]
