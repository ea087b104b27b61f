"""Claims of a token: group B of the attack cases."""

import math

import pytest

from tests.verify import forge
from token_server.verify import Policy, Reason

NOW = forge.NOW
NOT_STRINGS: dict[str, object] = {
    "missing": forge.REMOVED,
    "null": None,
    "true": True,
    "number": 1,
    "list": ["x"],
    "object": {"x": 1},
}


def test_claims_are_typed_and_complete() -> None:
    """RFC 9068 2.2: each claim under its name, whatever is left in `extra`."""
    claims = forge.verifier().verify_sync(forge.token(status={"status_list": {"idx": 1}}))

    assert claims.issuer == forge.ISSUER
    assert claims.subject == "usr_7vY0cQ2mS8dK4pL1xW3nZa"
    assert claims.client_id == "web-shop"
    assert claims.scopes == ("orders:read", "orders:write")
    assert claims.audience == (forge.AUDIENCE,)
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + 900)
    assert claims.token_id == "Zk3vH0sQb1mN8rT5yU2wXg"
    assert claims.session_id == "ses_4fG6hJ8kL0zX2cV4bN6mQw"
    assert claims.roles == ("clerk",)
    assert claims.auth_time == NOW - 60
    assert claims.extra == {"status": {"status_list": {"idx": 1}}}


def test_machine_token_has_no_session() -> None:
    """Tokens of client_credentials carry neither `sid` nor `auth_time` nor `roles`."""
    removed = dict.fromkeys(("sid", "auth_time", "roles", "scope"), forge.REMOVED)
    claims = forge.verifier().verify_sync(forge.token(removed, sub="web-shop"))

    assert (claims.session_id, claims.auth_time, claims.roles, claims.scopes) == (
        None,
        None,
        (),
        (),
    )


def test_claims_cannot_be_changed() -> None:
    """A handler that changes its caller's rights by mistake gets an error."""
    claims = forge.verifier().verify_sync(forge.token(tenant="a"))

    with pytest.raises(AttributeError):
        claims.subject = "admin"  # type: ignore[misc]  # that is the point
    with pytest.raises(TypeError):
        claims.extra["tenant"] = "b"  # type: ignore[index]  # that is the point


INSTANTS: dict[str, str | None] = {
    "missing": None,
    "null": "null",
    "true": "true",
    "false": "false",
    "list": "[1800000900]",
    "object": "{}",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus_Infinity": "-Infinity",
    "1e400": "1e400",
    "string": '"1800000900"',
    "string_with_spaces": '" 1 "',
    "string_underscore": '"1_0"',
    "arabic_indic_digits": '"\u0661\u0668\u0660\u0660\u0660\u0660\u0660\u0669\u0660\u0660"',
    "10_to_400": "1" + "0" * 400,
    "10_to_5000": "1" + "0" * 5000,
    "minus_1": "-1",
    "2_to_63": str(2**63),
    "2_to_64": str(2**64),
    "year_10000": "253402300800",
    "fraction": "1800000900.5",
    "integral_float": "1800000900.0",
    "exponent": "18e8",
}


def _with_raw_claim(name: str, raw: str | None) -> str:
    payload = forge.compact_json(forge.claims(**{name: forge.REMOVED})).decode()
    if raw is not None:
        payload = f'{payload[:-1]},"{name}":{raw}}}'
    return forge.seal_bytes(forge.compact_json(forge.header()), payload.encode())


def _expected(kind: Reason, raw: str | None) -> Reason:
    if raw in {"NaN", "Infinity", "-Infinity", "1e400"}:
        return Reason.NUMBER_UNBOUNDED
    return Reason.NOT_JSON if raw is not None and len(raw) > 4300 else kind


@pytest.mark.parametrize("raw", INSTANTS.values(), ids=[f"B43_exp_{name}" for name in INSTANTS])
def test_exp_that_is_no_instant_is_refused(raw: str | None) -> None:
    """RFC 7519 4.1.4: an integer from 0 to the year 9999, required (RFC 9068 2.2)."""
    assert forge.refusal(_with_raw_claim("exp", raw)) == _expected(Reason.EXP_INVALID, raw)


@pytest.mark.parametrize("raw", INSTANTS.values(), ids=[f"B47_iat_{name}" for name in INSTANTS])
def test_iat_that_is_no_instant_is_refused(raw: str | None) -> None:
    """RFC 9068 2.2: required, and of the same type."""
    assert forge.refusal(_with_raw_claim("iat", raw)) == _expected(Reason.IAT_INVALID, raw)


PRESENT = {name: raw for name, raw in INSTANTS.items() if raw is not None}


@pytest.mark.parametrize("raw", PRESENT.values(), ids=[f"B46_nbf_{name}" for name in PRESENT])
def test_nbf_that_is_no_instant_is_refused(raw: str) -> None:
    """RFC 7519 4.1.5: optional, but never of another type."""
    assert forge.refusal(_with_raw_claim("nbf", raw)) == _expected(Reason.NBF_INVALID, raw)


@pytest.mark.parametrize("raw", PRESENT.values(), ids=[f"auth_time_{name}" for name in PRESENT])
def test_auth_time_that_is_no_instant_is_refused(raw: str) -> None:
    """RFC 9068 2.2.1: optional, but never of another type."""
    reason = forge.refusal(_with_raw_claim("auth_time", raw))

    assert reason == _expected(Reason.AUTH_TIME_INVALID, raw)


LIFETIMES = {
    "B44_exp_now": (NOW - 900, NOW, 0, Reason.EXPIRED),
    "B44_exp_now_minus_1": (NOW - 900, NOW - 1, 0, Reason.EXPIRED),
    "B44_exp_at_leeway": (NOW - 900, NOW - 30, 30, Reason.EXPIRED),
    "B44_exp_beyond_leeway": (NOW - 900, NOW - 31, 30, Reason.EXPIRED),
    "B44_exp_zero": (0, 0, 0, Reason.EXPIRED),
    "B47_iat_after_exp": (NOW + 9, NOW + 8, 0, Reason.IAT_INVALID),
    "B47_iat_beyond_skew": (NOW + 11, NOW + 900, 0, Reason.IAT_IN_FUTURE),
    "B47_iat_beyond_skew_and_leeway": (NOW + 41, NOW + 900, 30, Reason.IAT_IN_FUTURE),
    "B43_exp_in_100_years": (NOW, NOW + 100 * 31_557_600, 0, Reason.LIFETIME_TOO_LONG),
    "lifetime_one_beyond": (NOW, NOW + 86_401, 0, Reason.LIFETIME_TOO_LONG),
}


@pytest.mark.parametrize(("iat", "exp", "leeway_s", "reason"), LIFETIMES.values(), ids=LIFETIMES)
def test_token_outside_its_lifetime_is_refused(
    iat: int, exp: int, leeway_s: int, reason: Reason
) -> None:
    """RFC 7519 4.1.4: `exp` is the first instant at which the token is dead."""
    policy = Policy(leeway_s=leeway_s)

    assert forge.refusal(forge.token(iat=iat, exp=exp), policy=policy) == reason


ALIVE = {
    "B44_exp_now_plus_1": (NOW - 900, NOW + 1, 0),
    "B44_exp_within_leeway": (NOW - 900, NOW - 29, 30),
    "B44_exp_within_cap": (NOW - 900, NOW - 59, 60),
    "B47_iat_at_skew": (NOW + 10, NOW + 900, 0),
    "B47_iat_at_skew_and_leeway": (NOW + 40, NOW + 900, 30),
    "lifetime_at_the_most": (NOW, NOW + 86_400, 0),
}


@pytest.mark.parametrize(("iat", "exp", "leeway_s"), ALIVE.values(), ids=ALIVE)
def test_token_within_its_lifetime_is_accepted(iat: int, exp: int, leeway_s: int) -> None:
    """The other side of each edge."""
    verifier = forge.verifier(policy=Policy(leeway_s=leeway_s))

    assert verifier.verify_sync(forge.token(iat=iat, exp=exp)).expires_at == exp


@pytest.mark.parametrize(
    ("nbf", "leeway_s"), [(NOW + 1, 0), (NOW + 31, 30)], ids=["B46_nbf_ahead", "B46_nbf_leeway"]
)
def test_nbf_in_the_future_is_refused(nbf: int, leeway_s: int) -> None:
    """RFC 7519 4.1.5."""
    assert forge.refusal(forge.token(nbf=nbf), policy=Policy(leeway_s=leeway_s)) == (
        Reason.NOT_YET_VALID
    )


def test_nbf_that_has_come_is_accepted() -> None:
    """RFC 7519 4.1.5: at the instant itself, and within the leeway."""
    assert forge.verifier().verify_sync(forge.token(nbf=NOW)).issued_at == NOW
    lenient = forge.verifier(policy=Policy(leeway_s=30))
    assert lenient.verify_sync(forge.token(nbf=NOW + 30)).issued_at == NOW


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf], ids=repr)
def test_broken_clock_refuses(now: float) -> None:
    """A clock that gives no instant must not make tokens immortal."""
    reason = forge.refusal(forge.token(nbf=NOW), now=now)

    assert reason in {Reason.EXPIRED, Reason.IAT_IN_FUTURE}


ISSUERS: dict[str, object] = {
    "missing": forge.REMOVED,
    "list": [forge.ISSUER],
    "null": None,
    "trailing_slash": forge.ISSUER + "/",
    "other_case": "https://Auth.example",
    "prefix": forge.ISSUER[:-1],
    "suffix": forge.ISSUER + ".evil.example",
    "percent_encoded": "https://auth%2Eexample",
    "homograph": "https://\u0430uth.example",
    "other_scheme": "http://auth.example",
    "default_port": "https://auth.example:443",
    "space": forge.ISSUER + " ",
    "empty": "",
}


@pytest.mark.parametrize("iss", ISSUERS.values(), ids=[f"B48_{name}" for name in ISSUERS])
def test_other_issuer_is_refused(iss: object) -> None:
    """RFC 8725 3.8, GHSA-75c5-xw7c-p5pm: the exact string and nothing near it."""
    assert forge.refusal(forge.token(iss=iss)) == Reason.ISS_REFUSED


AUDIENCES: dict[str, object] = {
    "other": "https://billing.example",
    "missing": forge.REMOVED,
    "null": None,
    "empty_string": "",
    "empty_list": [],
    "int": 1,
    "object": {forge.AUDIENCE: 1},
    "list_with_non_string": [forge.AUDIENCE, 1],
    "list_with_null": [forge.AUDIENCE, None],
    "nested_list": [[forge.AUDIENCE]],
    "list_of_others": ["https://billing.example", "https://auth.example"],
    "substring": forge.AUDIENCE[:-1],
    "superstring": forge.AUDIENCE + ".evil.example",
    "case": forge.AUDIENCE.upper(),
    "list_of_case": [forge.AUDIENCE.upper()],
    "joined": f"https://billing.example {forge.AUDIENCE}",
    "list_of_characters": list(forge.AUDIENCE),
}


@pytest.mark.parametrize("aud", AUDIENCES.values(), ids=[f"B49_{name}" for name in AUDIENCES])
def test_other_audience_is_refused(aud: object) -> None:
    """RFC 7519 4.1.3, CVE-2026-55669: a token for another service is no token here."""
    assert forge.refusal(forge.token(aud=aud)) == Reason.AUD_REFUSED


@pytest.mark.parametrize(
    "aud",
    [forge.AUDIENCE, [forge.AUDIENCE], ["https://billing.example", forge.AUDIENCE]],
    ids=["B49_string", "B49_list_of_one", "B49_list_of_two"],
)
def test_audience_that_names_us_is_accepted(aud: str | list[str]) -> None:
    """RFC 7519 4.1.3: a string or a list that holds the exact id."""
    claims = forge.verifier().verify_sync(forge.token(aud=aud))

    assert claims.audience == (tuple(aud) if isinstance(aud, list) else (aud,))


IDENTIFIERS = {
    "sub": Reason.SUB_INVALID,
    "client_id": Reason.CLIENT_ID_INVALID,
    "jti": Reason.JTI_INVALID,
    "sid": Reason.SID_INVALID,
}
BAD_IDENTIFIERS: dict[str, object] = {
    **NOT_STRINGS,
    "empty": "",
    "nul": "a\0b",
    "newline": "a\nb",
    "escape": "a\x1b[31m",
    "bidi": "a\u202eb",
    "zero_width": "a\u200bb",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"B51_{name}_{case}")
        for name in IDENTIFIERS
        for case, value in BAD_IDENTIFIERS.items()
        if (name, case) != ("sid", "missing")
    ],
)
def test_identifier_that_is_missing_or_odd_is_refused(name: str, value: object) -> None:
    """RFC 9068 2.2: `sub`, `client_id`, `jti` are required; all four go into logs."""
    assert forge.refusal(forge.token({name: value})) == IDENTIFIERS[name]


SCOPES: dict[str, object] = {
    **{name: value for name, value in NOT_STRINGS.items() if name != "missing"},
    "double_space": "a  b",
    "leading_space": " a",
    "trailing_space": "a ",
    "only_space": " ",
    "tab": "a\tb",
    "quote": 'a"b',
    "backslash": "a\\b",
    "not_ascii": "a\u00e9",
    "newline_at_the_end": "a\n",
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=[f"scope_{name}" for name in SCOPES])
def test_scope_outside_its_grammar_is_refused(scope: object) -> None:
    """RFC 6749 3.3, RFC 9068 2.2.3: one string, single spaces."""
    assert forge.refusal(forge.token(scope=scope)) == Reason.SCOPE_INVALID


def test_empty_scope_grants_nothing() -> None:
    """An issuer may write no scope as an empty string."""
    assert forge.verifier().verify_sync(forge.token(scope="")).scopes == ()


@pytest.mark.parametrize(
    "roles", ["admin", {"admin": 1}, [1], [["admin"]], [""], None, 1], ids=repr
)
def test_roles_that_are_no_list_of_names_are_refused(roles: object) -> None:
    """RFC 9068 2.2.3.1: as our issuer writes them."""
    assert forge.refusal(forge.token(roles=roles)) == Reason.ROLES_INVALID


CONFIRMATIONS: dict[str, object] = {
    "jkt": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
    "x5t": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},
    "empty": {},
    "null": None,
    "string": "jkt",
}


@pytest.mark.parametrize("cnf", CONFIRMATIONS.values(), ids=[f"B53_{n}" for n in CONFIRMATIONS])
def test_key_bound_token_is_refused_as_bearer(cnf: object) -> None:
    """RFC 9449 7.1: without the proof the token is just a stolen one."""
    assert forge.refusal(forge.token(cnf=cnf)) == Reason.CNF_UNPROVEN


def _act(depth: int) -> dict[str, object]:
    chain: dict[str, object] = {"sub": "actor"}
    for _ in range(depth - 1):
        chain = {"sub": "actor", "act": chain}
    return chain


ACTORS: dict[str, tuple[object, Reason]] = {
    "B54_9_deep": (_act(9), Reason.ACT_INVALID),
    "B54_25_deep": (_act(25), Reason.ACT_INVALID),
    "B54_400_deep": (_act(400), Reason.TOO_DEEP),
    "B54_string": ("actor", Reason.ACT_INVALID),
    "B54_null": (None, Reason.ACT_INVALID),
    "B54_list": ([], Reason.ACT_INVALID),
    "B54_nested_string": ({"sub": "a", "act": "b"}, Reason.ACT_INVALID),
    "B54_nobody": ({}, Reason.ACT_INVALID),
    "B54_nested_nobody": ({"sub": "a", "act": {"iss": "b"}}, Reason.ACT_INVALID),
    "B54_number": ({"sub": 1}, Reason.ACT_INVALID),
    "B54_invisible": ({"sub": "a\u200b"}, Reason.ACT_INVALID),
}


@pytest.mark.parametrize(("act", "reason"), ACTORS.values(), ids=ACTORS)
def test_long_or_odd_actor_chain_is_refused(act: object, reason: Reason) -> None:
    """RFC 8693 4.1: whoever walks the chain must come to its end."""
    assert forge.refusal(forge.token(act=act)) == reason


def test_actor_chain_1000_deep_is_refused_by_size_or_depth() -> None:
    """B54: by the size cap as configured, by depth when the cap is wide."""
    text = '{"act":' * 1000 + "{}" + "}" * 1000
    token = _with_raw_claim("act", text)

    assert forge.refusal(token) in {Reason.TOO_LARGE, Reason.TOO_DEEP}
    assert forge.refusal(token, policy=Policy(max_token_bytes=2**20)) == Reason.TOO_DEEP


@pytest.mark.parametrize("depth", [1, 8])
def test_short_actor_chain_is_passed_on(depth: int) -> None:
    """RFC 8693 4.1: the handler finds it in `extra`."""
    claims = forge.verifier().verify_sync(forge.token(act=_act(depth)))
    assert claims.extra["act"] == _act(depth)
    assert claims.actors == ("actor",) * depth


def test_actors_are_told_from_the_current_one_on() -> None:
    """RFC 8693 4.1: the outermost acts now, the innermost was called first; nobody by default."""
    act = {"sub": "billing", "act": {"sub": "orders", "act": {"sub": "gateway"}}}
    claims = forge.verifier().verify_sync(forge.token(act=act))
    assert claims.actors == ("billing", "orders", "gateway")
    assert forge.verifier().verify_sync(forge.token()).actors == ()
