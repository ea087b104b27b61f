"""Reads the settings: flags > TOKEN_SERVER_* (or *_FILE for secrets) > TOML > defaults.

Unknown names are refused with a suggestion. All problems are collected and shown at once, each
with its origin and what is allowed; the value of a secret is never echoed. Rules that only a
production start has are in services/settings_check.py.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from token_server.config import PREFIX, SETTINGS, Mode, Setting, Settings
from token_server.config_values import (
    ValueProblemError,
    check_together,
    follow_bind,
    least_key_lead_s,
    origin_of,
    parse_value,
    usual_hash_queue,
)
from token_server.errors import OperatorError

CONFIG_FILE_VARIABLE = "TOKEN_SERVER_CONFIG"
MAX_FILE_BYTES = 1 << 20
DEFAULT_DATABASE_URL = "sqlite:///data/token-server.db"
DEV_BIND = "127.0.0.1:8080"
PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]+@|[?&]password=")
# Kubernetes gives every pod these when a Service is called "token-server".
KUBERNETES_VARIABLE = re.compile(
    r"TOKEN_SERVER_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings; `origins` says per setting name where its value comes from."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def is_stated(self, name: str) -> bool:
        return not self.origins[name].startswith("default")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read, problems included; a setting with a problem holds its default."""

    loaded: Loaded
    problems: tuple[str, ...]
    faulty: frozenset[str] = frozenset()  # names of the settings whose value was refused

    def require(self) -> Loaded:
        if self.problems:
            raise OperatorError(list_problems(self.problems), exit_code=2)
        return self.loaded


@dataclass(frozen=True, slots=True)
class _Raw:
    text: str
    origin: str


@dataclass(slots=True)
class _Notes:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)


def list_problems(problems: tuple[str, ...]) -> str:
    if len(problems) == 1:
        return f"The settings have a problem: {problems[0]}"
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"The settings have {len(problems)} problems:\n{lines}"


def load_settings(
    mode: Mode,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    *,
    terminal: bool = False,
) -> Loaded:
    """Settings and origins; OperatorError (exit code 2) lists every problem."""
    return read_settings(mode, flags, environ, config_file, terminal=terminal).require()


def read_settings(
    mode: Mode,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    *,
    terminal: bool = False,
) -> Reading:
    """`flags` are by setting name; `terminal` says whether logs go to one."""
    notes = _Notes()
    raws: dict[str, _Raw] = {}
    named = config_file or (
        Path(environ[CONFIG_FILE_VARIABLE]) if environ.get(CONFIG_FILE_VARIABLE) else None
    )
    if named is not None:
        raws.update(_read_toml(named, notes))
    raws.update(_read_environment(environ, notes))
    raws.update(_read_flags(flags, notes))
    values, origins = _parse_all(raws, notes)
    _fill_defaults(mode, values, origins, terminal=terminal)
    settings = Settings(
        mode=mode, **{SETTINGS[name].field: value for name, value in values.items()}
    )
    if not notes.problems:
        notes.problems.extend(check_together(settings))
    loaded = Loaded(settings, origins, tuple(notes.warnings))
    return Reading(loaded, tuple(notes.problems), frozenset(notes.faulty))


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; `token-server config env` lists all names"


def _read_flags(flags: Mapping[str, str], notes: _Notes) -> dict[str, _Raw]:
    raws = {}
    for name, text in flags.items():
        setting = SETTINGS[name]
        if setting.is_secret and PASSWORD_IN_URL.search(text):
            notes.problems.append(
                f"{setting.flag} holds a password, which other users of this machine can read "
                f"from the process list: set {setting.variable} or {setting.variable}_FILE instead"
            )
            continue
        raws[name] = _Raw(text, f"flag {setting.flag}")
    return raws


def _read_environment(environ: Mapping[str, str], notes: _Notes) -> dict[str, _Raw]:
    raws = {}
    known = [CONFIG_FILE_VARIABLE]
    for name, setting in SETTINGS.items():
        known.append(setting.variable)
        text = environ.get(setting.variable)
        if setting.is_secret:
            known.append(f"{setting.variable}_FILE")
            text = _read_secret_file(setting, text, environ.get(f"{setting.variable}_FILE"), notes)
        if text is not None:
            raws[name] = _Raw(text, f"environment {setting.variable}")
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known:
            continue
        if not KUBERNETES_VARIABLE.fullmatch(variable):
            notes.problems.append(
                f"{_shown(variable)} is not a variable of token-server" + _suggest(variable, known)
            )
    return raws


def _read_secret_file(
    setting: Setting, direct: str | None, path: str | None, notes: _Notes
) -> str | None:
    if path is None:
        return direct
    variable = f"{setting.variable}_FILE"
    if direct is not None:
        notes.problems.append(f"{setting.variable} and {variable} are both set: keep one")
        return None
    try:
        # Container platforms hand secrets over as symlinks that root owns: only the mode counts.
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_FILE_BYTES)
        text = content.decode("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        notes.problems.append(f"{variable}: cannot read {_shown(path)}: {_why(error)}")
        return None
    if mode & stat.S_IWOTH:
        notes.problems.append(f"{variable}: {_shown(path)} is world-writable: run chmod o-rwx")
    elif mode & stat.S_IROTH:
        notes.warnings.append(f"{variable}: {_shown(path)} is world-readable: run chmod o-rwx")
    return text


def _read_toml(path: Path, notes: _Notes) -> dict[str, _Raw]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            table = tomllib.loads(file.read(MAX_FILE_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        # A syntax error names its line and column, never the text.
        notes.problems.append(f"cannot read the configuration file {path}: {_why(error)}")
        return {}
    raws = {}
    for name, value in table.items():
        origin = f"file {path}: {name}"
        setting = SETTINGS.get(name)
        text = _toml_text(value)
        if setting is None:
            hint = _suggest(name, list(SETTINGS))
            notes.problems.append(f"{path}: {_shown(name)} is not a setting{hint}")
        elif text is None:
            notes.problems.append(f"{origin}: must be {setting.metavar}, not a table or a date")
        else:
            raws[name] = _Raw(text, origin)
            if mode & stat.S_IROTH and setting.is_secret and PASSWORD_IN_URL.search(text):
                notes.warnings.append(f"{path} holds a password and is world-readable: chmod o-r")
    return raws


def _toml_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    return None


def _parse_all(raws: Mapping[str, _Raw], notes: _Notes) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        raw = raws.get(name)
        if raw is None:
            continue
        try:
            values[name] = parse_value(setting, raw.text)
            origins[name] = raw.origin
        except ValueProblemError as problem:
            given = "" if setting.is_secret else f" (is {_shown(raw.text)})"
            notes.problems.append(f"{raw.origin}: {problem}{given}")
            notes.faulty.add(name)
    return values, origins


def _fill_defaults(
    mode: Mode, values: dict[str, Any], origins: dict[str, str], *, terminal: bool
) -> None:
    def default(name: str, value: Any, why: str = "") -> None:
        if name not in values:
            values[name] = value
            origins[name] = f"default{why}"

    default("database_url", parse_value(SETTINGS["database_url"], DEFAULT_DATABASE_URL))
    if "keys_dir" in values:
        default("master_key_file", values["keys_dir"] / "master.key", ": in KEYS_DIR")
    if mode == "dev":
        default("issuer", follow_bind(values.get("bind", DEV_BIND)), ": follows BIND")
        default("registration", "open", " of dev")
        default("jwks_max_age", 5, " of dev")
    if mode == "tool":
        default("log_level", "warning", " of commands")
    default("log_format", "console" if terminal else "json")
    slots = max(1, usable_cores() // values.get("workers", 1))
    default("password_hash_slots", slots, ": cores / WORKERS")
    fields = {info.name: info.default for info in msgspec.structs.fields(Settings)}
    for name, setting in SETTINGS.items():
        if name not in ("default_audience", "browser_origins", "password_hash_queue", "key_lead"):
            default(name, fields[setting.field])
    work_kib = values["argon2_memory_kib"] * values["argon2_time_cost"]
    queue = usual_hash_queue(values["password_hash_slots"], work_kib)
    default("password_hash_queue", queue, ": about a second's")
    default("default_audience", values["issuer"], ": the issuer")
    default("browser_origins", (origin_of(values["issuer"]),), ": the issuer's")
    if mode == "dev":
        windows = (values[n] for n in ("jwks_max_age", "key_reload_interval", "clock_skew"))
        default("key_lead", least_key_lead_s(*windows), " of dev: the least that is safe")
    default("key_lead", fields["key_lead_s"])


def usable_cores() -> int:
    """The cores this process may use; macOS knows only those of the machine."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    limits = cpu_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([len(os.sched_getaffinity(0)), *limits])


def cpu_limits(membership: Path, root: Path) -> list[int]:
    """Whole cores by the CPU limits of this process's control groups (version 2) and those above:
    a container with a limit sees all cores of its host, and is stopped when it uses them."""
    limits: list[int] = []
    try:
        groups = membership.read_text(encoding="utf-8").splitlines()
        own = next((line[3:].strip("/") for line in groups if line.startswith("0::")), None)
        if own is None:
            return limits
        for group in (root / own, *(root / parent for parent in Path(own).parents)):
            if (group / "cpu.max").is_file():  # the root group has none
                quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
                if quota != "max":
                    limits.append(max(1, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # hidden, or of a kernel to come
        return limits
    return limits


def _shown(text: str) -> str:
    """Input as it may stand in a message: escaped, in quotes, bounded."""
    short = text if len(text) <= 80 else text[:77] + "..."
    return ascii(short)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "it is not valid UTF-8"
