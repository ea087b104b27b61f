"""Driver errors become what an edge can answer: retry later, or a defect without any value."""

import sqlite3

import pytest
from sqlalchemy import exc

from token_server.errors import UnavailableError
from token_server.storage.errors import StorageFailedError, translate


class DriverError(Exception):
    """As PostgreSQL's driver raises it: a code, and a text that may quote a whole row."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("DETAIL: Failing row contains (s3cret)")
        self.sqlstate = sqlstate


def wrapped(orig: Exception, *, is_lost: bool = False) -> exc.DBAPIError:
    return exc.DBAPIError(
        "INSERT INTO t VALUES (:x)",
        {"x": "s3cret"},
        orig,
        hide_parameters=True,
        connection_invalidated=is_lost,
    )


@pytest.mark.parametrize(
    ("sqlstate", "reason"),
    [
        ("40001", "storage_conflict"),
        ("40P01", "storage_conflict"),
        ("55P03", "storage_busy"),
        ("57014", "storage_busy"),
        ("57P01", "storage_unavailable"),
        ("57P03", "storage_unavailable"),
        ("08006", "storage_unavailable"),
        ("53100", "storage_unavailable"),
        ("53300", "storage_unavailable"),
        ("25P03", "storage_unavailable"),
        ("25006", "storage_unavailable"),
        ("42501", "storage_unavailable"),
    ],
)
def test_postgres_conditions_are_retryable(sqlstate: str, reason: str) -> None:
    """refresh.md 10: contention, timeouts and lost connections are never `invalid_grant`."""
    for error in (DriverError(sqlstate), wrapped(DriverError(sqlstate))):
        translated = translate(error)
        assert isinstance(translated, UnavailableError)
        assert translated.reason == reason
        assert translated.retry_after_s >= 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        ConnectionResetError(),
        TimeoutError(),
        wrapped(DriverError(None), is_lost=True),
    ],
    ids=["refused", "reset", "timeout", "invalidated"],
)
def test_lost_connections_are_retryable(error: Exception) -> None:
    """Whatever shape the loss of a connection has when it arrives."""
    translated = translate(error)
    assert isinstance(translated, UnavailableError)
    assert translated.reason == "storage_unavailable"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_BUSY, "storage_busy"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "storage_busy"),
        (sqlite3.SQLITE_LOCKED, "storage_busy"),
        (sqlite3.SQLITE_FULL, "storage_unavailable"),
        (sqlite3.SQLITE_IOERR_FSYNC, "storage_unavailable"),
        (sqlite3.SQLITE_CORRUPT, "storage_unavailable"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "storage_unavailable"),
    ],
)
def test_sqlite_conditions_are_retryable(code: int, reason: str) -> None:
    """Extended codes count as their primary one."""
    error = sqlite3.OperationalError("s3cret")
    error.sqlite_errorcode = code
    translated = translate(wrapped(error))
    assert isinstance(translated, UnavailableError)
    assert translated.reason == reason


@pytest.mark.parametrize("sqlstate", ["23505", "23514", "42601", "22001"])
def test_defects_name_code_and_statement_but_no_value(sqlstate: str) -> None:
    """A violated constraint is a defect of ours, not a reason to try again."""
    translated = translate(wrapped(DriverError(sqlstate)))
    assert isinstance(translated, StorageFailedError)
    assert sqlstate in str(translated)
    assert "INSERT INTO t" in str(translated)
    assert "s3cret" not in str(translated)


def test_other_peoples_errors_pass_through() -> None:
    """What a block raises for its own reasons is not ours to translate."""
    assert translate(KeyError("mine")) is None
    assert translate(ValueError("mine")) is None
