"""Hostile lists: none is believed, and none costs more than its bound
(draft-ietf-oauth-status-list-21 §4.1, §5.1, §8.3, §11.2)."""

import base64
import zlib
from collections.abc import Mapping

import pytest

from tests.verify import forge
from tests.verify.key_servers import kid_of, token_of
from tests.verify.list_servers import TTL_S, ListIssuer, list_uri, packed, status_token
from token_server.verify import Reason, TokenError
from token_server.verify.status_list import MAX_LIST_BYTES, StatusList


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


GOOD = zlib.compress(bytes(1024), 9)
BOMB = packed(bytes(200 * 1024 * 1024))

PAYLOADS: dict[str, Mapping[str, object]] = {
    "sub_other": {"sub": list_uri("s1")},
    "sub_missing": {"sub": forge.REMOVED},
    "iss_other": {"iss": "https://other.example"},
    "iss_null": {"iss": None},
    "iat_missing": {"iat": forge.REMOVED},
    "iat_text": {"iat": "1"},
    "iat_true": {"iat": True},
    "iat_in_future": {"iat": forge.NOW + 11},
    "exp_over": {"exp": forge.NOW},
    "exp_text": {"exp": "never"},
    "exp_null": {"exp": None},
    "ttl_zero": {"ttl": 0},
    "ttl_negative": {"ttl": -1},
    "ttl_text": {"ttl": "10"},
    "ttl_true": {"ttl": True},
    "no_list": {"status_list": forge.REMOVED},
    "list_of_another_type": {"status_list": []},
    "kids_text": {"revoked_kids": "kid"},
    "kids_numbers": {"revoked_kids": [1]},
    "kids_twice": {"revoked_kids": ["a", "a"]},
    "kids_empty_name": {"revoked_kids": [""]},
    "kids_long_name": {"revoked_kids": ["a" * 257]},
    "kids_too_many": {"revoked_kids": [str(number) for number in range(1025)]},
}
STATUS_LISTS: dict[str, Mapping[str, object]] = {
    "bits_missing": {"bits": forge.REMOVED},
    "bits_three": {"bits": 3},
    "bits_zero": {"bits": 0},
    "bits_sixteen": {"bits": 16},
    "bits_true": {"bits": True},
    "bits_float": {"bits": 1.0},
    "lst_missing": {"lst": forge.REMOVED},
    "lst_null": {"lst": None},
    "lst_padded": {"lst": b64(GOOD) + "=="},
    "lst_foreign_characters": {"lst": "*" + b64(GOOD)[1:]},
    "lst_not_ascii": {"lst": "ä"},
    "lst_not_zlib": {"lst": b64(b"not zlib at all")},
    "lst_raw_deflate": {"lst": b64(GOOD[2:-4])},
    "lst_cut_short": {"lst": b64(GOOD[:-4])},
    "lst_followed": {"lst": b64(GOOD + b"more")},
    "lst_checksum_wrong": {"lst": b64(GOOD[:-1] + b"\x77")},
    "lst_bomb": {"lst": BOMB},
    "lst_one_too_large": {"lst": packed(bytes(MAX_LIST_BYTES + 1))},
}
HEADERS: dict[str, Mapping[str, object]] = {
    "typ_access_token": {"typ": "at+jwt"},
    "typ_jwt": {"typ": "JWT"},
    "typ_missing": {"typ": forge.REMOVED},
    "alg_none": {"alg": "none"},
    "alg_hs256": {"alg": "HS256"},
    "kid_missing": {"kid": forge.REMOVED},
    "kid_unknown": {"kid": "unknown"},
    "jwk": {"jwk": {}},
    "crit": {"crit": ["x"]},
    "kid_of_another": {"kid": kid_of("other")},
}
BODIES = {
    "empty": b"",
    "html": b"<html>",
    "not_ascii": "ä.ö.ü".encode(),
    "two_parts": b"e30.e30",
    "unsigned": forge.b64(b"{}").encode() + b".e30.",
    "too_large": b"a" * 600_000,
    "access_token": token_of().encode(),
}


def refusal(issuer: ListIssuer) -> Reason:
    with pytest.raises(TokenError) as caught:
        issuer.verifier().verify_sync(status_token(5))
    return caught.value.reason


def test_the_list_that_the_others_differ_from_is_good() -> None:
    """Otherwise the refusals below would show nothing."""
    assert ListIssuer().verifier().verify_sync(status_token(5)).token_id


@pytest.mark.parametrize("changes", PAYLOADS.values(), ids=PAYLOADS)
def test_list_with_bad_claims_is_refused(changes: Mapping[str, object]) -> None:
    """§5.1, §8.3: the token cannot be judged, 503."""
    assert refusal(ListIssuer(payload=dict(changes))) == Reason.STATUS_UNAVAILABLE


@pytest.mark.parametrize("changes", STATUS_LISTS.values(), ids=STATUS_LISTS)
def test_list_with_bad_entries_is_refused(changes: Mapping[str, object]) -> None:
    """§4.2: whole, canonical, and no larger than the bound, before and after inflating."""
    assert refusal(ListIssuer(status_list=dict(changes))) == Reason.STATUS_UNAVAILABLE


@pytest.mark.parametrize("changes", HEADERS.values(), ids=HEADERS)
def test_list_with_a_bad_header_is_refused(changes: Mapping[str, object]) -> None:
    """RFC 8725 3.1, 3.11: an access token is no list, and no list brings its own key."""
    issuer = ListIssuer(names=("good", "other"), header=dict(changes))
    assert refusal(issuer) == Reason.STATUS_UNAVAILABLE


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_no_list_is_refused(body: bytes) -> None:
    """A proxy's error page with 200 is no list of good tokens."""
    assert refusal(ListIssuer(body=body)) == Reason.STATUS_UNAVAILABLE


def test_list_by_a_strangers_key_is_refused() -> None:
    """A `kid` that the issuer does not publish."""
    assert refusal(ListIssuer(signer="stranger")) == Reason.STATUS_UNAVAILABLE


@pytest.mark.parametrize(
    "listed",
    [["https://evil.example/s0"], [1], ["https://auth.example/../s0"], ["http://auth.example/s0"]],
    ids=repr,
)
def test_newest_list_of_another_host_is_not_fetched(listed: list[str]) -> None:
    """The list of lists is no way to send the service elsewhere."""
    issuer = ListIssuer(listed=listed)
    assert refusal(issuer) == Reason.STATUS_UNAVAILABLE
    assert len(issuer.fetched) == 3


def test_list_that_goes_back_in_time_is_not_believed() -> None:
    """A cache that hands out last week's list: the one at hand serves on."""
    issuer = ListIssuer(revoked={"s0": {5}})
    verifier = issuer.verifier()
    with pytest.raises(TokenError):
        verifier.verify_sync(status_token(5))
    issuer.payload, issuer.revoked = {"iat": forge.NOW - 1}, {"s0": set()}
    issuer.now += TTL_S
    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(status_token(5))
    assert caught.value.reason == Reason.STATUS_REVOKED


@pytest.mark.parametrize(
    ("ttl", "kept_s"), [(0.01, 1), (30, 30), (10**9, 95)], ids=["short", "said", "long"]
)
def test_ttl_is_honoured_within_bounds(ttl: float, kept_s: float) -> None:
    """§13.7: not more than once a second, not beyond `exp`."""
    issuer = ListIssuer(payload={"ttl": ttl, "exp": forge.NOW + 95})
    verifier = issuer.verifier(fail_open_for_s=0)
    verifier.verify_sync(status_token(5))
    issuer.listed, issuer.body = [], b"gone"
    issuer.now += kept_s - 0.01
    assert verifier.verify_sync(status_token(5)).token_id
    issuer.now += 0.02
    with pytest.raises(TokenError):
        verifier.verify_sync(status_token(5))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_entries_are_read_from_the_lowest_bit_on(bits: int) -> None:
    """§4.1, for all four sizes, against plain arithmetic."""
    octets = bytes(range(256))
    number = int.from_bytes(octets, "little")
    listed = StatusList(octets, bits, "kid", 0, 1, 1, frozenset())
    entries = 8 * 256 // bits
    read = [listed.find(index) for index in range(entries)]
    assert read == [number >> (index * bits) & ((1 << bits) - 1) for index in range(entries)]
    assert listed.find(entries) is None


def test_any_status_but_valid_refuses() -> None:
    """§7.1: suspended (2) is not valid either."""
    issuer = ListIssuer(status_list={"bits": 2, "lst": packed(b"\x80" + bytes(9))})
    verifier = issuer.verifier()
    assert verifier.verify_sync(status_token(2)).token_id
    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(status_token(3))
    assert caught.value.reason == Reason.STATUS_REVOKED
