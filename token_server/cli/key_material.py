"""`token-server keys export | import | rewrap`: keys between stores, from outside, and under
another master key.

Public halves are printed as they are; private ones leave encrypted, in a file for `keys import`
alone. Pass phrases come from a prompt or from standard input. Exit code 4 when the store or a rule
refuses.
"""

import json
import os
import sys
from pathlib import Path

import click
import msgspec

from token_server.cli.context import CliContext, emit, json_option, read_secret, run
from token_server.cli.formats import instant_text, relative_text
from token_server.crypto.key_bundle import MAX_BYTES, is_bundle
from token_server.errors import OperatorError
from token_server.records import Secret
from token_server.runtime import Runtime
from token_server.services.key_material import (
    Format,
    ImportReport,
    PassPhraseNeededError,
    export_jwks,
    export_keyring,
    export_pem,
    import_key,
    import_keyring,
)
from token_server.services.key_rewrap import RewrapReport, drop_old_master_keys, rewrap_keys
from token_server.services.keys import require_keys

_DRY_RUN = "Dry run: nothing has changed."
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done; change nothing."
)


@click.command("export")
@click.option(
    "--format",
    "form",
    type=click.Choice(["keyring", "jwks", "pem"]),
    required=True,
    help="keyring: all keys for `keys import`; jwks, pem: published keys, public halves only.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file with mode 0600, instead of standard output.",
)
@json_option
@click.pass_obj
def export_command(cli: CliContext, *, form: Format, output: Path | None, as_json: bool) -> None:
    """Write the keys out.

    `keyring` is for moving between key stores: the private halves stay encrypted under the master
    key, which goes its own way. `jwks` is what /.well-known/jwks.json serves, `pem` the same keys
    for verifiers that are configured by hand.

    \b
    Examples:
      token-server keys export --format keyring -o keyring.json
      token-server keys export --format jwks > jwks.json
    """
    require_keys(cli.settings())
    text = run(cli, lambda runtime: _exported(runtime, form, as_json=as_json), with_keys=True)
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    _write_new(output, text)
    emit({"format": form, "output": str(output)}, f"Wrote {output}.", as_json=as_json)


@click.command("import")
@click.argument("source", metavar="FILE|-", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--pass-phrase-stdin", is_flag=True, help="Read the key's pass phrase from standard input."
)
@dry_run_option
@json_option
@click.pass_obj
def import_command(
    cli: CliContext, *, source: Path, pass_phrase_stdin: bool, dry_run: bool, as_json: bool
) -> None:
    """Take in a whole keyring, or one private key.

    What `keys export --format keyring` wrote goes into the store that KEY_STORE names, which must
    be empty; MASTER_KEY_FILE must be the one that it was made under. Stop the servers for it, and
    start them with the new KEY_STORE. Sessions and tokens go on.

    A private key in PEM (RSA, 2048, 3072 or 4096 bits) becomes another next key: it signs no
    sooner than any new key. Remove the file afterwards.

    \b
    Examples:
      TOKEN_SERVER_KEY_STORE=database token-server keys import keyring.json
      vault read -field=key secret/jwt | token-server keys import -
    """
    if str(source) == "-" and pass_phrase_stdin:
        raise click.UsageError("Standard input is the key already: ask for one of both.")
    content = _read(source)
    if is_bundle(content):
        report = run(cli, lambda runtime: import_keyring(runtime, content, dry_run=dry_run))
    else:
        require_keys(cli.settings())
        phrase = _pass_phrase(from_stdin=True) if pass_phrase_stdin else None
        report = _import_key(cli, content, phrase, dry_run=dry_run)
    emit(report, lambda: _import_text(report), as_json=as_json)


@click.command("rewrap")
@click.option(
    "--new-master-key", is_flag=True, help="Add a master key to the server's own file first."
)
@click.option(
    "--drop-old", is_flag=True, help="Take the master keys that nothing needs out of that file."
)
@dry_run_option
@json_option
@click.pass_obj
def rewrap_command(
    cli: CliContext, *, new_master_key: bool, drop_old: bool, dry_run: bool, as_json: bool
) -> None:
    """Encrypt the private keys anew, under the newest version of the master key.

    The master key file has one line per version. For a master key of its own (keys/master.key)
    the server makes the new line with --new-master-key; a mounted file is given one by its
    operator, on every instance, before this command. Old lines have to stay for as long as
    sessions live that were begun under them: the command says until when, and --drop-old takes
    them out after that. Running servers follow without a restart; nobody is logged out.

    \b
    Examples:
      token-server keys rewrap --new-master-key
      token-server keys rewrap --drop-old
    """
    if new_master_key and drop_old:
        raise click.UsageError("--new-master-key and --drop-old exclude each other.")
    require_keys(cli.settings())
    if drop_old:
        report = run(
            cli, lambda runtime: drop_old_master_keys(runtime, dry_run=dry_run), with_keys=True
        )
    else:
        report = run(
            cli,
            lambda runtime: rewrap_keys(runtime, new_master_key=new_master_key, dry_run=dry_run),
            with_keys=True,
        )
    emit(report, lambda: _drop_text(report) if drop_old else _rewrap_text(report), as_json=as_json)


async def _exported(runtime: Runtime, form: Format, *, as_json: bool) -> str:
    match form:
        case "keyring":
            return (await export_keyring(runtime)).decode()
        case "jwks":
            jwks = export_jwks(runtime).decode()
            return jwks if as_json else json.dumps(json.loads(jwks), indent=2)
        case "pem":
            keys = export_pem(runtime)
            if as_json:
                return msgspec.json.encode({"keys": keys}).decode()
            return "".join(f"# kid {key.kid}\n{key.pem}" for key in keys)


def _write_new(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text if text.endswith("\n") else text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise OperatorError(f"{path} exists already: name a new file", exit_code=4) from None
    except OSError as err:
        raise OperatorError(f"{path} cannot be written: {err.strerror}") from None


def _read(source: Path) -> bytes:
    try:
        if str(source) == "-":
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with source.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise OperatorError(f"there is no file {source}", exit_code=3) from None
    except OSError as err:
        raise OperatorError(f"{source} cannot be read: {err.strerror}") from None
    if len(content) > MAX_BYTES:
        raise OperatorError(f"{source} is too large to be a key or a keyring", exit_code=2)
    return content


def _import_key(
    cli: CliContext, pem: bytes, phrase: Secret[str] | None, *, dry_run: bool
) -> ImportReport:
    try:
        return _run_import(cli, pem, phrase, dry_run=dry_run)
    except PassPhraseNeededError:
        return _run_import(cli, pem, _pass_phrase(from_stdin=False), dry_run=dry_run)


def _run_import(
    cli: CliContext, pem: bytes, phrase: Secret[str] | None, *, dry_run: bool
) -> ImportReport:
    return run(
        cli, lambda runtime: import_key(runtime, pem, phrase, dry_run=dry_run), with_keys=True
    )


def _pass_phrase(*, from_stdin: bool) -> Secret[str]:
    return read_secret("Pass phrase of the key", from_stdin=from_stdin)


def _import_text(report: ImportReport) -> str:
    if report.reason is not None:
        return f"Nothing to do: {report.reason}."
    lines = [_DRY_RUN] if report.dry_run else []
    will = "would be" if report.dry_run else "is"
    if report.kind == "key":
        lines.append(f"{report.kids[0]} {will} another next key, in {report.place}.")
        if not report.dry_run:
            lines.append("`keys plan` says when it may sign. Remove the file that it came from.")
        return "\n".join(lines)
    lines.append(f"Keyring {report.keyring_id} {will} in {report.place} ({len(report.kids)} keys).")
    if not report.dry_run:
        lines.append("Start the servers with the same KEY_STORE, then remove the old copy.")
    return "\n".join(lines)


def _rewrap_text(report: RewrapReport) -> str:
    version = report.master_version
    if report.dry_run:
        lines = [_DRY_RUN, f"{len(report.kids)} private keys would move to master key {version}:"]
    elif report.changed:
        lines = [f"Moved {len(report.kids)} private keys to version {version} of the master key:"]
    else:
        return f"Nothing to do: every key is under version {version} of the master key."
    lines += [f"  {kid}" for kid in report.kids]
    if not report.dry_run:
        lines += ["Back up the new master key.", *_old_lines(report)]
    return "\n".join(lines)


def _old_lines(report: RewrapReport) -> list[str]:
    if not report.old_versions:
        return []
    listed = ", ".join(map(str, report.old_versions))
    how = "`keys rewrap --drop-old`" if report.is_own_file else "take it out of the file"
    if report.old_needed_until is None:
        return [f"Nothing needs version {listed} any more: {how}."]
    until = report.old_needed_until
    when = f"{instant_text(until)} ({relative_text(until, report.now)})"
    return [f"Keep version {listed} until {when}: sessions were begun under it. Then {how}."]


def _drop_text(report: RewrapReport) -> str:
    if report.dropped:
        listed = ", ".join(map(str, report.dropped))
        return f"Took version {listed} out of the master key file."
    if report.old_versions:
        listed = ", ".join(map(str, report.old_versions))
        return f"{_DRY_RUN}\nVersion {listed} would be taken out of the master key file."
    return "Nothing to do: the file holds no old master key."
