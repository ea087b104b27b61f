"""The `token-server` command: global options, and a list of nouns that load only when asked for.

`--help` imports no noun module, no SQLAlchemy and no web framework. Errors that a person can
mend leave as one line on stderr with an exit code of docs/cli.md; everything else is a bug and
keeps its traceback.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from token_server.cli.context import CliContext, setting_options
from token_server.errors import OperatorError, UnavailableError

# name -> (module, attribute, short help): what `--help` shows without importing anything.
COMMANDS = {
    "dev": ("serve", "dev", "Start a complete local server: keys, database, demo user, clients."),
    "serve": ("serve", "serve", "Start the production server; refuses an unsafe configuration."),
    "user": ("user", "user", "Add, change, list, disable users; set passwords and roles."),
    "session": ("session", "session", "List and end the sessions of users."),
    "client": ("client", "client", "Register OAuth clients and rotate their secrets."),
    "keys": ("keys", "keys", "Make, rotate, roll back and drop signing keys; see what comes."),
    "token": ("token", "token", "Get, decode and verify tokens."),
    "db": ("db", "db", "Upgrade, inspect, back up and prune the database."),
    "config": ("config", "config", "Check, show and explain the settings."),
    "audit": ("audit", "audit", "Read the audit trail."),
    "bench": ("bench", "bench", "Measure password hashes and signatures on this machine."),
    "doctor": ("doctor", "doctor", "Check this installation and say what to mend."),
    "sbom": ("sbom", "sbom", "Print a bill of materials of this installation (CycloneDX)."),
    "version": ("doctor", "version", "Print the version."),
}

EXIT_CODES = (
    "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 conflict (exists already), "
    "5 unavailable (database busy or away; try again)."
)


class LazyGroup(click.Group):
    """A group whose commands are imported when they run, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's shape
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's shape
        cmd_name: str,
    ) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, attribute, _ = entry
        command = getattr(import_module(f"token_server.cli.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - narrows what getattr returned
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's shape
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OperatorError as error:
            click.echo(f"Error: {error.message}", err=True)
            ctx.exit(error.exit_code)
        except UnavailableError as error:
            click.echo(f"Error: {unavailable_text(error)}", err=True)
            ctx.exit(5)


def unavailable_text(error: UnavailableError) -> str:
    texts = {
        "storage_busy": "The database is busy: another process holds its lock. Try again.",
        "storage_unavailable": "The database cannot be reached. Check it, then try again.",
    }
    text = texts.get(error.reason, "The server is too busy for this. Try again.")
    return f"{text} (reason: {error.reason})"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file with settings; also TOKEN_SERVER_CONFIG.",
)
@setting_options("database_url", "keys_dir", "master_key_file", "issuer", "log_level")
@click.pass_context
def cli(ctx: click.Context, config_file: Path | None) -> None:
    """An OAuth 2.0 token server for microservices.

    Start with `token-server dev`. Settings come from flags, then TOKEN_SERVER_* variables,
    then the TOML file, then defaults: `token-server config env` lists them.
    """
    ctx.ensure_object(CliContext).config_file = config_file
