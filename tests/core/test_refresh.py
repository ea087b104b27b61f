"""Refresh tokens: text and decision (RFC 6749 §6, RFC 9700 §4.14; security cases G)."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from token_server.core.refresh import (
    MAX_GENERATION,
    Decision,
    Expired,
    RefreshPolicy,
    Refused,
    Replay,
    Reuse,
    Rotate,
    TokenText,
    decide_refresh,
    decode_refresh_token,
    encode_refresh_token,
)
from token_server.records import Family

KEY = bytes(range(32))
NOW = 1_800_000_000
POLICY = RefreshPolicy(replay_window_s=30)
STRICT = RefreshPolicy(replay_window_s=0)


def make_family(**changes: object) -> Family:
    family = Family(
        seq=1,
        family_id=b"f" * 16,
        sid="ses_1",
        client_id="app",
        user_id="usr_1",
        scope=("a", "b"),
        audience=("https://a.example",),
        generation=5,
        mac_version=1,
        auth_time=NOW - 1000,
        created_at=NOW - 1000,
        rotated_at=NOW - 10,
        idle_expires_at=NOW + 600,
        absolute_expires_at=NOW + 6000,
        revoked_at=None,
        revoked_reason=None,
        replayed_generation=None,
        shadow_count=0,
        label=None,
        ip_address=None,
        user_agent=None,
    )
    return replace(family, **changes)  # type: ignore[arg-type]  # named fields of a test table


@given(st.integers(0, 0xFFFF), st.binary(min_size=16, max_size=16), st.integers(0, MAX_GENERATION))
def test_refresh_token_text_reads_back(version: int, family_id: bytes, generation: int) -> None:
    """What is encoded is decoded, and encoding is a function: replay rests on that."""
    token = TokenText(version, family_id, generation)
    text = encode_refresh_token(token, KEY, epoch=0)
    assert text == encode_refresh_token(token, KEY, epoch=0)
    assert len(text) == 75
    assert decode_refresh_token(text, lambda v: KEY if v == version else None, 0) == token


def test_refresh_token_of_another_epoch_key_or_version_is_junk() -> None:
    """A restored backup (epoch), a foreign key and an unknown version make nothing readable."""
    text = encode_refresh_token(TokenText(1, b"f" * 16, 0), KEY, epoch=0)
    assert decode_refresh_token(text, lambda _: KEY, 1) is None
    assert decode_refresh_token(text, lambda _: bytes(32), 0) is None
    assert decode_refresh_token(text, lambda _: None, 0) is None


@given(st.data())
def test_changed_refresh_token_is_junk(data: st.DataObject) -> None:
    """Not one bit can be changed without the MAC noticing: nobody makes a generation."""
    text = encode_refresh_token(TokenText(1, b"f" * 16, 7), KEY, epoch=0)
    raw = bytearray(base64.urlsafe_b64decode(text[3:]))
    position = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[position // 8] ^= 1 << (position % 8)
    forged = "rt_" + base64.urlsafe_b64encode(raw).decode()
    assert decode_refresh_token(forged, lambda _: KEY, 0) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:-1],
        lambda t: t + "A",
        lambda t: t + "=",
        lambda t: t + "\n",
        lambda t: " " + t,
        lambda t: t.replace("rt_", "RT_"),
        lambda t: t.replace("-", "+").replace("_", "/"),
        lambda t: t[3:],
        lambda t: t[:3] + "\u0661" * 72,
        lambda t: t[:0],
    ],
)
def test_other_spelling_of_refresh_token_is_junk(change: Callable[[str], str]) -> None:
    """A token has exactly one text."""
    text = encode_refresh_token(TokenText(1, b"\xfb\xff" * 8, 7), KEY, epoch=0)
    assert decode_refresh_token(change(text), lambda _: KEY, 0) is None


TABLE: list[tuple[str, Family, int, str, RefreshPolicy, Decision]] = [
    ("current generation", make_family(), 5, "app", POLICY, Rotate()),
    ("first generation", make_family(generation=0, rotated_at=None), 0, "app", POLICY, Rotate()),
    ("predecessor in window", make_family(), 4, "app", POLICY, Replay(True, 0)),
    (
        "predecessor in the last second of the window",
        make_family(rotated_at=NOW - 29),
        4,
        "app",
        POLICY,
        Replay(True, 0),
    ),
    (
        "predecessor when the window has just closed",
        make_family(rotated_at=NOW - 30),
        4,
        "app",
        POLICY,
        Reuse("old_generation"),
    ),
    ("predecessor in strict mode", make_family(), 4, "app", STRICT, Reuse("old_generation")),
    (
        "predecessor in strict mode, same second",
        make_family(rotated_at=NOW),
        4,
        "app",
        STRICT,
        Reuse("old_generation"),
    ),
    ("two generations old in window", make_family(), 3, "app", POLICY, Reuse("old_generation")),
    ("first generation much later", make_family(), 0, "app", POLICY, Reuse("old_generation")),
    ("from the future", make_family(), 6, "app", POLICY, Refused("generation_from_future")),
    ("another client", make_family(), 5, "other", POLICY, Refused("client_mismatch")),
    ("another client, old token", make_family(), 1, "other", POLICY, Refused("client_mismatch")),
    (
        "revoked, current",
        make_family(revoked_at=NOW, revoked_reason="x"),
        5,
        "app",
        POLICY,
        Refused("family_revoked"),
    ),
    (
        "revoked, predecessor in window (django-oauth-toolkit #1816)",
        make_family(revoked_at=NOW, revoked_reason="x"),
        4,
        "app",
        POLICY,
        Refused("family_revoked"),
    ),
    (
        "idle to the second",
        make_family(idle_expires_at=NOW),
        5,
        "app",
        POLICY,
        Expired("idle_lifetime"),
    ),
    ("one second before idle", make_family(idle_expires_at=NOW + 1), 5, "app", POLICY, Rotate()),
    (
        "absolute to the second",
        make_family(absolute_expires_at=NOW),
        5,
        "app",
        POLICY,
        Expired("absolute_lifetime"),
    ),
    (
        "old generation of an expired family is not reuse: it is dead already",
        make_family(idle_expires_at=NOW),
        1,
        "app",
        POLICY,
        Expired("idle_lifetime"),
    ),
    (
        "generations exhausted",
        make_family(generation=MAX_GENERATION),
        MAX_GENERATION,
        "app",
        POLICY,
        Refused("generations_exhausted"),
    ),
    (
        "replay of a generation that was noted already",
        make_family(replayed_generation=4, shadow_count=2),
        4,
        "app",
        POLICY,
        Replay(False, 2),
    ),
    (
        "replays in consecutive generations are a shadow",
        make_family(replayed_generation=3),
        4,
        "app",
        POLICY,
        Replay(True, 1),
    ),
    (
        "a generation without replay ends the shadow",
        make_family(replayed_generation=2, shadow_count=4),
        4,
        "app",
        POLICY,
        Replay(True, 0),
    ),
    (
        "shadow limit reached",
        make_family(replayed_generation=3, shadow_count=2),
        4,
        "app",
        RefreshPolicy(30, shadow_limit=3),
        Reuse("shadow_limit"),
    ),
    (
        "shadow limit not reached",
        make_family(replayed_generation=3, shadow_count=1),
        4,
        "app",
        RefreshPolicy(30, shadow_limit=3),
        Replay(True, 2),
    ),
]


@pytest.mark.parametrize(
    ("family", "generation", "client_id", "policy", "expected"),
    [pytest.param(*row[1:], id=row[0]) for row in TABLE],
)
def test_decision_table(
    family: Family, generation: int, client_id: str, policy: RefreshPolicy, expected: Decision
) -> None:
    """Each row of refresh.md's design."""
    assert decide_refresh(family, generation, client_id, NOW, policy) == expected


def test_replay_window_is_not_moved_by_replays() -> None:
    """A replay leaves `rotated_at` alone, so the window closes on time (refresh.md 4)."""
    family = make_family(rotated_at=NOW)
    noted = replace(family, replayed_generation=4)
    assert decide_refresh(noted, 4, "app", NOW + 29, POLICY) == Replay(False, 0)
    assert decide_refresh(noted, 4, "app", NOW + 30, POLICY) == Reuse("old_generation")


def test_impossible_family_is_not_guessed_at() -> None:
    """A spent generation without an instant of rotation cannot exist."""
    with pytest.raises(ValueError, match="rotation"):
        decide_refresh(make_family(rotated_at=None), 4, "app", NOW, POLICY)


@dataclass(slots=True)
class Model:
    """A family with the effects of each decision applied, as storage applies them."""

    family: Family
    policy: RefreshPolicy
    now: int = NOW
    is_reused: bool = False

    def present(self, generation: int) -> tuple[Decision, int | None]:
        """The decision, and the generation handed out."""
        decision = decide_refresh(self.family, generation, "app", self.now, self.policy)
        match decision:
            case Rotate():
                self.family = replace(
                    self.family,
                    generation=generation + 1,
                    rotated_at=self.now,
                    idle_expires_at=min(self.now + 600, self.family.absolute_expires_at),
                )
                return decision, generation + 1
            case Replay(is_first, shadow_count):
                if is_first:
                    self.family = replace(
                        self.family, replayed_generation=generation, shadow_count=shadow_count
                    )
                return decision, self.family.generation
            case Reuse():
                self.is_reused = True
                self.family = replace(self.family, revoked_at=self.now, revoked_reason="reused")
        return decision, None

    def usable(self) -> set[int]:
        """The generations that would be rotated now."""
        return {
            generation
            for generation in range(self.family.generation + 2)
            if decide_refresh(self.family, generation, "app", self.now, self.policy) == Rotate()
        }


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("present"), st.integers(0, 6)),  # so many generations back
        st.tuples(st.just("future"), st.integers(1, 3)),
        st.tuples(st.just("clock"), st.integers(-4000, 4000)),
        st.tuples(st.just("tick"), st.integers(0, 40)),
        st.tuples(st.just("revoke"), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(0, 300), st.one_of(st.none(), st.integers(1, 4)))
def test_family_never_has_two_usable_tokens_and_none_after_reuse(
    steps: list[tuple[str, int]], window_s: int, shadow_limit: int | None
) -> None:
    """Whatever the sequence of refresh, replay, revoke and clock steps (refresh.md)."""
    model = Model(make_family(generation=0, rotated_at=None), RefreshPolicy(window_s, shadow_limit))
    for step, amount in steps:
        before = model.family
        match step:
            case "present":
                generation = max(0, model.family.generation - amount)
                decision, handed_out = model.present(generation)
                if handed_out is not None:
                    assert handed_out == model.family.generation
                if isinstance(decision, Replay):
                    assert model.family.generation == before.generation
                    assert model.family.rotated_at == before.rotated_at
            case "future":
                decision, _ = model.present(model.family.generation + amount)
                assert not isinstance(decision, Rotate | Replay)
                assert model.family == before
            case "clock" | "tick":
                model.now += amount
            case "revoke":
                model.family = replace(model.family, revoked_at=model.now, revoked_reason="logout")
        assert len(model.usable()) <= 1
        assert model.family.generation >= before.generation
        assert before.revoked_at is None or model.family.revoked_at is not None
        if model.family.revoked_at is not None:
            assert model.usable() == set()
            assert all(
                model.present(generation)[1] is None
                for generation in range(model.family.generation + 1)
            )
