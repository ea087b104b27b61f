"""`token-server keys`: make the first signing keys, list them, and show what will happen to them.

`init`, `list` and `plan` work without a database where keys are in the key directory. Prints
public facts only: names, states and instants, never a number of a key. Exit code 3 when there are
no keys.
"""

import asyncio
import os
import shutil
import sys
import textwrap
from datetime import UTC, datetime

import click

from token_server.cli.context import CliContext, emit, json_option, stated_policy
from token_server.cli.formats import instant_text, relative_text
from token_server.cli.key_doctor import doctor_command
from token_server.cli.key_material import export_command, import_command, rewrap_command
from token_server.cli.key_picture import ASCII, UNICODE, Canvas, Strokes, draw
from token_server.cli.key_rotation import (
    compromise_command,
    promote_command,
    rollback_command,
    rotate_command,
)
from token_server.cli.key_texts import basis_text, event_lines
from token_server.runtime import SystemClock, SystemEntropy
from token_server.services.key_plan import KeyPlan, plan_keys
from token_server.services.keys import KeyPlace, KeyRow, KeysReport, init_keys, show_keys

_MOST_WIDTH = 132


@click.group()
def keys() -> None:
    """Make, rotate, roll back and drop the keys that sign access tokens; see what comes.

    A running server rotates by itself. `plan` says what happens next and when; docs/keys.md is the
    manual, with a runbook for a key that got into wrong hands.

    A key is `next` (published so that verifiers learn it, does not sign), `active` (signs),
    `retiring` (published, only verifies), `retired` (no longer published) or `compromised`.
    """


@keys.command("init")
@json_option
@click.pass_obj
def init_command(cli: CliContext, *, as_json: bool) -> None:
    """Make the first signing keys, or check the existing ones.

    Makes the key directory (KEYS_DIR, mode 0700), a master key unless MASTER_KEY_FILE names one
    elsewhere, one active key and one next key. Where keys exist already nothing is changed: every
    file is checked and every key decrypted once. The server does the same at its first start, so
    this command is for those who want the keys (and their backup) before it.

    \b
    Examples:
      token-server keys init
      token-server --keys-dir /var/lib/token-server/keys keys init --json
    """
    report = asyncio.run(init_keys(_place(cli)))
    opening = "Made signing keys" if report.is_new else "Signing keys exist already and are good"
    _print(report, f"{opening}.", as_json=as_json)


@keys.command("list")
@json_option
@click.pass_obj
def list_command(cli: CliContext, *, as_json: bool) -> None:
    """List the signing keys, their states and their dates (UTC).

    \b
    Example:
      token-server keys list --json
    """
    report = asyncio.run(show_keys(_place(cli)))
    _print(report, None, as_json=as_json)


@keys.command("plan")
@click.option(
    "--picture/--no-picture",
    default=None,
    help="Draw the keys' lives; by default on a terminal only.",
)
@json_option
@click.pass_obj
def plan_command(cli: CliContext, *, picture: bool | None, as_json: bool) -> None:
    """Show what will happen to the keys, when and why; changes nothing.

    The dates are what servers will do by themselves, if nobody gives a command. They follow from
    the settings of the running server, unless a setting is stated to this command.

    \b
    Examples:
      token-server keys plan
      token-server keys plan --json | jq '.events[0]'
    """
    plan = asyncio.run(plan_keys(_place(cli)))
    emit(plan, lambda: _plan_text(plan, is_drawn=picture), as_json=as_json)


for _command in (
    rotate_command,
    promote_command,
    rollback_command,
    compromise_command,
    export_command,
    import_command,
    rewrap_command,
    doctor_command,
):
    keys.add_command(_command)


def _place(cli: CliContext) -> KeyPlace:
    loaded = cli.load()
    return KeyPlace(loaded.settings, SystemClock(), SystemEntropy(), stated_policy(loaded))


def _print(report: KeysReport, opening: str | None, *, as_json: bool) -> None:
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    emit(report, lambda: _text(report, opening), as_json=as_json)


def _text(report: KeysReport, opening: str | None) -> str:
    lines = [] if opening is None else [opening]
    place = report.keys_dir or "the database"
    lines.append(f"Keyring {report.keyring_id}, generation {report.generation}, in {place}")
    lines.append(_line("STATE", "KID", "ALG", "SIGNS FROM", "LEAVES THE JWKS"))
    lines += [_key_line(row) for row in report.keys]
    return "\n".join(lines)


def _plan_text(plan: KeyPlan, *, is_drawn: bool | None) -> str:
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns
    lines = [
        f"Keyring {plan.keyring_id}, generation {plan.generation}, at {instant_text(plan.now)}",
        "",
    ]
    if is_drawn if is_drawn is not None else is_terminal:
        lines += [*draw(plan.lives, plan.now, _canvas(width, is_terminal=is_terminal)), ""]
    lines.append(f"{'STATE':<11}  {'KID':<43}  SIGNS FROM")
    lines += [f"{row.state:<11}  {row.kid:<43}  {_date(row.activate_at)}" for row in plan.keys]
    if plan.next_kid is not None:
        lines += ["", _promotion_text(plan)]
    lines += ["", "What happens next (~ follows from the settings, the rest is fixed):"]
    lines += event_lines(plan.events, plan.now, width if is_terminal else None)
    for text in ("", basis_text(plan.basis), *plan.notes):
        lines += textwrap.wrap(text, width) if is_terminal and text else [text]
    return "\n".join(lines)


def _promotion_text(plan: KeyPlan) -> str:
    if plan.promotable_at is None:
        return (
            f"{plan.next_kid} has not been served yet, and cannot sign before KEY_LEAD after it is."
        )
    if plan.promotable_at <= plan.now:
        return f"Every verifier can know {plan.next_kid}: `keys promote` lets it sign at once."
    at = f"{instant_text(plan.promotable_at)} ({relative_text(plan.promotable_at, plan.now)})"
    return f"{plan.next_kid} may sign from {at}: then every verifier can know it (I2)."


def _canvas(width: int, *, is_terminal: bool) -> Canvas:
    is_coloured = is_terminal and not os.environ.get("NO_COLOR")
    return Canvas(min(width, _MOST_WIDTH), _strokes(), is_coloured)


def _strokes() -> Strokes:
    try:
        f"{UNICODE.next}{UNICODE.active}{UNICODE.now_active}".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return ASCII
    return UNICODE


def _key_line(row: KeyRow) -> str:
    alg = f"{row.alg}/{row.bits}"
    return _line(row.state.value, row.kid, alg, _date(row.activate_at), _date(row.retire_at))


def _line(state: str, kid: str, alg: str, signs_from: str, leaves: str) -> str:
    return f"{state:<11}  {kid:<43}  {alg:<10}  {signs_from:<20}  {leaves}".rstrip()


def _date(instant: int | None) -> str:
    if instant is None:
        return "no date yet"
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
