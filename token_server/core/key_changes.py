"""What can be done to a keyring, as values: the situation, a change, a refusal.

`core/key_rotation.py` and `core/key_compromise.py` propose changes, `core/key_invariants.py`
judges them, `crypto/live_keys.py` carries them out. Private halves are only counted here.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from token_server.core.key_lifecycle import key_state, signing_key
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.records import KeyState, SigningKey


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision may look at."""

    keys: tuple[SigningKey, ...]
    usable: frozenset[str]  # kids whose private half is here
    now: int
    policy: KeyPolicy
    serving: Serving | None  # None: nobody has ever served this keyring

    def state(self, key: SigningKey) -> KeyState:
        return key_state(key, self.keys, self.now)

    @property
    def signing(self) -> SigningKey | None:
        return signing_key(self.keys, self.now)

    @property
    def signing_within_skew(self) -> SigningKey | None:
        """`signing`; when there is none, the key that signs at once by a clock ahead of ours."""
        return self.signing or signing_key(self.keys, self.now + self.policy.clock_skew_s)

    @property
    def waiting(self) -> tuple[SigningKey, ...]:
        """The usable next keys: dated ones first, then those that were served longest."""
        found = [
            key for key in self.keys if key.kid in self.usable and self.state(key) is KeyState.NEXT
        ]
        return tuple(sorted(found, key=_waiting_order))

    @property
    def dated(self) -> SigningKey | None:
        """The next key whose time to sign is set: a rotation is under way."""
        return next((key for key in self.waiting if key.activate_at is not None), None)

    def find(self, kid: str) -> SigningKey | None:
        return next((key for key in self.keys if key.kid == kid), None)

    @property
    def served_until(self) -> int:
        """Until when verifiers could fetch these keys: now, unless every server has stopped."""
        if self.serving is None:
            return self.now
        patience_s = 2 * self.serving.policy.heartbeat_s + self.policy.settle_s
        if self.serving.served_at >= self.now - patience_s:
            return self.now
        return self.serving.served_at

    def served_from(self, key: SigningKey) -> int | None:
        """Since when verifiers could fetch `key`, less the time in which no server ran, as long
        as that matters: a key that was served for a whole lead once is known. None while nobody
        has served it."""
        published_at = key.published_at
        if published_at is None or published_at + self.policy.lead_s <= self.served_until:
            return published_at
        return min(published_at + self.now - self.served_until, self.now)

    def may_sign_from(self, key: SigningKey) -> int | None:
        """The first instant that I2 allows, if a server goes on serving: at most one lead from
        now. None while nobody has served it."""
        served_from = self.served_from(key)
        return None if served_from is None else served_from + self.policy.lead_s


class StepKind(enum.StrEnum):
    """What a change does to one key; printed, logged and audited under this name."""

    MADE = "made"
    PUBLISHED = "published"
    SCHEDULED = "scheduled"
    ACTIVATED = "activated"
    POSTPONED = "postponed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled_back"
    RETIREMENT_SET = "retirement_set"
    COVERED = "covered"
    ERASED = "erased"
    FORGOTTEN = "forgotten"
    COMPROMISED = "compromised"
    IMPORTED = "imported"
    REWRAPPED = "rewrapped"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens to one key; `kid` is None for a key that is still to be made."""

    kind: StepKind
    kid: str | None
    at: int | None  # the instant that was set or from which it holds
    why: str


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be made: a `next` one, or one that signs at once without having been published."""

    activate_at: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What the keyring becomes; records that are missing in `keys` are dropped."""

    keys: tuple[SigningKey, ...]
    steps: tuple[Step, ...]
    new_keys: tuple[NewKey, ...] = ()
    erased: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Unchanged:
    """There is nothing to do, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule (I1 to I7) that a change would break."""

    invariant: str
    why: str
    allowed_at: int | None = None  # when the same change would be allowed, if that is known


@dataclass(frozen=True, slots=True)
class Refused:
    """The change is not made. `can_be_forced` is False where there is nothing to force."""

    violations: tuple[Violation, ...]
    can_be_forced: bool = True


Decision = Change | Unchanged | Refused


def _waiting_order(key: SigningKey) -> tuple[bool, int, bool, int, int, str]:
    dated = (key.activate_at is None, key.activate_at or 0)
    served = (key.published_at is None, key.published_at or 0)
    return (*dated, *served, key.created_at, key.kid)


def replace_key(keys: Sequence[SigningKey], changed: SigningKey) -> tuple[SigningKey, ...]:
    """`keys` with the record of the same kid replaced."""
    return tuple(changed if key.kid == changed.kid else key for key in keys)
