"""`token-server doctor` and `token-server version`: is this installation sound, and what is it?"""

import asyncio
from typing import TYPE_CHECKING

import click

from token_server.cli.context import CliContext, emit, json_option, setting_options
from token_server.cli.http_client import request
from token_server.config_values import split_address
from token_server.errors import OperatorError
from token_server.services.installation import versions

if TYPE_CHECKING:
    from token_server.services.doctor import Finding

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command()
@setting_options()
@click.option("--live", is_flag=True, help="Only ask the running server whether it is ready.")
@json_option
@click.pass_obj
def doctor(cli: CliContext, *, live: bool, as_json: bool) -> None:
    """Check this installation and say what to mend.

    Looks at settings, versions, keys, database (a SQLite file is searched for damage), file
    modes, the clock and the disk, and changes nothing. Exit code 1 when a check fails.

    With --live it asks the management port of the running server instead, as a container's
    health check does: exit code 1 when it is not ready, 5 when it does not answer.
    """
    if live:
        _ask_running(cli, as_json=as_json)
        return
    # Imported here: a health check every few seconds should not load the database drivers.
    from token_server.runtime import SystemClock, SystemEntropy
    from token_server.services.doctor import examine

    findings = asyncio.run(examine(cli.read("tool"), SystemClock(), SystemEntropy()))
    is_sound = all(finding.level != "fail" for finding in findings)
    emit({"ok": is_sound, "checks": findings}, lambda: _text(findings), as_json=as_json)
    if not is_sound:
        raise SystemExit(1)


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Print the version; with --json those of the libraries too."""
    found = versions()
    emit(found, f"token-server {found['token-server']}", as_json=as_json)


def _ask_running(cli: CliContext, *, as_json: bool) -> None:
    host, port = split_address(cli.settings().management_bind)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    answer = request(f"http://{netloc}/readyz?verbose", is_private=True)
    if answer.status != 200:
        raise OperatorError(f"The server is not ready: {answer.body.decode('utf-8', 'replace')}")
    emit({"ready": True}, "ready", as_json=as_json)


def _text(findings: "list[Finding]") -> str:
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]}  {finding.check:<13}  {finding.detail}")
        if finding.fix:
            lines.append(f"                     -> {finding.fix}")
    return "\n".join(lines)
