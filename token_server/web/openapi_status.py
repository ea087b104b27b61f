"""The OpenAPI description of the status lists (draft-ietf-oauth-status-list-21 §8, §9)."""

from token_server.core.status_list import MEDIA_TYPE, PATH
from token_server.web.openapi_oauth import document_operation
from token_server.web.openapi_parts import Json, oauth_error, schema_ref
from token_server.web.status_lists import ONE_LIST

SCHEMAS: dict[str, Json] = {
    "StatusListAggregation": {
        "type": "object",
        "description": "The lists that access tokens alive may name, the newest of sessions last.",
        "required": ["status_lists"],
        "properties": {
            "status_lists": {"type": "array", "items": {"type": "string", "format": "uri"}}
        },
    },
    "StatusListToken": {
        "type": "string",
        "description": "A signed JWT of the `typ` `statuslist+jwt`: one bit for each access token "
        "that names the list, 1 = revoked.",
        "pattern": r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$",
    },
}
_AWAY = oauth_error(
    "The database does not answer, and what was last known of it is too old.",
    ["temporarily_unavailable"],
    {"Retry-After": "RetryAfter"},
)


def paths() -> dict[str, Json]:
    """Path items of the aggregation and of one list."""
    return {PATH: {"get": _aggregation()}, ONE_LIST: {"get": _one_list()}}


def _aggregation() -> Json:
    schema = schema_ref("StatusListAggregation")
    operation = document_operation("listStatusLists", "Which status lists there are.", schema)
    return _as_status_lists(operation)


def _one_list() -> Json:
    operation = document_operation(
        "getStatusList", "Which access tokens were revoked.", schema_ref("StatusListToken")
    )
    operation["parameters"].append(
        {
            "name": "name",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": "^[sm](0|[1-9][0-9]{0,11})$"},
            "description": "`s` and a number for sessions, `m` for machine tokens; see the "
            "claim `status` of an access token.",
        }
    )
    content = operation["responses"]["200"]["content"]
    content[MEDIA_TYPE] = content.pop("application/json")
    operation["responses"]["404"] = oauth_error("There is no such list.", ["invalid_request"])
    return _as_status_lists(operation)


def _as_status_lists(operation: Json) -> Json:
    operation["tags"] = ["status lists"]
    operation["responses"]["500"] = oauth_error(
        "The server failed; it is logged.", ["server_error"]
    )
    operation["responses"]["503"] = _AWAY
    return operation
