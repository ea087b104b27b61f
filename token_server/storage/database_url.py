"""Reads DATABASE_URL: which engine, where, and how to connect.

Takes `sqlite:///path` and PostgreSQL URLs as libpq writes them (`postgres://`, `postgresql://`,
any `+driver`) and turns libpq's parameters into asyncpg's. A parameter that would be ignored is
refused: a silently dropped `sslmode` is a plain-text connection. Errors never show the URL,
which may hold a password.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from token_server.errors import OperatorError

_LOCK_TIMEOUT_MS = 5_000
_STATEMENT_TIMEOUT_MS = 10_000
# A process that was frozen or cut off within a transaction holds its locks for so long.
_IDLE_TRANSACTION_TIMEOUT_MS = 10_000
_CONNECT_TIMEOUT_S = 5
# Longer than the server's own statement timeout: it only fires when the server is unreachable.
_COMMAND_TIMEOUT_S = 15
_POOL_SIZE = 10
_SSL_PARAMETERS = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_OWN_PARAMETERS = ("prepared_statements", "pool_size")
_KNOWN_PARAMETERS = (
    *_OWN_PARAMETERS,
    *_SSL_PARAMETERS,
    "host",
    "port",
    "application_name",
    "connect_timeout",
    "target_session_attrs",
)


@dataclass(frozen=True)
class SqliteAddress:
    path: Path


@dataclass(frozen=True)
class PostgresAddress:
    """`url` and `connect_args` are for SQLAlchemy's asyncpg dialect."""

    url: URL = field(repr=False)
    connect_args: Mapping[str, object] = field(repr=False)
    pool_size: int
    prepared_statements: bool  # False behind PgBouncer in transaction mode


def parse_database_url(text: str) -> SqliteAddress | PostgresAddress:
    """Raises OperatorError (exit code 2) that says what is wrong and what to write instead."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _refused(
            "is not a URL: write sqlite:///path/to/file.db or postgresql://user:password@host/name"
        ) from None
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        return _parse_sqlite(url)
    if backend in {"postgresql", "postgres"}:
        return _parse_postgres(url)
    raise _refused("must begin with sqlite:/// or postgresql://")


def _parse_sqlite(url: URL) -> SqliteAddress:
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:") or url.host:
        raise _refused("must name a file: sqlite:///relative/path.db or sqlite:////absolute.db")
    if url.query:
        raise _refused("takes no parameters after '?' with SQLite")
    return SqliteAddress(Path(name).absolute())


def _parse_postgres(url: URL) -> PostgresAddress:
    parameters: dict[str, str] = {}
    for name, value in url.query.items():
        if name not in _KNOWN_PARAMETERS:
            known = ", ".join(sorted(_KNOWN_PARAMETERS))
            raise _refused(f"has an unknown parameter {name!r}; known are {known}")
        if not isinstance(value, str):
            raise _refused(f"has the parameter {name!r} twice")
        parameters[name] = value
    prepared_statements = _switch(parameters, "prepared_statements")
    connect_args: dict[str, object] = {
        "timeout": _number(parameters, "connect_timeout", _CONNECT_TIMEOUT_S),
        "command_timeout": _COMMAND_TIMEOUT_S,
    }
    if "target_session_attrs" in parameters:
        connect_args["target_session_attrs"] = parameters["target_session_attrs"]
    secure = _ssl_argument(parameters)
    if secure is not None:
        connect_args["ssl"] = secure
    if prepared_statements:
        connect_args["server_settings"] = session_settings(
            parameters.get("application_name", "token-server")
        )
    else:
        # PgBouncer gives each transaction any server connection, and refuses start-up settings:
        # nothing may be remembered between two transactions. "" is the unnamed statement.
        connect_args["statement_cache_size"] = 0
        connect_args["prepared_statement_cache_size"] = 0
        connect_args["prepared_statement_name_func"] = str
    address: dict[str, str] = {
        name: value for name, value in parameters.items() if name in {"host", "port"}
    }
    return PostgresAddress(
        url=url.set(drivername="postgresql+asyncpg", query=address),
        connect_args=connect_args,
        pool_size=_number(parameters, "pool_size", _POOL_SIZE),
        prepared_statements=prepared_statements,
    )


def session_settings(application_name: str = "token-server") -> dict[str, str]:
    """Bounds every wait on the server's side, in milliseconds; and the isolation that a statement
    without BEGIN gets."""
    return {
        "application_name": application_name,
        "default_transaction_isolation": "read committed",
        "lock_timeout": str(_LOCK_TIMEOUT_MS),
        "statement_timeout": str(_STATEMENT_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": str(_IDLE_TRANSACTION_TIMEOUT_MS),
    }


def _ssl_argument(parameters: Mapping[str, str]) -> ssl.SSLContext | str | None:
    """libpq's sslmode and files as asyncpg's `ssl`; None leaves asyncpg's default (`prefer`)."""
    mode = parameters.get("sslmode")
    files = [name for name in _SSL_PARAMETERS[1:] if name in parameters]
    if mode in {None, "disable", "allow", "prefer"}:
        if files:
            raise _refused(f"has {files[0]} but no sslmode=require, verify-ca or verify-full")
        return mode
    if mode not in {"require", "verify-ca", "verify-full"}:
        raise _refused("has an unknown sslmode")
    root = parameters.get("sslrootcert")
    try:
        if root is None or root == "system":
            context = ssl.create_default_context()
        else:
            context = ssl.create_default_context(cafile=root)
        if "sslcert" in parameters:
            context.load_cert_chain(parameters["sslcert"], parameters.get("sslkey"))
    except OSError:  # ssl.SSLError is one
        raise _refused("names a certificate or key file that cannot be read") from None
    context.check_hostname = mode == "verify-full"
    if mode == "require" and root is None:  # as libpq: encrypted, but to whom is not checked
        context.verify_mode = ssl.CERT_NONE
    return context


def _switch(parameters: Mapping[str, str], name: str) -> bool:
    value = parameters.get(name, "on")
    if value not in {"on", "off"}:
        raise _refused(f"must have {name}=on or {name}=off")
    return value == "on"


def _number(parameters: Mapping[str, str], name: str, default: int) -> int:
    value = parameters.get(name, str(default))
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 1000):
        raise _refused(f"must have a number from 1 to 1000 as {name}")
    return int(value)


def _refused(problem: str) -> OperatorError:
    return OperatorError(f"DATABASE_URL {problem}.", exit_code=2)
