"""Grant token exchange over HTTP: what comes out, and what is refused (RFC 8693)."""

import json
import re
from collections.abc import Awaitable, Callable

import jwt
import pytest

from tests.support.contract import Contract
from tests.support.exchange import (
    BILLING,
    GATEWAY,
    LEDGER,
    ORDERS,
    REFUSED,
    SCOPES,
    Chain,
)
from tests.support.server import EMAIL, ISSUER, RunningServer
from tests.support.token_state import claims_of
from token_server.core.client_policy import TOKEN_EXCHANGE
from token_server.core.token_exchange import ACCESS_TOKEN_TYPE, API_KEY_TYPE
from token_server.records import Secret
from token_server.services.clients import disable_client
from token_server.services.sessions import revoke_session
from token_server.services.user_profile import set_roles
from token_server.services.users import disable_user, set_password

DECADE_S = 10 * 365 * 86400


@pytest.fixture
async def chain(server: RunningServer) -> Chain:
    return await Chain.make(server)


@pytest.fixture
async def sqlite_chain(sqlite_server: RunningServer) -> Chain:
    return await Chain.make(sqlite_server)


async def test_exchanged_token_says_for_whom_and_by_whom(chain: Chain) -> None:
    """RFC 8693 §2.2.1, §4.1: the subject, login and position of the caller's token; no refresh
    token, and an `act` around nobody so far."""
    subject_token = await chain.login()
    answer = await chain.ask("gateway", subject_token, scope="orders:read")
    body = answer.json()
    assert body.keys() == {
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "issued_token_type",
    }
    assert (body["issued_token_type"], body["token_type"]) == (ACCESS_TOKEN_TYPE, "Bearer")
    assert answer.headers["cache-control"] == "no-store"
    claims, before = claims_of(body["access_token"]), claims_of(subject_token)
    assert re.fullmatch(r"[\w-]{22}", claims["jti"], re.ASCII)
    assert claims.pop("jti") != before["jti"]
    now = chain.server.clock.now()
    assert claims == {
        "iss": ISSUER,
        "sub": before["sub"],
        "aud": ORDERS,
        "iat": now,
        "exp": now + 900,
        "client_id": "gateway",
        "scope": "orders:read",
        "sid": before["sid"],
        "auth_time": before["auth_time"],
        "status": before["status"],
        "act": {"sub": "gateway"},
    }


async def test_answers_are_as_the_openapi_document_describes(sqlite_chain: Chain) -> None:
    """The form, a token, and each refusal that an exchange has."""
    server, token = sqlite_chain.server, await sqlite_chain.login()
    contract = Contract((await server.http.get("/openapi.json")).json())
    form = contract.document["components"]["schemas"]["TokenExchangeForm"]
    assert form["properties"]["subject_token_type"]["enum"] == [ACCESS_TOKEN_TYPE, API_KEY_TYPE]
    assert form["required"] == ["grant_type", "subject_token", "subject_token_type"]
    assert contract.check(await sqlite_chain.ask("gateway", token)).status_code == 200
    refused = {
        "invalid_request": await sqlite_chain.ask("gateway", "x.y.z"),
        "invalid_target": await sqlite_chain.ask("gateway", token, audience=LEDGER),
        "invalid_scope": await sqlite_chain.ask("gateway", token, scope="admin"),
        "unauthorized_client": await sqlite_chain.ask("job", token),
    }
    for error, answer in refused.items():
        assert contract.check(answer).json()["error"] == error


async def test_exchange_writes_nothing(chain: Chain) -> None:
    """No row and no audit row for each call of a service: only the secrets' last use."""
    subject_token = await chain.login()
    await chain.through(subject_token)
    await chain.server.runtime.background.close()
    async with chain.server.runtime.store.read() as connection:
        families = await connection.exec_driver_sql("SELECT count(*) FROM families")
        assert families.scalar_one() == 1
        events = await connection.exec_driver_sql("SELECT event FROM audit_events ORDER BY id")
        assert [row[0] for row in events][-1] == "login.succeeded"


async def test_exchange_leaves_a_log_line_with_its_origin(
    sqlite_chain: Chain, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever follows a call through the services finds each token's parent by its `jti`."""
    subject_token = await sqlite_chain.login()
    exchanged = await sqlite_chain.exchange("gateway", subject_token)
    body, _ = sqlite_chain.server.runtime.metrics.render()
    assert f'grant="{TOKEN_EXCHANGE}",outcome="issued"}} 1.0' in body.decode()
    printed = capfd.readouterr().err
    (line,) = [text for text in printed.splitlines() if "exchanged_from" in text]
    issued, before = json.loads(line), claims_of(subject_token)
    assert issued["event"] == "access_token_issued"
    assert issued["jti"] == claims_of(exchanged)["jti"]
    assert issued["exchanged_from"] == before["jti"]
    assert (issued["client_id"], issued["subject"]) == ("gateway", before["sub"])
    assert (issued["audience"], issued["sid"]) == (ORDERS, before["sid"])
    assert subject_token not in printed
    assert exchanged not in printed


# --- 209: whose token, and whether it is good -----------------------------------------------------

Make = Callable[[Chain], Awaitable[str]]


async def expired(chain: Chain) -> str:
    token = await chain.login()
    chain.server.clock.advance(900)
    return token


async def session_ended(chain: Chain) -> str:
    token = await chain.login()
    await revoke_session(chain.server.runtime, claims_of(token)["sid"])
    return token


async def user_disabled(chain: Chain) -> str:
    token = await chain.login()
    await disable_user(chain.server.runtime, EMAIL)
    return token


async def password_changed(chain: Chain) -> str:
    token = await chain.login()
    await set_password(chain.server.runtime, EMAIL, Secret("another password 1"))
    return token


async def machine_disabled(chain: Chain) -> str:
    token = await chain.machine("job")
    await disable_client(chain.server.runtime, "job")
    return token


async def machine_given_back(chain: Chain) -> str:
    token = await chain.machine("job")
    await chain.world.give_back("job", token)
    return token


async def meter_given_back(chain: Chain) -> str:
    token = await chain.machine("meter")
    await chain.world.give_back("meter", token)
    return token


async def for_another(chain: Chain) -> str:
    return await chain.exchange("gateway", await chain.login())  # is for ORDERS


async def of_another_client(chain: Chain) -> str:
    """Meant for nobody here: the gateway only got to see it."""
    return await chain.machine("orders")


async def refresh_token(chain: Chain) -> str:
    return str((await chain.server.login("app"))["refresh_token"])


async def tampered(chain: Chain) -> str:
    token = await chain.login()
    head, payload, signature = token.split(".")
    return ".".join((head, payload[:-4] + "AAAA", signature))


async def unsigned(chain: Chain) -> str:
    return jwt.encode(claims_of(await chain.login()), "", algorithm="none")


async def of_another_issuer(chain: Chain) -> str:
    claims = claims_of(await chain.login())
    return chain.world.signed({**claims, "iss": "https://other.example"})


async def another_typ(chain: Chain) -> str:
    return chain.world.signed(claims_of(await chain.login()), "token-introspection+jwt")


async def session_of_somebody_else(chain: Chain) -> str:
    claims = claims_of(await chain.login())
    return chain.world.signed({**claims, "sub": "usr_" + "x" * 22})


async def issued_after_its_end(chain: Chain) -> str:
    claims = claims_of(await chain.login())
    return chain.world.signed({**claims, "iat": claims["iat"] + DECADE_S})


async def junk(chain: Chain) -> str:
    return "é.b.c"


async def client_secret(chain: Chain) -> str:
    return chain.server.secrets["gateway"]


SUBJECTS: dict[str, tuple[Make, str]] = {
    make.__name__: (make, reason)
    for make, reason in (
        (expired, "subject_token_refused"),
        (session_ended, "subject_token_refused"),
        (user_disabled, "subject_token_refused"),
        (password_changed, "subject_token_refused"),
        (machine_disabled, "subject_token_refused"),
        (machine_given_back, "subject_token_refused"),
        (meter_given_back, "subject_token_refused"),
        (refresh_token, "subject_token_refused"),
        (tampered, "subject_token_refused"),
        (unsigned, "subject_token_refused"),
        (of_another_issuer, "subject_token_refused"),
        (another_typ, "subject_token_refused"),
        (session_of_somebody_else, "subject_token_refused"),
        (issued_after_its_end, "subject_token_refused"),
        (junk, "subject_token_refused"),
        (client_secret, "subject_token_refused"),
        (for_another, "subject_token_for_another"),
        (of_another_client, "subject_token_for_another"),
    )
}


@pytest.mark.parametrize(
    ("make", "reason"), SUBJECTS.values(), ids=[f"L209_{name}" for name in SUBJECTS]
)
async def test_subject_token_that_is_not_good_is_refused(
    sqlite_chain: Chain, make: Make, reason: str
) -> None:
    """One answer for all reasons (RFC 8693 §2.2.2), and one audit event with the reason."""
    # `orders` is called by nobody with these: only ORDERS' own would be for it.
    client_id = "billing" if make is for_another else "gateway"
    token = await make(sqlite_chain)
    answer = await sqlite_chain.ask(client_id, token)
    assert (answer.status_code, answer.json()) == (400, REFUSED)
    assert await sqlite_chain.reasons() == [reason]


@pytest.mark.parametrize("make", [session_ended, user_disabled, machine_disabled, meter_given_back])
async def test_subject_that_has_ended_is_refused_on_both_engines(chain: Chain, make: Make) -> None:
    """L209: as the database has it at that moment, not as the token says."""
    answer = await chain.ask("gateway", await make(chain))
    assert (answer.status_code, answer.json()) == (400, REFUSED)


# --- 210: what is asked for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "asked", "granted"),
    [
        (SCOPES, None, "orders:read"),
        (("orders:read", "bills:read"), None, "orders:read"),
        (SCOPES, "orders:read", "orders:read"),
        ((), "orders:read", None),
        (("orders:write",), "orders:read", None),  # not the subject's
        (SCOPES, "orders:write", None),  # not the client's
        (("orders:write",), None, None),  # nothing in common
        (SCOPES, "orders:read admin", None),
        (SCOPES, "orders:read  orders:read", None),
    ],
)
async def test_scope_is_what_both_subject_and_client_have(
    sqlite_chain: Chain, login: tuple[str, ...], asked: str | None, granted: str | None
) -> None:
    """L210: asked for or not, never more than either; an empty rest is no token at all."""
    await sqlite_chain.server.add_client(
        "narrow",
        grant_types=(TOKEN_EXCHANGE,),
        scopes=("orders:read", "unknown"),
        serves_audiences=(GATEWAY,),
        exchange_audiences=(ORDERS,),
    )
    claims = claims_of(await sqlite_chain.login())
    subject_token = sqlite_chain.world.signed({**claims, "scope": " ".join(login)})
    answer = await sqlite_chain.ask(
        "narrow", subject_token, **({} if asked is None else {"scope": asked})
    )
    if granted is None:
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
        return
    assert answer.json()["scope"] == granted
    assert claims_of(answer.json()["access_token"])["scope"] == granted


async def test_subject_without_scope_gives_a_token_without(sqlite_chain: Chain) -> None:
    """Nothing is added: the next service decides by who it is."""
    claims = claims_of(await sqlite_chain.login())
    del claims["scope"]
    answer = await sqlite_chain.ask("gateway", sqlite_chain.world.signed(claims))
    assert "scope" not in answer.json()
    assert "scope" not in claims_of(answer.json()["access_token"])


@pytest.mark.parametrize(
    ("client_id", "form", "outcome"),
    [
        ("gateway", {}, ORDERS),  # the only one there is
        ("gateway", {"audience": ORDERS}, ORDERS),
        ("gateway", {"resource": ORDERS}, ORDERS),
        ("gateway", {"resource": ORDERS, "audience": ORDERS}, ORDERS),
        ("gateway", {"audience": BILLING}, "invalid_target"),
        ("gateway", {"audience": GATEWAY}, "invalid_target"),  # its own is no reason
        ("gateway", {"audience": ORDERS + "/"}, "invalid_target"),
        ("gateway", {"audience": f"{ORDERS} {BILLING}"}, "invalid_target"),
        ("gateway", {"resource": BILLING}, "invalid_target"),
        ("gateway", {"resource": "orders"}, "invalid_target"),
        ("gateway", {"resource": ORDERS, "audience": BILLING}, "invalid_request"),
    ],
)
async def test_target_is_one_that_the_client_may_act_for(
    sqlite_chain: Chain, client_id: str, form: dict[str, str], outcome: str
) -> None:
    """L210: RFC 8693 §2.1, §2.2.2; one service per token, compared as text."""
    answer = await sqlite_chain.ask(client_id, await sqlite_chain.login(), **form)
    if outcome.startswith("https:"):
        assert claims_of(answer.json()["access_token"])["aud"] == outcome
        return
    assert (answer.status_code, answer.json()["error"]) == (400, outcome)


async def test_client_with_several_targets_has_to_name_one(sqlite_chain: Chain) -> None:
    """None is as likely to be meant as the other; two at once are a repeated parameter."""
    token = await sqlite_chain.exchange("gateway", await sqlite_chain.login())
    assert (await sqlite_chain.ask("orders", token)).json()["error"] == "invalid_target"
    for audience in (BILLING, LEDGER):
        assert (await sqlite_chain.claims("orders", token, audience=audience))["aud"] == audience
    both = await sqlite_chain.server.http.post(
        "/oauth2/token",
        content=f"grant_type={TOKEN_EXCHANGE}&subject_token={token}&subject_token_type="
        f"{ACCESS_TOKEN_TYPE}&audience={BILLING}&audience={LEDGER}",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        auth=("orders", sqlite_chain.server.secrets["orders"]),
    )
    assert both.json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("ttl_s", "passed_s", "lives_s"),
    [(None, 0, 900), (None, 600, 300), (60, 600, 60), (60, 890, 10)],
)
async def test_token_never_outlives_its_subject(
    sqlite_chain: Chain, ttl_s: int | None, passed_s: int, lives_s: int
) -> None:
    """L210: by the lifetime of the acting client's tokens, by the subject's `exp` at the most."""
    await sqlite_chain.server.add_client(
        "brief",
        grant_types=(TOKEN_EXCHANGE,),
        scopes=SCOPES,
        serves_audiences=(GATEWAY,),
        exchange_audiences=(ORDERS,),
        access_token_ttl_s=ttl_s,
    )
    subject_token = await sqlite_chain.login()
    sqlite_chain.server.clock.advance(passed_s)
    answer = await sqlite_chain.ask("brief", subject_token)
    claims = claims_of(answer.json()["access_token"])
    assert answer.json()["expires_in"] == claims["exp"] - claims["iat"] == lives_s
    assert claims["exp"] <= claims_of(subject_token)["exp"]


async def test_roles_are_those_that_token_and_user_both_have(sqlite_chain: Chain) -> None:
    """Taken away since: gone at once; given since: from the next refresh on, as everywhere."""
    runtime = sqlite_chain.server.runtime
    await set_roles(runtime, EMAIL, ["clerk", "auditor"])
    subject_token = await sqlite_chain.login()
    assert (await sqlite_chain.claims("gateway", subject_token))["roles"] == ["auditor", "clerk"]
    await set_roles(runtime, EMAIL, ["clerk", "boss"])
    assert (await sqlite_chain.claims("gateway", subject_token))["roles"] == ["clerk"]
    await set_roles(runtime, EMAIL, [])
    assert "roles" not in await sqlite_chain.claims("gateway", subject_token)


# --- the form of the request ---------------------------------------------------------------------

JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"


@pytest.mark.parametrize(
    "form",
    [
        {"subject_token": ""},
        {"subject_token_type": ""},
        {"subject_token_type": JWT_TYPE},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        {"subject_token_type": API_KEY_TYPE},  # which the token is not
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        {"requested_token_type": JWT_TYPE},
        {"actor_token": "x"},
        {"actor_token_type": ACCESS_TOKEN_TYPE},
        {"actor_token": "x", "actor_token_type": ACCESS_TOKEN_TYPE},
        {"actor_token": "x", "actor_token_type": API_KEY_TYPE},
    ],
)
async def test_request_of_another_form_is_refused(
    sqlite_chain: Chain, form: dict[str, str]
) -> None:
    """RFC 8693 §2.1: access tokens and API keys in, access tokens out."""
    answer = await sqlite_chain.ask("gateway", await sqlite_chain.login(), **form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_what_may_be_left_out_may_be_said(sqlite_chain: Chain) -> None:
    """`requested_token_type` and an actor token of the client's own change nothing."""
    claims = await sqlite_chain.claims(
        "gateway",
        await sqlite_chain.login(),
        requested_token_type=ACCESS_TOKEN_TYPE,
        actor_token=await sqlite_chain.machine("gateway"),
        actor_token_type=ACCESS_TOKEN_TYPE,
    )
    assert claims["act"] == {"sub": "gateway"}


async def test_nobody_else_is_made_the_actor(sqlite_chain: Chain) -> None:
    """RFC 8693 §2.1: another client's, a user's, and one that the client has for somebody else."""
    subject_token = await sqlite_chain.login()
    actors = (
        await sqlite_chain.machine("orders"),
        subject_token,
        await sqlite_chain.exchange("gateway", subject_token),
    )
    for actor_token in actors:
        answer = await sqlite_chain.ask(
            "gateway",
            subject_token,
            actor_token=actor_token,
            actor_token_type=ACCESS_TOKEN_TYPE,
        )
        assert (answer.status_code, answer.json()) == (400, REFUSED)
    assert await sqlite_chain.reasons() == ["actor_token_refused"] * 3


async def test_only_clients_with_the_grant_exchange(sqlite_chain: Chain) -> None:
    """RFC 6749 §5.2; Dex did not ask its policy (GHSA-7qjx-gp9h-65qj)."""
    token = await sqlite_chain.login()
    for client_id in ("job", "app"):
        answer = await sqlite_chain.ask(client_id, token, audience=ORDERS)
        assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    stranger = await sqlite_chain.ask("nobody", token)
    assert (stranger.status_code, stranger.json()["error"]) == (401, "invalid_client")
