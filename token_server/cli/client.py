"""`token-server client`: applications that ask for tokens. A secret is printed once, when made."""

from typing import Any

import click

from token_server.cli.client_options import policy_options
from token_server.cli.client_text import (
    added_text,
    client_json,
    client_text,
    clients_table,
    secret_json,
    secret_text,
)
from token_server.cli.context import CliContext, emit, json_option, run
from token_server.cli.formats import DURATION
from token_server.core.client_policy import ACCESS_TOKEN_TYPS, client_warnings
from token_server.records import Client
from token_server.services import clients
from token_server.services.client_changes import ClientChanges, change_client


@click.group()
def client() -> None:
    """Register OAuth clients and rotate their secrets.

    A client is an application or service that asks for tokens: confidential (it has a secret) or
    public (it has none, such as an app on a phone). Changes reach a running server within
    seconds; disabling and deleting end the client's sessions at once.
    """


@client.command()
@click.argument("client_id", metavar="ID")
@policy_options
@click.option(
    "--revocable",
    "is_revocable",
    is_flag=True,
    help="Its client_credentials tokens can be revoked one by one (status list).",
)
@click.option("--public", "is_public", is_flag=True, help="The client cannot keep a secret.")
@click.option(
    "--access-token-ttl", "access_token_ttl_s", type=DURATION, help="Life of access tokens."
)
@click.option(
    "--access-token-typ",
    metavar="|".join(ACCESS_TOKEN_TYPS),
    help="`typ` header; JWT for verifiers that refuse at+jwt.",
)
@click.option(
    "--refresh-idle-ttl",
    "refresh_idle_ttl_s",
    type=DURATION,
    help="A session ends when not refreshed for so long.",
)
@click.option(
    "--refresh-absolute-ttl",
    "refresh_absolute_ttl_s",
    type=DURATION,
    help="A session ends after so long, used or not.",
)
@click.option(
    "--replay-window",
    "refresh_replay_window_s",
    type=DURATION,
    help="How long a spent refresh token is answered again, 0 to 300s; 0 is strict mode.",
)
@click.option(
    "--shadow-limit",
    type=int,
    help="End a session after so many replays in consecutive generations; off if not given.",
)
@json_option
@click.pass_obj
def add(cli: CliContext, /, *, as_json: bool, **registration: Any) -> None:
    """Register a client; prints its secret, once.

    \b
    Examples:
      token-server client add billing --grant client_credentials \\
          --scope orders:read --audience https://orders.example
      token-server client add web-app --public --grant password --grant refresh_token \\
          --scope profile
      token-server client add orders --serves https://orders.example
      token-server client add gateway --grant token-exchange --scope orders:read \\
          --serves https://gateway.example --exchange-audience https://orders.example
    """
    new = clients.NewClient(client_id=registration.pop("client_id"), **registration)
    made, secret = run(cli, lambda runtime: clients.add_client(runtime, new))
    _warn(made)
    shown = client_json(made)
    if secret is not None:
        shown = {"client_id": made.client_id, "client_secret": secret.reveal(), **shown}
    emit(shown, lambda: added_text(made, secret), as_json=as_json)


@client.command()
@click.argument("client_id", metavar="ID")
@policy_options
@click.option(
    "--revocable/--not-revocable",
    "is_revocable",
    default=None,
    help="Whether its client_credentials tokens can be revoked one by one, from the next one on.",
)
@json_option
@click.pass_obj
def change(cli: CliContext, /, *, client_id: str, as_json: bool, **asked: Any) -> None:
    """Change what a client may do.

    An option replaces the whole of what the client had, and an empty text takes all of it away;
    what is not given stays. A running server follows within 5 seconds; sessions and tokens that
    exist go on as they are.

    \b
    Examples:
      token-server client change orders --serves https://orders.example \\
          --grant token-exchange --exchange-audience https://billing.example
      token-server client change orders --exchange-audience ""
    """
    given = {name: value for name, value in asked.items() if value not in ((), "", None)}
    if not given:
        raise click.UsageError("Say what is to change.")
    for name, value in given.items():
        if isinstance(value, tuple):
            given[name] = tuple(word for word in value if word)
    changes = ClientChanges(**given)
    changed = run(cli, lambda runtime: change_client(runtime, client_id, changes))
    _warn(changed)
    _print(changed, as_json=as_json)


@client.command("list")
@click.option("--after", metavar="ID", help="Continue behind this id.")
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=clients.PAGE,
    show_default=True,
    help="At most.",
)
@json_option
@click.pass_obj
def list_(cli: CliContext, *, after: str | None, limit: int, as_json: bool) -> None:
    """List clients by id; never secrets."""
    found = run(cli, lambda runtime: clients.list_clients(runtime, after, limit))
    emit(
        [client_json(each) for each in found], lambda: clients_table(found, limit), as_json=as_json
    )


@client.command()
@click.argument("client_id", metavar="ID")
@json_option
@click.pass_obj
def show(cli: CliContext, *, client_id: str, as_json: bool) -> None:
    """Show one client; never its secrets.

    Secrets are listed with id, label, expiry and last use.
    """
    _print(run(cli, lambda runtime: clients.show_client(runtime, client_id)), as_json=as_json)


@client.command("rotate-secret")
@click.argument("client_id", metavar="ID")
@click.option("--label", default="rotated", show_default=True, help="Says what the secret is for.")
@click.option(
    "--expires",
    "expires_in_s",
    type=DURATION,
    help="Life of the new secret; unlimited if not given.",
)
@click.option(
    "--expire-others",
    "expire_others_in_s",
    type=DURATION,
    help="End all other secrets after so long; 0 ends them at once. Left alone if not given.",
)
@click.option(
    "--revoke",
    "revoked_secret_id",
    metavar="SECRET_ID",
    help="Make no secret, but end this one at once (ids: client show).",
)
@json_option
@click.pass_obj
def rotate_secret(
    cli: CliContext,
    /,
    *,
    client_id: str,
    revoked_secret_id: str | None,
    as_json: bool,
    **rotation: Any,
) -> None:
    """Make a new secret, or revoke one.

    The new secret is printed once; the others go on working unless --expire-others says else.

    \b
    Without an outage:
      1. token-server client rotate-secret billing --expire-others 7d
      2. give the new secret to the service; the old one works for seven days more
    After a leak:
      token-server client rotate-secret billing --expire-others 0
    """
    if revoked_secret_id is not None:
        if rotation["expires_in_s"] is not None or rotation["expire_others_in_s"] is not None:
            raise click.UsageError("--revoke makes no secret: it goes with no other option.")
        secret_id = revoked_secret_id
        left = run(cli, lambda runtime: clients.revoke_secret(runtime, client_id, secret_id))
        _print(left, as_json=as_json)
        return
    asked = clients.SecretRotation(**rotation)
    record, secret = run(cli, lambda runtime: clients.rotate_secret(runtime, client_id, asked))
    shown = {"client_id": client_id, "client_secret": secret.reveal(), **secret_json(record)}
    emit(shown, lambda: secret_text(client_id, record, secret), as_json=as_json)


@client.command()
@click.argument("client_id", metavar="ID")
@json_option
@click.pass_obj
def disable(cli: CliContext, *, client_id: str, as_json: bool) -> None:
    """Refuse a client and end its sessions.

    `enable` accepts the client again; its users have to log in again.
    """
    _print(run(cli, lambda runtime: clients.disable_client(runtime, client_id)), as_json=as_json)


@client.command()
@click.argument("client_id", metavar="ID")
@json_option
@click.pass_obj
def enable(cli: CliContext, *, client_id: str, as_json: bool) -> None:
    """Accept a disabled client again.

    It has the secrets that it had; its sessions stay ended.
    """
    _print(run(cli, lambda runtime: clients.enable_client(runtime, client_id)), as_json=as_json)


@client.command()
@click.argument("client_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def delete(cli: CliContext, *, client_id: str, yes: bool, as_json: bool) -> None:
    """Delete a client; asks first.

    Its secrets stop working and all its sessions end. To try whether anybody misses it,
    `disable` it for a while before.
    """
    if not yes:
        click.confirm(f"Delete client {client_id} and end all its sessions?", abort=True, err=True)
    ended = run(cli, lambda runtime: clients.delete_client(runtime, client_id))
    emit(
        {"client_id": client_id, "sessions_ended": ended},
        f"Deleted client {client_id}; {ended} sessions ended.",
        as_json=as_json,
    )


def _print(shown: Client, *, as_json: bool) -> None:
    emit(client_json(shown), lambda: client_text(shown), as_json=as_json)


def _warn(shown: Client) -> None:
    for warning in client_warnings(shown):
        click.echo(f"Warning: {warning}.", err=True)
