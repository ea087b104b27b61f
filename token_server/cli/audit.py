"""`token-server audit`: read the audit trail. Rows hold ids, never tokens, e-mails or secrets."""

import contextlib

import click
import msgspec

from token_server.cli.context import CliContext, json_option, run
from token_server.cli.formats import instant_text
from token_server.records import AuditEvent
from token_server.runtime import Runtime
from token_server.services import maintenance
from token_server.services.maintenance import AuditRow


@click.group()
def audit() -> None:
    """Read the audit trail: logins, refusals, reuse, revocations, changes by operators.

    docs/cli.md lists the events. They stay until `db prune --audit-older-than`.
    """


@audit.command()
@click.option(
    "-n", "--lines", type=click.IntRange(0, 10_000), default=20, show_default=True, help="How many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@json_option
@click.pass_obj
def tail(cli: CliContext, *, lines: int, follow: bool, as_json: bool) -> None:
    """Show the newest events, the oldest of them first; with --json one object a line."""

    async def show(runtime: Runtime) -> None:
        wanted = max(lines, maintenance.FOLLOW_OVERLAP) if follow else lines
        seen = await maintenance.latest_audit_events(runtime, wanted)
        for row in seen[len(seen) - min(lines, len(seen)) :]:
            _print(row, as_json=as_json)
        if follow:
            async for row in maintenance.follow_audit_events(runtime, seen):
                _print(row, as_json=as_json)

    # Ctrl-C is how --follow ends.
    with contextlib.suppress(KeyboardInterrupt):
        run(cli, show)


def _print(row: AuditRow, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"id": row.id, **msgspec.to_builtins(row.event)}))
    else:
        click.echo(_text(row.event))


def _text(event: AuditEvent) -> str:
    facts = {
        "actor": event.actor,
        "subject": event.subject,
        "client": event.client_id,
        "reason": event.reason,
        "ip": event.ip_address,
        **event.details,
    }
    shown = " ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return f"{instant_text(event.at)}  {event.event.value:<28} {shown}"
