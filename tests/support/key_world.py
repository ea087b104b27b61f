"""A small world of servers, commands and clocks around one keyring, for tests of the rules.

Instances hold copies that may be old, clocks differ by the tolerated skew, nobody serves for a
while, and every change goes through the real decisions and the real judgement. The world keeps
its own books (how long each key could be fetched, which tokens are out) and checks against them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support.key_situations import made_key
from token_server.core.key_changes import Change, Decision, NewKey, Situation
from token_server.core.key_invariants import violations
from token_server.core.key_lifecycle import published_keys, superseded_at
from token_server.core.key_policy import KeyPolicy, Serving
from token_server.core.key_rotation import cover
from token_server.core.key_upkeep import resume, upkeep
from token_server.records import KeyState, SigningKey

START = 1_800_000_000
POLICY = KeyPolicy(
    lead_s=60,
    rotate_every_s=300,
    jwks_max_age_s=10,
    reload_interval_s=3,
    clock_skew_s=2,
    access_token_ttl_s=20,
)
PATIENCE_S = 2 * POLICY.heartbeat_s + POLICY.settle_s  # a gap that is not counted as one
STEP_S = 1
ISSUE_EVERY_S = 7
SLACK_S = POLICY.clock_skew_s + 2 * STEP_S  # clocks differ, and time goes in steps


@dataclass(slots=True)
class Instance:
    """One server: whether it runs, how its clock differs, and what it has read."""

    offset_s: int
    runs: bool = False
    can_read: bool = True
    keys: tuple[SigningKey, ...] = ()
    read_at: int = 0


@dataclass(slots=True)
class World:
    """The keyring as stored, true time, and the books."""

    instances: list[Instance]
    now: int = START
    keys: tuple[SigningKey, ...] = ()
    usable: frozenset[str] = frozenset()
    serving: Serving | None = None
    made: int = 0
    gap_s: int = 0
    served_s: Counter[str] = field(default_factory=Counter)
    forced: set[str] = field(default_factory=set)
    tokens: list[tuple[str, int]] = field(default_factory=list)
    extra_keys: int = 0

    def __post_init__(self) -> None:
        """As crypto/opening.make_first_keyring does it."""
        self._apply(Change((), (), (NewKey(activate_at=self.now), NewKey())), self.now)
        self.forced |= {key.kid for key in self.keys if key.activate_at is not None}

    def situation(self, offset_s: int = 0) -> Situation:
        return Situation(self.keys, self.usable, self.now + offset_s, POLICY, self.serving)

    def change(
        self, decide: Callable[[Situation], Decision], offset_s: int = 0, *, force: bool = False
    ) -> bool:
        """As crypto/live_keys.LiveKeys.change, without a race; whether something was changed."""
        situation = self.situation(offset_s)
        decision = decide(situation)
        if not isinstance(decision, Change):
            return False
        broken = violations(situation, decision)
        if broken and not force:
            return False
        assert {rule.invariant for rule in broken} <= {"I2"}, broken
        self._apply(decision, situation.now)
        signing = self.situation(POLICY.clock_skew_s).signing
        if broken and signing is not None:
            self.forced.add(signing.kid)
        return True

    def start(self, instance: Instance) -> None:
        instance.runs, instance.can_read = True, True
        if self.gap_s <= PATIENCE_S:
            self._count(self.gap_s)
        self.gap_s = 0
        self._own_change(resume, instance)
        self._serve(instance)

    def let_read(self, instance: Instance, *, can_read: bool) -> None:
        instance.can_read = can_read
        if instance.runs and can_read:
            self._serve(instance)

    def pass_time(self, seconds: int, ttl_s: int | None = None) -> None:
        """Second by second; with `ttl_s` every instance issues a token now and then."""
        for passed in range(0, seconds, STEP_S):
            if ttl_s is not None and passed % ISSUE_EVERY_S == 0:
                for instance in self.instances:
                    self.issue(instance, ttl_s)
            self.now += STEP_S
            if any(instance.runs for instance in self.instances):
                self._count(STEP_S)
            else:
                self.gap_s += STEP_S
            for instance in self.instances:
                if instance.runs and instance.can_read:
                    self._serve(instance)
            self.check()

    def issue(self, instance: Instance, ttl_s: int) -> None:
        """As LiveKeys.sign_compact: none beyond the mark, none from keys that are too old."""
        if not instance.runs or self.now - instance.read_at > POLICY.max_age_s:
            return
        now = self.now + instance.offset_s
        expires_at = now + ttl_s
        signing = replace(self.situation(), keys=instance.keys, now=now).signing
        if signing is not None and (signing.exp_high_water or 0) < expires_at:
            if not instance.can_read:
                return
            kid = signing.kid
            self.change(lambda situation: cover(situation, kid, expires_at), instance.offset_s)
            self._read(instance)
            signing = replace(self.situation(), keys=instance.keys, now=now).signing
        if signing is None or (signing.exp_high_water or 0) < expires_at:
            assert now < START or signing is not None, "I5: nothing signs"
            return
        assert signing in published_keys(instance.keys, now), "I3: it is in its own JWKS"
        known_s = self.served_s[signing.kid]
        assert signing.kid in self.forced or known_s >= POLICY.lead_s - SLACK_S, "I2"
        self.tokens.append((signing.kid, expires_at))

    def check(self) -> None:
        """The rules, at this very instant, on every clock."""
        for offset_s in (0, POLICY.clock_skew_s):
            signing = self.situation(offset_s).signing
            assert signing is not None, "I5: nothing signs"
            assert signing.kid in self.usable, "I5: it cannot sign"
        situation = self.situation()
        assert situation.waiting, "I1"
        assert len(situation.waiting) <= 3 + self.extra_keys, "next keys pile up"
        self._check_tokens()
        if any(one.runs and one.can_read for one in self.instances):
            for key in self.keys:
                self._check_private_half(situation, key)

    def _check_tokens(self) -> None:
        compromised = {key.kid for key in self.keys if key.compromised_at is not None}
        alive = {(kid, exp) for kid, exp in self.tokens if exp + POLICY.clock_skew_s > self.now}
        self.tokens = list(alive)
        needed = {kid for kid, _ in alive} - compromised
        for instance in self.instances:
            if instance.runs and instance.can_read:
                now = self.now + instance.offset_s
                published = {key.kid for key in published_keys(instance.keys, now)}
                assert needed <= published, "I4: a live token's key is not in the JWKS"
                assert not published & compromised, "a compromised key is served"

    def _check_private_half(self, situation: Situation, key: SigningKey) -> None:
        match situation.state(key):
            case KeyState.NEXT | KeyState.ACTIVE:
                assert key.kid in self.usable, "I6: needed, and erased"
            case KeyState.RETIRING:
                replaced_at = superseded_at(key, self.keys, self.now) or self.now
                is_over = replaced_at + POLICY.rollback_window_s + SLACK_S < self.now
                assert not (is_over and key.kid in self.usable), "I6: not erased"
            case KeyState.COMPROMISED:
                assert key.kid not in self.usable, "I6: compromised, and not erased"
            case KeyState.RETIRED:
                pass

    def add_key(self) -> None:
        """An imported key: it waits like any other."""
        self.extra_keys += 1
        self._apply(Change(self.keys, (), (NewKey(),)), self.now)

    def _serve(self, instance: Instance) -> None:
        """One round of services/key_upkeep.KeyUpkeep."""
        self._read(instance)
        now = self.now + instance.offset_s
        self.serving = Serving(now, POLICY)
        for _ in range(8):
            if not self._own_change(upkeep, instance):
                return
        raise AssertionError("upkeep never comes to an end")

    def _own_change(self, decide: Callable[[Situation], Decision], instance: Instance) -> bool:
        decision = decide(self.situation(instance.offset_s))
        if not isinstance(decision, Change):
            return False
        assert self.change(decide, instance.offset_s), "a server's own change breaks a rule"
        self._read(instance)
        return True

    def _read(self, instance: Instance) -> None:
        instance.keys, instance.read_at = self.keys, self.now

    def _count(self, seconds: int) -> None:
        """Add to the time in which verifiers could fetch what is published."""
        for key in published_keys(self.keys, self.now):
            if key.published_at is not None:
                self.served_s[key.kid] += seconds

    def _apply(self, change: Change, now: int) -> None:
        situation = replace(self.situation(), now=now)
        new = []
        for wanted in change.new_keys:
            self.made += 1
            new.append(made_key(f"k{self.made}", wanted, situation))
        self.keys = (*change.keys, *new)
        self.usable = (self.usable | {key.kid for key in new}) - change.erased
        for instance in self.instances:  # seen within half a second
            if instance.runs and instance.can_read:
                self._read(instance)
