"""Whether this process can do its work now: database, schema, signing key, hashing, clock.

Liveness never asks here: a database that is away must not make an orchestrator restart every
instance. Answers are at most a second old and made once for all who ask, so that a flood of
health checks is not a load; a database that hangs holds one check and one connection.
"""

import asyncio
from dataclasses import dataclass

from token_server.crypto.passwords import HashCapacity
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.storage.migrations import schema_status

_log = get_logger(__name__)

MAX_AGE_S = 1.0
DATABASE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One condition; `detail` is for the operator and never holds an address or a secret."""

    name: str
    is_ok: bool
    detail: str


class Readiness:
    """The one answer to "send me requests?" of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._is_draining = False
        self._checks: tuple[Check, ...] = ()
        self._checked_at = float("-inf")
        self._task: asyncio.Task[tuple[Check, ...]] | None = None

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def drain(self) -> None:
        """From now on not ready: the process finishes what it has and stops."""
        self._is_draining = True

    async def checks(self) -> tuple[Check, ...]:
        """Every check, the draining one first; the process is ready when all are ok."""
        detail = "stopping" if self._is_draining else "serving"
        serving = Check("serving", not self._is_draining, detail)
        age_s = self._runtime.clock.monotonic() - self._checked_at
        if not self._checks or age_s > MAX_AGE_S:
            self._keep(await self._check_once())
        return (serving, *self._checks)

    def update_gauges(self) -> None:
        """Bring the gauges that nobody else sets up to date."""
        runtime = self._runtime
        runtime.metrics.hash_queue(runtime.hasher.queue_depth)
        runtime.metrics.signing_keys(runtime.keyring.states(runtime.clock.now()))

    def _keep(self, checks: tuple[Check, ...]) -> None:
        failed = [check.name for check in checks if not check.is_ok]
        before = [check.name for check in self._checks if not check.is_ok]
        if failed != before:
            level = _log.warning if failed else _log.info
            level("readiness_changed", failed=failed)
        self._checks = checks
        self._checked_at = self._runtime.clock.monotonic()

    async def _check_once(self) -> tuple[Check, ...]:
        here = (_signing_key(self._runtime), _hash_queue(self._runtime), _clock(self._runtime))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(_database(self._runtime))
        # Never cancelled: a driver that is cut off in a statement loses its connection.
        await asyncio.wait({self._task}, timeout=DATABASE_TIMEOUT_S)
        if not self._task.done():
            detail = f"no answer within {DATABASE_TIMEOUT_S:g} s"
            return (Check("database", is_ok=False, detail=detail), *here)
        return (*self._task.result(), *here)


async def _database(runtime: Runtime) -> tuple[Check, ...]:
    try:
        status = await schema_status(runtime.store)
    except UnavailableError as error:
        return (Check("database", is_ok=False, detail=error.reason),)
    except Exception as error:  # noqa: BLE001 - an unforeseen failure is "not ready", not a crash
        _log.exception("readiness_check_failed")
        return (Check("database", is_ok=False, detail=type(error).__name__),)
    # A newer schema is safe to serve on: migrations never break the release before them.
    is_usable = status.is_current or status.is_newer
    return (
        Check("database", is_ok=True, detail=runtime.store.dialect),
        Check("schema", is_usable, f"{status.current or 'none'}, this release has {status.head}"),
    )


def _signing_key(runtime: Runtime) -> Check:
    try:
        kid = runtime.keyring.signer(runtime.clock.now()).kid
    except UnavailableError:
        return Check("signing_key", is_ok=False, detail="no active key")
    return Check("signing_key", is_ok=True, detail=kid)


def _hash_queue(runtime: Runtime) -> Check:
    limit = HashCapacity.of_slots(runtime.settings.password_hash_slots).queue
    depth = runtime.hasher.queue_depth
    return Check("password_hashing", depth < limit, f"{depth} of {limit} waiting")


def _clock(runtime: Runtime) -> Check:
    if runtime.clock.is_stepped_back():
        return Check("clock", is_ok=False, detail="set back: issuing is paused")
    return Check("clock", is_ok=True, detail="steady")
