"""What `serve` refuses to start with, beyond values that are wrong in themselves.

Every rule looks at every start, so that all problems are shown at once, each with its fix.
Reads files and the database, changes nothing, and makes no database where there is none.
"""

import asyncio
import ipaddress
import sqlite3
from dataclasses import dataclass

from token_server.config import Settings
from token_server.config_loading import Reading, list_problems
from token_server.config_values import hide_password, split_address
from token_server.crypto.opening import key_problems
from token_server.errors import OperatorError, UnavailableError
from token_server.services.connection_budget import FIX, connection_budget
from token_server.services.database_file import file_problems, file_warnings
from token_server.services.demo import find_demo_traces
from token_server.storage.database_url import SqliteAddress, parse_database_url
from token_server.storage.engine import Store, open_store
from token_server.storage.migrations import schema_status
from token_server.storage.sqlite_backend import WAL_RESET_FIXED

# OWASP's equivalents, from m=19456 t=2 down to m=7168 t=5: least product, least memory.
LEAST_ARGON2_WORK_KIB = 35840
LEAST_ARGON2_MEMORY_KIB = 7168


@dataclass(frozen=True, slots=True)
class Findings:
    """Problems refuse the start, warnings are logged at it."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]


async def check_serve(reading: Reading) -> Findings:
    """All rules for a production start, the problems of the values themselves first."""
    settings = reading.loaded.settings
    problems = [
        *reading.problems,
        *_issuer_problems(reading),
        *_registration_problems(reading),
        *_argon2_problems(settings),
    ]
    if settings.workers > 1 and is_sqlite(settings):
        problems.append(
            f"WORKERS is {settings.workers}, but SQLite serves one process: set "
            "TOKEN_SERVER_WORKERS=1, or use PostgreSQL (TOKEN_SERVER_DATABASE_URL)"
        )
    problems += await asyncio.to_thread(key_problems, settings)
    warnings = [
        *reading.loaded.warnings,
        *_management_warnings(settings),
        *_sqlite_warnings(settings),
    ]
    if "database_url" not in reading.faulty:
        database = await _database_findings(settings)
        problems += database.problems
        warnings += database.warnings
    return Findings(tuple(problems), tuple(warnings))


def is_sqlite(settings: Settings) -> bool:
    return settings.database_url.reveal().startswith("sqlite")


def _issuer_problems(reading: Reading) -> list[str]:
    if "issuer" in reading.faulty:
        return []
    if not reading.loaded.is_stated("issuer"):
        problem = (
            "ISSUER is not stated: set TOKEN_SERVER_ISSUER to the https URL under which clients "
            "reach this server"
        )
        return [problem]
    if not reading.loaded.settings.issuer.startswith("https://"):
        problem = (
            "ISSUER is not https: put a TLS proxy in front and set TOKEN_SERVER_ISSUER to its "
            "URL (for a server on this machine alone use `token-server dev`)"
        )
        return [problem]
    return []


def _registration_problems(reading: Reading) -> list[str]:
    if "registration" in reading.faulty or reading.loaded.is_stated("registration"):
        return []
    problem = (
        "REGISTRATION is not stated: set TOKEN_SERVER_REGISTRATION=closed (only operators make "
        "accounts) or =open (anybody may)"
    )
    return [problem]


def _argon2_problems(settings: Settings) -> list[str]:
    work = settings.argon2_memory_kib * settings.argon2_time_cost
    if settings.argon2_memory_kib >= LEAST_ARGON2_MEMORY_KIB and work >= LEAST_ARGON2_WORK_KIB:
        return []
    problem = (
        f"password hashes of {settings.argon2_memory_kib} KiB x {settings.argon2_time_cost} are "
        "too cheap to guess against: leave ARGON2_MEMORY_KIB and ARGON2_TIME_COST at 19456 and 2"
    )
    return [problem]


def _management_warnings(settings: Settings) -> list[str]:
    host, _ = split_address(settings.management_bind)
    if host == "localhost":
        return []
    address = ipaddress.ip_address(host)
    if address.is_private and not address.is_unspecified:
        return []
    problem = (
        f"MANAGEMENT_BIND is {settings.management_bind}: /metrics and verbose health have no "
        "login, keep strangers away from that port"
    )
    return [problem]


def _sqlite_warnings(settings: Settings) -> list[str]:
    """The server itself has one writer and one checkpointer, held by its lock; others may not."""
    if not is_sqlite(settings) or sqlite3.sqlite_version_info >= WAL_RESET_FIXED:
        return []
    problem = (
        f"SQLite {sqlite3.sqlite_version} is older than 3.51.3: two programs that write at once "
        "can damage the database; let nothing but token-server open it, or install a newer SQLite"
    )
    return [problem]


async def _database_findings(settings: Settings) -> Findings:
    """Demo accounts in an existing database, too few connections; that it does not answer."""
    try:
        address = parse_database_url(settings.database_url.reveal())
        of_file: tuple[str, ...] = ()
        if isinstance(address, SqliteAddress):
            of_file = tuple(file_warnings(address.path))
            problems = await asyncio.to_thread(file_problems, address.path)
            if problems or not address.path.exists():
                return Findings(tuple(problems), of_file)
        store = await open_store(settings.database_url.reveal(), now=lambda: 0)
        try:
            warnings = (*of_file, *await _connection_warnings(store, settings))
            if not (await schema_status(store)).is_current:
                return Findings((), warnings)  # looked at again after the upgrade
            traces = await find_demo_traces(store)
        finally:
            await store.close()
    except UnavailableError as error:
        shown = hide_password(settings.database_url.reveal())
        reason = error.detail or error.reason
        # Looked at again when it answers, in open_runtime and require_no_demo.
        return Findings((), (f"the database {shown} does not answer yet: {reason}",))
    except OperatorError as error:
        shown = hide_password(settings.database_url.reveal())
        return Findings((f"the database {shown} cannot be opened: {error.message}",), ())
    return Findings(tuple(demo_problems(traces)), warnings)


async def _connection_warnings(store: Store, settings: Settings) -> tuple[str, ...]:
    budget = await connection_budget(store, settings)
    if budget is None or budget.is_enough:
        return ()
    return (f"too few database connections, {budget.text}: {FIX}",)


def demo_problems(traces: list[str]) -> list[str]:
    if not traces:
        return []
    problem = (
        f"the database holds what `dev` made ({', '.join(traces)}), with secrets on disk: use a "
        "database of its own for production, or disable them (`token-server user disable`, "
        "`token-server client disable`)"
    )
    return [problem]


async def require_no_demo(store: Store) -> None:
    """For the time after an upgrade, when an old database can be read; OperatorError if not."""
    problems = demo_problems(await find_demo_traces(store))
    if problems:
        raise OperatorError(list_problems(tuple(problems)), exit_code=2)
