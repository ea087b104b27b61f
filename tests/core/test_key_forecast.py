"""The forecast of a keyring against what servers really do, second by second."""

from dataclasses import replace

import pytest

from tests.support.key_situations import NOW, POLICY, SERVED, SETTLE_S, after, key, situation
from token_server.core.key_changes import Change, Situation, StepKind, Unchanged
from token_server.core.key_compromise import compromise_key
from token_server.core.key_forecast import Event, Forecast, What, foresee
from token_server.core.key_policy import Serving
from token_server.core.key_rotation import activate_next, cover, start_rotation
from token_server.core.key_upkeep import resume, upkeep
from token_server.records import KeyState

ROUND_S = 10
STATES = {KeyState.ACTIVE: What.SIGNS, KeyState.RETIRED: What.LEAVES}
STEPS = {
    StepKind.MADE: What.MADE,
    StepKind.SCHEDULED: What.SCHEDULED,
    StepKind.ERASED: What.ERASED,
}
STEADY = situation(key("a", NOW - 5000), key("b"))
FRESH = situation(
    key("a", NOW, created_at=NOW, published_at=NOW, exp_high_water=NOW + 700),
    key("b", created_at=NOW, published_at=NOW),
)
ROTATING = after(STEADY, start_rotation(STEADY), "c")
SWITCHED = after(STEADY, activate_next(STEADY, "asked"), "c")
DROPPED = after(ROTATING, compromise_key(ROTATING, "a"), "d")
RETIRING = replace(SWITCHED, now=NOW + 400)
OVERDUE = situation(key("a", NOW - 50_000), key("b"))


def dates(forecast: Forecast, what: What) -> list[tuple[int, str]]:
    """When this happens to whom; whoever is still to be made has no name of its own."""
    return [
        (event.at - NOW, event.kid if not event.kid.startswith("new-") else "new")
        for event in forecast.events
        if event.what is what
    ]


class World:
    """A server that decides every ten seconds, with tokens issued all the time."""

    def __init__(self, start: Situation) -> None:
        self.here = start
        self.named = {one.kid for one in start.keys}
        self.seen: dict[What, list[tuple[int, str]]] = {what: [] for what in What}
        self.made = 0

    def live(self, seconds: int) -> None:
        for _ in range(seconds // ROUND_S):
            before = self.here
            now = before.now + ROUND_S
            self.here = replace(before, now=now, serving=Serving(now, before.policy))
            self._note_states(before)
            self._issue()
            while isinstance(change := upkeep(self.here), Change):
                self._make(change)

    def _note_states(self, before: Situation) -> None:
        for one in before.keys:
            state = self.here.state(one)
            if state is not before.state(one) and state in STATES:
                self._note(STATES[state], one.kid)

    def _issue(self) -> None:
        signing = self.here.signing
        assert signing is not None
        covered = cover(self.here, signing.kid, self.here.now + POLICY.access_token_ttl_s)
        if isinstance(covered, Change):
            self.here = after(self.here, covered)

    def _make(self, change: Change) -> None:
        for step in change.steps:
            if step.kind in STEPS:
                self._note(STEPS[step.kind], step.kid or "")
        kids = [f"made-{self.made + number}" for number in range(len(change.new_keys))]
        self.made += len(kids)
        self.here = after(self.here, change, *kids)

    def _note(self, what: What, kid: str) -> None:
        self.seen[what].append((self.here.now - NOW, kid if kid in self.named else "new"))


@pytest.mark.parametrize(
    "start",
    [STEADY, FRESH, ROTATING, SWITCHED, DROPPED, RETIRING, OVERDUE],
    ids=["steady", "fresh", "rotating", "switched", "dropped", "retiring", "overdue"],
)
def test_forecast_is_what_servers_do(start: Situation) -> None:
    """Each date to within a server's round; the retirement of a key that still signs is the
    latest it can be, since tokens decide."""
    forecast = foresee(start)
    end = forecast.events[-1].at - NOW
    world = World(start)
    world.live(forecast.events[-1].at - start.now + 2 * ROUND_S)
    seen = world.seen
    for what in (What.SIGNS, What.SCHEDULED, What.MADE, What.ERASED):
        expected = dates(forecast, what)
        actual = [one for one in seen[what] if one[0] <= end + ROUND_S]
        assert [kid for _, kid in actual] == [kid for _, kid in expected], what
        for (at, _), (foreseen, _) in zip(actual, expected, strict=True):
            assert 0 <= at - foreseen <= ROUND_S, (what, at, foreseen)
    leaves = dates(forecast, What.LEAVES)
    for (at, kid), (foreseen, other) in zip(seen[What.LEAVES], leaves, strict=False):
        assert kid == other
        assert at <= foreseen + 2 * ROUND_S
        assert at >= foreseen - POLICY.head_room_s
    assert leaves


def test_dates_of_a_rotation_under_way() -> None:
    """One lead to the switch, the roll-back window after it, and then the next one's calendar."""
    forecast = foresee(ROTATING)
    events = [(event.at - NOW, event.what.value, event.kid) for event in forecast.events]
    (leaves,) = (event for event in events if event[1] == "leaves")
    assert leaves[2] == "a"
    assert 2000 <= leaves[0] <= 2000 + 2 * SETTLE_S
    assert [event for event in events if event != leaves] == [
        (1000, "known", "c"),
        (1000, "signs", "b"),
        (2000, "erased", "a"),
        (20_000, "scheduled", "c"),
        (20_000, "made", "new-1"),
        (21_000, "known", "new-1"),
        (21_000, "signs", "c"),
    ]


def test_what_stands_in_the_keyring_is_firm() -> None:
    """Only the date of the rotation under way is; what follows from settings may still move."""
    firm = [event for event in foresee(ROTATING).events if event.is_firm]
    assert [(event.what, event.kid) for event in firm] == [
        (What.KNOWN, "c"),
        (What.SIGNS, "b"),
    ]


def test_lives_join_without_a_gap() -> None:
    """Each key's phases follow each other, next before active before retiring, and the picture's
    keys that are still to be made are marked."""
    lives = {life.kid: life for life in foresee(ROTATING).lives}
    assert [life.is_made for life in lives.values()] == [True, True, True, False]
    for life in lives.values():
        for phase, following in zip(life.phases, life.phases[1:], strict=False):
            assert phase.ends_at == following.begins_at
    assert [phase.state.value for phase in lives["b"].phases] == ["next", "active", "retiring"]
    assert [phase.state.value for phase in lives["a"].phases] == ["next", "active", "retiring"]
    (leaves,) = (event for event in foresee(ROTATING).events if event.what is What.LEAVES)
    assert lives["a"].phases[-1].ends_at == leaves.at


def test_dropped_keys_have_no_life() -> None:
    """A compromised key is in no picture and no date."""
    forecast = foresee(DROPPED)
    assert "a" not in {life.kid for life in forecast.lives}
    assert "a" not in {event.kid for event in forecast.events}


def test_stopped_server_postpones() -> None:
    """As the next start would: time in which none ran is taken out of the lead (I2)."""
    stopped = replace(FRESH, now=NOW + 5000, serving=Serving(NOW + 400, POLICY), policy=POLICY)
    known = [event for event in foresee(stopped).events if event.what is What.KNOWN]
    assert known[0] == Event(
        at=NOW + 5000 + 600, what=What.KNOWN, kid="b", why=known[0].why, is_firm=True
    )
    assert isinstance(resume(stopped), Change)


def test_change_that_is_only_thought_of() -> None:
    """A dry run's forecast is that of the change made."""
    thought = foresee(STEADY, start_rotation(STEADY))
    made = foresee(ROTATING)
    later = [event for event in thought.events if event.at > NOW]
    assert [(event.at, event.what) for event in later] == [
        (event.at, event.what) for event in made.events
    ]
    assert foresee(STEADY, Unchanged("nothing")).events == foresee(STEADY).events


def test_no_key_signs_yet() -> None:
    """On a clock before the first activation nothing is invented."""
    early = situation(key("a", NOW + 50), key("b"), serving=SERVED)
    assert dates(foresee(early), What.SIGNS)[0] == (50, "a")
