"""Another master key: moving the keyring under a new version, and dropping the old ones.

Which version is in use is written in the keyring, so that all instances move at the same change.
Before it the command waits until every running server has read the master key file again. Old
versions stay for as long as sessions live that were begun under them: their refresh tokens are
checked with it. Killed anywhere, doing it again completes it.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from token_server.core.key_changes import (
    Change,
    Decision,
    Situation,
    Step,
    StepKind,
    Unchanged,
)
from token_server.crypto import master_key_file
from token_server.crypto.live_keys import Changed
from token_server.crypto.opening import missing_keyring
from token_server.crypto.secrets import MADE_WITH, version_of
from token_server.errors import OperatorError
from token_server.records import StoredKeyring
from token_server.runtime import Runtime
from token_server.services.key_changes import audit_change
from token_server.storage import family_versions

ACTOR = "operator"
REFUSED = 4


@dataclass(frozen=True, slots=True)
class RewrapReport:
    """What was moved or dropped or, with `dry_run`, would be."""

    changed: bool
    dry_run: bool
    now: int
    master_version: int  # the one in use afterwards
    kids: tuple[str, ...]  # whose private halves were encrypted anew
    dropped: tuple[int, ...]  # versions taken out of the server's own file
    old_versions: tuple[int, ...]  # still in the file
    old_needed_until: int | None  # sessions begun under them live until then; None: none does
    is_own_file: bool  # whether `--drop-old` can take them out


async def rewrap_keys(runtime: Runtime, *, new_master_key: bool, dry_run: bool) -> RewrapReport:
    """Move private halves and seal under the highest version of the master key; with
    `new_master_key` one is added to the server's own file first.

    OperatorError when the file is the operator's to change (with the steps), and when a store or
    the disk refuses.
    """
    settings = runtime.settings
    if new_master_key and not master_key_file.is_own(settings):
        raise OperatorError(_how_to_add(runtime), exit_code=REFUSED)
    target = max(runtime.master_keys.versions)
    if new_master_key:
        target = target + 1 if dry_run else await _add_version(runtime)
    stored = await _stored(runtime)
    kids = _to_move(stored, target)
    is_moved = not kids and version_of(stored.master_key_check) == target
    if dry_run or is_moved:
        return await _report(runtime, target, kids, changed=False, dry_run=dry_run)
    await _let_servers_read(runtime)

    def decide(situation: Situation) -> Decision:
        why = f"under version {target} of the master key"
        steps = tuple(Step(StepKind.REWRAPPED, kid, None, why) for kid in kids)
        return Change(keys=situation.keys, steps=steps)

    # Forced: no instant changes, and a keyring that has another fault must not be stuck with it.
    outcome = await runtime.keys.change(decide, force=True, master_version=target)
    audit_change(runtime, outcome, ACTOR)
    is_changed = isinstance(outcome, Changed)
    return await _report(runtime, target, kids, changed=is_changed, dry_run=False)


async def drop_old_master_keys(runtime: Runtime, *, dry_run: bool) -> RewrapReport:
    """Take every version but the one in use out of the server's own file.

    OperatorError, exit code 4, while a session or a private half needs one of them, with the date
    from which none does, and when the file is the operator's to change.
    """
    settings, current = runtime.settings, runtime.master_keys.current
    until = await _old_needed_until(runtime, current)
    if until is not None:
        raise OperatorError(
            f"sessions that were begun under an older master key live until {_date(until)}: "
            "without it they would end; try again then",
            exit_code=REFUSED,
        )
    stored = await _stored(runtime)
    if _to_move(stored, current) or max(runtime.master_keys.versions) != current:
        raise OperatorError(
            "the keys are not all under the newest version: `keys rewrap` first", exit_code=REFUSED
        )
    old = _old_versions(runtime, current)
    if old and not master_key_file.is_own(settings):
        listed = ", ".join(map(str, old))
        raise OperatorError(
            f"{settings.master_key_file} is not the server's own: take version {listed} out of it, "
            "on every instance; nothing needs it any more",
            exit_code=REFUSED,
        )
    dropped: tuple[int, ...] = ()
    if old and not dry_run:
        dropped = await asyncio.to_thread(
            master_key_file.keep_only, settings, current, runtime.entropy.token_bytes
        )
        await runtime.keys.refresh()
    return RewrapReport(
        changed=bool(dropped),
        dry_run=dry_run,
        now=runtime.clock.now(),
        master_version=current,
        kids=(),
        dropped=dropped,
        old_versions=() if dropped else old,
        old_needed_until=None,
        is_own_file=True,
    )


async def _add_version(runtime: Runtime) -> int:
    version = await asyncio.to_thread(
        master_key_file.add_version, runtime.settings, runtime.entropy.token_bytes
    )
    if not await runtime.keys.refresh():
        raise OperatorError(f"the keys cannot be read: {runtime.keys.problem}")
    return version


async def _let_servers_read(runtime: Runtime) -> None:
    """Wait until every running server has the master key file as it is now: from the change on
    sessions begin under the new version, and any of them may be asked to refresh one."""
    situation = (await runtime.keys.propose(lambda _: Unchanged("only looked at"))).situation
    if situation.serving is not None and situation.served_until >= situation.now:
        await asyncio.sleep(situation.serving.policy.reload_interval_s + 1)


async def _stored(runtime: Runtime) -> StoredKeyring:
    stored = await runtime.keys.store.load()
    if stored is None:
        raise missing_keyring(runtime.settings, None)
    return stored


def _to_move(stored: StoredKeyring, target: int) -> tuple[str, ...]:
    return tuple(
        entry.key.kid for entry in stored.keys if entry.master_version not in (None, target)
    )


async def _old_needed_until(runtime: Runtime, current: int) -> int | None:
    async with runtime.store.read(wait_s=family_versions.QUESTION_WAIT_S) as connection:
        return await family_versions.needed_until(connection, current, runtime.clock.now())


def _old_versions(runtime: Runtime, current: int) -> tuple[int, ...]:
    return tuple(version for version in runtime.master_keys.versions if version != current)


async def _report(
    runtime: Runtime, target: int, kids: tuple[str, ...], *, changed: bool, dry_run: bool
) -> RewrapReport:
    return RewrapReport(
        changed=changed,
        dry_run=dry_run,
        now=runtime.clock.now(),
        master_version=target,
        kids=kids,
        dropped=(),
        old_versions=_old_versions(runtime, target),
        old_needed_until=await _old_needed_until(runtime, target),
        is_own_file=master_key_file.is_own(runtime.settings),
    )


def _how_to_add(runtime: Runtime) -> str:
    path, version = runtime.settings.master_key_file, max(runtime.master_keys.versions) + 1
    return (
        f"{path} is yours to change, since all instances are given the same: 1. make a key with "
        f"`{MADE_WITH}`; 2. put `{version}:` and that key into the file as a line of its own, "
        "beside the others and on every instance (a file of one bare key becomes `1:` and that key "
        "first); 3. give `keys rewrap` without --new-master-key"
    )


def _date(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
