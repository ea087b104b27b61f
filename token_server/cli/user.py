"""`token-server user`: people who log in. Passwords come from a prompt or stdin, never argv."""

from typing import TYPE_CHECKING

import click

from token_server.cli.api_keys import api_keys, revoke_api_key
from token_server.cli.context import CliContext, emit, json_option, read_secret, run
from token_server.cli.formats import instant_text
from token_server.records import User
from token_server.services import user_profile, users

if TYPE_CHECKING:
    from token_server.runtime import Runtime

_WHO = "WHO is an e-mail or a user id (usr_...)."

password_stdin_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password as one line from standard input."
)


@click.group()
def user() -> None:
    """Add, change, list, disable users; set passwords and roles.

    Users log in with e-mail and password, where a client may use the password grant. Changing a
    password and disabling a user end all of the user's sessions at once; access tokens already
    handed out stay valid until they expire.
    """


user.add_command(api_keys)
user.add_command(revoke_api_key)


@user.command()
@click.argument("email")
@click.option("--name", required=True, help="Display name, 1 to 100 characters.")
@password_stdin_option
@json_option
@click.pass_obj
def add(cli: CliContext, *, email: str, name: str, password_stdin: bool, as_json: bool) -> None:
    """Add a user; asks for the password.

    A password needs the length of PASSWORD_MIN_LENGTH and PASSWORD_MAX_LENGTH and must be neither
    a common one nor the e-mail or name. There are no rules about kinds of characters.

    \b
    Example:
      token-server user add alice@example.com --name "Alice Smith"
    """
    password = read_secret("Password", from_stdin=password_stdin, confirm=True)
    new = users.NewUser(email, name, password)
    _print(run(cli, lambda runtime: users.add_user(runtime, new)), as_json=as_json)


@user.command("list")
@click.option("--after", metavar="USER_ID", help="Continue behind this id.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=users.PAGE, show_default=True, help="At most."
)
@json_option
@click.pass_obj
def list_(cli: CliContext, *, after: str | None, limit: int, as_json: bool) -> None:
    """List users by id."""
    found = run(cli, lambda runtime: users.list_users(runtime, after, limit))
    emit([user_json(each) for each in found], lambda: _table(found, limit), as_json=as_json)


@user.command(epilog=_WHO)
@click.argument("who")
@json_option
@click.pass_obj
def show(cli: CliContext, *, who: str, as_json: bool) -> None:
    """Show one user; never the password or its hash."""
    _print(run(cli, lambda runtime: users.show_user(runtime, who)), as_json=as_json)


@user.command(epilog=_WHO)
@click.argument("who")
@password_stdin_option
@json_option
@click.pass_obj
def passwd(cli: CliContext, *, who: str, password_stdin: bool, as_json: bool) -> None:
    """Set another password; asks for it.

    All of the user's sessions end. API keys stay: `user revoke-api-key WHO --all` ends them.
    """
    if not password_stdin:  # before somebody types a password twice in vain
        run(cli, lambda runtime: users.show_user(runtime, who))
    password = read_secret("New password", from_stdin=password_stdin, confirm=True)
    _print(run(cli, lambda runtime: users.set_password(runtime, who, password)), as_json=as_json)


@user.command(epilog=_WHO)
@click.argument("who")
@click.option("--email", help="The new e-mail, to log in with from now on.")
@click.option("--name", help="The new display name, 1 to 100 characters.")
@json_option
@click.pass_obj
def change(
    cli: CliContext, *, who: str, email: str | None, name: str | None, as_json: bool
) -> None:
    """Change a user's e-mail or name.

    Sessions and tokens go on: they hold neither.
    """
    if email is None and name is None:
        raise click.UsageError("Give --email, --name or both.")

    async def act(runtime: "Runtime") -> User:
        return await user_profile.change_names(runtime, who, email=email, name=name)

    _print(run(cli, act), as_json=as_json)


@user.command(epilog=_WHO)
@click.argument("who")
@click.option("--set", "roles", metavar="ROLES", help='All roles, as words: "support auditor".')
@json_option
@click.pass_obj
def roles(cli: CliContext, *, who: str, roles: str | None, as_json: bool) -> None:
    """Show a user's roles, or set them.

    Access tokens carry them as `roles`, also those of running sessions from their next refresh
    on. An empty text takes all roles away.

    \b
    Example:
      token-server user roles alice@example.com --set "support auditor"
    """
    if roles is None:
        shown = run(cli, lambda runtime: users.show_user(runtime, who))
    else:
        shown = run(cli, lambda runtime: user_profile.set_roles(runtime, who, roles.split()))
    emit(list(shown.roles), lambda: "\n".join(shown.roles) or "No roles.", as_json=as_json)


@user.command(epilog=_WHO)
@click.argument("who")
@json_option
@click.pass_obj
def disable(cli: CliContext, *, who: str, as_json: bool) -> None:
    """Refuse a user's logins and API keys, and end the sessions."""
    _print(run(cli, lambda runtime: users.disable_user(runtime, who)), as_json=as_json)


@user.command(epilog=_WHO)
@click.argument("who")
@json_option
@click.pass_obj
def enable(cli: CliContext, *, who: str, as_json: bool) -> None:
    """Let a disabled user log in again.

    The password is the old one; ended sessions stay ended. API keys are good again.
    """
    _print(run(cli, lambda runtime: users.enable_user(runtime, who)), as_json=as_json)


def user_json(shown: User) -> dict[str, object]:
    """What `--json` prints of a user; instants are epoch seconds."""
    return {
        "id": shown.user_id,
        "email": shown.email,
        "name": shown.name,
        "is_active": shown.is_active,
        "created_at": shown.created_at,
        "updated_at": shown.updated_at,
        "password_changed_at": shown.password_changed_at,
        "last_login_at": shown.last_login_at,
        "roles": list(shown.roles),
    }


def _print(shown: User, *, as_json: bool) -> None:
    emit(user_json(shown), lambda: _text(shown), as_json=as_json)


def _text(shown: User) -> str:
    lines = (
        ("id", shown.user_id),
        ("email", shown.email),
        ("name", shown.name),
        ("active", "yes" if shown.is_active else "no (disabled)"),
        ("created", instant_text(shown.created_at)),
        ("password changed", instant_text(shown.password_changed_at)),
        ("last login", instant_text(shown.last_login_at)),
        ("roles", " ".join(shown.roles) or "none"),
    )
    return "\n".join(f"{name:<17} {value}" for name, value in lines)


def _table(found: list[User], limit: int) -> str:
    if not found:
        return "No users."
    lines = [
        f"{each.user_id}  {'active  ' if each.is_active else 'disabled'}  {each.email}  {each.name}"
        for each in found
    ]
    if len(found) == limit:
        lines.append(f"There may be more: --after {found[-1].user_id}")
    return "\n".join(lines)
