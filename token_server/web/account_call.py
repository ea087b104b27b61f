"""One request at the account API: what its handlers are given, and what is checked for all of them.

A query string is refused: tokens in it would end up in logs (RFC 6750 §5.3). An API key comes in
`X-API-Key`, once, alone, and only to read; `Authorization` is for access tokens.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from litestar.types import HTTPScope, Receive, Send

from token_server.errors import (
    ApiKeyNotAllowedError,
    ApiKeyRefusedError,
    CredentialsAmbiguousError,
    ProblemError,
    QueryRefusedError,
    UnavailableError,
)
from token_server.logs import get_logger
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services import account
from token_server.services.api_keys import ApiKeyPrincipal, authenticate_api_key
from token_server.services.bearer import BearerGuard, Principal
from token_server.services.request_context import RequestContext
from token_server.web import answers
from token_server.web.answers import Answer
from token_server.web.requests import header_values, request_context, request_id

_log = get_logger(__name__)

PREFIX = "/api/auth"
API_KEY_HEADER = "X-API-Key"
_READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Call:
    """One request at the account API."""

    runtime: Runtime
    guard: BearerGuard
    scope: HTTPScope = field(repr=False)
    receive: Receive = field(repr=False)
    item_id: str = ""  # out of the path: which session, which API key

    def context(self) -> RequestContext:
        """After the body: its sender decides how long that takes, and must not choose the
        instant."""
        return request_context(self.runtime, self.scope, self.receive)

    async def active_user(self, context: RequestContext) -> Principal:
        """Whoever the access token speaks for."""
        authorization = header_values(self.scope, b"authorization")
        return await self.guard.active_user(authorization, context)

    async def reader(self, context: RequestContext) -> Principal | ApiKeyPrincipal:
        """For what only reads: as `active_user`, or by an API key (ApiKeyRefusedError)."""
        api_keys = self.api_keys()
        if not api_keys:
            return await self.active_user(context)
        principal = await authenticate_api_key(self.runtime, api_keys[0], context)
        if principal is None:
            raise ApiKeyRefusedError("api_key_refused")
        return principal

    async def require_recent_login(
        self, principal: Principal, current_password: str | None, context: RequestContext
    ) -> None:
        """As services/account.py's."""
        password = None if current_password is None else Secret(current_password)
        await account.require_recent_login(self.runtime, principal, password, context)

    def api_keys(self) -> list[str]:
        return header_values(self.scope, API_KEY_HEADER.lower().encode("ascii"))


Handler = Callable[[Call], Awaitable[Answer]]


async def answer_call(send: Send, call: Call, path: str, methods: Mapping[str, Handler]) -> None:
    """`path` is the template, without PREFIX."""
    scope = call.scope
    scope["path_template"] = PREFIX + path  # for the metrics, which never see an id
    answer = await _answer(call, methods)
    await answers.send_answer(send, answer, without_body=scope["method"] == "HEAD")


async def _answer(call: Call, methods: Mapping[str, Handler]) -> Answer:
    method = call.scope["method"]
    handler = methods.get("GET" if method == "HEAD" else method)
    if handler is None:
        allowed = [*methods, *(["HEAD"] if "GET" in methods else [])]
        allow = ", ".join(sorted(allowed)).encode("ascii")
        return answers.problem_answer(405, "method_not_allowed", ((b"allow", allow),))
    try:
        _check_credentials(call)
        return await handler(call)
    except ProblemError as error:
        _log.info(
            "account_request_refused",
            problem=error.code,
            reason=error.reason,
            request_id=request_id(call.scope),
        )
        return answers.problem_error_answer(error)
    except UnavailableError as error:
        return answers.problem_unavailable_answer(error)


def _check_credentials(call: Call) -> None:
    if call.scope["query_string"]:
        raise QueryRefusedError("query_string_present")
    api_keys = call.api_keys()
    if len(api_keys) > 1:
        raise CredentialsAmbiguousError("api_key_repeated")
    if not api_keys:
        return
    if header_values(call.scope, b"authorization"):
        raise CredentialsAmbiguousError("api_key_and_authorization")
    if call.scope["method"] not in _READS:
        raise ApiKeyNotAllowedError("api_key_at_a_write")


def instant_text(at: int) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
