"""What a switch costs verifiers, by kind and by how long the key was published."""

import pytest

from token_server.core.key_verifiers import Effect, effects_of_switch

HOUR = 3600


def effect(verifier: str, known_s: int, max_age_s: int = 300) -> Effect:
    (found,) = [one for one in effects_of_switch(known_s, max_age_s) if verifier in one.verifier]
    return found


@pytest.mark.parametrize(
    ("verifier", "known_s", "refuses_for_s"),
    [
        ("PyJWT", 0, 30),  # refetches for an unknown kid, but not within its cool-down
        ("PyJWT", 12, 18),
        ("PyJWT", 30, 0),
        ("jose", 29, 1),
        ("Spring", 0, 0),  # refetches each time
        ("Envoy", 0, 600),  # never refetches: waits for its next poll
        ("Envoy", 599, 1),
        ("Envoy", 600, 0),
        ("Istio", 0, 1200),
        ("Amazon", HOUR, HOUR),
        ("ASP.NET", 0, 300),
        ("max-age", 100, 200),
    ],
)
def test_how_long_a_new_key_is_refused(verifier: str, known_s: int, refuses_for_s: int) -> None:
    """The rest of the time that this kind may go without looking."""
    assert effect(verifier, known_s).refuses_for_s == refuses_for_s


def test_first_request_fails_where_a_refetch_comes_too_late_for_it() -> None:
    """ASP.NET Core asks for a refresh, and refuses the request that made it ask; until its own
    poll brought the key."""
    assert effect("ASP.NET", HOUR).first_fails
    assert not effect("ASP.NET", 12 * HOUR).first_fails
    assert not effect("PyJWT", HOUR).first_fails


def test_nobody_fails_after_the_default_lead() -> None:
    """Which is what KEY_LEAD = 24 h is for."""
    effects = effects_of_switch(24 * HOUR, 300)
    assert [(one.refuses_for_s, one.first_fails) for one in effects] == [(0, False)] * len(effects)


def test_dropped_key_is_trusted_until_the_next_poll() -> None:
    """Whatever was known: only fetching the JWKS again makes a verifier forget a key."""
    assert effect("Envoy", 24 * HOUR).trusts_dropped_for_s == 600
    assert effect("ASP.NET", 0).trusts_dropped_for_s == 12 * HOUR
    assert effect("max-age", 0, max_age_s=5).trusts_dropped_for_s == 5


def test_short_max_age_shortens_what_follows_it() -> None:
    """Our own library polls at max-age, and so never waits longer than that."""
    assert effect("token_server.verify", 0, max_age_s=5).refuses_for_s == 5
    assert effect("token_server.verify", 0).refuses_for_s == 10
