"""What a refusal looks like from outside, and that nothing else ever comes out (line A42)."""

import logging
import pickle
import traceback
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.verify import forge
from token_server.verify import Claims, Reason, TokenError, decode_unverified

CHALLENGE = (
    'Bearer error="invalid_token", error_description='
    '"The access token is malformed, expired, revoked or not meant for this service."'
)
# A busy machine is no reason to fail: neither a deadline nor a complaint about slow generation.
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
claim_names = st.sampled_from(sorted({*forge.claims(), "nbf", "cnf", "act", "x"}))
member_names = st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "b64", "zip", "x"])


REFUSED: dict[str, Callable[[], str]] = {
    "A42_form": lambda: forge.token() + "=",
    "A42_json": lambda: forge.seal_bytes(b'{"alg":"RS256"', forge.compact_json(forge.claims())),
    "A42_utf_8": lambda: forge.seal_bytes(forge.compact_json(forge.header()), b"\xff" * 200),
    "A42_alg": lambda: forge.token(header_changes={"alg": "none"}),
    "A42_kid": lambda: forge.token(header_changes={"kid": "K" * 40}),
    "A42_signature": lambda: forge.token(key="other"),
    "A42_claim": lambda: forge.token(exp=forge.NOW),
    "A42_identifier": lambda: forge.token(sub="S" * 60 + "\n"),
}


def shown(error: BaseException) -> str:
    return "\n".join(
        [*traceback.format_exception(error), repr(error), str(error), repr(error.args)]
    )


def _claims_or_none(token: str) -> Claims | None:
    try:
        return forge.verifier().verify_sync(token)
    except TokenError:
        return None


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_refusal_shows_nothing_of_the_token(
    make: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    """ASVS 16.2.5: not in the error, its traceback, its causes or the log."""
    caplog.set_level(logging.DEBUG)
    token = make()
    with pytest.raises(TokenError) as caught:
        forge.verifier().verify_sync(token)

    error = caught.value
    visible = "".join(traceback.format_exception_only(error)) + shown(error) + caplog.text
    for part in (*token.split("."), "usr_7vY0cQ2mS8dK4pL1xW3nZa", "K" * 40, "S" * 60):
        assert part not in visible
    # No JSONDecodeError or UnicodeDecodeError behind it: both carry the whole text.
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_refusal_gives_strangers_one_message(make: Callable[[], str]) -> None:
    """RFC 6750 3.1: the reason is for the log alone."""
    with pytest.raises(TokenError) as caught:
        forge.verifier().verify_sync(make())

    assert (caught.value.status, caught.value.error) == (401, "invalid_token")
    assert caught.value.www_authenticate == CHALLENGE
    assert str(caught.value) == caught.value.description


def test_refusal_is_logged_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """ASVS 16.5.1: operators see why."""
    caplog.set_level(logging.INFO)
    forge.refusal(forge.token(exp=forge.NOW))

    assert [(r.name, r.getMessage()) for r in caplog.records] == [
        ("token_server.verify", "access_token_refused reason=expired")
    ]


def test_accepted_token_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The hot path is silent."""
    caplog.set_level(logging.DEBUG)
    forge.verifier().verify_sync(forge.token())

    assert caplog.records == []


def test_error_survives_pickling() -> None:
    """Test runners and process pools send errors from process to process."""
    again = pickle.loads(pickle.dumps(TokenError(Reason.EXPIRED)))  # noqa: S301 - our own bytes

    assert (again.reason, str(again)) == (Reason.EXPIRED, TokenError.description)


@MANY
@given(st.text() | st.binary() | st.text("eyJ0-_.=AZ09 "))
def test_arbitrary_input_raises_nothing_else(text: str | bytes) -> None:
    """Whatever arrives in the Authorization header, the answer is a TokenError."""
    with pytest.raises(TokenError):
        forge.verifier().verify_sync(cast("str", text))
    with pytest.raises(TokenError):
        decode_unverified(cast("str", text))


@MANY
@given(st.data())
def test_mutated_good_token_is_refused(data: st.DataObject) -> None:
    """RFC 7515 5.2: no other text than the one that was signed is accepted."""
    token = forge.token()
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 20)))
    middle = data.draw(st.text(max_size=8) | st.sampled_from([token, token[start:end] * 2, "."]))
    mutated = token[:start] + middle + token[end:]

    if mutated == token:
        assert forge.verifier().verify_sync(mutated).client_id == "web-shop"
    else:
        assert forge.refusal(mutated) in Reason


@MANY
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_arbitrary_signed_octets_raise_nothing_else(header: bytes, payload: bytes) -> None:
    """The parsers meet what they should never meet, with a good signature around it."""
    assert forge.refusal(forge.seal_bytes(header, payload)) in Reason
    good_header = forge.compact_json(forge.header())
    assert forge.refusal(forge.seal_bytes(good_header, payload)) in Reason


@MANY
@given(
    st.dictionaries(member_names, json_values, min_size=1),
    st.dictionaries(claim_names, json_values),
)
def test_arbitrary_signed_json_gives_claims_or_refusal(
    members: dict[str, object], changes: dict[str, object]
) -> None:
    """Any value in any known place: typed claims or a TokenError, nothing in between."""
    for token in (forge.token(changes), forge.token(changes, header_changes=members)):
        claims = _claims_or_none(token)
        if claims is not None:
            assert forge.AUDIENCE in claims.audience
            assert all(isinstance(scope, str) for scope in claims.scopes)
            assert forge.NOW < claims.expires_at <= claims.issued_at + 86_400


def test_reasons_are_stable_words() -> None:
    """Dashboards count them: lower-case words, all different."""
    assert all(reason.value.replace("_", "").isalpha() for reason in Reason)
    assert len({reason.value for reason in Reason}) == len(Reason)
