"""The OpenAPI description of /api/auth/api-keys; see web/api_keys.py."""

from token_server import errors
from token_server.web import schemas
from token_server.web.openapi_operations import (
    NEEDS_RECENT_LOGIN,
    READ_SECURITY,
    READS,
    RECENT_LOGIN,
    Operation,
)
from token_server.web.openapi_parts import NEVER_STORED, Json, response, schema_ref

STRUCTS = (
    schemas.CreateApiKeyBody,
    schemas.RevokeApiKeysBody,
    schemas.ApiKey,
    schemas.NewApiKey,
    schemas.ApiKeyList,
    schemas.ApiKeysRevoked,
)
_PASSWORD = "seven quiet otters under glass"
_ID_PARAMETER: Json = {
    "name": "key_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "`id` of the list; no secret.",
}


def operations() -> dict[str, dict[str, Operation]]:
    """By path and method."""
    return {
        "/api-keys": {"get": _list_all(), "post": _create(), "delete": _revoke_all()},
        "/api-keys/{key_id}": {"get": _show_one(), "delete": _revoke_one()},
    }


def _list_all() -> Operation:
    return Operation(
        name="listApiKeys",
        summary="The user's live API keys, and what a new one may be given.",
        success={"200": response("They are.", schema_ref("ApiKeyList"), NEVER_STORED)},
        refusals=READS,
        security=READ_SECURITY,
        is_counted=True,
    )


def _create() -> Operation:
    return Operation(
        name="createApiKey",
        summary="Make an API key.",
        success={"201": response("The key.", schema_ref("NewApiKey"), NEVER_STORED)},
        refusals=(*NEEDS_RECENT_LOGIN, errors.TooManyApiKeysError),
        body="CreateApiKeyBody",
        example={"name": "Nightly export", "scopes": [], "expires_in_s": 7776000},
        is_counted=True,
        description=f"{RECENT_LOGIN} `api_key` is the secret: it is not stored and never shown"
        " again. A user has at most 20 live keys.",
    )


def _revoke_all() -> Operation:
    return Operation(
        name="revokeAllApiKeys",
        summary="End all API keys of the user.",
        success={"200": response("How many.", schema_ref("ApiKeysRevoked"), NEVER_STORED)},
        refusals=NEEDS_RECENT_LOGIN,
        body="RevokeApiKeysBody",
        example={"current_password": _PASSWORD},
        is_body_required=False,
        is_counted=True,
        description=RECENT_LOGIN,
    )


def _show_one() -> Operation:
    return Operation(
        name="getApiKey",
        summary="One live API key of the user.",
        success={"200": response("The key.", schema_ref("ApiKey"), NEVER_STORED)},
        refusals=(*READS, errors.ApiKeyNotFoundError),
        security=READ_SECURITY,
        is_counted=True,
        parameters=(_ID_PARAMETER,),
    )


def _revoke_one() -> Operation:
    return Operation(
        name="revokeApiKey",
        summary="End one API key of the user, and every access token from it.",
        success={"204": response("Ended.", None, NEVER_STORED)},
        refusals=(*NEEDS_RECENT_LOGIN, errors.ApiKeyNotFoundError),
        body="RevokeApiKeysBody",
        example={"current_password": _PASSWORD},
        is_body_required=False,
        is_counted=True,
        description=RECENT_LOGIN,
        parameters=(_ID_PARAMETER,),
    )
