"""`/api/auth/api-keys`: a person's API keys. Decode, one call, encode.

The secret is in the answer that makes a key, and in no other. Making and revoking need a login of
the last five minutes or the password, as ending other sessions does: a stolen access token alone
must not leave a key behind.
"""

from collections.abc import Mapping

from msgspec.structs import asdict

from token_server.errors import InvalidFieldError
from token_server.records import ApiKey
from token_server.services import own_api_keys
from token_server.services.own_api_keys import NewApiKey
from token_server.web import answers, schemas
from token_server.web.account_call import Call, Handler, instant_text
from token_server.web.answers import Answer
from token_server.web.json_body import read_json, read_optional_json

API_KEYS = "/api-keys"
_ONE_API_KEY = "/api-keys/{key_id}"


async def _list_api_keys(call: Call) -> Answer:
    context = call.context()
    user = (await call.reader(context)).user
    own = await own_api_keys.list_api_keys(call.runtime, user, context.now)
    shown = [_shown(key) for key in own.keys]
    return answers.json_answer(schemas.ApiKeyList(shown, list(own.available_scope)))


async def _show_api_key(call: Call) -> Answer:
    context = call.context()
    user = (await call.reader(context)).user
    key = await own_api_keys.find_api_key(call.runtime, user, call.item_id, context.now)
    return answers.json_answer(_shown(key))


async def _create_api_key(call: Call) -> Answer:
    body = await read_json(call.scope, call.receive, schemas.CreateApiKeyBody)
    context = call.context()
    principal = await call.active_user(context)
    new = NewApiKey(body.name, tuple(body.scopes), _expiry(body, context.now))
    own_api_keys.check_form(new, context.now)  # before a password is looked at
    await call.require_recent_login(principal, body.current_password, context)
    key, secret = await own_api_keys.create_api_key(call.runtime, principal.user, new, context)
    made = schemas.NewApiKey(**asdict(_shown(key)), api_key=secret.reveal())
    return answers.json_answer(made, 201)


async def _revoke_api_key(call: Call) -> Answer:
    body = await read_optional_json(call.scope, call.receive, schemas.RevokeApiKeysBody)
    context = call.context()
    principal = await call.active_user(context)
    key = await own_api_keys.find_api_key(call.runtime, principal.user, call.item_id, context.now)
    await call.require_recent_login(principal, body.current_password, context)
    await own_api_keys.revoke_api_key(call.runtime, principal.user, key.key_id, context)
    return Answer(204, (answers.NO_STORE,))


async def _revoke_all_api_keys(call: Call) -> Answer:
    body = await read_optional_json(call.scope, call.receive, schemas.RevokeApiKeysBody)
    context = call.context()
    principal = await call.active_user(context)
    await call.require_recent_login(principal, body.current_password, context)
    revoked = await own_api_keys.revoke_all_api_keys(call.runtime, principal.user, context)
    return answers.json_answer(schemas.ApiKeysRevoked(revoked))


API_KEY_ROUTES: Mapping[str, Mapping[str, Handler]] = {
    API_KEYS: {"GET": _list_api_keys, "POST": _create_api_key, "DELETE": _revoke_all_api_keys},
    _ONE_API_KEY: {"GET": _show_api_key, "DELETE": _revoke_api_key},
}


def _expiry(body: schemas.CreateApiKeyBody, now: int) -> int | None:
    if body.expires_at is None:
        return None if body.expires_in_s is None else now + body.expires_in_s
    if body.expires_in_s is not None:
        raise InvalidFieldError("expires_at", "Send expires_at or expires_in_s, not both.")
    return int(body.expires_at.timestamp())


def _shown(key: ApiKey) -> schemas.ApiKey:
    return schemas.ApiKey(
        id=key.key_id,
        name=key.name,
        scopes=list(key.scope),
        created_at=instant_text(key.created_at),
        expires_at=None if key.expires_at is None else instant_text(key.expires_at),
        last_used_at=None if key.last_used_at is None else instant_text(key.last_used_at),
    )
