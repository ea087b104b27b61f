"""What a serving process does for its keys: sees changes made elsewhere, rotates when due.

Every instance does the same; of two that find the same thing due, one makes the change and the
other finds it done. Nothing here is needed for a request to succeed, so every failure is tried
again, and logged when it begins: the state of the store by crypto/store_problems.py, that of the
keys and any other failure here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine

from token_server.core.key_changes import Change, Refused
from token_server.core.key_upkeep import resume, upkeep
from token_server.crypto.live_keys import Decide
from token_server.errors import OperatorError, UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.services.checks import Level
from token_server.services.key_changes import change_keys
from token_server.services.key_health import key_checks, update_key_gauges

_log = get_logger(__name__)

# How often to look whether the store has changed, which costs next to nothing: so a compromise
# is answered within a second, whatever KEY_RELOAD_INTERVAL is.
LOOK_S = 0.5
RETRY_S = 5.0  # between two attempts at a store that could not be written
STOP_S = 5.0  # for what is under way at a stop
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
        keeper.stop()
        await asyncio.wait({task}, timeout=STOP_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class KeyUpkeep:
    """One per process that serves."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._refresh_at = float("-inf")
        self._heartbeat_at = float("-inf")
        self._retry_at = float("-inf")
        self._is_resumed = False
        self._stopped = asyncio.Event()
        self._signing_kid: str | None = None
        self._levels: dict[str, Level] = {}
        self._failures: dict[str, str] = {}

    async def start(self) -> None:
        """Before anything is signed: time in which no server ran does not count (I2)."""
        await self._try("start", self._start())
        self._note_state()

    async def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            await self._try("tick", self.tick())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), LOOK_S)

    def stop(self) -> None:
        """End `run` once what is under way is done."""
        self._stopped.set()

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
            # On its own: a database that is away must not keep keys in files from being kept up.
            await self._try("epoch", runtime.epochs.refresh())
        if now >= self._retry_at and runtime.keys.problem is None:
            await self._do_what_is_due(now)
        self._note_state()

    async def _start(self) -> None:
        keys = self._runtime.keys
        await keys.refresh()
        await self._do_what_is_due(self._runtime.clock.monotonic())
        if not self._is_resumed:
            keys.assume(resume)  # signing must not wait for a store that can be read only

    async def _do_what_is_due(self, now: float) -> None:
        runtime = self._runtime
        if runtime.clock.is_stepped_back():
            return  # what it would write down is wrong
        try:
            if not self._is_resumed:
                await self._change(resume)
                self._is_resumed = True
            if now >= self._heartbeat_at or runtime.keys.write_problem is not None:
                await runtime.keys.record_serving()
                self._heartbeat_at = now + runtime.keys.policy.heartbeat_s
            # Decided from memory first: mostly nothing is due, and then the store is not asked.
            if isinstance(upkeep(runtime.keys.situation()), Change):
                await self._change(upkeep)
            await runtime.keys.keep_covered()
        except (OperatorError, UnavailableError) as error:
            self._retry_at = now + RETRY_S
            if runtime.keys.write_problem is None:  # else the log has it
                self._note_failure("change", str(error))
        else:
            self._note_failure("change", None)

    async def _change(self, decide: Decide) -> None:
        outcome = await change_keys(self._runtime, decide, actor=ACTOR)
        broken = outcome.violations if isinstance(outcome, Refused) else ()
        why = "; ".join(f"{rule.invariant}: {rule.why}" for rule in broken)
        self._note_failure(decide.__name__, why or None)

    def _note_state(self) -> None:
        """Log what has changed since the last round: who signs, and what asks for attention."""
        runtime = self._runtime
        update_key_gauges(runtime)
        signing = runtime.keys.situation().signing
        kid = None if signing is None else signing.kid
        if kid != self._signing_kid:
            _log.info("signing_key_changed", kid=kid, before=self._signing_kid)
            self._signing_kid = kid
        for check in key_checks(runtime):
            if check.name == "key_store" or check.level is self._levels.get(check.name, Level.OK):
                continue
            self._levels[check.name] = check.level
            log = _log.info if check.level is Level.OK else _log.warning
            log("key_check_changed", check=check.name, state=check.level, detail=check.detail)

    def _note_failure(self, step: str, problem: str | None) -> None:
        if problem is None:
            if self._failures.pop(step, None) is not None:
                _log.info("key_upkeep_works_again", step=step)
        elif self._failures.get(step) != problem:
            self._failures[step] = problem
            _log.warning("key_upkeep_failed", step=step, problem=problem)

    async def _try(self, step: str, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (OperatorError, UnavailableError) as error:
            self._note_failure(step, str(error))
        except Exception as error:  # noqa: BLE001 - one round fails, the next is tried
            if self._failures.get(step) != repr(error):
                self._failures[step] = repr(error)
                _log.exception("key_upkeep_failed", step=step)
        else:
            self._note_failure(step, None)
