"""`keys compromise --all`: whoever read the host or the key store has every key, the master too.

In this order: a new version of the master key; the next epoch, so that no refresh token is good
any more; new keys that were never published sign at once and all others are dropped, in one change
of the keyring, which running servers follow within a second; every session is revoked in batches;
the old versions leave the server's own master key file. Killed anywhere, doing it again completes
it: each step may be done twice. Nothing here waits for verifiers (NIST SP 800-57 part 1, 8.3.5).
"""

import asyncio
from dataclasses import dataclass

from token_server.core.key_changes import Change, Situation, Step, StepKind
from token_server.core.key_compromise import compromise_all
from token_server.core.key_verifiers import Effect, effects_of_switch
from token_server.crypto import master_key_file
from token_server.crypto.live_keys import Changed
from token_server.crypto.secrets import MADE_WITH
from token_server.errors import OperatorError
from token_server.records import AuditEvent, AuditEventType
from token_server.runtime import Runtime
from token_server.services.key_changes import audit_change
from token_server.services.key_upkeep import LOOK_S
from token_server.storage import audit, family_versions, meta
from token_server.storage.family_versions import Sweep

ACTOR = "operator"
REASON = "keys_compromised"
BATCH = 500
PAUSE_S = 0.01
# A server that has not looked yet may begin sessions under the old master key for so long.
SETTLE_S = 4 * LOOK_S
# An emergency that was broken off is completed for so long; after that it is another one.
HALF_DONE_S = 3600


@dataclass(frozen=True, slots=True)
class EmergencyReport:
    """What was done or, with `dry_run`, would be. Instants are epoch seconds."""

    changed: bool
    dry_run: bool
    now: int
    dropped: tuple[str, ...]  # kids that must not be trusted any more
    signing_kid: str | None  # None: still to be made (dry run)
    master_version: int  # everything rests on this one from now on
    sessions_ended: int
    effects: tuple[Effect, ...]  # what it costs each kind of verifier
    generation: int
    steps: tuple[Step, ...]
    todo: tuple[str, ...]  # what is left to the operator


async def compromise_everything(runtime: Runtime, *, dry_run: bool) -> EmergencyReport:
    """Drop every key and the master key, and end every session.

    OperatorError with exit code 4 and the exact steps when the master key is in a file of the
    operator's that has no new version yet: then nothing has changed. Otherwise it raises only
    when a store or the disk refuses, and is to be repeated.
    """
    proposal = await runtime.keys.propose(compromise_all)
    before = proposal.situation
    is_half_done = await _is_half_done(runtime)
    version = runtime.master_keys.current if is_half_done else _version_to_come(runtime)
    if dry_run:
        steps = proposal.decision.steps if isinstance(proposal.decision, Change) else ()
        async with runtime.store.read(wait_s=family_versions.QUESTION_WAIT_S) as connection:
            sessions = await family_versions.count_live_families(connection, before.now)
        return _report(runtime, before, Done(version, sessions, steps, is_dry_run=True))
    steps = () if is_half_done else await _exchange_keys(runtime, version)
    version = runtime.master_keys.current
    sessions = await _end_sessions(runtime, version)
    await asyncio.sleep(SETTLE_S)
    sessions += await _end_sessions(runtime, version)
    await _finish(runtime, version)
    return _report(runtime, before, Done(version, sessions, steps))


@dataclass(frozen=True, slots=True)
class Done:
    """What went into a report."""

    version: int
    sessions: int
    steps: tuple[Step, ...]
    is_dry_run: bool = False


def _report(runtime: Runtime, before: Situation, done: Done) -> EmergencyReport:
    signing = runtime.keys.situation().signing
    dropped = tuple(step.kid for step in done.steps if step.kind is StepKind.COMPROMISED)
    return EmergencyReport(
        changed=not done.is_dry_run,
        dry_run=done.is_dry_run,
        now=before.now,
        dropped=tuple(kid for kid in dropped if kid is not None),
        signing_kid=None if done.is_dry_run or signing is None else signing.kid,
        master_version=done.version,
        sessions_ended=done.sessions,
        effects=effects_of_switch(0, before.policy.jwks_max_age_s),
        generation=runtime.keyring.generation,
        steps=done.steps,
        todo=_todo(runtime, done.version),
    )


def _version_to_come(runtime: Runtime) -> int:
    """The master key version to move to. OperatorError when the operator has to make it first."""
    settings, master_keys = runtime.settings, runtime.master_keys
    highest = max(master_keys.versions)
    if master_key_file.is_own(settings):
        return highest + 1
    if highest > master_keys.current:
        return highest
    raise OperatorError(
        f"whoever has the keys has the master key, too, and {settings.master_key_file} has no new "
        f"one: 1. make a key with `{MADE_WITH}`; 2. put `{highest + 1}:` and that key into the "
        "file as a line of its own, on every instance (a file of one bare key becomes `1:` and "
        "that key first); 3. give this command again. Until then nothing has changed; "
        "`keys compromise KID` drops one key without a new master key",
        exit_code=4,
    )


async def _exchange_keys(runtime: Runtime, version: int) -> tuple[Step, ...]:
    if master_key_file.is_own(runtime.settings):
        version = await _add_master_key(runtime)
    await _raise_epoch(runtime, version)
    outcome = await runtime.keys.change(compromise_all, force=True, master_version=version)
    audit_change(runtime, outcome, ACTOR)
    return outcome.steps if isinstance(outcome, Changed) else ()  # it always is: never refused


async def _is_half_done(runtime: Runtime) -> bool:
    """Whether this very emergency was broken off when the keys had been exchanged already. Asked
    for a mounted master key only: it has no second new version for doing everything again."""
    if master_key_file.is_own(runtime.settings):
        return False
    async with runtime.store.read() as connection:
        mark = await meta.get(connection, meta.KEYS_EMERGENCY)
    version, _, at = (mark or "0:0").partition(":")
    is_recent = runtime.clock.now() - int(at) < HALF_DONE_S
    return is_recent and int(version) == runtime.master_keys.current


async def _add_master_key(runtime: Runtime) -> int:
    # Always a fresh one: what was put there before may have been read as well.
    version = await asyncio.to_thread(
        master_key_file.add_version, runtime.settings, runtime.entropy.token_bytes
    )
    if not await runtime.keys.refresh():
        raise OperatorError(f"the keys cannot be read: {runtime.keys.problem}")
    return version


async def _raise_epoch(runtime: Runtime, version: int) -> None:
    async with runtime.store.write() as connection:
        epoch = await meta.raise_epoch(connection)
        event = _event(
            runtime, AuditEventType.KEYRING_COMPROMISED, epoch=epoch, master_version=version
        )
        await audit.insert_events(connection, [event])
        await meta.set(connection, meta.KEYS_EMERGENCY, f"{version}:{event.at}")
    runtime.audit.log(event)


async def _end_sessions(runtime: Runtime, version: int) -> int:
    """End every session that was begun under another master key, in batches; how many."""
    total, after = 0, 0
    while True:
        event = None
        # Its own instant for each batch: status lists follow it (storage/status_cache.py).
        sweep = Sweep(version, REASON, runtime.clock.now())
        async with runtime.store.write() as connection:
            ended = await family_versions.revoke_families(connection, sweep, after, BATCH)
            if ended:
                event = _event(runtime, AuditEventType.SESSION_REVOKED, sessions_ended=len(ended))
                await audit.insert_events(connection, [event])
        if event is not None:
            runtime.audit.log(event)
        total += len(ended)
        if len(ended) < BATCH:
            return total
        after = max(ended)
        await asyncio.sleep(PAUSE_S)


async def _finish(runtime: Runtime, version: int) -> None:
    settings = runtime.settings
    if master_key_file.is_own(settings):
        await asyncio.to_thread(
            master_key_file.keep_only, settings, version, runtime.entropy.token_bytes
        )
    async with runtime.store.write() as connection:
        await meta.set(connection, meta.KEYS_EMERGENCY, "0:0")


def _todo(runtime: Runtime, version: int) -> tuple[str, ...]:
    settings = runtime.settings
    steps = ["back up the new keys and the new master key; backups from before hold the old ones"]
    if not master_key_file.is_own(settings):
        steps.insert(
            0,
            f"take every line but version {version} out of {settings.master_key_file}, on every "
            "instance",
        )
    steps.append("find out how the keys were read, and close that first")
    return tuple(steps)


def _event(runtime: Runtime, event: AuditEventType, **details: int) -> AuditEvent:
    return AuditEvent(
        event=event, at=runtime.clock.now(), actor=ACTOR, reason=REASON, details=details
    )
