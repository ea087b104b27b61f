"""Spending a refresh token: one conditional UPDATE, and what its failure means (refresh.md 3-6).

The happy path is that one statement. Zero rows are looked at once more by `decide_refresh`,
which is pure; what it decides is done here or by the endpoint's effects, never raised inside a
write block.
"""

from dataclasses import dataclass, replace

from token_server.core.refresh import (
    Decision,
    RefreshPolicy,
    Refused,
    Replay,
    Rotate,
    TokenText,
    decide_refresh,
    decode_refresh_token,
)
from token_server.core.throttle import Throttled
from token_server.errors import UnavailableError
from token_server.records import AuditEvent, AuditEventType, Client, Family
from token_server.runtime import Runtime
from token_server.services.request_context import RequestContext
from token_server.storage import audit, families
from token_server.storage.batch import RotationEntry

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Spent:
    """The token was current and is used up; `family` is as it stands after that."""

    family: Family


@dataclass(frozen=True, slots=True)
class NotSpent:
    """Nothing was used up; `family` is None when there is none."""

    family: Family | None
    decision: Decision


def read_refresh_token(runtime: Runtime, text: str) -> TokenText | None:
    """What the text says, without a query; None for junk."""
    return decode_refresh_token(text, runtime.master_keys.find_refresh_mac_key, runtime.epoch)


def refresh_policy(runtime: Runtime, client: Client) -> RefreshPolicy:
    window_s = client.refresh_replay_window_s
    if window_s is None:
        window_s = runtime.settings.refresh_replay_window_s
    return RefreshPolicy(replay_window_s=window_s, shadow_limit=client.shadow_limit)


async def judge_refresh_token(
    runtime: Runtime, token: TokenText, client: Client, context: RequestContext
) -> NotSpent:
    """Read the family and decide, without spending anything."""
    family = await families.look_up(runtime.store, token.family_id)
    if family is None:
        return NotSpent(None, Refused("family_unknown"))
    policy = _while_away(runtime, refresh_policy(runtime, client), family)
    decision = decide_refresh(family, token.generation, client.client_id, context.now, policy)
    return NotSpent(family, decision)


def _while_away(runtime: Runtime, policy: RefreshPolicy, family: Family) -> RefreshPolicy:
    """The window for replays stands still while the database is away: a rotation whose answer was
    lost then must be healed afterwards, however long it took. Strict mode has no window."""
    if not policy.replay_window_s or family.rotated_at is None:
        return policy
    away_s = runtime.store.away_s(family.rotated_at)
    return replace(policy, replay_window_s=policy.replay_window_s + away_s)


async def spend_refresh_token(
    runtime: Runtime, token: TokenText, client: Client, context: RequestContext
) -> Spent | NotSpent:
    """Spend the token if it is current; else say what it is.

    Raises UnavailableError when the row keeps changing under us or the database is away: the
    client may retry, and nothing is lost.
    """
    entry = RotationEntry(
        family_id=token.family_id,
        generation=token.generation,
        client_id=client.client_id,
        now=context.now,
        idle_ttl_s=client.refresh_idle_ttl_s or runtime.settings.refresh_idle_ttl_s,
    )
    for _ in range(_ATTEMPTS):
        family = await runtime.rotations.submit(entry)
        if family is not None:
            return Spent(family)
        judged = await judge_refresh_token(runtime, token, client, context)
        if not isinstance(judged.decision, Rotate):
            return judged
    raise UnavailableError("refresh_contended")


async def admit_replay(
    runtime: Runtime, family: Family, generation: int, replay: Replay, context: RequestContext
) -> None:
    """Count the replay against its budget and note the first one of each generation.

    Raises UnavailableError (429) beyond the budget: a broken client, not a thief.
    """
    use = runtime.replays.use(family.family_id, runtime.clock.monotonic())
    if isinstance(use, Throttled):
        raise UnavailableError(
            "replay_budget_spent", max(1, round(use.retry_after_s)), is_throttled=True
        )
    if not replay.is_first_of_generation:
        return
    if not runtime.replays.claim_note(family.family_id, generation):
        return
    try:
        await _note_replay(runtime, family, generation, context)
    except BaseException:
        runtime.replays.release_note(family.family_id, generation)
        raise


async def _note_replay(
    runtime: Runtime, family: Family, generation: int, context: RequestContext
) -> None:
    event = None
    async with runtime.store.write() as connection:
        noted = await families.note_replay(connection, family.family_id, generation)
        if noted is not None and noted.shadow_count > 0:
            event = AuditEvent(
                event=AuditEventType.REFRESH_TOKEN_SHADOWED,
                at=context.now,
                actor=f"client:{family.client_id}",
                subject=family.sid,
                client_id=family.client_id,
                ip_address=context.ip_address,
                request_id=context.request_id,
                details={"shadow_count": noted.shadow_count},
            )
            await audit.insert_events(connection, [event])
    if event is not None:
        runtime.metrics.refresh("shadowed")
        runtime.audit.log(event)
