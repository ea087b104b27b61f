"""`token-server keys rotate | promote | rollback | compromise`: what changes which key signs.

They print what was done, which rules stood in the way and from when the same would be allowed.
Exit code 0 when done and when there is nothing to do (`changed` in the JSON tells which), 4 when
a rule refuses, 3 when there is no such key, 5 when the keys are busy.
"""

import re
from collections.abc import Awaitable, Callable

import click

from token_server.cli.context import CliContext, emit, json_option, run, stated_policy
from token_server.cli.key_texts import change_text, emergency_text, refusal_text
from token_server.runtime import Runtime
from token_server.services.key_emergency import compromise_everything
from token_server.services.key_rotation import (
    Asked,
    ChangeReport,
    Verb,
    compromise_key,
    promote_key,
    roll_back_keys,
    rotate_keys,
)
from token_server.services.keys import require_keys

REFUSED = 4
_KID = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7638 with SHA-256

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done; change nothing."
)
force_option = click.option(
    "--force", is_flag=True, help="Do it although a rule forbids it; the audit trail says so."
)


class KidCommand(click.Command):
    """A command whose argument is a kid: one in 64 begins with a hyphen and is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        kids = [each for each in args if _KID.fullmatch(each)]
        rest = [each for each in args if not _KID.fullmatch(each)]
        return super().parse_args(ctx, [*rest, "--", *kids] if kids else rest)


@click.command("rotate")
@click.option("--now", is_flag=True, help="Emergency: the next key signs at once.")
@click.option("--if-due", is_flag=True, help="Only when the signing key has reached its age.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing when there was nothing to do.")
@dry_run_option
@json_option
@click.pass_obj
def rotate_command(
    cli: CliContext, /, *, now: bool, if_due: bool, quiet: bool, **how: bool
) -> None:
    """Begin a rotation: the next key gets its date, one KEY_LEAD from now.

    A running server rotates by itself every KEY_ROTATE_EVERY; this is for doing it before. Safe to
    repeat and from cron: while a rotation is under way there is nothing to do. Nobody is logged
    out and no verifier fails.

    With --now the next key signs at once. Verifiers that cannot know it yet refuse its tokens:
    the command says which, and for how long (try it with --dry-run).

    \b
    Examples:
      token-server keys rotate
      token-server keys rotate --now --dry-run
    """
    if now and if_due:
        raise click.UsageError("--now and --if-due exclude each other.")
    asked = _asked(cli, "rotate", dry_run=how["dry_run"])
    report = run(
        cli, lambda runtime: rotate_keys(runtime, asked, now=now, if_due=if_due), with_keys=True
    )
    if not (quiet and report.reason is not None):
        _show(report, as_json=how["as_json"])


@click.command("promote")
@force_option
@dry_run_option
@json_option
@click.pass_obj
def promote_command(cli: CliContext, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Let the next key sign now, before its date.

    Refused (exit code 4) until it was served for KEY_LEAD, with the instant from which it will be
    allowed: before, verifiers with older copies of the keys would refuse its tokens.
    """
    asked = _asked(cli, "promote", force=force, dry_run=dry_run)
    _carry_out(cli, lambda runtime: promote_key(runtime, asked), as_json=as_json)


@click.command("rollback")
@force_option
@dry_run_option
@json_option
@click.pass_obj
def rollback_command(cli: CliContext, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Take the last rotation back.

    While it is under way: the next key loses its date. After the switch: the key before signs
    again, as long as its private half exists (KEY_LEAD, at most 24 h). Every verifier knows it.
    """
    asked = _asked(cli, "rollback", force=force, dry_run=dry_run)
    _carry_out(cli, lambda runtime: roll_back_keys(runtime, asked), as_json=as_json)


@click.command("compromise", cls=KidCommand)
@click.argument("kid", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every key, the master key and all sessions.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@dry_run_option
@json_option
@click.pass_obj
def compromise_command(cli: CliContext, /, *, kid: str | None, is_all: bool, **how: bool) -> None:
    """Drop the key KID at once: others may have it.

    It leaves the published keys and never signs again; if it signed, the next key signs from now
    on. Running servers follow within a second. Nobody is logged out. Exit code 3 when no key is
    called KID. docs/keys.md has the runbook.

    With --all, when somebody may have read the host or the key store: every key is dropped, the
    next one too, and the master key with them; keys that were never published sign at once, and
    all sessions end. If it is stopped half-way, do it again: that completes it.
    """
    if (kid is None) is not is_all:
        raise click.UsageError("Name one KID, or give --all.")
    asked = _asked(cli, "compromise", dry_run=how["dry_run"])
    if kid is not None:
        _carry_out(cli, lambda runtime: compromise_key(runtime, kid, asked), as_json=how["as_json"])
        return
    if not (how["yes"] or asked.dry_run):
        click.confirm("Drop every key and end every session of every user?", abort=True, err=True)
    report = run(
        cli,
        lambda runtime: compromise_everything(runtime, dry_run=asked.dry_run),
        with_keys=True,
    )
    emit(report, lambda: emergency_text(report), as_json=how["as_json"])


def _asked(cli: CliContext, verb: Verb, *, force: bool = False, dry_run: bool = False) -> Asked:
    loaded = cli.load()
    require_keys(loaded.settings)
    return Asked(verb, force=force, dry_run=dry_run, stated=stated_policy(loaded))


def _carry_out(
    cli: CliContext, action: Callable[[Runtime], Awaitable[ChangeReport]], *, as_json: bool
) -> None:
    _show(run(cli, action, with_keys=True), as_json=as_json)


def _show(report: ChangeReport, *, as_json: bool) -> None:
    if report.refused:
        if as_json:
            emit(report, "", as_json=True)
        click.echo(refusal_text(report), err=True)
        raise SystemExit(REFUSED)
    emit(report, lambda: change_text(report), as_json=as_json)
