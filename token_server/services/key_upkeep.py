"""What a serving process does for its keys: sees changes made elsewhere, rotates when due.

Every instance does the same; of two that find the same thing due, one makes the change and the
other finds it done. Nothing here is needed for a request to succeed, so every failure is logged
and tried again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine

from token_server.core.key_changes import Change
from token_server.core.key_upkeep import resume, upkeep
from token_server.errors import OperatorError, UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.key_changes import change_keys

_log = get_logger(__name__)

# How often to look whether the store has changed, which costs next to nothing: so a compromise
# is answered within a second, whatever KEY_RELOAD_INTERVAL is.
LOOK_S = 0.5
ACTOR = "server"


@contextlib.asynccontextmanager
async def keys_kept_up(runtime: Runtime) -> AsyncIterator[None]:
    """Keep the keys up for as long as the block runs; to be entered before the first request."""
    keeper = KeyUpkeep(runtime)
    await keeper.start()
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class KeyUpkeep:
    """One per process that serves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._refresh_at = float("-inf")
        self._heartbeat_at = float("-inf")
        self._signing_kid: str | None = None

    async def start(self) -> None:
        """Before anything is signed: time in which no server ran does not count (I2)."""
        await self._try("resume", self._resume())
        self._note_signing_key()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._try("tick", self.tick())
            await asyncio.sleep(LOOK_S)

    async def tick(self) -> None:
        """One round: look, read again when it is time, do what is due."""
        runtime = self._runtime
        generation = runtime.keyring.generation
        await runtime.keys.look()
        now = runtime.clock.monotonic()
        is_time = now >= self._refresh_at
        if is_time:
            self._refresh_at = now + runtime.settings.key_reload_interval_s
            await runtime.keys.refresh()
        if is_time or runtime.keyring.generation != generation:
            await runtime.epochs.refresh()
        if runtime.keys.problem is None and not runtime.clock.is_stepped_back():
            await self._do_what_is_due(now)
        self._note_signing_key()

    async def _resume(self) -> None:
        await self._runtime.keys.refresh()
        await change_keys(self._runtime, resume, actor=ACTOR)
        await self._do_what_is_due(self._runtime.clock.monotonic())

    async def _do_what_is_due(self, now: float) -> None:
        runtime = self._runtime
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + runtime.keys.policy.heartbeat_s
            await runtime.keys.record_serving()
        # Decided from memory first: mostly nothing is due, and then the store is not asked.
        if isinstance(upkeep(runtime.keys.situation()), Change):
            await change_keys(runtime, upkeep, actor=ACTOR)
        await runtime.keys.keep_covered()

    def _note_signing_key(self) -> None:
        signing = self._runtime.keys.situation().signing
        kid = None if signing is None else signing.kid
        if kid != self._signing_kid:
            _log.info("signing_key_changed", kid=kid, before=self._signing_kid)
            self._signing_kid = kid

    async def _try(self, step: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (OperatorError, UnavailableError) as error:
            _log.warning("key_upkeep_failed", step=step, problem=str(error))
        except Exception:  # noqa: BLE001 - one round fails, the next is tried
            _log.exception("key_upkeep_failed", step=step)
