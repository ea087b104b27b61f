"""Examines an installation: settings, versions, keys, database, clock, disk; each with its fix.

Reads and compares, and changes nothing: no database, key or directory is made. One check that
cannot be made does not stop the others.
"""

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from token_server.config import Settings
from token_server.config_loading import Reading
from token_server.config_values import hide_password
from token_server.core.key_changes import Unchanged
from token_server.crypto.argon2id import ARGON2_CFFI, Argon2Cost, library_for
from token_server.crypto.opening import key_problems
from token_server.errors import OperatorError, UnavailableError
from token_server.runtime import Clock, Entropy
from token_server.services.connection_budget import FIX, connection_budget
from token_server.services.installation import versions
from token_server.services.key_health import keyring_checks
from token_server.services.keys import KeyPlace, keys_opened
from token_server.services.maintenance import missing_file
from token_server.services.supply_chain import outdated_components
from token_server.storage.engine import Store, open_store
from token_server.storage.inspection import DatabaseFacts, describe_database
from token_server.storage.migrations import schema_status
from token_server.storage.sqlite_backend import MINIMUM_SQLITE, WAL_RESET_FIXED
from token_server.storage.sqlite_file import NETWORK_FILE_SYSTEMS, file_system_of

LEAST_FREE_BYTES = 256 * 1024 * 1024
EARLIEST_S = 1_767_225_600  # 2026-01-01: a clock before the release is wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report; `fix` is empty when there is nothing to do."""

    check: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


async def examine(reading: Reading, clock: Clock, entropy: Entropy) -> list[Finding]:
    """All findings, in the order in which a person would mend them."""
    findings = _settings(reading)
    settings = reading.loaded.settings
    findings += _versions()
    findings += _dependencies()
    findings.append(_password_hashing(settings))
    findings += await _keys(settings, clock, entropy)
    if "database_url" not in reading.faulty:
        findings += [finding async for finding in _database(settings, clock)]
    findings += _clock(clock.now())
    findings += await asyncio.to_thread(_disk, settings)
    return findings


def _settings(reading: Reading) -> list[Finding]:
    findings = [
        Finding("settings", "fail", problem, "see `token-server config env`")
        for problem in reading.problems
    ]
    findings += [Finding("settings", "warn", warning) for warning in reading.loaded.warnings]
    return findings or [Finding("settings", "ok", "every value is valid")]


def _versions() -> list[Finding]:
    shown = ", ".join(f"{name} {text}" for name, text in versions().items())
    findings = [Finding("versions", "ok", shown)]
    found = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        fix = "install a newer SQLite (3.35 or later), or use PostgreSQL"
        findings.append(Finding("sqlite", "fail", f"SQLite {found} is too old", fix))
    elif sqlite3.sqlite_version_info < WAL_RESET_FIXED:
        detail = f"SQLite {found}: before 3.51.3 two programs writing at once can damage a file"
        fix = "let nothing but token-server write to the database (its own locks prevent it)"
        findings.append(Finding("sqlite", "warn", detail, fix))
    return findings


def _dependencies() -> list[Finding]:
    """Each dependency that is older than the version that mends a published advisory."""
    outdated = outdated_components()
    if not outdated:
        return [Finding("dependencies", "ok", "none with a known advisory (docs/supply-chain.md)")]
    return [
        Finding(
            "dependencies",
            "fail",
            f"{minimum.name} {version} has {', '.join(minimum.advisories)}: {minimum.about}",
            f"install {minimum.name} {minimum.version} or newer, or what requirements.txt pins",
        )
        for minimum, version in outdated
    ]


def _password_hashing(settings: Settings) -> Finding:
    cost = Argon2Cost(
        settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism
    )
    library = library_for(cost)
    detail = (
        f"Argon2id m={cost.memory_kib},t={cost.time_cost},p={cost.parallelism} by {library}, "
        f"{settings.password_hash_slots} at a time, {settings.password_hash_queue} may wait"
    )
    is_slow = library_for(Argon2Cost(cost.memory_kib, cost.time_cost, 1)) == ARGON2_CFFI
    fix = "`pip install 'token-server[fast]'` halves what a login costs" if is_slow else ""
    return Finding("passwords", "ok", detail, fix)


async def _keys(settings: Settings, clock: Clock, entropy: Entropy) -> list[Finding]:
    problems = await asyncio.to_thread(key_problems, settings)
    if problems:
        return [Finding("keys", "fail", problem) for problem in problems]
    place = KeyPlace(settings, clock, entropy)
    try:
        async with keys_opened(place) as opened:
            proposal = await place.live(opened).propose(lambda _: Unchanged("only looked at"))
    except OperatorError as error:
        if error.exit_code == 3:
            return [Finding("keys", "warn", "there are none yet", "the first start makes them")]
        return [Finding("keys", "fail", error.message)]
    except UnavailableError as error:
        return [Finding("keys", "fail", f"the database does not answer ({error.reason})")]
    situation = proposal.situation
    states = ", ".join(f"{situation.state(key)} {key.kid}" for key in situation.keys)
    return [
        *(Finding("keys", "warn", warning) for warning in opened.warnings),
        Finding("keys", "ok", f"all can be read: {states}"),
        *(
            Finding(check.name, check.level.value, check.detail)
            for check in keyring_checks(situation)
        ),
    ]


async def _database(settings: Settings, clock: Clock) -> AsyncIterator[Finding]:
    shown = hide_password(settings.database_url.reveal())
    if missing_file(settings) is not None:
        yield Finding("database", "warn", f"{shown}: none yet", "the first start makes it")
        return
    try:
        store = await open_store(settings.database_url.reveal(), now=clock.now)
    except OperatorError as error:
        yield Finding("database", "fail", error.message)
        return
    except UnavailableError as error:
        fix = "check that it runs, its address, and the name and password"
        yield Finding("database", "fail", f"{shown} does not answer ({error.reason})", fix)
        return
    try:
        async for finding in _opened_database(store, settings, clock):
            yield finding
    except UnavailableError as error:
        yield Finding("database", "fail", f"{shown}: {error.reason}", "try again")
    finally:
        await store.close()


async def _opened_database(
    store: Store, settings: Settings, clock: Clock
) -> AsyncIterator[Finding]:
    status = await schema_status(store)
    async with store.read() as connection:
        facts = await describe_database(connection, check=True)
    shown = hide_password(settings.database_url.reveal())
    yield Finding("database", "ok", f"{shown}, {facts.version}")
    if status.is_current:
        yield Finding("schema", "ok", status.head)
    elif status.is_newer:
        fix = "install the newer token-server"
        yield Finding("schema", "fail", f"{status.current} is newer than {status.head}", fix)
    else:
        detail = f"{status.current or 'none'}, this release has {status.head}"
        yield Finding("schema", "warn", detail, "the next start upgrades, or `db upgrade`")
    for finding in _file_findings(store.path, facts) if store.path else ():
        yield finding
    budget = await connection_budget(store, settings)
    if budget is not None:
        level: Literal["ok", "warn"] = "ok" if budget.is_enough else "warn"
        fix = "" if budget.is_enough else FIX
        yield Finding("connections", level, budget.text, fix)
    yield _database_clock(facts, store.path, settings, clock)


def _file_findings(path: Path, facts: DatabaseFacts) -> list[Finding]:
    findings = [Finding("wal", "ok", f"journal mode {facts.journal_mode}")]
    kind = file_system_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        fix = "put it on a disk of this machine, or use PostgreSQL"
        findings.append(Finding("database file", "warn", f"{path} is on {kind}", fix))
    if facts.damage is not None:
        fix = "stop the server and restore a backup, then `token-server db restored`"
        findings.append(Finding("database file", "fail", f"damaged: {facts.damage}", fix))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        detail = f"{path} has mode {mode:04o}: it holds password hashes"
        findings.append(Finding("permissions", "fail", detail, f"run chmod 600 {path}"))
    else:
        findings.append(Finding("permissions", "ok", f"{path} is {mode:04o}"))
    return findings


def _database_clock(
    facts: DatabaseFacts, path: Path | None, settings: Settings, clock: Clock
) -> Finding:
    now = clock.now()
    if facts.clock_at is not None:
        difference_s = abs(facts.clock_at - now)
        detail = f"{difference_s:.0f} s from the database server's"
    else:
        written_at = 0.0 if path is None else path.stat().st_mtime
        difference_s = max(0.0, written_at - now)
        detail = "not behind the last write of the database"
        if difference_s > settings.clock_skew_s:
            detail = f"{difference_s:.0f} s behind the last write of the database"
    if difference_s > settings.clock_skew_s:
        fix = "synchronise the clocks (NTP): lifetimes of tokens depend on them"
        return Finding("clock", "fail", detail, fix)
    return Finding("clock", "ok", detail)


def _clock(now: int) -> list[Finding]:
    if now >= EARLIEST_S:
        return []
    return [Finding("clock", "fail", "before 2026", "set the clock (NTP)")]


def _disk(settings: Settings) -> list[Finding]:
    path = settings.keys_dir
    while not path.exists() and path != path.parent:
        path = path.parent
    free = shutil.disk_usage(path).free
    detail = f"{free // (1024 * 1024)} MiB free at {path}"
    if free < LEAST_FREE_BYTES:
        return [Finding("disk", "warn", detail, "make room before it is full")]
    if not os.access(path, os.W_OK):
        return [Finding("disk", "warn", f"{path} is not writable", "rotation needs to write there")]
    return [Finding("disk", "ok", detail)]
