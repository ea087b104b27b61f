"""Revocation seen by a service: lists over time (draft-ietf-oauth-status-list-21 §8.3, §13.6)."""

import asyncio
import os
import threading
import time
from collections.abc import Mapping

import pytest

from tests.verify import forge
from tests.verify.key_servers import down, kid_of, token_of, wait_until
from tests.verify.list_servers import TTL_S, ListIssuer, list_uri, status_token
from token_server.verify import (
    KeysUnavailableError,
    Reason,
    StatusChecking,
    StatusUnavailableError,
    TokenError,
    Verifier,
)


def refusal(verifier: Verifier, token: str) -> Reason:
    with pytest.raises(TokenError) as caught:
        verifier.verify_sync(token)
    return caught.value.reason


def let_refresh(issuer: ListIssuer, verifier: Verifier) -> None:
    """One `ttl` passes, and the next token finds it out; that of nobody's interest."""
    issuer.now += TTL_S
    verifier.verify_sync(token_of(jti="passer-by"))


def test_revoked_token_is_refused_and_its_neighbours_are_not() -> None:
    """§8.3: the entry at `idx`, counted from the lowest bit."""
    issuer = ListIssuer(revoked={"s0": {0, 9, 8191}})
    verifier = issuer.verifier()

    for index in (0, 9, 8191):
        assert refusal(verifier, status_token(index)) == Reason.STATUS_REVOKED
    for index in (1, 8, 10, 7, 8190):
        assert verifier.verify_sync(status_token(index)).client_id == "web-shop"
    assert issuer.lists_fetched() == 1


def test_remembered_token_is_refused_within_one_ttl_of_its_revocation() -> None:
    """The cache of verified tokens is no way around the list."""
    issuer = ListIssuer()
    verifier = issuer.verifier()
    token = status_token(5)
    verifier.verify_sync(token)
    issuer.revoked["s0"].add(5)
    assert verifier.verify_sync(token).token_id

    issuer.now += TTL_S
    assert refusal(verifier, token) == Reason.STATUS_REVOKED
    assert verifier.stats().cached_tokens == 1


def test_list_is_refreshed_behind_the_back_of_requests() -> None:
    """At three quarters of `ttl`: while the new list is on its way, nobody waits."""
    issuer = ListIssuer()
    verifier = issuer.verifier()
    token = status_token(5)
    verifier.verify_sync(token)
    issuer.gate = threading.Event()
    issuer.now += 9
    begun = time.monotonic()
    for _ in range(3):
        verifier.verify_sync(token)
    assert time.monotonic() - begun < 2
    issuer.gate.set()
    wait_until(lambda: verifier.stats().status[0].newest_age_s == 0)
    assert issuer.lists_fetched() == 2


def test_list_of_another_name_is_fetched_when_a_token_names_it() -> None:
    """The newest list is had anyway, older ones on first need."""
    issuer = ListIssuer(revoked={"m0": {3}, "s0": {4}, "s1": set()})
    verifier = issuer.verifier()
    verifier.start_sync()
    assert (issuer.lists_fetched("s1"), issuer.lists_fetched("s0")) == (1, 0)

    assert refusal(verifier, status_token(4, name="s0")) == Reason.STATUS_REVOKED
    assert refusal(verifier, status_token(3, name="m0")) == Reason.STATUS_REVOKED
    assert verifier.verify_sync(status_token(4, name="s1")).token_id
    assert verifier.stats().status[0].lists == 3


def test_forger_who_leaves_status_out_is_refused_within_one_ttl() -> None:
    """A stolen key that still sits in the cached JWKS: named by the list, refused without any
    `status` claim, remembered or new, and for good."""
    issuer = ListIssuer(names=("good", "leaked"))
    verifier = issuer.verifier()
    forged = token_of("leaked", jti="forged")
    verifier.verify_sync(forged)

    issuer.revoked_kids = [kid_of("leaked")]
    issuer.now += TTL_S
    assert refusal(verifier, forged) == Reason.KID_COMPROMISED
    assert refusal(verifier, token_of("leaked", jti="another")) == Reason.KID_COMPROMISED
    assert verifier.verify_sync(token_of()).token_id

    issuer.revoked_kids = []
    let_refresh(issuer, verifier)
    assert refusal(verifier, forged) == Reason.KID_COMPROMISED
    assert verifier.stats().status[0].revoked_kids == (kid_of("leaked"),)


def test_compromised_key_signs_no_lists_either() -> None:
    """What it signed before is forgotten, what it signs now is not believed."""
    issuer = ListIssuer(
        names=("good", "leaked"), signer="leaked", revoked={"s0": set(), "s1": set()}
    )
    verifier = issuer.verifier()
    old = status_token(5, name="s0")
    verifier.verify_sync(old)
    issuer.signer, issuer.revoked_kids = "good", [kid_of("leaked")]
    let_refresh(issuer, verifier)

    issuer.signer, issuer.revoked_kids = "leaked", []
    assert refusal(verifier, old) == Reason.STATUS_UNAVAILABLE
    issuer.signer = "good"
    issuer.now += 20
    assert verifier.verify_sync(old).token_id


def test_key_cannot_call_itself_compromised() -> None:
    """Whoever holds a stolen key could else make services refuse the others."""
    issuer = ListIssuer(names=("good", "other"), revoked_kids=[kid_of("good"), kid_of("other")])
    verifier = issuer.verifier()
    assert refusal(verifier, token_of()) == Reason.STATUS_UNAVAILABLE
    assert verifier.stats().status[0].revoked_kids == ()


def test_list_of_a_new_key_is_verified_after_a_refetch_of_the_keys() -> None:
    """A rotation while the key set is fresh: an unknown `kid` asks the issuer once."""
    issuer = ListIssuer()
    verifier = issuer.verifier()
    verifier.verify_sync(status_token(5))
    issuer.names, issuer.signer, issuer.revoked = ("good", "next"), "next", {"s0": {5}}
    issuer.now += TTL_S
    assert refusal(verifier, status_token(5)) == Reason.STATUS_REVOKED


def test_outage_is_tolerated_for_as_long_as_was_chosen_and_then_refused() -> None:
    """`fail_open_for_s`, counted from the last good fetch; 503 and not 401, for all tokens."""
    issuer = ListIssuer(revoked={"s0": {7}})
    verifier = issuer.verifier(fail_open_for_s=50)
    token = status_token(5)
    verifier.verify_sync(token)
    issuer.problem = down()

    for _ in range(4):
        issuer.now += 12
        assert verifier.verify_sync(token).token_id
        assert refusal(verifier, status_token(7)) == Reason.STATUS_REVOKED
    issuer.now += 12
    with pytest.raises(StatusUnavailableError) as caught:
        verifier.verify_sync(token)
    assert (caught.value.status, caught.value.reason) == (503, Reason.STATUS_UNAVAILABLE)
    assert 1 <= caught.value.retry_after_s <= 60
    assert isinstance(caught.value, KeysUnavailableError)
    assert refusal(verifier, token_of()) == Reason.STATUS_UNAVAILABLE

    issuer.problem = None
    issuer.now += 20
    assert verifier.verify_sync(token).token_id


def test_no_tolerance_means_none() -> None:
    """fail_open_for_s=0: refused as soon as the `ttl` is over."""
    issuer = ListIssuer()
    verifier = issuer.verifier(fail_open_for_s=0)
    verifier.verify_sync(status_token(5))
    issuer.problem = down()
    issuer.now += TTL_S
    assert refusal(verifier, status_token(5)) == Reason.STATUS_UNAVAILABLE


def test_server_that_was_restarted_is_followed_on() -> None:
    """A break of a few seconds: failures back off, and the next list counts."""
    issuer = ListIssuer()
    verifier = issuer.verifier()
    token = status_token(5)
    verifier.verify_sync(token)
    issuer.problem = down("ConnectionRefusedError")
    issuer.now += TTL_S
    verifier.verify_sync(token)
    issuer.problem, issuer.revoked = None, {"s0": {5}}
    issuer.now += 11
    verifier.verify_sync(token_of())
    wait_until(lambda: verifier.stats().status[0].newest_age_s == 0)
    assert refusal(verifier, token) == Reason.STATUS_REVOKED


def test_token_without_status_is_refused_where_it_is_required() -> None:
    """`require_status`."""
    issuer = ListIssuer()
    assert issuer.verifier().verify_sync(token_of()).token_id
    assert refusal(issuer.verifier(require_status=True), token_of()) == Reason.STATUS_MISSING
    assert issuer.verifier(require_status=True).verify_sync(status_token(1)).token_id


def listed(**members: object) -> Mapping[str, object]:
    return {"status_list": forge.changed({"idx": 1, "uri": list_uri()}, members)}


ELSEWHERE = {
    "another_host": "https://evil.example/oauth2/status-lists/s0",
    "longer_host": "https://auth.example.evil.example/oauth2/status-lists/s0",
    "user_in_front": "https://auth.example@evil.example/s0",
    "scheme": "http://auth.example/oauth2/status-lists/s0",
    "port": "https://auth.example:444/oauth2/status-lists/s0",
    "case": "https://AUTH.example/oauth2/status-lists/s0",
    "issuer_itself": "https://auth.example/",
    "dots": "https://auth.example/../x",
    "hidden_dots": "https://auth.example/%2e%2e/x",
    "inner_dots": "https://auth.example/a/../x",
    "double_slash": "https://auth.example//x",
    "query": "https://auth.example/oauth2/status-lists/s0?x=1",
    "fragment": "https://auth.example/oauth2/status-lists/s0#x",
    "line_break": "https://auth.example/oauth2/status-lists/s0\n",
    "long": "https://auth.example/" + "a" * 2000,
    "empty": "",
}
BAD_CLAIMS: dict[str, object] = {
    **{f"uri_{name}": listed(uri=uri) for name, uri in ELSEWHERE.items()},
    "uri_number": listed(uri=1),
    "uri_missing": listed(uri=forge.REMOVED),
    "idx_missing": listed(idx=forge.REMOVED),
    "idx_negative": listed(idx=-1),
    "idx_float": listed(idx=1.0),
    "idx_true": listed(idx=True),
    "idx_text": listed(idx="1"),
    "idx_huge": listed(idx=2**40),
    "idx_behind_the_list": listed(idx=8192),
    "null": None,
    "text": "revoked",
    "empty": {},
    "other_mechanism": {"crl": {}},
    "list": {"status_list": []},
}


@pytest.mark.parametrize("claim", BAD_CLAIMS.values(), ids=BAD_CLAIMS)
def test_claim_that_names_no_entry_of_the_issuers_lists_is_refused(claim: object) -> None:
    """§8.3; and the service asks nobody but the issuer, whatever a token says."""
    issuer = ListIssuer()
    verifier = issuer.verifier()
    assert refusal(verifier, token_of(status=claim)) == Reason.STATUS_INVALID
    assert {path.split("/")[1] for path in issuer.fetched} <= {".well-known", "jwks", "oauth2"}


def test_issuer_without_lists_is_asked_for_none() -> None:
    """Another server's metadata: tokens are verified as ever."""
    issuer = ListIssuer(offers_lists=False)
    assert issuer.verifier().verify_sync(token_of()).token_id
    assert len(issuer.fetched) == 2


def test_local_keys_ask_for_no_lists_unless_told_where_they_are() -> None:
    """No network by default; with `StatusChecking(lists_uri=...)` lists are followed."""
    assert forge.verifier().verify_sync(status_token(1, key="good")).token_id
    assert forge.verifier().stats().status == ()
    issuer = ListIssuer(revoked={"s0": {1}})
    told = Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        keys=forge.key_set(),
        status=StatusChecking(lists_uri=f"{forge.ISSUER}/oauth2/status-lists"),
        fetcher=issuer,
        clock=lambda: forge.NOW,
    )
    assert refusal(told, status_token(1)) == Reason.STATUS_REVOKED
    assert issuer.fetched == ["/oauth2/status-lists", "/oauth2/status-lists/s0"]


def test_revocation_can_be_left_out() -> None:
    """status="off": a choice that is written down."""
    issuer = ListIssuer(revoked={"s0": {1}})
    verifier = Verifier(
        issuer=forge.ISSUER,
        audience=forge.AUDIENCE,
        status="off",
        fetcher=issuer,
        clock=lambda: forge.NOW,
    )
    assert verifier.verify_sync(status_token(1)).token_id
    assert len(issuer.fetched) == 2


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"fail_open_for_s": -1}, "fail_open_for_s"),
        ({"fail_open_for_s": True}, "fail_open_for_s"),
        ({"fail_open_for_s": float("nan")}, "fail_open_for_s"),
        ({"require_status": "yes"}, "require_status"),
        ({"lists_uri": "https://evil.example/lists"}, "lists_uri"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, object], problem: str) -> None:
    """A slip here would be an open door."""
    with pytest.raises(ValueError, match=problem):
        Verifier(
            issuer=forge.ISSUER,
            audience=forge.AUDIENCE,
            status=StatusChecking(**settings),  # type: ignore[arg-type]  # that is the point
        )


async def test_thousand_coroutines_cause_one_fetch_and_block_no_loop() -> None:
    """Single flight, from an empty start to the answer."""
    issuer = ListIssuer(revoked={"s0": {5}})
    issuer.gate = threading.Event()
    verifier = issuer.verifier()
    waiting = [asyncio.create_task(verifier.verify(status_token(n % 4))) for n in range(1000)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    issuer.gate.set()
    assert len(await asyncio.gather(*waiting)) == 1000
    assert len(issuer.fetched) == len(set(issuer.fetched)) == 4
    with pytest.raises(TokenError):
        await verifier.verify(status_token(5))


def test_number_of_lists_is_bounded() -> None:
    """256; what nobody asks for goes first, and the newest is had again when it is needed."""
    issuer = ListIssuer(revoked={f"s{number}": {1} for number in range(300)})
    verifier = issuer.verifier()
    for number in range(300):
        assert refusal(verifier, status_token(1, name=f"s{number}")) == Reason.STATUS_REVOKED
    assert verifier.stats().status[0].lists == 256
    assert refusal(verifier, status_token(1, name="s0")) == Reason.STATUS_REVOKED
    assert issuer.lists_fetched("s0") == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_process_fetches_for_itself() -> None:
    """A fork while a list is in the air leaves the child no thread to wait for."""
    issuer = ListIssuer()
    verifier = issuer.verifier()
    verifier.verify_sync(status_token(5))
    issuer.gate = threading.Event()
    issuer.now += 9
    verifier.verify_sync(status_token(5))
    child = os.fork()
    if child == 0:
        issuer.gate, issuer.revoked = None, {"s0": {5}}
        issuer.now += TTL_S
        os._exit(0 if _is_refused(verifier, status_token(5)) else 1)
    issuer.gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _is_refused(verifier: Verifier, token: str) -> bool:
    try:
        verifier.verify_sync(token)
    except TokenError as error:
        return error.reason == Reason.STATUS_REVOKED
    return False


def test_closed_verifier_fetches_no_list() -> None:
    """What is at hand serves until it is too old."""
    issuer = ListIssuer(revoked={"s0": set(), "s1": set()})
    verifier = issuer.verifier()
    verifier.start_sync()
    before = len(issuer.fetched)
    verifier.close()
    assert verifier.verify_sync(status_token(1, name="s1")).token_id
    assert refusal(verifier, status_token(1, name="s0")) == Reason.STATUS_UNAVAILABLE
    assert len(issuer.fetched) == before
