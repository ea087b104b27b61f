"""`token-server client`: applications that ask for tokens. A secret is printed once, when made."""

from typing import Any

import click

from token_server.cli.context import CliContext, emit, json_option, run
from token_server.cli.formats import DURATION, instant_text
from token_server.config_values import format_duration
from token_server.core.client_policy import ACCESS_TOKEN_TYPS, GRANT_TYPES, client_warnings
from token_server.records import Client, ClientSecret, Secret
from token_server.services import clients

_KEEP_IT = "Keep the secret now: it is not stored and cannot be shown again."


@click.group()
def client() -> None:
    """Register OAuth clients and rotate their secrets.

    A client is an application or service that asks for tokens: confidential (it has a secret) or
    public (it has none, such as an app on a phone). Changes reach a running server within
    seconds; disabling and deleting end the client's sessions at once.
    """


@client.command()
@click.argument("client_id", metavar="ID")
@click.option(
    "--grant",
    "grant_types",
    multiple=True,
    metavar="|".join(GRANT_TYPES),
    help="A grant that the client may use; repeat for more. None only with --serves.",
)
@click.option("--scope", "scopes", multiple=True, help="A scope it may be given; repeat for more.")
@click.option(
    "--audience",
    "audiences",
    multiple=True,
    metavar="URI",
    help="A service it may ask tokens for (RFC 8707 resource), an absolute URI; repeat for more.",
)
@click.option(
    "--default-audience",
    multiple=True,
    metavar="URI",
    help="`aud` when the client asks for none; the server's DEFAULT_AUDIENCE if not given.",
)
@click.option(
    "--serves",
    "serves_audiences",
    multiple=True,
    metavar="URI",
    help="An audience that this client is, as a resource server: it may introspect its tokens.",
)
@click.option(
    "--revocable",
    "is_revocable",
    is_flag=True,
    help="Its client_credentials tokens can be revoked one by one (status list).",
)
@click.option("--name", default="", help="Display name; the ID if not given.")
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
    """
    new = clients.NewClient(client_id=registration.pop("client_id"), **registration)
    made, secret = run(cli, lambda runtime: clients.add_client(runtime, new))
    for warning in client_warnings(made):
        click.echo(f"Warning: {warning}.", err=True)
    shown = client_json(made)
    if secret is not None:
        shown = {"client_id": made.client_id, "client_secret": secret.reveal(), **shown}
    emit(shown, lambda: _added_text(made, secret), as_json=as_json)


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
    emit([client_json(each) for each in found], lambda: _table(found, limit), as_json=as_json)


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
    shown = {"client_id": client_id, "client_secret": secret.reveal(), **_secret_json(record)}
    emit(shown, lambda: _secret_text(client_id, record, secret), as_json=as_json)


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


def client_json(shown: Client) -> dict[str, object]:
    """What `--json` prints of a client; null is the server's setting, instants epoch seconds."""
    return {
        "client_id": shown.client_id,
        "name": shown.name,
        "is_public": shown.is_public,
        "is_enabled": shown.is_enabled,
        "grant_types": sorted(shown.grant_types),
        "scopes": shown.scopes,
        "audiences": shown.audiences,
        "default_audience": shown.default_audience,
        "serves_audiences": shown.serves_audiences,
        "is_revocable": shown.is_revocable,
        "access_token_ttl_s": shown.access_token_ttl_s,
        "access_token_typ": shown.access_token_typ,
        "refresh_idle_ttl_s": shown.refresh_idle_ttl_s,
        "refresh_absolute_ttl_s": shown.refresh_absolute_ttl_s,
        "refresh_replay_window_s": shown.refresh_replay_window_s,
        "shadow_limit": shown.shadow_limit,
        "created_at": shown.created_at,
        "updated_at": shown.updated_at,
        "secrets": [_secret_json(secret) for secret in shown.secrets],
    }


def _secret_json(secret: ClientSecret) -> dict[str, object]:
    return {
        "secret_id": secret.secret_id,
        "label": secret.label,
        "created_at": secret.created_at,
        "expires_at": secret.expires_at,
        "last_used_at": secret.last_used_at,
    }


def _print(shown: Client, *, as_json: bool) -> None:
    emit(client_json(shown), lambda: _text(shown), as_json=as_json)


def _text(shown: Client) -> str:
    lines = [
        ("client id", shown.client_id),
        ("name", shown.name),
        ("type", "public" if shown.is_public else "confidential"),
        ("enabled", "yes" if shown.is_enabled else "no (disabled)"),
        ("grants", " ".join(sorted(shown.grant_types))),
        ("scopes", " ".join(shown.scopes) or "none"),
        ("audiences", " ".join(shown.audiences) or "none"),
        ("default audience", " ".join(shown.default_audience) or "DEFAULT_AUDIENCE"),
        ("serves", " ".join(shown.serves_audiences) or "none"),
        ("revocable", "yes" if shown.is_revocable else "no"),
        ("access tokens", _duration_text(shown.access_token_ttl_s)),
        ("access token typ", shown.access_token_typ or "as the server"),
        ("idle lifetime", _duration_text(shown.refresh_idle_ttl_s)),
        ("absolute lifetime", _duration_text(shown.refresh_absolute_ttl_s)),
        ("replay window", _duration_text(shown.refresh_replay_window_s)),
        ("shadow limit", "off" if shown.shadow_limit is None else str(shown.shadow_limit)),
        ("created", instant_text(shown.created_at)),
    ]
    lines += [("secret", _secret_line(secret)) for secret in shown.secrets]
    return "\n".join(f"{name:<17} {value}" for name, value in lines)


def _secret_line(secret: ClientSecret) -> str:
    end = "" if secret.expires_at is None else f", ends {instant_text(secret.expires_at)}"
    made, used = instant_text(secret.created_at), instant_text(secret.last_used_at)
    return f"{secret.secret_id} ({secret.label}), made {made}, last used {used}{end}"


def _added_text(made: Client, secret: Secret[str] | None) -> str:
    if secret is None:
        return _text(made)
    return f"{_text(made)}\n\nclient secret     {secret.reveal()}\n{_KEEP_IT}"


def _secret_text(client_id: str, record: ClientSecret, secret: Secret[str]) -> str:
    return (
        f"client id         {client_id}\nsecret            {_secret_line(record)}\n\n"
        f"client secret     {secret.reveal()}\n{_KEEP_IT}"
    )


def _duration_text(seconds: int | None) -> str:
    return "as the server" if seconds is None else format_duration(seconds)


def _table(found: list[Client], limit: int) -> str:
    if not found:
        return "No clients."
    lines = [
        f"{each.client_id}  {'public' if each.is_public else 'confidential'}"
        f"  {'enabled' if each.is_enabled else 'disabled'}  {' '.join(sorted(each.grant_types))}"
        for each in found
    ]
    if len(found) == limit:
        lines.append(f"There may be more: --after {found[-1].client_id}")
    return "\n".join(lines)
