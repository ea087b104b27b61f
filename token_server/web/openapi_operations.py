"""One operation of the account API, and what each of them has in common in the description.

Each operation lists the errors that it may answer; status, code and challenge come from their
classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from token_server import errors
from token_server.errors import ProblemError
from token_server.web.account_call import API_KEY_HEADER
from token_server.web.openapi_parts import Json, problem, schema_ref

BEARER: Json = {"accessToken": []}
API_KEY: Json = {"apiKey": []}
READ_SECURITY = (BEARER, API_KEY)
SECURITY_SCHEMES: Mapping[str, Json] = {
    "accessToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token that /api/auth gave, while its session and user live.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": API_KEY_HEADER,
        "description": "An API key of the user, without `Authorization`; it only reads.",
    },
}
READS_BODY = (
    errors.MalformedJsonError,
    errors.InvalidFieldError,
    errors.JsonTooLargeError,
    errors.NotJsonError,
)
NEEDS_TOKEN = (errors.TokenMissingError, errors.TokenRefusedError)
READS = (*NEEDS_TOKEN, errors.ApiKeyRefusedError)
NEEDS_RECENT_LOGIN = (
    *NEEDS_TOKEN,
    *READS_BODY,
    errors.CredentialsRefusedError,
    errors.ReauthenticationRequiredError,
)
_ALL = (errors.QueryRefusedError, errors.CredentialsAmbiguousError)
RECENT_LOGIN = "Needs a login of the last five minutes, or `current_password`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path; `refusals` without what all of them may answer."""

    name: str
    summary: str
    success: Mapping[str, Json]
    refusals: tuple[type[ProblemError], ...]
    security: tuple[Json, ...] = (BEARER,)
    body: str | None = None
    example: Json | None = None  # of the body
    is_body_required: bool = True
    is_counted: bool = False  # it checks a password or spends a token: 429
    description: str = ""
    parameters: tuple[Json, ...] = ()


def describe(operation: Operation) -> Json:
    """As OpenAPI has it."""
    is_read = API_KEY in operation.security
    refusals = (*operation.refusals, *_ALL, *(() if is_read else (errors.ApiKeyNotAllowedError,)))
    described: Json = {
        "operationId": operation.name,
        "tags": ["accounts"],
        "summary": operation.summary,
        "description": operation.description,
        "security": list(operation.security),
        "parameters": list(operation.parameters),
        "responses": {
            **operation.success,
            **_refusals(refusals),
            **_not_now(is_counted=operation.is_counted),
        },
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.is_body_required,
            "content": {
                "application/json": {
                    "schema": schema_ref(operation.body),
                    "example": operation.example,
                }
            },
        }
    return described


def _refusals(classes: Iterable[type[ProblemError]]) -> dict[str, Json]:
    codes: dict[int, set[str]] = {}
    for error in classes:
        codes.setdefault(error.status, set()).add(error.code)
    return {
        str(status): problem(
            "Refused; `code` says why.",
            codes[status],
            {"WWW-Authenticate": "BearerChallenge"} if status == 401 else {},
        )
        for status in sorted(codes)
    }


def _not_now(*, is_counted: bool) -> dict[str, Json]:
    wait = {"Retry-After": "RetryAfter"}
    answers = {
        "500": problem("The server failed; it is logged.", ["server_error"]),
        "503": problem("Not now; nothing was done.", ["temporarily_unavailable"], wait),
    }
    if is_counted:
        answers["429"] = problem("Too many guesses; wait.", ["too_many_attempts"], wait)
    return answers
