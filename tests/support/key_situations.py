"""Situations for tests of key decisions: records without real keys, and what a change makes of
them. The policy is that of a server with short windows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from token_server.core.key_changes import Change, Decision, NewKey, Situation, StepKind
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.records import SigningKey

NOW = 1_800_000_000
POLICY = KeyPolicy(
    lead_s=1000,
    rotate_every_s=20_000,
    jwks_max_age_s=100,
    reload_interval_s=10,
    clock_skew_s=5,
    access_token_ttl_s=200,
)
SETTLE_S = 15  # reload interval and skew
HEAD_ROOM_S = 500  # half a lead
SERVED = Serving(NOW, POLICY)


def key(kid: str, activate_at: int | None = None, **changes: Any) -> SigningKey:
    """A key that was published long ago; one with a past date has signed."""
    made = SigningKey(
        kid=kid,
        alg="RS256",
        bits=2048,
        n=3,
        e=65537,
        created_at=NOW - 50_000,
        published_at=NOW - 50_000,
        activate_at=activate_at,
        retire_at=None,
        exp_high_water=None if activate_at is None else activate_at + 700,
        compromised_at=None,
    )
    return replace(made, **changes)


def situation(*keys: SigningKey, **changes: Any) -> Situation:
    """Every private half is here, and a server serves."""
    made = Situation(
        keys=keys,
        usable=frozenset(one.kid for one in keys),
        now=NOW,
        policy=POLICY,
        serving=SERVED,
    )
    return replace(made, **changes)


def made_key(kid: str, new: NewKey, situation: Situation) -> SigningKey:
    """What crypto/opening.make_key makes of a wanted key, without its numbers."""
    now, policy = situation.now, situation.policy
    is_dated = new.activate_at is not None
    mark = now + policy.access_token_ttl_s + policy.head_room_s
    return key(
        kid,
        new.activate_at,
        created_at=now,
        published_at=now if is_dated else None,
        exp_high_water=mark if is_dated else None,
    )


def after(before: Situation, decision: Decision, *kids: str) -> Situation:
    """The situation once `decision` is made; keys that it makes are called `kids`."""
    assert isinstance(decision, Change), decision
    names = iter(kids or [f"made-{number}" for number in range(len(decision.new_keys))])
    made = tuple(made_key(next(names), new, before) for new in decision.new_keys)
    return replace(
        before,
        keys=(*decision.keys, *made),
        usable=(before.usable | {one.kid for one in made}) - decision.erased,
    )


def kinds(decision: Decision) -> Sequence[StepKind]:
    assert isinstance(decision, Change), decision
    return [step.kind for step in decision.steps]


def states(situation: Situation) -> dict[str, str]:
    return {one.kid: situation.state(one).value for one in situation.keys}
