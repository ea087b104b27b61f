"""The rules that no change to a keyring may break, whoever proposes it.

I1 a next key waits; I2 no key signs before verifiers know it; I4 no key leaves the JWKS before its
last token has expired; I5 exactly one key signs; I6 a private half lives as long as it may be
needed. I3 (only served keys sign) is kept by the process that signs, I7 (kid is the thumbprint) by
whatever makes and loads keys. A violation says why, and when the same change will be allowed.
"""

from token_server.core.key_changes import Change, Situation, Violation
from token_server.core.key_lifecycle import (
    PUBLISHED_STATES,
    key_state,
    signing_key,
    superseded_at,
)
from token_server.records import KeyState, SigningKey


def violations(situation: Situation, change: Change) -> tuple[Violation, ...]:
    """Every rule that `change` would break; empty for a good one. What is broken before it is no
    fault of a change: or nothing could be mended."""
    found: list[Violation] = []
    if not _has_next(situation, change) and situation.waiting:
        found.append(Violation("I1", "no next key would wait: even an emergency needs one"))
    for key in change.keys:
        found += _early_activation(situation, key)
        found += _early_retirement(situation, key)
    for new in change.new_keys:
        if new.activate_at is not None and situation.keys:
            found.append(
                Violation("I2", "a key that was never published would sign: no verifier knows it")
            )
    found += _lost_records(situation, change)
    found += _nobody_signs(situation, change)
    found += _early_erasure(situation, change)
    return tuple(found)


def _has_next(situation: Situation, change: Change) -> bool:
    if any(new.activate_at is None for new in change.new_keys):
        return True
    return any(
        key_state(key, change.keys, situation.now) is KeyState.NEXT
        and key.kid in situation.usable
        and key.kid not in change.erased
        for key in change.keys
    )


def _early_activation(situation: Situation, key: SigningKey) -> list[Violation]:
    """I2, for a key whose date is new: one that has signed before is known already."""
    before = situation.find(key.kid)
    if key.activate_at is None or key.compromised_at is not None:
        return []
    if before is not None:
        has_signed = situation.state(before) in (KeyState.ACTIVE, KeyState.RETIRING)
        if has_signed or before.activate_at == key.activate_at:
            return []
    if before is None or before.published_at is None:
        if key.activate_at > situation.now:
            return []  # it is postponed when it is served later than planned
        why = f"{key.kid} has not been served yet: start a server, then wait for KEY_LEAD"
        return [Violation("I2", why)]
    # A switch at once is dated a skew back, for clocks that are behind.
    return _too_soon(situation, before, max(key.activate_at, situation.now))


def _too_soon(situation: Situation, key: SigningKey, activate_at: int) -> list[Violation]:
    allowed_at = situation.may_sign_from(key)
    if allowed_at is None or activate_at >= allowed_at:
        return []
    served_s = max(0, situation.served_until - (key.published_at or 0))
    why = (
        f"{key.kid} was served for {served_s} s of the {situation.policy.lead_s} s of KEY_LEAD: "
        "verifiers with older copies of the JWKS would refuse its tokens"
    )
    if situation.served_until < situation.now:
        why += "; no server runs, and time in which none runs does not count"
        return [Violation("I2", why)]
    return [Violation("I2", why, allowed_at)]


def _early_retirement(situation: Situation, key: SigningKey) -> list[Violation]:
    """I4, for a retirement or a high-water mark that is new."""
    before = situation.find(key.kid)
    if key.compromised_at is not None:
        return []
    mark_before = None if before is None else before.exp_high_water
    if mark_before is not None and (key.exp_high_water or 0) < mark_before:
        return [Violation("I4", f"tokens signed by {key.kid} may live beyond its lowered mark")]
    if key.retire_at is None or key.exp_high_water is None:
        return []
    if before is not None and (before.retire_at, mark_before) == (
        key.retire_at,
        key.exp_high_water,
    ):
        return []
    policy = situation.policy
    allowed_at = key.exp_high_water + policy.clock_skew_s + policy.jwks_max_age_s
    if key.retire_at >= allowed_at:
        return []
    return [Violation("I4", f"tokens signed by {key.kid} would still live", allowed_at)]


def _lost_records(situation: Situation, change: Change) -> list[Violation]:
    kept = {key.kid: key for key in change.keys}
    found: list[Violation] = []
    for before in situation.keys:
        after = kept.get(before.kid)
        if after is None and situation.state(before) in PUBLISHED_STATES:
            found.append(Violation("I4", f"{before.kid} would vanish from the JWKS"))
        if before.compromised_at is not None and after and after.compromised_at is None:
            found.append(Violation("I5", f"{before.kid} is compromised and stays so"))
    return found


def _nobody_signs(situation: Situation, change: Change) -> list[Violation]:
    now = situation.now
    if any(new.activate_at is not None and new.activate_at <= now for new in change.new_keys):
        return []
    before, after = situation.signing, signing_key(change.keys, now)
    if before is None or before.kid not in situation.usable:
        return []  # nothing signs now: on a clock before the first activation, say
    if after is None:
        return [Violation("I5", "no key would sign")]
    if after.kid not in situation.usable or after.kid in change.erased:
        return [Violation("I5", f"{after.kid} would sign, but has no private half")]
    is_leaving_before = before.kid == after.kid and before.retire_at is not None
    if after.retire_at is not None and not is_leaving_before:
        return [Violation("I5", f"{after.kid} would leave the JWKS while it signs")]
    return []


def _early_erasure(situation: Situation, change: Change) -> list[Violation]:
    found: list[Violation] = []
    window_s = situation.policy.rollback_window_s
    for key in change.keys:
        if key.kid not in change.erased or key.compromised_at is not None:
            continue
        match key_state(key, change.keys, situation.now):
            case KeyState.NEXT | KeyState.ACTIVE:
                found.append(Violation("I6", f"{key.kid} is needed to sign"))
            case KeyState.RETIRING:
                replaced_at = superseded_at(key, change.keys, situation.now) or situation.now
                if situation.now < replaced_at + window_s:
                    why = f"{key.kid} may still be rolled back to"
                    found.append(Violation("I6", why, replaced_at + window_s))
            case _:
                pass
    return found
