"""What an access token is worth now: the one place that knows, and the strictest word wins.

Signature and claims first (RFC 9068 §4, RFC 8725 §3), by the keys that this server publishes, so
that junk costs no query; then session, user, client, and what was revoked one by one. For
introspection, revocation, token exchange and forward authentication, which all must agree. Decides
nothing about who may ask, and nothing about audiences: `aud` is the caller's to look at.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from token_server.core.identifiers import USER_ID_PREFIX
from token_server.core.status_list import LIST_SIZE, Position, parse_uri
from token_server.errors import UnavailableError
from token_server.records import Family
from token_server.runtime import Runtime
from token_server.storage.token_facts import (
    TokenFacts,
    TokenKey,
    read_token_facts,
)
from token_server.verify import Claims, KeySetError, Policy, StaticKeySet, TokenError
from token_server.verify.claims import Expectations, read_claims
from token_server.verify.compact import (
    check_header,
    check_typ,
    decode_segment,
    find_key,
    read_kid,
    split_token,
)
from token_server.verify.errors import Reason
from token_server.verify.policy import MAX_TOKEN_BYTES
from token_server.verify.strict import JsonObject, StrictnessError, decode_base64url

# Per client: whichever it is, we signed it as an access token.
MEDIA_TYPES = Policy(accept_typ=("at+jwt", "JWT")).media_types
_MAX_LIFETIME_S = 2**31  # how long tokens live is the client's policy, and was when it was signed


@dataclass(frozen=True, slots=True)
class LiveToken:
    """An access token of ours that is good right now.

    `session` is the login behind it, None for a token without `sid`. A token that came out of an
    exchange (it has `act`) keeps `sid` and `auth_time`, and has another client than the session.
    `number` is where a token without session stands in the status lists, None without a position;
    it is the token's own unless that was exchanged, and then it is that of what it came from.
    """

    claims: Claims
    session: Family | None
    number: int | None


@dataclass(frozen=True, slots=True)
class DeadToken:
    """Signed by us and not expired, and worth nothing all the same; `reason` is private."""

    claims: Claims
    session: Family | None
    reason: str


async def examine_access_token(runtime: Runtime, token: str) -> LiveToken | None:
    """The token, if it is good now for whatever audience; None for everything else.

    Raises UnavailableError when the database does not answer.
    """
    claims = read_access_token(runtime, token)
    if claims is None:
        return None
    state = await judge_claims(runtime, claims)
    return state if isinstance(state, LiveToken) else None


def read_access_token(runtime: Runtime, token: str) -> Claims | None:
    """The claims of an access token that we signed and that has not expired; no query.

    None for everything else. It may have been revoked since: `judge_claims` says.
    """
    now = runtime.clock.now()
    jwks = runtime.keyring.jwks(now)
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    known = runtime.verified_tokens.find(digest)
    # Asked at each use: keys are withdrawn, and clocks are set back.
    if known is not None and known[0] is jwks:
        claims = known[1]
        earliest = claims.issued_at - runtime.settings.clock_skew_s
        return claims if earliest <= now < claims.expires_at else None
    try:
        claims = _verify(runtime, token, jwks, now)
    except (TokenError, StrictnessError):
        return None
    runtime.verified_tokens.remember(
        digest, (jwks, claims)
    )  # good ones only: strangers fill nothing
    return claims


def _verify(runtime: Runtime, token: str, jwks: bytes, now: int) -> Claims:
    header_segment, payload_segment, signature, signed = split_token(token, MAX_TOKEN_BYTES)
    header = decode_segment(header_segment)
    check_header(header)
    check_typ(header, MEDIA_TYPES)
    keys = _key_set(jwks)
    key = find_key(read_kid(header), keys, allow_missing_kid=False)
    if not key.is_signed(signed, decode_base64url(signature)):
        raise TokenError(Reason.SIGNATURE_WRONG)
    return _read_claims(runtime, decode_segment(payload_segment), now)


def claims_as_issued(runtime: Runtime, payload: JsonObject) -> Claims:
    """What a token said when it was issued, expired or not; for a payload whose signature was
    checked. Raises TokenError when it never was a token of ours."""
    issued_at = payload.get("iat")
    if not isinstance(issued_at, int):
        raise TokenError(Reason.IAT_INVALID)
    return _read_claims(runtime, payload, issued_at)


def _read_claims(runtime: Runtime, payload: JsonObject, now: int) -> Claims:
    expected = Expectations(
        issuer=runtime.settings.issuer,
        audience=_one_audience(payload),
        leeway_s=0,
        iat_skew_s=runtime.settings.clock_skew_s,
        max_lifetime_s=_MAX_LIFETIME_S,
    )
    return read_claims(payload, expected, now)


@lru_cache(maxsize=4)  # reading a key set is slow, and the same bytes are the same keys
def _key_set(jwks: bytes) -> StaticKeySet:
    try:
        return StaticKeySet.from_jwks(jwks)
    except KeySetError:
        raise UnavailableError("no_published_key") from None


def _one_audience(payload: JsonObject) -> str:
    """One of the token's own: any will do here, but it must have one."""
    audience = payload.get("aud")
    first = audience[0] if isinstance(audience, list) and audience else audience
    if not isinstance(first, str) or not first:
        raise TokenError(Reason.AUD_REFUSED)
    return first


async def judge_claims(runtime: Runtime, claims: Claims) -> LiveToken | DeadToken:
    """What has become of a token that `read_access_token` took.

    Raises UnavailableError when the database does not answer.
    """
    position = status_position(runtime, claims)
    number = None
    if position is not None and position.name.kind == "m":
        number = runtime.status.number_at(position)
    key = TokenKey(
        claims.client_id,
        claims.subject,
        claims.token_id,
        number,
        claims.actors[1:],  # the current one is the client
    )
    facts, session = await read_token_facts(runtime.store, key, claims.session_id)
    reason = (
        _token_problem(facts, number)
        or _subject_problem(claims, facts, number)
        or _session_problem(claims, session, facts, runtime.clock.now())
    )
    if reason is not None:
        return DeadToken(claims, session, reason)
    return LiveToken(claims, session, number)


def status_position(runtime: Runtime, claims: Claims) -> Position | None:
    """Where the token's revocation shows; None for a token without a `status` claim."""
    status = claims.extra.get("status")
    match status:
        case None:
            return None
        case {"status_list": {"idx": int(index), "uri": str(uri)}}:
            name = parse_uri(uri, runtime.settings.issuer)
            if name is not None and 0 <= index < LIST_SIZE:
                return Position(name, index)
    # We signed it: another version of this server, or a bug. Not to be let through unlooked at.
    raise UnavailableError("status_claim_unreadable")


def _token_problem(facts: TokenFacts, number: int | None) -> str | None:
    if facts.is_client_enabled is None:
        return "client_unknown"
    if not facts.is_client_enabled:
        return "client_disabled"
    if not facts.are_actors_enabled:
        # What a client got hold of that was disabled since is worth nothing further down either.
        return "actor_disabled"
    if facts.is_denied or facts.is_number_revoked:
        return "token_revoked"
    if number is not None and number < facts.machines_floor:
        return "backup_restored"
    return None


def _subject_problem(claims: Claims, facts: TokenFacts, number: int | None) -> str | None:
    if not claims.subject.startswith(USER_ID_PREFIX):
        if claims.subject == claims.client_id or facts.is_subject_enabled:
            return None
        return "subject_disabled"
    if facts.is_user_active is None:
        return "user_unknown"
    if not facts.is_user_active:
        return "user_disabled"
    # A session says more exactly which tokens are from before, and an API key, by whose number its
    # tokens end, outlives a password; without either, the instant must do.
    if claims.session_id is not None or number is not None:
        return None
    is_older = claims.issued_at < (facts.password_changed_at or 0)
    return "token_before_password_change" if is_older else None


def _session_problem(  # noqa: PLR0911 - a table, read from top to bottom: one return per row
    claims: Claims, session: Family | None, facts: TokenFacts, now: int
) -> str | None:
    if claims.session_id is None:
        return None
    if session is None:
        return "session_unknown"
    # A token that was exchanged belongs to whoever exchanged it, and says so (RFC 8693 §4.1).
    is_of_client = session.client_id == claims.client_id or bool(claims.actors)
    if session.user_id != claims.subject or not is_of_client:
        return "session_of_another"
    if session.revoked_at is not None:
        return "session_revoked"
    if session.seq < facts.sessions_floor:
        return "backup_restored"
    if now >= min(session.idle_expires_at, session.absolute_expires_at):
        return "session_expired"
    if claims.auth_time != session.auth_time:
        return "token_before_password_change"
    return None
