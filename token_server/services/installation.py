"""Facts about this installation: its version and those of what it stands on."""

import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("litestar", "uvicorn", "SQLAlchemy", "cryptography", "argon2-cffi", "msgspec")
OPTIONAL_LIBRARIES = ("asyncpg", "uvloop", "httptools", "PyNaCl")


def package_version() -> str:
    """The version of token-server; a source tree that is not installed has none."""
    return _version("token-server") or "0+unknown"


def versions() -> dict[str, str]:
    """What a bug report should say; libraries that are not installed are left out."""
    found = {name: _version(name) for name in (*LIBRARIES, *OPTIONAL_LIBRARIES)}
    return {
        "token-server": package_version(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: text for name, text in found.items() if text is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
