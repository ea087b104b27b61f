"""What state each signing key is in, which one signs, and which are published.

Every answer is a function of the instants in the keys' records and the clock, so that all
instances agree without a leader, a timer or a restart. Order of publication: RFC 7517 5 gives
none a meaning; ours never changes while the published set is the same.
Must not read a clock, and must not see a private half.
"""

from collections.abc import Mapping, Sequence

from token_server.records import KeyState, SigningKey

PUBLISHED_STATES = frozenset({KeyState.NEXT, KeyState.ACTIVE, KeyState.RETIRING})


def signing_key(keys: Sequence[SigningKey], now: int) -> SigningKey | None:
    """The one key that signs at `now`: the latest activated that was published and is neither
    compromised nor retired. None when there is none, as on a clock that runs behind the first
    activation."""
    candidates = [
        key
        for key in keys
        if is_activated(key, now) and not _is_compromised(key) and not _is_retired(key, now)
    ]
    return max(candidates, key=activation_order, default=None)


def key_state(key: SigningKey, keys: Sequence[SigningKey], now: int) -> KeyState:
    """The state of `key` at `now` among all `keys` of its keyring: whether an activated key is
    active or retiring depends on whether a later one has taken over."""
    if _is_compromised(key):
        return KeyState.COMPROMISED
    if _is_retired(key, now):
        return KeyState.RETIRED
    if not is_activated(key, now):
        return KeyState.NEXT
    signing = signing_key(keys, now)
    if signing is not None and signing.kid == key.kid:
        return KeyState.ACTIVE
    return KeyState.RETIRING


def is_activated(key: SigningKey, now: int) -> bool:
    """Whether its time to sign has come. A key that no server has published yet waits, whatever
    its date: no verifier could know it."""
    return key.activate_at is not None and key.activate_at <= now and key.published_at is not None


def superseded_at(key: SigningKey, keys: Sequence[SigningKey], now: int) -> int | None:
    """When another key took over from `key`; None while `key` waits or signs. A compromised key
    counts for nothing: what came after it may be activated a little before it."""
    if not is_activated(key, now):
        return None
    order = activation_order(key)
    later = [
        other.activate_at or 0
        for other in keys
        if is_activated(other, now)
        and not _is_compromised(other)
        and activation_order(other) > order
    ]
    return min(later, default=None)


def key_states(keys: Sequence[SigningKey], now: int) -> Mapping[str, KeyState]:
    """The state of every key at `now`, by kid."""
    return {key.kid: key_state(key, keys, now) for key in keys}


def published_keys(keys: Sequence[SigningKey], now: int) -> tuple[SigningKey, ...]:
    """The keys that belong in the JWKS at `now`, in stable order: by activation, undated last.

    The order holds through a whole rotation (giving the last key its date moves nothing), so
    the ETag changes only when the set does.
    """
    published = [key for key in keys if not _is_compromised(key) and not _is_retired(key, now)]
    return tuple(sorted(published, key=publication_order))


def publication_order(key: SigningKey) -> tuple[bool, int, int, str]:
    """Sort key of the JWKS and of every listing."""
    return (key.activate_at is None, key.activate_at or 0, key.created_at, key.kid)


def activation_order(key: SigningKey) -> tuple[int, int, str]:
    """Sort key of activated keys: the last one signs. Creation and kid break a tie, so that two
    instances never choose differently."""
    return (key.activate_at or 0, key.created_at, key.kid)


def _is_compromised(key: SigningKey) -> bool:
    # Whatever the clock says: a clock that steps back must not make a stolen key good again.
    return key.compromised_at is not None


def _is_retired(key: SigningKey, now: int) -> bool:
    return key.retire_at is not None and key.retire_at <= now
