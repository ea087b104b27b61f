"""What every command shares: its settings, a runtime to act on, output, and secrets from outside.

Commands parse, call one service and print. Secrets come from a prompt without echo or from
stdin, never from argv, which other users of the machine can read. Results go to stdout, all
else to stderr.
"""

import asyncio
import getpass
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from token_server.config import SETTINGS, Mode, Settings
from token_server.config_loading import Loaded, Reading, read_settings
from token_server.errors import OperatorError
from token_server.records import Secret

if TYPE_CHECKING:
    # Imported when a command runs: it brings SQLAlchemy, which `--help` can do without.
    from token_server.runtime import Runtime

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

MAX_SECRET_BYTES = 16 * 1024  # of a token, the longest of them


@dataclass(slots=True)
class CliContext:
    """On `ctx.obj`: where the settings of this invocation come from."""

    config_file: Path | None = None
    flags: dict[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def read(self, mode: Mode) -> Reading:
        """The settings with all their problems, none raised."""
        return read_settings(
            mode, self.flags, self.environ, self.config_file, terminal=sys.stderr.isatty()
        )

    def load(self, mode: Mode = "tool") -> Loaded:
        """The settings and where each one comes from; OperatorError lists every problem."""
        return self.read(mode).require()

    def settings(self, mode: Mode = "tool") -> Settings:
        return self.load(mode).settings


def setting_options(*names: str) -> Callable[[F], F]:
    """Add one `--setting-name` flag per setting (all of them when none is named)."""

    def decorate(command: F) -> F:
        for name in reversed(names or tuple(SETTINGS)):
            setting = SETTINGS[name]
            option = click.option(
                setting.flag,
                f"setting_{name}",
                metavar=setting.metavar,
                expose_value=False,
                callback=_keep_flag,
                help=setting.description,
            )
            command = option(command)
        return command

    return decorate


def _keep_flag(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and parameter.name is not None:
        ctx.ensure_object(CliContext).flags[parameter.name.removeprefix("setting_")] = value


def run(
    cli: CliContext, action: "Callable[[Runtime], Awaitable[T]]", *, with_keys: bool = False
) -> T:
    """Open the runtime, run `action` on it, close it; errors become one line and an exit code."""
    from token_server.logs import configure_logging
    from token_server.runtime import open_runtime

    loaded = cli.load()
    settings = loaded.settings
    configure_logging(settings.log_format, settings.log_level)
    stated = stated_policy(loaded)

    async def act() -> T:
        async with open_runtime(settings, with_keys=with_keys, stated=stated) as runtime:
            return await action(runtime)

    return asyncio.run(act())


def stated_policy(loaded: Loaded) -> frozenset[str]:
    """The fields of KeyPolicy, and `key_bits`, that were stated to this command by flag,
    environment or file: the rest is the running server's."""
    from token_server.crypto.opening import POLICY_SETTINGS

    fields = {**POLICY_SETTINGS, "key_bits": "key_bits"}
    return frozenset(field for name, field in fields.items() if loaded.is_stated(name))


def json_option(command: F) -> F:
    """Add `--json`, which arrives as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")(command)


def emit(value: object, text: str | Callable[[], str], *, as_json: bool) -> None:
    """Print `value` as one line of JSON, or `text` (or what it returns) for people."""
    if as_json:
        click.echo(msgspec.json.encode(value))
        return
    click.echo(text if isinstance(text, str) else text())


def read_secret(prompt: str, *, from_stdin: bool, confirm: bool = False) -> Secret[str]:
    """A secret from a prompt without echo, or one line from stdin."""
    if from_stdin:
        return _read_secret_line()
    try:
        with warnings.catch_warnings():
            # Without a terminal getpass warns, and would read with echo.
            warnings.simplefilter("error", getpass.GetPassWarning)
            text = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    except getpass.GetPassWarning:
        raise OperatorError(
            "There is no terminal to ask on: give the secret on standard input "
            "(see the -stdin option in --help).",
            exit_code=2,
        ) from None
    return Secret(str(text))


def ask_secret(prompt: str) -> Secret[str]:
    """From the terminal without echo; without a terminal, one line from stdin."""
    return read_secret(prompt, from_stdin=not sys.stdin.isatty())


def _read_secret_line() -> Secret[str]:
    line = sys.stdin.buffer.readline(MAX_SECRET_BYTES + 1)
    if len(line) > MAX_SECRET_BYTES:
        raise OperatorError(
            f"The secret on standard input is longer than {MAX_SECRET_BYTES} bytes.", exit_code=2
        )
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if not line:
        raise OperatorError("Standard input held no secret: expected one line.", exit_code=2)
    try:
        return Secret(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise OperatorError(
            "The secret on standard input is not valid UTF-8.", exit_code=2
        ) from None
