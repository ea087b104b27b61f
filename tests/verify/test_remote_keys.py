"""Remote keys over time: when a set is fetched, kept and given up (group C, lines 13, 14, 59, 65
to 68). The network is faked, the threads are real, and the clock stands where the test puts it."""

import logging
import threading
import time
from itertools import pairwise

import pytest

from tests.verify import forge
from tests.verify.key_servers import (
    FakeIssuer,
    down,
    key_set,
    kid_of,
    random_kid_token,
    token_of,
    verifier_of,
    wait_until,
)
from token_server.verify import (
    Claims,
    Fetching,
    KeysUnavailableError,
    Reason,
    RemoteKeySet,
    TokenError,
    Verifier,
)


def refusal(verifier: Verifier, token: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(token)
    return caught.value.reason


def warm(issuer: FakeIssuer, **fetching: float) -> tuple[RemoteKeySet, Verifier]:
    keys = issuer.keys(**fetching)
    verifier = verifier_of(keys)
    verifier.start_sync()
    return keys, verifier


def test_keys_are_fetched_at_first_use_and_then_kept() -> None:
    """Nothing is fetched by the constructor, one set by the first token, none by the second."""
    issuer = FakeIssuer()
    verifier = verifier_of(issuer.keys())
    assert issuer.fetched == []

    for _ in range(3):
        assert verifier.verify_sync(token_of()).client_id == "web-shop"
    assert issuer.fetched == [None]


def test_set_is_refreshed_ahead_in_the_background() -> None:
    """At 80 % of its age at the latest; meanwhile the old set serves, and nobody waits."""
    issuer = FakeIssuer(max_age_s=100)
    keys, verifier = warm(issuer)
    issuer.now += 74
    verifier.verify_sync(token_of())
    assert len(issuer.fetched) == 1

    issuer.gate = threading.Event()
    issuer.now += 7
    begun = time.monotonic()
    verifier.verify_sync(token_of())
    assert time.monotonic() - begun < 2  # the fetch itself stands still
    wait_until(lambda: len(issuer.fetched) == 2)
    issuer.gate.set()
    wait_until(lambda: keys.stats().fetches == 2)
    assert keys.stats().age_s == 0


@pytest.mark.parametrize(
    ("said", "kept"), [(None, 300), (0, 5), (1, 5), (60, 60), (10**9, 86_400)], ids=repr
)
def test_max_age_is_honoured_within_bounds(said: int | None, kept: int) -> None:
    """RFC 9111 5.2.2.1: a development server's 5 s as well as a year's typing error."""
    issuer = FakeIssuer(max_age_s=said)
    keys, _ = warm(issuer)

    issuer.now += kept - 0.5
    assert not keys.stats().is_stale
    issuer.now += 0.5
    assert keys.stats().is_stale


def test_unchanged_set_costs_one_conditional_request() -> None:
    """RFC 9110 13.1.2: with the ETag of the last answer; a 304 makes the set fresh again."""
    issuer = FakeIssuer(etag='"v1"')
    keys, verifier = warm(issuer)
    before = keys.ready()
    issuer.now += 100
    verifier.verify_sync(token_of())

    assert issuer.fetched == [None, '"v1"']
    assert keys.ready() is before
    stats = keys.stats()
    assert (stats.fetches, stats.not_modified, stats.age_s) == (2, 1, 0)


def test_idle_service_asks_before_it_trusts_an_old_set() -> None:
    """C67: a key that was withdrawn while nobody asked is refused once the set is out of age."""
    issuer = FakeIssuer(names=("good", "leaked"))
    _, verifier = warm(issuer)
    assert verifier.verify_sync(token_of("leaked")).token_id

    issuer.names = ("good",)
    issuer.now += 100
    assert refusal(verifier, token_of("leaked")) == Reason.KID_UNKNOWN
    assert verifier.verify_sync(token_of()).token_id


def test_withdrawn_key_ends_remembered_tokens() -> None:
    """C67: the cache of verified tokens is no way around the key set."""
    issuer = FakeIssuer(names=("good", "leaked"))
    keys, verifier = warm(issuer)
    token = token_of("leaked")
    verifier.verify_sync(token)
    verifier.verify_sync(token)
    assert verifier.stats().cache_hits == 1

    issuer.names = ("good",)
    issuer.now += 85
    verifier.verify_sync(token)  # within its age: refreshed behind this one's back
    wait_until(lambda: keys.stats().fetches == 2)
    assert refusal(verifier, token) == Reason.KID_UNKNOWN


def test_remembered_tokens_outlive_a_refresh_that_keeps_their_key() -> None:
    """A rotation elsewhere in the set must not cost every service its cache."""
    issuer = FakeIssuer()
    keys, verifier = warm(issuer)
    verifier.verify_sync(token_of())
    issuer.names = ("other", "good")
    issuer.now += 85
    verifier.verify_sync(token_of())
    wait_until(lambda: keys.stats().fetches == 2)

    verifier.verify_sync(token_of())
    assert verifier.stats().cache_hits == 2
    assert keys.stats().keys == 2


def test_last_good_set_serves_through_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """C59: with a warning and counters, up to the stated limit, and then 503 and not 401."""
    issuer = FakeIssuer()
    keys, verifier = warm(issuer, max_stale_s=1000)
    issuer.problem = down()
    caplog.set_level(logging.WARNING)
    issuer.now += 100
    assert verifier.verify_sync(token_of()).token_id

    issuer.now += 999
    assert verifier.verify_sync(token_of()).token_id
    wait_until(lambda: keys.stats().failures == 2)
    stats = keys.stats()
    assert (stats.is_stale, stats.fetches, stats.failures_in_a_row) == (True, 1, 2)
    assert caplog.messages[0] == (
        "jwks_fetch_failed source=https://auth.example/jwks problem=answered 500 failures=1"
        " set_age_s=100"
    )

    issuer.now += 1
    assert refusal(verifier, token_of()) == Reason.KEYS_UNAVAILABLE


def test_outage_ends_with_the_next_good_answer() -> None:
    """C59."""
    issuer = FakeIssuer()
    keys, verifier = warm(issuer)
    issuer.problem = down()
    issuer.now += 100
    verifier.verify_sync(token_of())
    issuer.problem = None
    issuer.now += 61
    verifier.verify_sync(token_of())
    wait_until(lambda: keys.stats().fetches == 2)

    stats = keys.stats()
    assert (stats.is_stale, stats.failures, stats.failures_in_a_row) == (False, 1, 0)


def test_nobody_waits_in_an_outage() -> None:
    """C59: once the issuer is known to be away, its time-outs are not the callers'."""
    issuer = FakeIssuer()
    keys, verifier = warm(issuer)
    issuer.problem = down()
    issuer.now += 100
    verifier.verify_sync(token_of())
    assert keys.stats().failures == 1

    issuer.gate = threading.Event()
    issuer.now += 61
    begun = time.monotonic()
    assert verifier.verify_sync(token_of(jti="another")).token_id == "another"
    assert time.monotonic() - begun < 2
    issuer.gate.set()


def test_failures_are_retried_with_growing_delay() -> None:
    """C59: at most 1 s, 2 s, 4 s ... after one another, up to a minute, and never in a storm."""
    issuer = FakeIssuer(problem=down())
    verifier = verifier_of(issuer.keys())
    attempts: list[float] = []
    for _ in range(600):
        refusal(verifier, token_of())
        if len(issuer.fetched) > len(attempts):
            attempts.append(issuer.now)
        issuer.now += 0.5

    delays = [later - earlier for earlier, later in pairwise(attempts)]
    assert len(attempts) < 16
    assert all(0.5 <= delay <= 61 for delay in delays)
    for index, delay in enumerate(delays[:6]):
        assert 0.5 * 2**index <= delay <= 2**index + 0.5
    assert delays[-1] >= 30


def test_retry_after_is_honoured_within_bounds() -> None:
    """RFC 9110 10.2.3: an issuer that asks for 120 s of peace gets them; one that asks for a year
    gets five minutes."""
    for asked, granted in ((120, 120), (10**9, 300)):
        issuer = FakeIssuer(problem=down("answered 503", asked))
        verifier = verifier_of(issuer.keys())
        refusal(verifier, token_of())
        issuer.now += granted - 1
        refusal(verifier, token_of())
        assert len(issuer.fetched) == 1
        issuer.now += 1
        refusal(verifier, token_of())
        assert len(issuer.fetched) == 2


def test_missing_keys_are_no_fault_of_the_token() -> None:
    """503 with a time to come back, so that no client throws its session away."""
    issuer = FakeIssuer(problem=down("answered 503", 30))
    with pytest.raises(KeysUnavailableError) as caught:
        verifier_of(issuer.keys()).verify_sync(token_of())

    error = caught.value
    assert (error.status, error.error) == (503, "temporarily_unavailable")
    assert error.retry_after_s == 30
    assert (error.__cause__, error.__context__) == (None, None)


def test_start_fails_when_keys_cannot_be_had() -> None:
    """Who wants to know at the start is told at the start."""
    verifier = verifier_of(FakeIssuer(problem=down()).keys())
    with pytest.raises(KeysUnavailableError), verifier:
        pytest.fail("entered without keys")


def test_closed_verifier_fetches_no_more() -> None:
    """The keys at hand serve on."""
    issuer = FakeIssuer()
    with verifier_of(issuer.keys()) as verifier:
        verifier.verify_sync(token_of())
    issuer.now += 100

    assert verifier.verify_sync(token_of()).token_id
    assert refusal(verifier, random_kid_token(1)) == Reason.KID_UNKNOWN
    assert len(issuer.fetched) == 1


UNUSABLE = {
    "A18_repeated_kid": forge.compact_json({"keys": [{"kid": "a"}, {"kid": "a"}]}),
    "A8_no_usable_key": forge.compact_json({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}),
    "C59_half_a_body": key_set("good")[:-40],
    "C59_html": b"<html>Bad Gateway</html>",
    "C59_empty": b"",
    "C59_no_keys": b'{"keys":[]}',
    "C59_repeated_member": b'{"keys":[],"keys":[]}',
    "C59_array": b"[]",
    "C59_utf_16": '{"keys":[]}'.encode("utf-16"),
    "C59_deep": b'{"keys":' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_set_leaves_the_old_one(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """C59, A18: refused as a whole, with an alarm, and the last good set serves on."""
    issuer = FakeIssuer()
    keys, verifier = warm(issuer)
    issuer.body = body
    issuer.now += 100
    caplog.set_level(logging.WARNING)

    assert verifier.verify_sync(token_of()).token_id
    assert (keys.stats().failures, keys.stats().keys) == (1, 1)
    assert [message for message in caplog.messages if message.startswith("jwks_fetch_failed")]


def test_bad_entries_are_skipped() -> None:
    """A8: a new kind of key at the issuer breaks nobody."""
    good = key_set("good")[len('{"keys":[') : -2]
    body = b'{"keys":[{"kty":"EC","kid":"ec"},' + good + b',{"kty":"oct","k":"AA"},7]}'
    _, verifier = warm(FakeIssuer(body=body))

    assert verifier.verify_sync(token_of()).token_id
    assert refusal(verifier, forge.token(header_changes={"kid": "ec"})) == Reason.KID_UNKNOWN


@pytest.mark.parametrize(
    "problem", [ValueError("Bearer s3cret"), KeyError("s3cret"), RecursionError("s3cret")], ids=repr
)
def test_foreign_fetcher_may_raise_anything(
    problem: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """No foreign exception comes out, and its words, which may hold a secret, are not logged."""
    verifier = verifier_of(FakeIssuer(problem=problem).keys())

    assert refusal(verifier, token_of()) == Reason.KEYS_UNAVAILABLE
    assert f"problem={type(problem).__name__}" in caplog.text
    assert "s3cret" not in caplog.text


def test_key_made_just_now_is_fetched_once_and_accepted() -> None:
    """C66: one refetch brings the new key; the next token of it finds it there."""
    issuer = FakeIssuer()
    keys, verifier = warm(issuer)
    issuer.names = ("good", "new")

    assert verifier.verify_sync(token_of("new")).token_id
    assert verifier.verify_sync(token_of("new", jti="second")).token_id
    assert len(issuer.fetched) == 2
    assert keys.stats().kid_refetches == 1


def test_old_key_is_good_while_it_is_published() -> None:
    """C65: a set that was fetched before a rotation and one after it both verify the old token."""
    issuer = FakeIssuer()
    _, verifier = warm(issuer)
    issuer.names = ("good", "new")
    verifier.verify_sync(token_of("new"))

    assert verifier.verify_sync(token_of("good")).token_id


def test_unknown_kids_cause_one_fetch_in_a_cool_down() -> None:
    """A13, A14: 5,000 random kids in 50 s at 10 s of cool-down; scripts/differential has more."""
    issuer = FakeIssuer(max_age_s=3600)
    keys, verifier = warm(issuer)
    for number in range(5000):
        assert refusal(verifier, random_kid_token(number)) == Reason.KID_UNKNOWN
        issuer.now += 0.01

    assert 5 <= keys.stats().kid_refetches <= 6
    assert len(issuer.fetched) == 1 + keys.stats().kid_refetches


def test_kid_that_stays_unknown_is_remembered() -> None:
    """A13: a client that goes on sending an old token causes one refetch, not one per cool-down."""
    issuer = FakeIssuer(max_age_s=3600)
    _, verifier = warm(issuer)
    for _ in range(5):
        refusal(verifier, random_kid_token(1))
        issuer.now += 11

    assert len(issuer.fetched) == 2


def test_cold_set_is_not_fetched_twice_for_an_unknown_kid() -> None:
    """A13: what was fetched for this very token a moment ago is new enough."""
    issuer = FakeIssuer()
    verifier = verifier_of(issuer.keys())

    assert refusal(verifier, random_kid_token(1)) == Reason.KID_UNKNOWN
    assert len(issuer.fetched) == 1


def test_unknown_kids_do_not_pile_up_behind_a_slow_issuer() -> None:
    """A14: while a refetch stands still, eight kids may wait for it; others are refused at once,
    and good tokens are verified."""
    issuer = FakeIssuer(max_age_s=3600)
    _, verifier = warm(issuer)
    issuer.gate = threading.Event()
    waiting = [
        threading.Thread(target=refusal, args=(verifier, random_kid_token(number)))
        for number in range(8)
    ]
    for thread in waiting:
        thread.start()
    wait_until(lambda: len(issuer.fetched) == 2)
    time.sleep(0.05)

    assert refusal(verifier, random_kid_token(9)) == Reason.KID_UNKNOWN
    assert verifier.verify_sync(token_of()).token_id
    assert sum(thread.is_alive() for thread in waiting) == 8
    issuer.gate.set()
    for thread in waiting:
        thread.join(10)
    assert len(issuer.fetched) == 2


def test_failed_refetch_does_not_make_a_kid_absent() -> None:
    """C66: when the issuer was away for a moment, its new key is found after the cool-down."""
    issuer = FakeIssuer(max_age_s=3600, problem=None)
    _, verifier = warm(issuer)
    issuer.names = ("good", "new")
    issuer.problem = down()
    assert refusal(verifier, token_of("new")) == Reason.KID_UNKNOWN
    issuer.problem = None
    issuer.now += 11

    assert verifier.verify_sync(token_of("new")).token_id


def test_wall_clock_has_no_influence_on_the_age() -> None:
    """C68: the system clock jumps by a year, and the set is as old as it was."""
    issuer = FakeIssuer(max_age_s=100)
    keys = issuer.keys()
    wall = [float(forge.NOW)]
    verifier = Verifier(
        issuer=forge.ISSUER, audience=forge.AUDIENCE, keys=keys, clock=lambda: wall[0]
    )
    verifier.start_sync()
    for jump in (31_536_000, -31_536_000):
        wall[0] = forge.NOW + jump
        refusal(verifier, token_of())

    assert (len(issuer.fetched), keys.stats().age_s) == (1, 0)


def test_jitter_spreads_refreshes() -> None:
    """A fleet that was started at once does not come back at once."""
    moments = set()
    for _ in range(12):
        issuer = FakeIssuer(max_age_s=10_000)
        keys, _ = warm(issuer)
        issuer.now += 7499
        while len(issuer.fetched) == 1 and issuer.now < 1000 + 8000:
            assert keys.ready() is not None
            issuer.now += 25
            time.sleep(0.001)
        moments.add(issuer.now)
    assert len(moments) > 3
    assert 1000 + 7500 <= min(moments) < max(moments) <= 1000 + 8100


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout_s": 0},
        {"timeout_s": float("nan")},
        {"min_age_s": 0},
        {"max_age_s": 10**9},
        {"default_age_s": 1},
        {"max_stale_s": -1},
        {"cooldown_s": 0},
        {"absent_kid_s": True},
    ],
    ids=repr,
)
def test_setting_out_of_bounds_is_refused(wrong: dict[str, float]) -> None:
    """A slip in configuration is neither a storm of fetches nor a set that never ages."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Fetching(**wrong)  # type: ignore[arg-type]  # that is the point


def test_negative_cache_is_bounded() -> None:
    """A14: whatever is sent, no more than 256 absent kids are remembered."""
    keys = FakeIssuer().keys()
    for number in range(10_000):
        keys.note_absent(f"kid-{number}")

    assert keys.stats().absent_kids == 256


def test_claims_are_those_of_the_token() -> None:
    """The first, waiting verification gives the same as the second."""
    verifier = verifier_of(FakeIssuer().keys())
    token = token_of()
    first, second = verifier.verify_sync(token), verifier.verify_sync(token)

    assert isinstance(first, Claims)
    assert first == second
    assert kid_of("good") not in first
