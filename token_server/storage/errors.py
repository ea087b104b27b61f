"""What storage raises, and the one translation of driver errors into it.

Environmental failures (a busy lock, a lost connection, a full disk) become UnavailableError,
so that an edge answers a retryable 503 and never `invalid_grant`. Anything else becomes a
StorageFailedError that names the statement and the code. Neither carries the driver's text:
PostgreSQL's DETAIL quotes whole rows, password hashes included.
"""

import sqlite3

from sqlalchemy import exc

from token_server.errors import UnavailableError

BUSY = "storage_busy"
UNAVAILABLE = "storage_unavailable"
CONFLICT = "storage_conflict"  # deadlock or serialization failure: the same work may succeed now

_RETRY_AFTER_S = {BUSY: 1, CONFLICT: 1, UNAVAILABLE: 5}

# Primary result codes of SQLite (the low byte of the extended code).
_SQLITE_REASONS = {
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_LOCKED: BUSY,
    sqlite3.SQLITE_NOMEM: UNAVAILABLE,
    sqlite3.SQLITE_INTERRUPT: BUSY,
    sqlite3.SQLITE_IOERR: UNAVAILABLE,
    sqlite3.SQLITE_CORRUPT: UNAVAILABLE,
    sqlite3.SQLITE_FULL: UNAVAILABLE,
    sqlite3.SQLITE_CANTOPEN: UNAVAILABLE,
    sqlite3.SQLITE_PROTOCOL: BUSY,
    sqlite3.SQLITE_NOTADB: UNAVAILABLE,
    sqlite3.SQLITE_READONLY: UNAVAILABLE,
}

# SQLSTATEs first by value, then by class (their first two characters).
_SQLSTATE_REASONS = {
    "40001": CONFLICT,
    "40P01": CONFLICT,
    "55P03": BUSY,  # lock_timeout
    "57014": BUSY,  # statement_timeout
    "55000": UNAVAILABLE,  # the database takes no connections (ALTER DATABASE, a failover)
    "25006": UNAVAILABLE,  # read-only: failed over, and this one is the standby now
    "42501": UNAVAILABLE,  # a right was taken away: as good as refused credentials
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout
    "25P04": UNAVAILABLE,  # transaction_timeout
}
_SQLSTATE_CLASS_REASONS = {
    "08": UNAVAILABLE,  # connection
    "53": UNAVAILABLE,  # disk full, out of memory, too many connections
    "57": UNAVAILABLE,  # shutdown, crash, cannot connect now
    "58": UNAVAILABLE,  # I/O
    "28": UNAVAILABLE,  # credentials refused
    "3D": UNAVAILABLE,  # database dropped
}


class AlreadyExistsError(Exception):
    """The name is taken: `what` is "email", "client_id" or "secret_id"; the value is not told."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class StorageFailedError(Exception):
    """A statement that should have worked did not: a defect or a damaged database."""


def unavailable(reason: str, detail: str = "") -> UnavailableError:
    return UnavailableError(reason, _RETRY_AFTER_S[reason], detail=detail)


def translate(error: Exception) -> Exception | None:
    """The error that leaves storage instead of `error`; None when it is no driver error."""
    if isinstance(error, exc.TimeoutError):  # the pool had no free connection in time
        return unavailable(BUSY, "no free connection")
    reason = environmental_reason(error)
    if reason is not None:
        return unavailable(reason, _code(getattr(error, "orig", None) or error))
    if isinstance(error, exc.StatementError):
        code = _code(error.orig) if error.orig is not None else ""
        statement = " ".join((error.statement or "").split())[:200]
        return StorageFailedError(f"{type(error).__name__} {code} in: {statement}")
    is_asyncpg = type(error).__module__.startswith("asyncpg")
    if is_asyncpg or isinstance(error, exc.SQLAlchemyError | sqlite3.Error):
        return StorageFailedError(f"{type(error).__name__} {_code(error)}")
    return None


def environmental_reason(error: BaseException) -> str | None:
    """Why the database cannot answer now, or None when `error` does not say that it cannot."""
    if isinstance(error, exc.DBAPIError):
        reason = environmental_reason(error.orig) if error.orig is not None else None
        return UNAVAILABLE if reason is None and error.connection_invalidated else reason
    if isinstance(error, sqlite3.Error):
        return _SQLITE_REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        return _SQLSTATE_REASONS.get(sqlstate) or _SQLSTATE_CLASS_REASONS.get(sqlstate[:2])
    if isinstance(error, OSError | TimeoutError):  # refused, reset, unreachable, timed out
        return UNAVAILABLE
    cause = error.__cause__  # the asyncpg dialect wraps client-side errors without a code
    return environmental_reason(cause) if cause is not None else _by_driver_class(error)


def _by_driver_class(error: BaseException) -> str | None:
    """asyncpg's client-side errors have no SQLSTATE: a closed or broken connection."""
    names = {cls.__name__ for cls in type(error).__mro__}
    lost = {"InterfaceError", "InternalClientError", "ConnectionDoesNotExistError"}
    if type(error).__module__.startswith("asyncpg") and names & lost:
        return UNAVAILABLE
    return None


def _code(orig: BaseException) -> str:
    name = getattr(orig, "sqlite_errorname", None) or getattr(orig, "sqlstate", None)
    return str(name or type(orig).__name__)
