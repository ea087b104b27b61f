"""`token-server doctor` and `token-server version`: is this installation sound, and what is it?"""

import asyncio

import click

from token_server.cli.context import CliContext, emit, json_option, setting_options
from token_server.runtime import SystemClock, SystemEntropy
from token_server.services.doctor import Finding, examine
from token_server.services.installation import versions

MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command()
@setting_options()
@json_option
@click.pass_obj
def doctor(cli: CliContext, *, as_json: bool) -> None:
    """Check this installation and say what to mend.

    Looks at settings, versions, keys, database (a SQLite file is searched for damage), file
    modes, the clock and the disk, and changes nothing. Exit code 1 when a check fails.
    """
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


def _text(findings: list[Finding]) -> str:
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.level]}  {finding.check:<13}  {finding.detail}")
        if finding.fix:
            lines.append(f"                     -> {finding.fix}")
    return "\n".join(lines)
