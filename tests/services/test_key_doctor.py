"""What the doctor finds in answers of replicas, gateways and caches, and what it lets pass."""

import json
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from tests.support.key_situations import NOW, POLICY, after, key, situation
from token_server.core.key_changes import Situation
from token_server.core.key_compromise import compromise_key
from token_server.core.key_rotation import start_rotation
from token_server.crypto import rsa_keys
from token_server.errors import OperatorError
from token_server.services.key_doctor import Answer, KeyFinding, Replica, examine_jwks, jwks_url

URL = "https://auth.example/.well-known/jwks.json"
STEADY = situation(
    key("a", NOW - 5000, n=35), key("b", n=33), key("gone", NOW - 30_000, retire_at=NOW - 100)
)
HEADERS = {
    "content-type": "application/json",
    "cache-control": "public, max-age=100, stale-while-revalidate=60",
    "etag": '"1"',
    "access-control-allow-origin": "*",
    "date": formatdate(NOW, usegmt=True),
}


def jwk(kid: str, n: int) -> dict[str, Any]:
    return dict(rsa_keys.public_jwk(kid, n, 65537))


GOOD = (jwk("a", 35), jwk("b", 33))


def answer(*keys: dict[str, Any], **changes: Any) -> Answer:
    """A good answer of these keys, with changes."""
    body = json.dumps({"keys": keys or GOOD}).encode()
    made = Answer(URL, 200, HEADERS, body, received_at=NOW + 0.5)
    return replace(made, **changes)


def with_header(name: str, value: str | None) -> Answer:
    headers = {key: text for key, text in HEADERS.items() if key != name}
    return answer(headers=headers if value is None else {**headers, name: value})


def examined(given: Answer, here: Situation = STEADY) -> Replica:
    (replica,) = examine_jwks(here, "kr_1", [given]).replicas
    return replica


def worst(replica: Replica) -> KeyFinding:
    rank = {"fail": 0, "warn": 1, "ok": 2}
    return min(replica.findings, key=lambda finding: rank[finding.level])


def test_good_answer_has_nothing_to_mend() -> None:
    """The keys of the keyring under our own headers."""
    replica = examined(answer())
    assert [finding.level for finding in replica.findings] == ["ok"]
    assert (replica.kids, replica.clock_difference_s) == (("a", "b"), 0)
    assert examine_jwks(STEADY, "kr_1", [answer(), answer()]).ok


@pytest.mark.parametrize(
    ("given", "level", "says"),
    [
        (answer(jwk("b", 33)), "fail", "a (active) is missing"),
        (answer(jwk("a", 35)), "fail", "b (next) is missing"),
        (answer(*GOOD, jwk("x", 5)), "fail", "x is served, but the keyring has no such key"),
        (answer(jwk("a", 39), jwk("b", 33)), "fail", "another key than the one of that name"),
        (answer(*GOOD, jwk("gone", 3)), "warn", "gone is retired and still served"),
        (answer(GOOD[0], GOOD[0], GOOD[1]), "fail", "more than one key is called a"),
        (answer({**GOOD[0], "d": "AQAB"}, GOOD[1]), "fail", "a PRIVATE key is published"),
        (answer(body=b"<html>"), "fail", "the body is not JSON"),
        (answer(body=b"\xff{}"), "fail", "the body is not JSON"),
        (answer(body=b"[" * 100_000), "fail", "the body is not JSON"),
        (answer(body=b"[]"), "fail", "no JWK Set"),
        (answer(body=b'{"keys": [1]}'), "fail", "no JWK Set"),
        (answer(body=json.dumps({"keys": [{}] * 101}).encode()), "fail", "more than 100 keys"),
        (answer(status=500), "fail", "answers with status 500"),
        (answer(status=404), "fail", "answers with status 404"),
        (answer(status=302, headers={"location": "https://x/"}), "fail", "answers 302 to https"),
        (Answer(URL, problem="did not answer"), "fail", "did not answer"),
        (with_header("cache-control", None), "warn", "no Cache-Control"),
        (with_header("cache-control", "public"), "warn", "no Cache-Control"),
        (with_header("cache-control", "no-store"), "warn", "every verification may fetch"),
        (with_header("cache-control", "max-age=101"), "fail", "more than JWKS_MAX_AGE"),
        (with_header("cache-control", "s-maxage=9999, max-age=100"), "ok", "as in the keyring"),
        (with_header("etag", None), "warn", "no ETag"),
        (with_header("access-control-allow-origin", None), "warn", "Access-Control-Allow-Origin"),
        (with_header("content-type", "text/html"), "warn", "Content-Type is text/html"),
        (with_header("content-type", "application/jwk-set+json; charset=utf-8"), "ok", "keyring"),
        (with_header("date", formatdate(NOW - 30, usegmt=True)), "fail", "differs by -30 s"),
        (with_header("date", formatdate(NOW + 6, usegmt=True)), "fail", "differs by +6 s"),
        (with_header("date", formatdate(NOW + 4, usegmt=True)), "ok", "as in the keyring"),
        (with_header("date", None), "ok", "as in the keyring"),
        (with_header("date", "yesterday"), "ok", "as in the keyring"),
    ],
)
def test_each_fault_is_found(given: Answer, level: str, says: str) -> None:
    """The worst that is to be said of each answer."""
    finding = worst(examined(given))
    assert (finding.level, says in finding.detail) == (level, True), finding
    report = examine_jwks(STEADY, "kr_1", [answer(), given])
    assert report.ok is (level != "fail")


def test_old_cached_answer_has_an_old_date() -> None:
    """A cache sends the time of the origin's answer: `Age` is no wrong clock (RFC 9111 5.1)."""
    old = {**HEADERS, "date": formatdate(NOW - 90, usegmt=True), "age": "90"}
    assert examined(answer(headers=old)).clock_difference_s == 0


def test_compromised_key_in_a_cache_fails() -> None:
    """The one thing that the runbook looks for."""
    dropped = after(STEADY, compromise_key(STEADY, "a"), "c")
    finding = worst(examined(answer(*GOOD), dropped))
    assert (finding.level, finding.detail) == ("fail", "a is compromised and still served")
    assert "purge" in finding.fix


def test_key_made_a_moment_ago_may_be_missing_for_a_while() -> None:
    """A cache may be as old as it was promised; afterwards the same is a failure."""
    rotating = after(STEADY, start_rotation(STEADY), "c")
    rotating = replace(
        rotating,
        keys=tuple(
            replace(one, published_at=NOW) if one.kid == "c" else one for one in rotating.keys
        ),
    )
    assert worst(examined(answer(), rotating)).level == "warn"
    later = replace(rotating, now=NOW + POLICY.least_lead_s + 1)
    assert worst(examined(answer(), later)).level == "fail"


def test_foreign_text_is_shown_escaped_and_short() -> None:
    """A terminal must not be steered by what a gateway answers."""
    evil = "\x1b[2J" + "x" * 500
    finding = worst(examined(answer(*GOOD, jwk(evil, 5))))
    assert "\x1b" not in finding.detail
    assert len(finding.detail) < 200


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://auth.example", URL),
        ("https://auth.example/", URL),
        ("https://example/auth", "https://example/auth/.well-known/jwks.json"),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080/.well-known/jwks.json"),
        (URL, URL),
        ("https://x/keys.json?v=1", "https://x/keys.json?v=1"),
    ],
)
def test_address_of_the_jwks(address: str, url: str) -> None:
    """From the base of a server, or as it stands."""
    assert jwks_url(address) == url


@pytest.mark.parametrize(
    "address",
    [
        "auth.example",
        "ftp://x",
        "https://",
        "http://[",
        "https://x/?a",
        "https://x#a",
        "https://x y",
    ],
)
def test_bad_address_is_a_usage_error(address: str) -> None:
    """One clear line, exit code 2."""
    with pytest.raises(OperatorError) as caught:
        jwks_url(address)
    assert caught.value.exit_code == 2
