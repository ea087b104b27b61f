"""Several issuers, and a verifier from the environment: who is trusted, and with whose keys."""

from collections.abc import Mapping

import pytest

from tests.verify import forge
from tests.verify.key_servers import METADATA_PATH, key_server, key_set, kid_of, token_of
from token_server.verify import Reason, StaticKeySet, TokenError, Verifier

OLD, NEW = "https://old.example", "https://new.example"


def refusal(verifier: Verifier, token: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(token)
    return caught.value.reason


def test_both_issuers_of_a_move_are_trusted() -> None:
    """With the keys that were given, whichever of the two signs with them."""
    verifier = Verifier(
        issuer=(OLD, NEW), audience=forge.AUDIENCE, keys=forge.key_set(), clock=lambda: forge.NOW
    )
    assert verifier.verify_sync(forge.token(iss=OLD)).issuer == OLD
    assert verifier.verify_sync(forge.token(iss=NEW)).issuer == NEW


THIRD: dict[str, object] = {
    "B48_missing": forge.REMOVED,
    "B48_null": None,
    "B48_empty": "",
    "B48_other": forge.ISSUER,
    "B48_trailing_slash": OLD + "/",
    "B48_list_of_one": [OLD],
    "B48_list_of_both": [OLD, NEW],
    "B48_object": {},
    "B48_number": 1,
}


@pytest.mark.parametrize("iss", THIRD.values(), ids=THIRD)
def test_third_issuer_is_refused(iss: object) -> None:
    """B48: exact, one string, one of those configured."""
    verifier = Verifier(
        issuer=(OLD, NEW), audience=forge.AUDIENCE, keys=forge.key_set(), clock=lambda: forge.NOW
    )
    assert refusal(verifier, forge.token(iss=iss)) == Reason.ISS_REFUSED


def test_key_of_one_issuer_says_nothing_about_the_other() -> None:
    """RFC 8725 3.8: keys are discovered from each issuer and hold for its own tokens only."""
    with key_server() as old, key_server() as new:
        new.names = ("other",)
        verifier = Verifier(
            issuer=(old.issuer, new.issuer), audience=forge.AUDIENCE, clock=lambda: forge.NOW
        )
        assert verifier.verify_sync(token_of("good", iss=old.issuer)).issuer == old.issuer
        assert verifier.verify_sync(token_of("other", iss=new.issuer)).issuer == new.issuer
        assert refusal(verifier, token_of("good", iss=new.issuer)) == Reason.KID_UNKNOWN
        assert refusal(verifier, token_of("other", iss=old.issuer)) == Reason.KID_UNKNOWN

        # The same again from the cache: what is remembered is remembered of its issuer.
        assert verifier.verify_sync(token_of("other", iss=new.issuer)).issuer == new.issuer


def test_one_issuer_may_be_away() -> None:
    """The old one is switched off at the end of the move, and the new one's tokens are verified."""
    with key_server() as new:
        with key_server() as old:
            issuers = (old.issuer, new.issuer)
        verifier = Verifier(issuer=issuers, audience=forge.AUDIENCE, clock=lambda: forge.NOW)

        assert verifier.verify_sync(token_of(iss=new.issuer)).issuer == new.issuer
        assert refusal(verifier, token_of(iss=old.issuer)) == Reason.KEYS_UNAVAILABLE


def test_kid_of_one_issuer_does_not_shadow_the_others() -> None:
    """Two issuers may name different keys alike."""
    body = {"keys": [{**_entry("other"), "kid": kid_of("good")}]}
    with key_server() as old, key_server() as new:
        new.answers["/jwks"] = (200, {}, forge.compact_json(body))
        verifier = Verifier(
            issuer=(old.issuer, new.issuer), audience=forge.AUDIENCE, clock=lambda: forge.NOW
        )
        assert verifier.verify_sync(token_of("good", iss=old.issuer)).issuer == old.issuer
        assert refusal(verifier, token_of("good", iss=new.issuer)) == Reason.SIGNATURE_WRONG


def _entry(name: str) -> Mapping[str, object]:
    found = StaticKeySet.from_jwks(key_set(name)).find(kid_of(name))
    assert found is not None
    numbers = found.public_key.public_numbers()
    return {"kty": "RSA", "n": forge.b64(numbers.n.to_bytes(256, "big")), "e": "AQAB"}


def test_verifier_is_configured_by_the_environment() -> None:
    """Three variables, and discovery unless the third is there."""
    with key_server() as served:
        environ = {
            "TOKEN_VERIFY_ISSUER": f"{served.issuer} , https://next.example",
            "TOKEN_VERIFY_AUDIENCE": forge.AUDIENCE,
            "PATH": "/bin",
        }
        with pytest.raises(TokenError) as caught:
            Verifier.from_environment(environ).verify_sync(token_of(iss=served.issuer))
        assert caught.value.reason in {Reason.EXPIRED, Reason.IAT_IN_FUTURE}
        assert served.requests == [METADATA_PATH, "/jwks"]

        served.requests.clear()
        environ["TOKEN_VERIFY_JWKS_URI"] = served.jwks_uri
        Verifier.from_environment(environ).start_sync()
        assert served.requests == ["/jwks"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"TOKEN_VERIFY_ISSUER": ""}, "TOKEN_VERIFY_ISSUER is not set"),
        ({"TOKEN_VERIFY_ISSUER": "https://a.example,"}, "non-empty"),
        ({"TOKEN_VERIFY_AUDIENCE": " "}, "TOKEN_VERIFY_AUDIENCE is not set"),
        ({"TOKEN_VERIFY_AUDIENC": "x"}, "unknown variable TOKEN_VERIFY_AUDIENC"),
        ({"TOKEN_VERIFY_JWKS_URI": "http://a.example/jwks"}, "jwks_uri must be https"),
    ],
    ids=repr,
)
def test_bad_environment_is_refused_by_name(changes: Mapping[str, str], problem: str) -> None:
    """A verifier that does not know whom to trust does not start."""
    environ = {"TOKEN_VERIFY_ISSUER": OLD, "TOKEN_VERIFY_AUDIENCE": forge.AUDIENCE}
    with pytest.raises(ValueError, match=problem):
        Verifier.from_environment({**environ, **changes})


def test_keys_and_jwks_uri_exclude_each_other() -> None:
    """Which of them holds would be a guess."""
    with pytest.raises(ValueError, match="not both"):
        Verifier(
            issuer=OLD,
            audience=forge.AUDIENCE,
            keys=forge.key_set(),
            jwks_uri="https://old.example/jwks",
        )


def test_issuer_given_twice_is_one() -> None:
    """A repeated name in a list is no second trust."""
    verifier = Verifier(
        issuer=(OLD, OLD), audience=forge.AUDIENCE, keys=forge.key_set(), clock=lambda: forge.NOW
    )
    assert verifier.verify_sync(forge.token(iss=OLD)).issuer == OLD
