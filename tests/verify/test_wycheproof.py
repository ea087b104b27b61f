"""Project Wycheproof: each vector judged by its label (see the README beside the vectors).

The files are read from `../shared/vectors` beside the project, or from WYCHEPROOF_DIR; where they
are absent the tests are skipped, visibly. Signatures are judged below the claims: the vectors'
payloads are no access tokens.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from token_server.verify import KeySetError, StaticKeySet, TokenError, VerificationKey
from token_server.verify.compact import (
    check_header,
    decode_segment,
    find_key,
    read_kid,
    split_token,
)
from token_server.verify.strict import StrictnessError, decode_base64url

ROOT = Path(__file__).parents[2]
VECTORS = Path(os.environ.get("WYCHEPROOF_DIR", ROOT.parent / "shared" / "vectors"))
# The padding of 367 and 370 is gone in this edition, and 372 and 373 carry a `?`. All four are
# HS256, so an RS256 verifier refuses them whatever their label says.
MISLABELLED = {367, 370, 372, 373}

Group = dict[str, Any]  # as json.loads gives it; the files' own schema describes it


def _groups(name: str) -> list[Group]:
    path = VECTORS / name
    if not path.exists():
        return []
    groups: list[Group] = json.loads(path.read_text())["testGroups"]
    return groups


def _cases(name: str) -> list[Any]:
    """One parameter set for each vector; one that is skipped where the file is absent."""
    groups = _groups(name)
    if not groups:
        reason = f"no {name} in {VECTORS.name}: set WYCHEPROOF_DIR"
        return [pytest.param({}, {}, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(group, case, id=f"tc{case['tcId']}_{case['comment'] or 'plain'}")
        for group in groups
        for case in group["tests"]
    ]


def _is_accepted(jwks: dict[str, object], jws: object) -> bool:
    """Key set, form, header and signature: everything but typ and claims."""
    try:
        keys = StaticKeySet.from_jwks(jwks)
        header_segment, payload, signature, signing_input = split_token(jws, 1 << 20)
        header = decode_segment(header_segment)
        check_header(header)
        key = find_key(read_kid(header), keys, allow_missing_kid=False)
        is_signed = key.is_signed(signing_input, decode_base64url(signature))
        decode_base64url(payload)
    except (KeySetError, TokenError, StrictnessError):
        return False
    return is_signed


def _published(group: Group) -> Group:
    """The public half; sets of secrets have none, and are offered as they are."""
    published: Group = group["public"] if "public" in group else group["private"]
    return published


def _is_rs256(group: Group) -> bool:
    """The README's 235: RSA keys for RS256, those wrongly meant for encryption included."""
    return group["comment"] in {"rs256", "rsa_encryption"} or (
        group["comment"] in {"rfc7520", "rfc7520WithKeyOps"}
        and group.get("public", {}).get("alg") == "RS256"
    )


@pytest.mark.parametrize(("group", "case"), _cases("json_web_signature_test.json"))
def test_json_web_signature(group: Group, case: Group) -> None:
    """The 235 cases of RS256 as labelled, the other 166 refused."""
    jwks: dict[str, object] = {"keys": [_published(group)]}
    expected = _is_rs256(group) and case["result"] == "valid"

    assert _is_accepted(jwks, case["jws"]) is expected


def test_json_web_signature_counts() -> None:
    """The split is the README's, and the mislabelled cases are not among those judged by label."""
    groups = _groups("json_web_signature_test.json")
    if not groups:
        pytest.skip("no vectors: set WYCHEPROOF_DIR")
    judged = [case["tcId"] for group in groups if _is_rs256(group) for case in group["tests"]]

    assert len(judged) == 235
    assert sum(len(group["tests"]) for group in groups) - len(judged) == 166
    assert not MISLABELLED & set(judged)


@pytest.mark.parametrize(("group", "case"), _cases("json_web_key_test.json"))
def test_json_web_key(group: Group, case: Group) -> None:
    """26 key sets: the one good RSA set accepted, bad sets and sets of secrets refused."""
    jwks = _published(group)
    expected = case["result"] == "valid" and group["comment"] == "rs256"

    assert _is_accepted(jwks, case["jws"]) is expected


@pytest.mark.parametrize(("group", "case"), _cases("rsa_signature_2048_sha256_test.json"))
def test_rsa_signature(group: Group, case: Group) -> None:
    """Raw PKCS #1 v1.5 signatures; "acceptable" (no NULL in the DigestInfo) is refused too."""
    public_key = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
    assert isinstance(public_key, RSAPublicKey)
    if public_key.public_numbers().e == 3:
        with pytest.raises(KeySetError, match="exponent"):
            VerificationKey(kid="k", public_key=public_key)
        return
    key = VerificationKey(kid="k", public_key=public_key)

    signed = key.is_signed(bytes.fromhex(case["msg"]), bytes.fromhex(case["sig"]))
    assert signed is (case["result"] == "valid")
