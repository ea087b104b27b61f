"""Whether the signing keys are as they should be: for readiness, the log and the metrics.

What still works warns (the store is away, no next key waits, a rotation is overdue); what stops
issuing fails (no key may sign, or the keys are too old to be trusted, keys.md I3). Each detail
says what to do. Decides nothing about keys.
"""

from datetime import UTC, datetime

from token_server.core.key_changes import Situation
from token_server.core.key_rotation import rotation_due_at
from token_server.crypto.live_keys import LiveKeys
from token_server.records import SigningKey
from token_server.runtime import Runtime
from token_server.services.checks import Check, Level

# An overdue rotation is worth a warning after this, or after one lead if that is shorter.
OVERDUE_S = 86400
_PLAN = "`token-server keys plan` shows the dates"


def key_checks(runtime: Runtime) -> tuple[Check, ...]:
    """From memory: the store is not asked."""
    signing, *others = keyring_checks(runtime.keys.situation())
    if signing.is_ok and runtime.keys.is_stale:
        signing = _stale(runtime.keys)
    return (signing, _key_store(runtime.keys), *others)


def keyring_checks(situation: Situation) -> tuple[Check, ...]:
    """What the records and the clock alone tell; the signing key first."""
    return (_signing_key(situation), _next_key(situation), _rotation(situation))


def update_key_gauges(runtime: Runtime) -> None:
    """Bring the gauges of the keys up to date."""
    keys, metrics = runtime.keys, runtime.metrics
    metrics.signing_keys(keys.keyring.states(runtime.clock.now()))
    metrics.keyring(keys.keyring.generation, keys.age_s)
    due_at = rotation_due_at(keys.situation())
    if due_at is not None:
        metrics.key_rotation_due(due_at - runtime.clock.now())


def _signing_key(situation: Situation) -> Check:
    signing, name = situation.signing_within_skew, "signing_key"
    if signing is None:
        return Check(name, Level.FAIL, _why_none_signs(situation))
    if signing.kid not in situation.usable:
        detail = (
            f"{signing.kid} should sign, but its private half is gone: "
            "`token-server keys promote --force` lets the next key sign"
        )
        return Check(name, Level.FAIL, detail)
    return Check(name, Level.OK, signing.kid)


def _stale(keys: LiveKeys) -> Check:
    detail = (
        f"not confirmed for {keys.age_s:.0f} s, more than half of KEY_LEAD: another instance may "
        f"have rotated, so this one signs nothing. {keys.problem or 'Being read again.'}"
    )
    return Check("signing_key", Level.FAIL, detail)


def _why_none_signs(situation: Situation) -> str:
    if not situation.keys:
        return "there are no keys"
    starts = [key.activate_at for key in situation.keys if _is_to_come(situation, key)]
    first = min((at for at in starts if at is not None), default=None)
    if first is None:
        return "no key may sign: `token-server keys promote --force` lets the next one sign"
    return (
        f"no key signs before {_utc(first)}, and the clock stands at {_utc(situation.now)}: set "
        "the clock (NTP), then restart"
    )


def _is_to_come(situation: Situation, key: SigningKey) -> bool:
    is_dated = key.activate_at is not None and key.activate_at > situation.now
    return is_dated and key.compromised_at is None and key.published_at is not None


def _key_store(keys: LiveKeys) -> Check:
    name = "key_store"
    if keys.problem is not None:
        left_s = max(0.0, keys.policy.max_age_s - keys.age_s)
        detail = f"{keys.problem}. The keys in memory are used for another {left_s:.0f} s"
        return Check(name, Level.WARN, detail)
    if keys.write_problem is not None:
        detail = f"{keys.write_problem}. Keys can be neither rotated nor dropped meanwhile"
        return Check(name, Level.WARN, detail)
    return Check(name, Level.OK, f"read {keys.age_s:.0f} s ago")


def _next_key(situation: Situation) -> Check:
    name = "next_key"
    if not situation.waiting:
        detail = (
            "none waits, so an emergency would break verifiers (I1): a server makes one as soon as "
            "it can write the key store"
        )
        return Check(name, Level.WARN, detail)
    return Check(name, Level.OK, situation.waiting[0].kid)


def _rotation(situation: Situation) -> Check:
    name, now, lead_s = "key_rotation", situation.now, situation.policy.lead_s
    due_at, dated = rotation_due_at(situation), situation.dated
    if due_at is None:
        return Check(name, Level.OK, "nothing to rotate from")
    coming_at = due_at if dated is None else dated.activate_at or due_at
    is_coming = dated is not None and coming_at <= now + lead_s + situation.policy.settle_s
    if now > due_at + min(OVERDUE_S, lead_s) and not is_coming:
        detail = (
            f"overdue since {_utc(due_at)} (KEY_ROTATE_EVERY), and not under way: is the key store "
            f"writable, and the clock right? {_PLAN}"
        )
        return Check(name, Level.WARN, detail)
    return Check(name, Level.OK, f"next on {_utc(coming_at)}")


def _utc(instant: int) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
