"""The rules that no change to a keyring may break, whoever proposes it.

I1 a next key waits; I2 no key signs before verifiers know it; I4 no key leaves the JWKS before its
last token has expired; I5 exactly one key signs; I6 a private half lives as long as it may be
needed. I3 (only served keys sign) is kept by the process that signs, I7 (kid is the thumbprint) by
whatever makes and loads keys. A violation says why, and when the same change will be allowed.
"""

from token_server.core.key_changes import Change, Situation, Violation
from token_server.core.key_lifecycle import key_state, signing_key, superseded_at
from token_server.records import KeyState, SigningKey


def violations(situation: Situation, change: Change) -> tuple[Violation, ...]:
    """Every rule that `change` would break; empty for a good one."""
    found: list[Violation] = []
    if not _has_next(situation, change):
        found.append(Violation("I1", "no next key would wait: even an emergency needs one"))
    for key in change.keys:
        found += _early_activation(situation, key)
        found += _early_retirement(situation, key)
    for new in change.new_keys:
        if new.activate_at is not None and situation.keys:
            found.append(
                Violation("I2", "a key that was never published would sign: no verifier knows it")
            )
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
    return _too_soon(situation, before, key.activate_at)


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
    """I4, for a retirement whose date is new."""
    before = situation.find(key.kid)
    if key.retire_at is None or key.exp_high_water is None or key.compromised_at is not None:
        return []
    if before is not None and before.retire_at == key.retire_at:
        return []
    policy = situation.policy
    allowed_at = key.exp_high_water + policy.clock_skew_s + policy.jwks_max_age_s
    if key.retire_at >= allowed_at:
        return []
    return [Violation("I4", f"tokens signed by {key.kid} would still live", allowed_at)]


def _nobody_signs(situation: Situation, change: Change) -> list[Violation]:
    now = situation.now
    signs_at_once = any(
        new.activate_at is not None and new.activate_at <= now for new in change.new_keys
    )
    signing = signing_key(change.keys, now)
    if signs_at_once:
        return []
    if signing is None:
        if situation.signing is None:
            return []  # as before: the clock stands before the first activation
        return [Violation("I5", "no key would sign")]
    is_usable = signing.kid in situation.usable and signing.kid not in change.erased
    if not is_usable:
        return [Violation("I5", f"{signing.kid} would sign, but has no private half")]
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
