"""DATABASE_URL: what is taken, what is translated for asyncpg, and what is refused and how."""

import ssl
from pathlib import Path

import pytest

from token_server.errors import OperatorError
from token_server.storage.database_url import (
    PostgresAddress,
    SqliteAddress,
    parse_database_url,
)


def postgres(url: str) -> PostgresAddress:
    address = parse_database_url(url)
    assert isinstance(address, PostgresAddress)
    return address


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_sqlite_names_a_file(scheme: str) -> None:
    """Three slashes are relative to the working directory, four absolute."""
    assert parse_database_url(f"{scheme}:////data/x.db") == SqliteAddress(Path("/data/x.db"))
    relative = parse_database_url(f"{scheme}:///data/x.db")
    assert relative == SqliteAddress(Path.cwd() / "data" / "x.db")


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"]
)
def test_every_postgres_scheme_means_asyncpg(scheme: str) -> None:
    """URLs as other tools write them work unchanged."""
    url = postgres(f"{scheme}://user:p%40ss@db.example:5433/name").url
    assert url.drivername == "postgresql+asyncpg"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "user",
        "p@ss",
        "db.example",
        5433,
        "name",
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://user:s3cret@host/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x.db?uri=true",
        "sqlite:///x.db?mode=ro",
        "sqlite://host/x.db",
        "postgresql://user:s3cret@host/db?sslmod=require",
        "postgresql://user:s3cret@host/db?sslmode=sometimes",
        "postgresql://user:s3cret@host/db?sslmode=require&sslmode=disable",
        "postgresql://user:s3cret@host/db?sslrootcert=/x",
        "postgresql://user:s3cret@host/db?sslmode=prefer&sslcert=/x",
        "postgresql://user:s3cret@host/db?sslmode=verify-full&sslrootcert=/missing.pem",
        "postgresql://user:s3cret@host/db?prepared_statements=maybe",
        "postgresql://user:s3cret@host/db?pool_size=0",
        "postgresql://user:s3cret@host/db?pool_size=ten",
        "postgresql://user:s3cret@host:port/db",
    ],
)
def test_what_would_be_ignored_or_misread_is_refused(url: str) -> None:
    """A usage error that names DATABASE_URL and never shows the password."""
    with pytest.raises(OperatorError, match=r"^DATABASE_URL ") as caught:
        parse_database_url(url)
    assert caught.value.exit_code == 2
    assert "s3cret" not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("mode", "verify", "check_hostname"),
    [
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_sslmode_means_what_libpq_means(
    mode: str, verify: ssl.VerifyMode, check_hostname: bool
) -> None:
    """The stricter modes check the certificate, and `verify-full` the name as well."""
    context = postgres(f"postgresql://host/db?sslmode={mode}").connect_args["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (verify, check_hostname)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_lenient_sslmodes_are_asyncpgs_own(mode: str) -> None:
    """These three asyncpg knows by the same names."""
    assert postgres(f"postgresql://host/db?sslmode={mode}").connect_args["ssl"] == mode
    assert "ssl" not in postgres("postgresql://host/db").connect_args


def test_unix_socket_and_own_parameters() -> None:
    """`host` may be a socket directory; our own switches do not reach the driver."""
    address = postgres("postgresql://u@/db?host=/run/pg&pool_size=3&application_name=x")
    assert address.pool_size == 3
    assert dict(address.url.query) == {"host": "/run/pg"}
    settings = address.connect_args["server_settings"]
    assert isinstance(settings, dict)
    assert settings["application_name"] == "x"


def test_password_is_not_in_the_repr() -> None:
    """An address may end up in a log by accident."""
    assert "s3cret" not in repr(postgres("postgresql://u:s3cret@host/db"))
