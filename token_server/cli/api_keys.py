"""`token-server user api-keys` and `user revoke-api-key`: other people's API keys, for operators.

Nothing here makes a key: its secret would pass through an operator's hands.
"""

import click

from token_server.cli.context import CliContext, emit, json_option, run
from token_server.cli.formats import instant_text
from token_server.records import ApiKey
from token_server.services import own_api_keys

_WHO = "WHO is an e-mail or a user id (usr_...)."


@click.command("api-keys", epilog=_WHO)
@click.argument("who")
@json_option
@click.pass_obj
def api_keys(cli: CliContext, *, who: str, as_json: bool) -> None:
    """List a user's live API keys; never their secrets.

    The user makes them at the account API. Scopes are those that the key was given: at each use
    it has only those that the client `account` still has.
    """
    found = run(cli, lambda runtime: own_api_keys.list_api_keys_of(runtime, who))
    emit([_json(key) for key in found], lambda: _table(found), as_json=as_json)


@click.command("revoke-api-key", epilog=_WHO)
@click.argument("who")
@click.argument("key_id", metavar="[KEY_ID]", required=False)
@click.option("--all", "is_all", is_flag=True, help="All of the user's API keys.")
@json_option
@click.pass_obj
def revoke_api_key(
    cli: CliContext, *, who: str, key_id: str | None, is_all: bool, as_json: bool
) -> None:
    """End an API key of a user, or all of them.

    It is refused at once, and so is every access token from it where status lists or
    introspection are asked.

    \b
    Examples:
      token-server user revoke-api-key alice@example.com key_AbCdEfGhIjKlMnOp
      token-server user revoke-api-key alice@example.com --all
    """
    if is_all == (key_id is not None):
        raise click.UsageError("Give a KEY_ID or --all (ids: user api-keys).")
    revoked = run(cli, lambda runtime: own_api_keys.revoke_api_keys_of(runtime, who, key_id))
    text = f"Revoked {len(revoked)} API key{'' if len(revoked) == 1 else 's'}."
    emit({"revoked": revoked}, text, as_json=as_json)


def _json(key: ApiKey) -> dict[str, object]:
    """Instants are epoch seconds."""
    return {
        "id": key.key_id,
        "user_id": key.user_id,
        "name": key.name,
        "scopes": list(key.scope),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
    }


def _table(found: list[ApiKey]) -> str:
    if not found:
        return "No API keys."
    return "\n".join(
        f"{key.key_id}  made {instant_text(key.created_at)}"
        f"  expires {instant_text(key.expires_at)}  last used {instant_text(key.last_used_at)}"
        f"  {key.name}  {' '.join(key.scope)}".rstrip()
        for key in found
    )
