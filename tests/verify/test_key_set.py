"""Key sets: what is taken in, dropped or refused (group A, lines 6 to 10 and 18; RFC 7517)."""

import json
import logging
from collections.abc import Callable
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.verify import forge
from token_server.verify import KeySetError, StaticKeySet, VerificationKey
from token_server.verify.keys import thumbprint
from token_server.verify.rsa_policy import is_roca_shaped, rsa_problem

RFC_7638_MODULUS = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP"
    "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY"
    "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f"
    "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


def uint(value: int) -> str:
    return forge.b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def modulus_of(bits: int) -> int:
    """A number of this length without small factors: nothing but its length is wrong with it."""
    candidate = (1 << (bits - 1)) + 1
    while any(candidate % divisor == 0 for divisor in range(3, 168, 2)):
        candidate += 2
    return candidate


def jwk(name: str = "good", /, **changes: object) -> dict[str, object]:
    numbers = forge.private_key(name).public_key().public_numbers()
    base = {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": name,
        "n": uint(numbers.n),
        "e": uint(numbers.e),
    }
    return forge.changed(base, changes)


def pem(name: str = "good") -> bytes:
    key = forge.private_key(name).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


READERS: dict[str, Callable[[dict[str, object]], StaticKeySet]] = {
    "bytes": lambda jwks: StaticKeySet.from_jwks(json.dumps(jwks).encode()),
    "str": lambda jwks: StaticKeySet.from_jwks(json.dumps(jwks)),
    "dict": StaticKeySet.from_jwks,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_jwks_is_read_in_each_form(read: Callable[[dict[str, object]], StaticKeySet]) -> None:
    """RFC 7517 5: keys by kid; unknown members of the set and of its keys are ignored."""
    keys = read({"keys": [jwk(x5t="x"), jwk("other", alg=forge.REMOVED)], "x": 1})

    assert keys.kids == ("good", "other")
    found = keys.find("good")
    assert found is not None
    assert found.is_signed(b"data", forge.sign("data"))
    assert keys.find("nobody") is None
    assert repr(keys) == "StaticKeySet(kids=('good', 'other'))"


def test_pem_is_read_under_its_thumbprint_or_a_given_kid() -> None:
    """RFC 7638: without a name the key gets the one that our issuer gives it."""
    expected = thumbprint(forge.private_key("good").public_key())

    assert StaticKeySet.from_pem(pem()).kids == (expected,)
    assert StaticKeySet.from_pem(pem().decode(), kid="k1").kids == ("k1",)


def test_thumbprint_is_the_one_of_the_rfc() -> None:
    """RFC 7638 3.1: the example key and its thumbprint."""
    entry = {"kty": "RSA", "kid": "k", "n": RFC_7638_MODULUS, "e": "AQAB"}
    found = StaticKeySet.from_jwks({"keys": [entry]}).find("k")

    assert found is not None
    assert thumbprint(found.public_key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


NON_SIGNING: dict[str, tuple[dict[str, object], str]] = {
    "A7_use_enc": ({"use": "enc"}, "use"),
    "A7_use_null": ({"use": None}, "use"),
    "A7_use_capitals": ({"use": "SIG"}, "use"),
    "A7_key_ops_encrypt": ({"use": forge.REMOVED, "key_ops": ["encrypt"]}, "key_ops"),
    "A7_key_ops_empty": ({"key_ops": []}, "key_ops"),
    "A7_key_ops_string": ({"key_ops": "verify"}, "key_ops"),
    "A7_key_ops_null": ({"key_ops": None}, "key_ops"),
    "A6_alg_RS512": ({"alg": "RS512"}, "alg"),
    "A6_alg_PS256": ({"alg": "PS256"}, "alg"),
    "A6_alg_none": ({"alg": "none"}, "alg"),
    "A6_alg_null": ({"alg": None}, "alg"),
    "A8_oct": ({"kty": "oct", "k": "c2VjcmV0"}, "kty"),
    "A8_EC": ({"kty": "EC", "crv": "P-256"}, "kty"),
    "A8_rsa_lower_case": ({"kty": "rsa"}, "kty"),
    "A8_kty_missing": ({"kty": forge.REMOVED}, "kty"),
    "A8_kty_list": ({"kty": ["RSA"]}, "kty"),
    **{
        f"A8_private_{name}": ({name: "AQAB"}, "private")
        for name in ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
    },
    "A8_private_d_null": ({"d": None}, "private"),
    "A9_1024_bits": ({"n": uint(modulus_of(1024))}, "1024 bits"),
    "A9_2047_bits": ({"n": uint(modulus_of(2047))}, "2047 bits"),
    "A9_8193_bits": ({"n": uint(modulus_of(8193))}, "8193 bits"),
    "A9_e_1": ({"e": uint(1)}, "exponent"),
    "A9_e_2": ({"e": uint(2)}, "exponent is even"),
    "A9_e_even": ({"e": uint(65538)}, "exponent is even"),
    "A9_e_3": ({"e": uint(3)}, "exponent"),
    "A9_e_17": ({"e": uint(17)}, "exponent"),
    "A9_e_33_bits": ({"e": uint(2**32 + 1)}, "exponent"),
    "A9_e_zero": ({"e": "AA"}, "shortest form"),
    "A9_even_modulus": ({"n": uint(2 * modulus_of(2047))}, "small factor"),
    "A9_small_factor": ({"n": uint(167 * modulus_of(2048))}, "small factor"),
    "kid_missing": ({"kid": forge.REMOVED}, "kid"),
    "kid_empty": ({"kid": ""}, "kid"),
    "kid_int": ({"kid": 7}, "kid"),
    "n_missing": ({"n": forge.REMOVED}, "base64url"),
    "n_int": ({"n": 5}, "base64url"),
    "n_empty": ({"n": ""}, "shortest form"),
    "n_padded": ({"n": RFC_7638_MODULUS + "=="}, "base64url"),
    "n_standard_alphabet": ({"n": RFC_7638_MODULUS.replace("_", "/")}, "base64url"),
    "n_not_ascii": ({"n": "\u00e9"}, "base64url"),
    "n_leading_zero": (
        {"n": forge.b64(bytes(1) + modulus_of(2048).to_bytes(256))},
        "shortest form",
    ),
    "e_missing": ({"e": forge.REMOVED}, "base64url"),
    "e_list": ({"e": ["AQAB"]}, "base64url"),
}


@pytest.mark.parametrize(("changes", "problem"), NON_SIGNING.values(), ids=NON_SIGNING)
def test_unusable_entry_is_dropped_with_a_warning(
    changes: dict[str, object], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 7517 4, 5: the others stay, and the warning shows no key material."""
    keys = StaticKeySet.from_jwks({"keys": [jwk("good", **changes), jwk("other")]})

    assert keys.kids == ("other",)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("jwks_entry_dropped index=0 problem=")
    assert problem in record.getMessage()
    assert str(jwk()["n"])[:16] not in record.getMessage()


@pytest.mark.parametrize(("changes", "problem"), NON_SIGNING.values(), ids=NON_SIGNING)
def test_set_without_a_usable_key_is_refused(changes: dict[str, object], problem: str) -> None:
    """An empty set would refuse every token in silence: say so at the start."""
    with pytest.raises(KeySetError, match="no usable"):
        StaticKeySet.from_jwks({"keys": [jwk("good", **changes)]})


@pytest.mark.parametrize("entry", [None, 1, "x", [], True], ids=repr)
def test_entry_that_is_no_object_is_dropped(entry: object) -> None:
    """RFC 7517 5: an array of JWKs."""
    assert StaticKeySet.from_jwks({"keys": [entry, jwk()]}).kids == ("good",)


REPEATED_KIDS: dict[str, Callable[[], list[object]]] = {
    "A18_same_key": lambda: [jwk(), jwk()],
    "A18_other_key": lambda: [jwk(), jwk("other", kid="good")],
    "A18_usable_and_enc": lambda: [jwk(), jwk("other", kid="good", use="enc")],
    "A18_usable_and_oct": lambda: [jwk(), {"kty": "oct", "k": "AA", "kid": "good"}],
    "A18_behind_others": lambda: [jwk("other"), jwk(), jwk()],
}


@pytest.mark.parametrize("entries", REPEATED_KIDS.values(), ids=REPEATED_KIDS)
def test_repeated_kid_refuses_the_whole_set(entries: Callable[[], list[object]]) -> None:
    """Wycheproof JWK 4: no choice between the two would be right."""
    with pytest.raises(KeySetError, match="twice"):
        StaticKeySet.from_jwks({"keys": entries()})


def test_repeated_kid_among_loaded_keys_is_refused() -> None:
    """A18, for whoever builds the set by hand."""
    key = VerificationKey(kid="k", public_key=forge.private_key("good").public_key())

    with pytest.raises(KeySetError, match="twice"):
        StaticKeySet([key, key])


DOCUMENTS = {
    "empty": b"",
    "not_json": b"<html>",
    "array": b"[]",
    "no_keys": b"{}",
    "keys_null": b'{"keys":null}',
    "keys_object": b'{"keys":{}}',
    "keys_empty": b'{"keys":[]}',
    "keys_repeated": b'{"keys":[],"keys":[]}',
    "bom": b'\xef\xbb\xbf{"keys":[]}',
    "utf_16": '{"keys":[]}'.encode("utf-16"),
    "deep": b'{"keys":' + b"[" * 100_000,
    "huge": b'{"keys":[' + b" " * 300_000 + b"]}",
    "nan": b'{"keys":[NaN]}',
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_document_that_is_no_key_set_is_refused(document: bytes) -> None:
    """RFC 7517 5: strict JSON, bounded, with a list of keys."""
    with pytest.raises(KeySetError):
        StaticKeySet.from_jwks(document)


def test_lone_surrogate_in_text_is_refused() -> None:
    """A str may hold what no UTF-8 document can."""
    with pytest.raises(KeySetError):
        StaticKeySet.from_jwks('{"keys":["\ud800"]}')


def _ec_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _private_pem() -> bytes:
    key = forge.private_key("good")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _small_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


PEMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "one PEM block"),
    "garbage": (
        lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "PEM form",
    ),
    "two_keys": (lambda: pem() + pem("other"), "one PEM block"),
    "private_key": (_private_pem, "private key"),
    "elliptic_curve": (_ec_pem, "not an RSA key"),
    "A9_1024_bits": (_small_pem, "1024 bits"),
}


@pytest.mark.parametrize(("make", "message"), PEMS.values(), ids=PEMS)
def test_unfit_pem_is_refused(make: Callable[[], bytes], message: str) -> None:
    """One public RSA key of 2048 bits or more, and nothing else."""
    with pytest.raises(KeySetError, match=message):
        StaticKeySet.from_pem(make())


def test_empty_kid_is_refused() -> None:
    """A key must have a name to be found by."""
    with pytest.raises(KeySetError, match="kid"):
        StaticKeySet.from_pem(pem(), kid="")


FOREIGN_KEYS: dict[str, Callable[[], object]] = {
    "elliptic_curve": lambda: ec.generate_private_key(ec.SECP256R1()).public_key(),
    "private_rsa": lambda: forge.private_key("good"),
    "pem": pem,
    "none": lambda: None,
}


@pytest.mark.parametrize("make", FOREIGN_KEYS.values(), ids=FOREIGN_KEYS)
def test_key_must_be_a_public_rsa_key(make: Callable[[], object]) -> None:
    """A41: whatever the caller passes, RS256 is checked with a public RSA key only."""
    with pytest.raises(KeySetError, match="RSA"):
        StaticKeySet.from_public_keys({"k": cast("rsa.RSAPublicKey", make())})


def test_roca_shape_is_recognised() -> None:
    """A10, CVE-2017-15361: products of primes k * M + (65537^a mod M) have the fingerprint."""
    primorial = 1
    for prime in (p for p in range(2, 702) if all(p % d for d in range(2, p))):
        primorial *= prime
    modulus = (65537**5 % primorial + 3 * primorial) * (65537**9 % primorial + 7 * primorial)
    modulus += primorial * (2**2047 // primorial + 1)

    assert modulus.bit_length() == 2048
    assert is_roca_shaped(modulus)
    assert "ROCA" in str(rsa_problem(modulus, 65537))


def test_sound_keys_have_no_problem() -> None:
    """A10: fresh keys of OpenSSL pass."""
    for name in ("good", "other", "attacker"):
        numbers = forge.private_key(name).public_key().public_numbers()
        assert not is_roca_shaped(numbers.n)
        assert rsa_problem(numbers.n, numbers.e) is None
