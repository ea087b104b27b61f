"""`token-server db`: the database as a whole. Nothing here shows or asks for a secret."""

import asyncio
from pathlib import Path

import click

from token_server.cli.context import CliContext, emit, json_option, run
from token_server.cli.formats import DURATION, instant_text
from token_server.runtime import SystemClock
from token_server.services import maintenance
from token_server.services.maintenance import DatabaseStatus


@click.group()
def db() -> None:
    """Upgrade, inspect, back up and prune the database.

    The server upgrades its database by itself when it starts; these commands are for doing it
    before, and for what no start does. They may run while the server does.
    """


@db.command()
@json_option
@click.pass_obj
def upgrade(cli: CliContext, *, as_json: bool) -> None:
    """Bring the database to the schema of this release; safe to repeat.

    Makes the database where there is none. Two upgrades at once are one: the second waits and
    finds nothing to do.
    """
    is_changed = asyncio.run(maintenance.upgrade_database(cli.settings(), SystemClock()))
    text = "The database was upgraded." if is_changed else "The database is up to date."
    emit({"upgraded": is_changed}, text, as_json=as_json)


@db.command()
@json_option
@click.pass_obj
def status(cli: CliContext, *, as_json: bool) -> None:
    """Show which database it is, its schema and its size; changes nothing.

    Exit code 3 when there is no database yet.
    """
    found = asyncio.run(maintenance.database_status(cli.settings(), SystemClock()))
    emit(found, lambda: _status_text(found), as_json=as_json)
    if found.revision is None:
        raise SystemExit(3)


@db.command()
@click.argument("target", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def backup(cli: CliContext, *, target: Path, as_json: bool) -> None:
    """Copy a SQLite database to the file TARGET, consistently, while the server runs.

    TARGET must not exist; it is made with mode 0600. It holds password hashes and sessions: keep
    it as safe as the database. Back up the key directory too, on its own: a database without its
    keys cannot be used. For PostgreSQL use pg_dump. After restoring: `token-server db restored`.
    """
    asyncio.run(maintenance.back_up_database(cli.settings(), SystemClock(), target))
    emit({"target": str(target)}, f"Backed up to {target}.", as_json=as_json)


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def restored(cli: CliContext, *, yes: bool, as_json: bool) -> None:
    """Say that the database was restored from a backup: ends every session.

    In a restored database refresh tokens that were used since the backup would be valid again,
    for whoever holds them, and sessions that were revoked since would be good. This makes all of
    them worthless, access tokens too where status lists are checked; people log in anew. Stop the
    servers first, or restart them afterwards: a running one keeps the old state.
    """
    if not yes:
        click.confirm("End every session of every user?", abort=True, err=True)
    epoch = run(cli, maintenance.mark_restored)
    text = f"Every session has ended (epoch {epoch}). Restart the servers that are running."
    emit({"epoch": epoch}, text, as_json=as_json)


@db.command()
@click.option(
    "--audit-older-than",
    type=DURATION,
    metavar="DURATION",
    help="Delete audit events of this age too, e.g. 365d; none are deleted otherwise.",
)
@json_option
@click.pass_obj
def prune(cli: CliContext, *, audit_older_than: int | None, as_json: bool) -> None:
    """Delete sessions that ended more than 7 days ago, in small batches; good for cron.

    Also API keys that ended as long ago, guessing budgets that are full again, and what was known
    of machine tokens that expired.
    """
    pruned = run(cli, lambda runtime: maintenance.prune_database(runtime, audit_older_than))
    text = (
        f"Deleted {pruned.sessions} sessions, {pruned.audit_events} audit events,"
        f" {pruned.throttles} past guessing budgets, {pruned.machine_blocks} blocks of machine"
        f" tokens, {pruned.denied_tokens} denials of tokens that have expired and"
        f" {pruned.api_keys} API keys."
    )
    emit(pruned, text, as_json=as_json)


def _status_text(status: DatabaseStatus) -> str:
    lines = [f"Database   {status.database}"]
    if not status.exists:
        return "\n".join([*lines, "There is none yet: `token-server db upgrade` makes it."])
    lines.append(f"Version    {status.version}")
    if status.size_bytes is not None:
        lines.append(f"Size       {status.size_bytes / 1024:.0f} KiB")
    if status.is_current:
        lines.append(f"Schema     {status.revision} (up to date since {_since(status)})")
    else:
        lines.append(f"Schema     {status.revision or 'none'}; this release has {status.head}")
    if status.epoch:
        lines.append(f"Restored   {status.epoch} times")
    return "\n".join(lines)


def _since(status: DatabaseStatus) -> str:
    return instant_text(status.upgraded_at)
