"""`token-server` with a fault of a kind that kills must bring to light: the proof of the checks.

`python -m tests.faults.broken_server BREAK python -m token_server serve` runs that command with
one function replaced. Never a part of what is shipped.
"""

import asyncio
import runpy
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from token_server.records import AuditEvent, Family
from token_server.runtime import Runtime
from token_server.services import sessions
from token_server.storage import families

_LATE_S = 0.2


def _answer_before_commit() -> None:
    """A logout, and the end of another session, are committed a moment after their answer."""
    real = sessions.end_by_id
    pending: set[asyncio.Task[bool]] = set()

    async def end_later(runtime: Runtime, session: Family, event: AuditEvent) -> bool:
        await asyncio.sleep(_LATE_S)
        return await real(runtime, session, event)

    async def end_by_id(runtime: Runtime, session: Family, event: AuditEvent) -> bool:
        task = asyncio.create_task(end_later(runtime, session, event))
        pending.add(task)
        task.add_done_callback(pending.discard)
        return True

    sessions.end_by_id = end_by_id


def _two_transactions() -> None:
    """Sessions are ended in a transaction of their own, after that of the new password."""
    real = families.revoke_families_of_user

    async def revoke(connection: AsyncConnection, *args: Any, **kwargs: Any) -> list[str]:
        is_sqlite = connection.dialect.name == "sqlite"
        await connection.exec_driver_sql("COMMIT")
        await connection.exec_driver_sql("BEGIN IMMEDIATE" if is_sqlite else "BEGIN")
        return await real(connection, *args, **kwargs)

    families.revoke_families_of_user = revoke  # type: ignore[assignment]  # a wider signature


BREAKS: dict[str, Callable[[], None]] = {
    "answer-before-commit": _answer_before_commit,
    "two-transactions": _two_transactions,
}


def wrapper_of(name: str) -> list[str]:
    """The beginning of the command, for `start_server`."""
    return [sys.executable, "-m", "tests.faults.broken_server", name]


if __name__ == "__main__":
    _, name, _python, _module_option, module, *arguments = sys.argv
    BREAKS[name]()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
