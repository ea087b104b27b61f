"""Header and signature of a token: group A of the attack cases, lines on alg, kid, typ and keys."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.verify import forge
from token_server.verify import Policy, Reason, StaticKeySet, TokenError, Verifier
from token_server.verify.compact import check_typ, decode_segment, split_token

UNSIGNED_ALGS = {
    "A1_none": "none",
    "A2_None": "None",
    "A2_NONE": "NONE",
    "A2_nOnE": "nOnE",
    "A2_noNE": "noNE",
    "A2_rs256_lower": "rs256",
    "A2_RS256_space": "RS256 ",
    "A2_RS256_nul": "RS256\0",
}


@pytest.mark.parametrize("alg", UNSIGNED_ALGS.values(), ids=UNSIGNED_ALGS)
@pytest.mark.parametrize("kid", ["known", "unknown"])
def test_other_alg_is_refused_before_a_key_is_chosen(alg: str, kid: str) -> None:
    """RFC 8725 3.1, CVE-2026-28802: a closed set of one, in exact case, asked before the kid."""
    changes = {"alg": alg} if kid == "known" else {"alg": alg, "kid": "nobody"}
    signed = forge.token(header_changes=changes)

    assert forge.refusal(signed) == Reason.ALG_REFUSED
    assert forge.refusal(signed.rsplit(".", 1)[0] + ".") == Reason.ALG_REFUSED


WRONG_TYPES: dict[str, object] = {
    "missing": forge.REMOVED,
    "list": ["RS256"],
    "number": 256,
    "null": None,
    "true": True,
    "object": {"RS256": 1},
    "empty": "",
}


@pytest.mark.parametrize("alg", WRONG_TYPES.values(), ids=[f"A3_{name}" for name in WRONG_TYPES])
def test_alg_of_another_type_is_refused(alg: object) -> None:
    """RFC 7515 4.1.1: a typed error, no traceback."""
    assert forge.refusal(forge.token(header_changes={"alg": alg})) == Reason.ALG_REFUSED


def _pem() -> bytes:
    key = forge.private_key("good").public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _jwk() -> dict[str, object]:
    numbers = forge.private_key("good").public_key().public_numbers()
    modulus = forge.b64(numbers.n.to_bytes(256, "big"))
    return {"kty": "RSA", "alg": "RS256", "kid": forge.kid(), "n": modulus, "e": "AQAB"}


def _public_bytes(encoding: Encoding, layout: PublicFormat) -> bytes:
    return forge.private_key("good").public_key().public_bytes(encoding, layout)


HMAC_SECRETS: dict[str, Callable[[], bytes]] = {
    "A4_pem": _pem,
    "A4_pem_without_newline": lambda: _pem().rstrip(b"\n"),
    "A4_pem_with_cr": lambda: _pem().replace(b"\n", b"\r\n"),
    "A4_pem_with_tab": lambda: _pem().replace(b"BEGIN PUBLIC", b"BEGIN\tPUBLIC"),
    "A4_pem_with_double_space": lambda: _pem().replace(b"BEGIN PUBLIC", b"BEGIN  PUBLIC"),
    "A4_der": lambda: _public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "A4_jwk": lambda: forge.compact_json(_jwk()),
    "A4_jwks": lambda: forge.compact_json({"keys": [_jwk()]}),
    "A4_bom": lambda: b"\xef\xbb\xbf" + _pem(),
    "A4_openssh": lambda: _public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
}


@pytest.mark.parametrize("secret", HMAC_SECRETS.values(), ids=HMAC_SECRETS)
@pytest.mark.parametrize(
    ("alg", "reason"), [("HS256", Reason.ALG_REFUSED), ("RS256", Reason.SIGNATURE_WRONG)]
)
def test_hmac_with_the_public_key_is_refused(
    secret: Callable[[], bytes], alg: str, reason: Reason
) -> None:
    """RFC 8725 2.1, CVE-2022-29217: the key is an RSA object and never bytes of a secret."""
    signing_input = forge.token(header_changes={"alg": alg}).rsplit(".", 1)[0]
    mac = hmac.digest(secret(), signing_input.encode(), hashlib.sha256)

    assert forge.refusal(f"{signing_input}.{forge.b64(mac)}") == reason


def _with_alg(alg: str) -> str:
    return forge.token(header_changes={"alg": alg}).rsplit(".", 1)[0]


def _pss(text: str) -> bytes:
    scheme = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
    return forge.private_key("good").sign(text.encode(), scheme, SHA256())


OTHER_SIGNATURES: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "A5_RS384": ("RS384", lambda text: forge.sign(text, algorithm=SHA384())),
    "A5_RS512": ("RS512", lambda text: forge.sign(text, algorithm=SHA512())),
    "A5_PS256": ("PS256", _pss),
    "A5_ES256": (
        "ES256",
        lambda text: ec.generate_private_key(ec.SECP256R1()).sign(
            text.encode(), ec.ECDSA(SHA256())
        ),
    ),
}


@pytest.mark.parametrize(("alg", "signer"), OTHER_SIGNATURES.values(), ids=OTHER_SIGNATURES)
def test_other_algorithm_with_the_right_key_is_refused(
    alg: str, signer: Callable[[str], bytes]
) -> None:
    """RFC 8725 3.1: honestly labelled, or labelled RS256 (A6, CVE-2026-48523)."""
    honest, lying = _with_alg(alg), _with_alg("RS256")

    assert forge.refusal(f"{honest}.{forge.b64(signer(honest))}") == Reason.ALG_REFUSED
    assert forge.refusal(f"{lying}.{forge.b64(signer(lying))}") == Reason.SIGNATURE_WRONG


HOSTILE_KIDS = {
    "A11_dot_dot": "../../etc/passwd",
    "A11_absolute_path": "/dev/null",
    "A11_url": "https://evil.example/key",
    "A11_sql": "x' UNION SELECT 'key",
    "A11_nul": "\0",
    "A11_newline": "\nINFO access_token_accepted",
    "A11_glob": "*",
    "A11_empty": "",
    "A13_random": "Vr3N9w",
}


@pytest.mark.parametrize("kid", HOSTILE_KIDS.values(), ids=HOSTILE_KIDS)
def test_kid_is_only_looked_up(kid: str, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 8725 3.10: never a path, a query or a line of the log."""
    caplog.set_level("DEBUG")

    assert forge.refusal(forge.token(header_changes={"kid": kid})) == Reason.KID_UNKNOWN
    assert [record.getMessage() for record in caplog.records] == [
        "access_token_refused reason=kid_unknown"
    ]


@pytest.mark.parametrize("kid", [1, None, True, ["k"], {}], ids=repr)
def test_kid_of_another_type_is_refused(kid: object) -> None:
    """RFC 7515 4.1.4: a string; an unhashable one must not raise."""
    assert forge.refusal(forge.token(header_changes={"kid": kid})) == Reason.KID_UNKNOWN


def test_missing_kid_is_refused_by_default() -> None:
    """A15: our issuer always names its key."""
    assert forge.refusal(forge.token(header_changes={"kid": forge.REMOVED})) == Reason.KID_MISSING


def test_missing_kid_with_one_key_is_accepted_when_configured() -> None:
    """A15: conformance module kid-absent-single-jwks."""
    token = forge.token(header_changes={"kid": forge.REMOVED})

    verifier = forge.verifier(policy=Policy(allow_missing_kid=True))
    assert verifier.verify_sync(token).client_id == "web-shop"


def test_missing_kid_with_several_keys_is_refused_even_so() -> None:
    """A16: never a trial of all keys (kid-absent-multiple-jwks)."""
    names = {"one": "good", "two": "other"}
    keys = {kid: forge.private_key(name).public_key() for kid, name in names.items()}
    verifier = Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        keys=StaticKeySet.from_public_keys(keys),
        policy=Policy(allow_missing_kid=True),
        clock=lambda: forge.NOW,
    )
    token = forge.token(header_changes={"kid": forge.REMOVED})

    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(token)
    assert caught.value.reason == Reason.KID_MISSING


def test_signature_of_another_key_under_a_known_kid_is_refused() -> None:
    """A17, RFC 7515 5.2."""
    assert forge.refusal(forge.token(key="other")) == Reason.SIGNATURE_WRONG


REFUSED_MEMBERS: dict[str, Mapping[str, object]] = {
    "A19_jku_https": {"jku": "https://evil.example/jwks.json"},
    "A19_jku_http": {"jku": "http://evil.example/jwks.json"},
    "A19_x5u_file": {"x5u": "file:///etc/passwd"},
    "A19_x5u_data": {"x5u": "data:text/plain,x"},
    "A19_x5u_gopher": {"x5u": "gopher://127.0.0.1:6379/_x"},
    "A19_jku_link_local": {"jku": "http://169.254.169.254/latest"},
    "A21_x5c": {"x5c": ["MIIB"]},
    "A21_x5t": {"x5t": "abc"},
    "A21_x5t_S256": {"x5t#S256": "abc"},
    "A22_crit_unknown": {"crit": ["foo"], "foo": 1},
    "A22_crit_empty": {"crit": []},
    "A22_crit_string": {"crit": "exp"},
    "A22_crit_repeated": {"crit": ["foo", "foo"], "foo": 1},
    "A22_crit_standard_name": {"crit": ["alg"]},
    "A22_crit_absent_header": {"crit": ["bar"]},
    "A22_crit_null": {"crit": None},
    "A23_crit_b64_true": {"crit": ["b64"], "b64": True},
    "A23_crit_b64_false": {"crit": ["b64"], "b64": False},
    "A23_b64_false": {"b64": False},
    "A23_b64_true": {"b64": True},
    "A25_zip": {"zip": "DEF"},
    "A25_enc": {"enc": "A128GCM"},
    "A25_p2c": {"p2c": 2**31},
    "A38_cty_JWT": {"cty": "JWT"},
    "Alg_beside_alg": {"Alg": "none"},
    "KID_beside_kid": {"KID": "other"},
    "CRIT_in_capitals": {"CRIT": ["foo"]},
}


@pytest.mark.parametrize("members", REFUSED_MEMBERS.values(), ids=REFUSED_MEMBERS)
def test_header_member_that_changes_the_rules_is_refused(members: Mapping[str, object]) -> None:
    """RFC 7515 4.1, RFC 7797, RFC 8725 3.10: refused though the signature is right."""
    assert forge.refusal(forge.token(header_changes=members)) == Reason.HEADER_REFUSED


@pytest.mark.parametrize("signed_by", ["good", "attacker"])
def test_key_in_the_header_is_refused(signed_by: str) -> None:
    """A20, CVE-2026-27962: `jwk` with the attacker's key, which signed the token."""
    numbers = forge.private_key("attacker").public_key().public_numbers()
    jwk = {"kty": "RSA", "n": forge.b64(numbers.n.to_bytes(256, "big")), "e": "AQAB"}

    token = forge.token(header_changes={"jwk": jwk}, key=signed_by)
    assert forge.refusal(token) == Reason.HEADER_REFUSED


def test_unknown_header_member_is_ignored() -> None:
    """RFC 7515 4: header parameters that are not understood must be ignored."""
    token = forge.token(header_changes={"x-trace": "1", "iss": "someone"})

    assert forge.verifier().verify_sync(token).client_id == "web-shop"


def test_detached_payload_is_refused() -> None:
    """A23, RFC 7515 appendix F, CVE-2026-48525: an empty middle part is no claims."""
    header, _, signature = forge.token().split(".")

    assert forge.refusal(f"{header}..{signature}") == Reason.SIGNATURE_WRONG
    assert forge.refusal(forge.seal(header, "")) == Reason.NOT_JSON


def test_nested_jwt_is_refused() -> None:
    """A38, RFC 7519 5.2: a payload that is itself a token is no JSON object."""
    inner = forge.token().encode()

    token = forge.seal_bytes(forge.compact_json(forge.header()), inner)
    assert forge.refusal(token) == Reason.NOT_JSON


TYPS: dict[str, object] = {
    "A35_missing": forge.REMOVED,
    "A35_JWT": "JWT",
    "A35_id_token": "id_token+jwt",
    "A35_logout": "logout+jwt",
    "A35_dpop": "dpop+jwt",
    "A35_statuslist": "statuslist+jwt",
    "A35_int": 1,
    "A35_null": None,
    "A35_list": ["at+jwt"],
    "A35_empty": "",
    "A35_space": " at+jwt",
    "A35_parameter": "at+jwt; x=1",
    "A35_other_prefix": "text/at+jwt",
    "A35_double_prefix": "application/application/at+jwt",
}


@pytest.mark.parametrize("typ", TYPS.values(), ids=TYPS)
def test_other_typ_is_refused(typ: object) -> None:
    """RFC 9068 4, RFC 8725 3.11: other kinds of JWT of the same issuer are no access tokens."""
    assert forge.refusal(forge.token(header_changes={"typ": typ})) == Reason.TYP_REFUSED


GOOD_TYPS = ["at+jwt", "AT+JWT", "At+Jwt", "application/at+jwt", "APPLICATION/AT+JWT"]


@pytest.mark.parametrize("typ", GOOD_TYPS, ids=[f"A35_{typ}" for typ in GOOD_TYPS])
def test_typ_of_access_tokens_is_accepted_in_any_case(typ: str) -> None:
    """RFC 9068 2.1, RFC 2045 5.1: media types fold case."""
    token = forge.token(header_changes={"typ": typ})

    assert forge.verifier().verify_sync(token).client_id == "web-shop"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "application/jwt", "at+jwt"])
def test_typ_jwt_is_accepted_where_configured(typ: str) -> None:
    """For servers that run with ACCESS_TOKEN_TYP=JWT."""
    policy = Policy(accept_typ=("at+jwt", "JWT"))
    token = forge.token(header_changes={"typ": typ})

    assert forge.verifier(policy=policy).verify_sync(token).client_id == "web-shop"


def test_id_token_is_refused_by_typ_and_by_audience() -> None:
    """A36, RFC 9068 4: same issuer, same key, `aud` is the client."""
    token = forge.token(header_changes={"typ": "JWT"}, aud="web-shop", nonce="n", at_hash="h")

    assert forge.refusal(token) == Reason.TYP_REFUSED
    lenient = Policy(accept_typ=("at+jwt", "JWT"))
    assert forge.refusal(token, policy=lenient) == Reason.AUD_REFUSED


@pytest.mark.parametrize(
    "wanted",
    ["client-authentication+jwt", "dpop+jwt", "logout+jwt", "jwt"],
    ids=["A37_client_assertion", "A37_dpop_proof", "A37_logout_token", "A37_id_token_hint"],
)
def test_access_token_is_no_other_kind_of_token(wanted: str) -> None:
    """RFC 8725 3.12: whoever checks another kind of JWT with this core asks for its typ."""
    header = decode_segment(split_token(forge.token(), 16_384)[0])

    with pytest.raises(TokenError) as caught:
        check_typ(header, frozenset({wanted, f"application/{wanted}"}))
    assert caught.value.reason == Reason.TYP_REFUSED


def _plus_modulus(signature: bytes) -> bytes:
    modulus = forge.private_key("good").public_key().public_numbers().n
    return (int.from_bytes(signature, "big") + modulus).to_bytes(257, "big").removeprefix(b"\0")


BAD_SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "A39_empty": lambda _signature: b"",
    "A39_one_octet": lambda signature: signature[:1],
    "A39_short": lambda signature: signature[1:],
    "A39_cut": lambda signature: signature[:-1],
    "A39_long": lambda signature: signature + b"\0",
    "A39_leading_zero": lambda signature: b"\0" + signature,
    "A39_all_zero": lambda _signature: bytes(256),
    "A39_all_ff": lambda _signature: b"\xff" * 256,
    "A39_one": lambda _signature: bytes(255) + b"\1",
    "A39_plus_n": _plus_modulus,
    "A39_is_n": lambda _signature: (
        forge.private_key("good").public_key().public_numbers().n.to_bytes(256, "big")
    ),
    "A39_bit_flipped": lambda signature: bytes([signature[0] ^ 1]) + signature[1:],
    "A39_reversed": lambda signature: signature[::-1],
    "A39_doubled": lambda signature: signature * 2,
}


@pytest.mark.parametrize("spoil", BAD_SIGNATURES.values(), ids=BAD_SIGNATURES)
def test_wrong_signature_octets_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    """RFC 8017 8.2.2: length and range first, then the whole encoded message."""
    signing_input = forge.token().rsplit(".", 1)[0]
    spoilt = spoil(forge.sign(signing_input))

    assert forge.refusal(f"{signing_input}.{forge.b64(spoilt)}") == Reason.SIGNATURE_WRONG


@pytest.mark.parametrize("algorithms", [None, ["RS256", "HS256"], ["none"]], ids=repr)
def test_algorithms_cannot_be_chosen(algorithms: object) -> None:
    """A41, ASVS 9.1.2: there is no such parameter to get wrong."""
    construct = cast("Callable[..., object]", Verifier)
    keys = StaticKeySet.from_pem(_pem())

    with pytest.raises(TypeError, match="algorithms"):
        construct(issuer="i", audience="a", keys=keys, algorithms=algorithms)
