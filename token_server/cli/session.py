"""`token-server session`: the logins of people, as an operator sees and ends them."""

import click

from token_server.cli.context import CliContext, emit, json_option, run
from token_server.cli.formats import instant_text
from token_server.errors import OperatorError
from token_server.records import Family
from token_server.services import clients, sessions


@click.group()
def session() -> None:
    """List and end the sessions of users.

    A session is one login with all its refresh tokens. Ending it is seen by the account API, by
    introspection and by every refresh at once, by services that follow the status lists within
    STATUS_TTL, and by services that do neither when its access tokens expire (docs/revocation.md).
    """


@session.command("list")
@click.argument("who")
@json_option
@click.pass_obj
def list_(cli: CliContext, *, who: str, as_json: bool) -> None:
    """List a user's live sessions, the newest first.

    WHO is an e-mail or a user id (usr_...). At most 100 are shown.
    """
    found = run(cli, lambda runtime: sessions.list_sessions_of(runtime, who))
    emit([session_json(each) for each in found], lambda: _table(found), as_json=as_json)


@session.command()
@click.argument("sid", required=False)
@click.option("--user", "who", metavar="EMAIL|ID", help="All sessions that this user has now.")
@click.option("--client", "client_id", metavar="ID", help="All that this client has now.")
@json_option
@click.pass_obj
def revoke(
    cli: CliContext, *, sid: str | None, who: str | None, client_id: str | None, as_json: bool
) -> None:
    """End one session, or all of a user or of a client; harmless when they have ended already.

    Whoever may log in can do so again: `user disable` and `client disable` end the sessions and
    keep the door shut. Very many sessions take a while (a million some 30 s); broken off, the same
    command goes on.

    \b
    Examples:
      token-server session revoke ses_3yfO9vGqQm2Xc1Zk7aB4dw
      token-server session revoke --user ada@example.org
    """
    if [sid, who, client_id].count(None) != 2:
        raise OperatorError(
            "Give a session's id, or --user, or --client: one of them.", exit_code=2
        )
    if sid is not None:
        ended = run(cli, lambda runtime: sessions.revoke_session(runtime, sid))
        told = f"Session {ended.sid} of {ended.user_id} has ended."
        emit(session_json(ended), told, as_json=as_json)
        return
    if who is not None:
        count = run(cli, lambda runtime: sessions.end_user_sessions(runtime, who))
    else:
        of_client = client_id or ""
        count = run(cli, lambda runtime: clients.end_client_sessions(runtime, of_client))
    emit({"sessions_ended": count}, f"{count} sessions have ended.", as_json=as_json)


def session_json(shown: Family) -> dict[str, object]:
    """What `--json` prints of a session; instants are epoch seconds."""
    return {
        "id": shown.sid,
        "user_id": shown.user_id,
        "client_id": shown.client_id,
        "label": shown.label,
        "ip_address": shown.ip_address,
        "user_agent": shown.user_agent,
        "created_at": shown.created_at,
        "last_used_at": shown.rotated_at or shown.created_at,
        "expires_at": min(shown.idle_expires_at, shown.absolute_expires_at),
    }


def _table(found: list[Family]) -> str:
    if not found:
        return "No sessions."
    return "\n".join(
        f"{each.sid}  {each.client_id}  last used "
        f"{instant_text(each.rotated_at or each.created_at)}  "
        f"{each.ip_address or 'unknown address'}  {each.label or each.user_agent or ''}".rstrip()
        for each in found
    )
