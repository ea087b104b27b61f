"""`token-server keys`: make the first signing keys, and list them with their states.

Works without a database. Prints public facts only: names, states and instants, never a number of
a key. Exit code 3 when there are no keys to list.
"""

import asyncio
from datetime import UTC, datetime

import click

from token_server.cli.context import CliContext, emit, json_option
from token_server.cli.key_rotation import (
    compromise_command,
    promote_command,
    rollback_command,
    rotate_command,
)
from token_server.runtime import SystemClock, SystemEntropy
from token_server.services.keys import KeyRow, KeysReport, init_keys, show_keys


@click.group()
def keys() -> None:
    """Make and list the keys that sign access tokens.

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
    entropy = SystemEntropy().token_bytes
    report = asyncio.run(init_keys(cli.settings(), now=SystemClock().now(), entropy=entropy))
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
    entropy = SystemEntropy().token_bytes
    report = asyncio.run(show_keys(cli.settings(), now=SystemClock().now(), entropy=entropy))
    _print(report, None, as_json=as_json)


for _command in (rotate_command, promote_command, rollback_command, compromise_command):
    keys.add_command(_command)


def _print(report: KeysReport, opening: str | None, *, as_json: bool) -> None:
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    emit(report, lambda: _text(report, opening), as_json=as_json)


def _text(report: KeysReport, opening: str | None) -> str:
    lines = [] if opening is None else [opening]
    lines.append(
        f"Keyring {report.keyring_id}, generation {report.generation}, in {report.keys_dir}"
    )
    lines.append(_line("STATE", "KID", "ALG", "SIGNS FROM", "LEAVES THE JWKS"))
    lines += [_key_line(row) for row in report.keys]
    return "\n".join(lines)


def _key_line(row: KeyRow) -> str:
    alg = f"{row.alg}/{row.bits}"
    return _line(row.state.value, row.kid, alg, _date(row.activate_at), _date(row.retire_at))


def _line(state: str, kid: str, alg: str, signs_from: str, leaves: str) -> str:
    return f"{state:<11}  {kid:<43}  {alg:<10}  {signs_from:<20}  {leaves}".rstrip()


def _date(instant: int | None) -> str:
    if instant is None:
        return "no date yet"
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
