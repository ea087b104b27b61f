"""The keyring in memory: what it signs, what it publishes, and that it shows no private number."""

import base64
import json
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.keyrings import MASTER, NOW
from token_server.crypto import rsa_keys
from token_server.crypto.keyring import Keyring
from token_server.crypto.rsa_keys import RsaSigner
from token_server.errors import UnavailableError
from token_server.records import KeyState, SigningKey, StoredKeyring

PAYLOAD = b'{"sub":"orders","exp":1700000900}'


def load(keyring: StoredKeyring) -> tuple[Keyring, dict[str, rsa.RSAPrivateKey]]:
    private = {
        stored.key.kid: rsa_keys.load_private(stored.private_pem, MASTER.key_encryption_key(1))
        for stored in keyring.keys
        if stored.private_pem is not None
    }
    signers = {
        stored.key: RsaSigner(stored.key.kid, private[stored.key.kid]) for stored in keyring.keys
    }
    return Keyring(keyring.keyring_id, keyring.generation, signers), private


@pytest.fixture(scope="module")
def loaded(first: StoredKeyring) -> tuple[Keyring, dict[str, rsa.RSAPrivateKey]]:
    return load(first)


@pytest.fixture
def keyring(loaded: tuple[Keyring, dict[str, rsa.RSAPrivateKey]]) -> Keyring:
    return loaded[0]


def rotated(keyring: Keyring, activate_at: int) -> Keyring:
    """The same keys, the second of them with a date."""
    active, waiting = keyring.keys
    dated = replace(waiting, published_at=NOW, activate_at=activate_at)
    signers: dict[SigningKey, RsaSigner] = {}
    for key in (active, dated):
        signer = keyring._signers[key.kid]
        assert isinstance(signer, RsaSigner)
        signers[key] = signer
    return Keyring(keyring.keyring_id, 2, signers)


def test_foreign_verifier_accepts_the_signature_with_the_jwks_alone(keyring: Keyring) -> None:
    """PyJWT, given the served JWKS, verifies a token and finds the key by its kid (RFC 7515)."""
    token, kid = keyring.sign_compact("at+jwt", PAYLOAD, NOW)
    key = jwt.PyJWKSet.from_json(keyring.jwks(NOW).decode())[kid]
    claims = jwt.decode(token, key, algorithms=["RS256"], options={"verify_exp": False})
    assert claims == json.loads(PAYLOAD)
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "kid": kid, "typ": "at+jwt"}


def test_header_and_payload_are_pinned(keyring: Keyring) -> None:
    """The protected header is exactly alg, kid, typ; the payload is signed as it came in."""
    token, kid = keyring.sign_compact("JWT", PAYLOAD, NOW)
    header, payload, signature = token.split(".")
    expected = f'{{"alg":"RS256","kid":"{kid}","typ":"JWT"}}'.encode()
    assert base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)) == expected
    assert base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)) == PAYLOAD
    assert "=" not in token
    assert len(signature) == 342  # 256 bytes


def test_each_typ_has_its_own_header(keyring: Keyring) -> None:
    """A cached header is never used for another type of token (RFC 8725 3.11)."""
    types = ["at+jwt", "JWT", "at+jwt", "statuslist+jwt", "JWT"]
    tokens = [keyring.sign_compact(typ, PAYLOAD, NOW)[0] for typ in types]
    assert [jwt.get_unverified_header(token)["typ"] for token in tokens] == types


def test_active_key_signs_and_the_next_one_takes_over_on_its_date(keyring: Keyring) -> None:
    """The clock alone moves the signature from one key to the other; nothing is reloaded."""
    active, waiting = keyring.keys
    planned = rotated(keyring, NOW + 60)
    for now, key in ((NOW, active), (NOW + 59, active), (NOW + 60, waiting), (NOW, active)):
        token, kid = planned.sign_compact("at+jwt", PAYLOAD, now)
        assert kid == key.kid == jwt.get_unverified_header(token)["kid"]
        assert planned.signer(now).kid == kid
        jwk = jwt.PyJWKSet.from_json(planned.jwks(now).decode())[kid]
        jwt.decode(token, jwk, algorithms=["RS256"], options={"verify_exp": False})


def test_jwks_is_exact_and_stable(keyring: Keyring) -> None:
    """Members are kty, use, alg, kid, n, e and no others, the active key comes first, and the
    same set is the same bytes (RFC 7517 4)."""
    body = keyring.jwks(NOW)
    assert (
        body
        == json.dumps(
            {
                "keys": [
                    {
                        "kty": "RSA",
                        "use": "sig",
                        "alg": "RS256",
                        "kid": key.kid,
                        "n": rsa_keys.encode_uint(key.n),
                        "e": "AQAB",
                    }
                    for key in keyring.keys
                ]
            },
            separators=(",", ":"),
        ).encode()
    )
    assert json.loads(body)["keys"][0]["kid"] == keyring.signer(NOW).kid
    assert keyring.jwks(NOW + 10**6) is body


def test_planning_and_making_a_rotation_does_not_change_the_jwks(keyring: Keyring) -> None:
    """The set changes when a key comes or goes, not when one takes over: no ETag moves."""
    planned = rotated(keyring, NOW + 60)
    assert planned.jwks(NOW) == planned.jwks(NOW + 60) == keyring.jwks(NOW)


def test_compromised_and_retired_keys_leave_the_jwks(keyring: Keyring) -> None:
    """A key that must not verify is not served, whatever else is known of it."""
    active, waiting = keyring.keys
    for changed in (replace(active, compromised_at=NOW), replace(active, retire_at=NOW)):
        other = Keyring("kr_x", 2, {changed: None, waiting: None})
        kids = [key["kid"] for key in json.loads(other.jwks(NOW))["keys"]]
        assert kids == [waiting.kid]


def test_keyring_without_a_key_that_may_sign_is_unavailable(keyring: Keyring) -> None:
    """Before the first activation, without keys, and with an erased private half the answer is
    a retryable one, never a signature by the wrong key."""
    active, waiting = keyring.keys
    erased = Keyring("kr_x", 2, {active: None, waiting: keyring._signers[waiting.kid]})
    for other, now in ((keyring, NOW - 1), (Keyring.empty(), NOW), (erased, NOW)):
        with pytest.raises(UnavailableError) as caught:
            other.sign_compact("at+jwt", PAYLOAD, now)
        assert caught.value.reason == "no_signing_key"
    assert Keyring.empty().jwks(NOW) == b'{"keys":[]}'


def test_states_count_every_key_once(keyring: Keyring) -> None:
    """The numbers for the metrics name every state, the empty ones too."""
    states = keyring.states(NOW)
    assert set(states) == set(KeyState)
    assert {state.value: n for state, n in states.items() if n} == {"active": 1, "next": 1}
    later = rotated(keyring, NOW + 60).states(NOW + 60)
    assert {state.value: n for state, n in later.items() if n} == {"active": 1, "retiring": 1}


def test_no_private_number_is_ever_shown(
    loaded: tuple[Keyring, dict[str, rsa.RSAPrivateKey]], first: StoredKeyring
) -> None:
    """repr, str, the JWKS and the records show neither d, p, q nor the encrypted half
    (ASVS 16.2.5)."""
    keyring, privates = loaded
    shown = [keyring.jwks(NOW).decode(), *map(repr, keyring.keys), repr(first), repr(keyring)]
    shown += [repr(keyring.signer(NOW)), str(vars(keyring)), repr(first.keys), str(keyring.keys)]
    text = "\n".join(shown)
    for private in privates.values():
        numbers = private.private_numbers()
        for number in (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp):
            for form in (str(number), f"{number:x}", rsa_keys.encode_uint(number)):
                assert form not in text
    for stored in first.keys:
        assert stored.private_pem is not None
        assert stored.private_pem.decode().splitlines()[3] not in text
        assert str(stored.key.n) not in text
