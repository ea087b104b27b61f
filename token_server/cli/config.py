"""`token-server config`: what the settings are, where each comes from, and whether they are good.

Secrets are never shown: a database address appears without its password.
"""

import asyncio

import click

from token_server.cli.context import CliContext, emit, json_option, setting_options
from token_server.config import SETTINGS, Mode, Setting
from token_server.config_loading import (
    CONFIG_FILE_VARIABLE,
    Loaded,
    list_problems,
    load_settings,
)
from token_server.config_values import show_value
from token_server.errors import OperatorError
from token_server.services.settings_check import check_serve

mode_option = click.option(
    "--mode",
    type=click.Choice(["dev", "serve", "tool"]),
    default="serve",
    show_default=True,
    help="For which start: dev and serve have defaults of their own.",
)


@click.group()
def config() -> None:
    """Check, show and explain the settings.

    Every setting is a flag, a TOKEN_SERVER_* variable or a line of the TOML file, in this order.
    """


@config.command()
@mode_option
@setting_options()
@json_option
@click.pass_obj
def check(cli: CliContext, *, mode: Mode, as_json: bool) -> None:
    """Check the settings and list every problem with its fix; exit code 2 when there is one.

    For `serve` this is all that the start checks: key files and demo accounts included.
    """
    reading = cli.read(mode)
    problems, warnings = reading.problems, reading.loaded.warnings
    if mode == "serve":
        findings = asyncio.run(check_serve(reading))
        problems, warnings = findings.problems, findings.warnings
    if as_json:
        emit({"problems": problems, "warnings": warnings}, "", as_json=True)
    for warning in () if as_json else warnings:
        click.echo(f"Warning: {warning}", err=True)
    if problems and as_json:
        raise SystemExit(2)
    if problems:
        raise OperatorError(list_problems(problems), exit_code=2)
    if not as_json:
        click.echo(f"The settings are good for `{mode}`.")


@config.command()
@mode_option
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@setting_options()
@json_option
@click.pass_obj
def show(cli: CliContext, *, mode: Mode, origin: bool, as_json: bool) -> None:
    """Print every setting with its value; durations with a unit, secrets without the secret."""
    loaded = cli.load(mode)
    rows = {name: _row(loaded, setting, origin=origin) for name, setting in SETTINGS.items()}
    emit(rows, lambda: _table(loaded, origin=origin), as_json=as_json)


@config.command()
@json_option
def env(*, as_json: bool) -> None:
    """Print every variable with its default and what it means, ready to be put into a file."""
    defaults = load_settings("serve", {}, {})
    rows = [
        {
            "variable": setting.variable,
            "flag": setting.flag,
            "toml": setting.name,
            "default": _default(defaults, setting),
            "allowed": _allowed(setting),
            "description": setting.description,
            "has_file_variant": setting.is_secret,
        }
        for setting in SETTINGS.values()
    ]
    emit(rows, lambda: _env_file(defaults), as_json=as_json)


def _row(loaded: Loaded, setting: Setting, *, origin: bool) -> str | dict[str, str]:
    value = show_value(setting, getattr(loaded.settings, setting.field))
    return {"value": value, "origin": loaded.origins[setting.name]} if origin else value


def _table(loaded: Loaded, *, origin: bool) -> str:
    lines = []
    for name, setting in SETTINGS.items():
        value = show_value(setting, getattr(loaded.settings, setting.field))
        source = f"  ({loaded.origins[name]})" if origin else ""
        lines.append(f"{name:<24} {value}{source}")
    return "\n".join(lines)


# Defaults that are a rule rather than a value.
DERIVED = {
    "issuer": "http://127.0.0.1:8080 in dev; serve wants it stated",
    "registration": "open in dev; serve wants it stated",
    "default_audience": "the issuer",
    "browser_origins": "the issuer's origin",
    "master_key_file": "KEYS_DIR/master.key",
    "password_hash_slots": "cores / WORKERS",
    "password_hash_queue": "32 for each slot; fewer if hashes cost more",
    "log_format": "console on a terminal, else json",
    "log_level": "info; warning for commands",
    "jwks_max_age": "5m; 5s in dev",
    "key_lead": "1d; 25s in dev",
}


def _default(defaults: Loaded, setting: Setting) -> str:
    value = show_value(setting, getattr(defaults.settings, setting.field))
    return DERIVED.get(setting.name, value or "none")


def _allowed(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    if setting.low is None or setting.high is None:
        return setting.metavar
    if setting.is_duration:
        return f"{show_value(setting, setting.low)} to {show_value(setting, setting.high)}"
    return f"{setting.low} to {setting.high}"


def _env_file(defaults: Loaded) -> str:
    lines = [
        "# Every setting of token-server, commented out at its default.",
        f"# {CONFIG_FILE_VARIABLE} names a TOML file with the same names in lower case.",
    ]
    for setting in SETTINGS.values():
        lines += ["", f"# {setting.description}", f"# Allowed: {_allowed(setting)}"]
        if setting.is_secret:
            lines.append(f"# Also as a file that holds it: {setting.variable}_FILE=PATH")
        default = _default(defaults, setting)
        if setting.name in DERIVED or default == "none":
            lines += [f"# Default: {default}", f"#{setting.variable}="]
        else:
            lines.append(f"#{setting.variable}={default}")
    return "\n".join(lines)
