"""Why a token is good or not: every check with its outcome, for the person who has to find out.

Works on the installation itself, without a running server, and looks further than a verdict needs:
at keys that are retired or compromised, and behind expired tokens. Says whose token it is and what
became of it, never any part of the token. Decides nothing: services/token_state.py does.
"""

import enum
from dataclasses import dataclass, replace

from token_server.core.api_key import read_key_id
from token_server.core.key_lifecycle import key_state
from token_server.core.opaque import CLIENT_SECRET_PREFIX, is_well_formed
from token_server.core.refresh import (
    Expired,
    RefreshPolicy,
    Refused,
    Replay,
    Reuse,
    Rotate,
    TokenText,
    decide_refresh,
)
from token_server.crypto.rsa_keys import public_jwk
from token_server.records import Client, Family, KeyState, SigningKey, User
from token_server.runtime import Runtime
from token_server.services.refreshing import read_refresh_token
from token_server.services.token_state import (
    MEDIA_TYPES,
    DeadToken,
    claims_as_issued,
    judge_claims,
)
from token_server.storage import clients, families, users
from token_server.verify import Claims, StaticKeySet, TokenError, decode_unverified
from token_server.verify.compact import check_header, check_typ, split_token
from token_server.verify.errors import Reason
from token_server.verify.policy import MAX_TOKEN_BYTES
from token_server.verify.strict import JsonObject, decode_base64url

LIVE = "live"
_SHOWN_CHARACTERS = 80


class Kind(enum.StrEnum):
    """What the text turned out to be."""

    ACCESS_TOKEN = "access_token"
    REFRESH_TOKEN = "refresh_token"
    CLIENT_SECRET = "client_secret"
    API_KEY = "api_key"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """One check; `reason` is the code of a failure, None when it passed."""

    name: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that was found out. `verdict` is LIVE or the code of the first check that failed;
    records are None where there is none, or where the token could not be read so far."""

    kind: Kind
    verdict: str
    now: int
    checks: tuple[Check, ...] = ()
    kid: str | None = None  # as the token says it, made fit for a terminal
    key: SigningKey | None = None
    key_state: KeyState | None = None  # None: no key of this installation
    issued_at: int | None = None
    expires_at: int | None = None
    client_id: str | None = None
    client: Client | None = None
    subject: str | None = None
    user: User | None = None
    session_id: str | None = None
    session: Family | None = None
    actors: tuple[str, ...] = ()  # of an exchanged token: client ids, the current one first


async def explain_token(runtime: Runtime, text: str) -> Explanation:
    """Whatever the text is; raises UnavailableError when the database does not answer."""
    now = runtime.clock.now()
    if is_well_formed(CLIENT_SECRET_PREFIX, text):
        return Explanation(Kind.CLIENT_SECRET, "not_a_token", now)
    if read_key_id(text) is not None:
        return Explanation(Kind.API_KEY, "not_a_token", now)
    if text.startswith("rt_"):
        return await _explain_refresh_token(runtime, text, now)
    try:
        header, payload = decode_unverified(text)
    except TokenError as error:
        return Explanation(Kind.UNKNOWN, error.reason, now, (Check("form", error.reason),))
    return await _explain_access_token(runtime, text, header, payload)


async def _explain_refresh_token(runtime: Runtime, text: str, now: int) -> Explanation:
    found = Explanation(Kind.REFRESH_TOKEN, "", now)
    token = read_refresh_token(runtime, text)
    if token is None:
        # Cut off, changed, of another installation, or from before a master key or `db restored`.
        return _concluded(found, Check("form", "refresh_token_not_ours"))
    form = Check("form", None)
    async with runtime.store.read() as connection:
        family = await families.find_family(connection, token.family_id)
    if family is None:
        return _concluded(found, form, Check("session", "session_unknown"))
    client, user = await _find_people(runtime, family.client_id, family.user_id)
    found = replace(
        found,
        issued_at=family.rotated_at or family.created_at,
        expires_at=min(family.idle_expires_at, family.absolute_expires_at),
        client_id=family.client_id,
        client=client,
        subject=family.user_id,
        user=user,
        session_id=family.sid,
        session=family,
    )
    return _concluded(
        found,
        form,
        Check("session", _refresh_reason(family, token, now)),
        Check("client", _client_reason(client)),
        Check("user", _user_reason(user)),
    )


def _refresh_reason(family: Family, token: TokenText, now: int) -> str | None:
    policy = RefreshPolicy(replay_window_s=0)
    match decide_refresh(family, token.generation, family.client_id, now, policy):
        case Rotate():
            return None
        case Reuse() | Replay():
            return "refresh_token_spent"
        case Expired(reason) | Refused(reason):
            return reason


async def _explain_access_token(
    runtime: Runtime, text: str, header: JsonObject, payload: JsonObject
) -> Explanation:
    now, keys = runtime.clock.now(), runtime.keyring.keys
    kid, issued_at, expires_at = header.get("kid"), payload.get("iat"), payload.get("exp")
    key = next((each for each in keys if each.kid == kid), None)
    found = Explanation(
        Kind.ACCESS_TOKEN,
        "",
        now,
        kid=_printable(kid) if isinstance(kid, str) else None,
        key=key,
        key_state=None if key is None else key_state(key, keys, now),
        issued_at=issued_at if isinstance(issued_at, int) else None,
        expires_at=expires_at if isinstance(expires_at, int) else None,
    )
    checks = [
        Check("form", None),
        Check("header", _header_reason(header)),
        Check("key", _key_reason(found.key_state)),
    ]
    if key is None:
        return _concluded(found, *checks)
    if not _is_signed(text, key):  # whatever it says, anybody can have written it
        return _concluded(found, *checks, Check("signature", Reason.SIGNATURE_WRONG))
    checks.append(Check("signature", None))
    try:
        claims = claims_as_issued(runtime, payload)
    except TokenError as error:
        return _concluded(found, *checks, Check("claims", error.reason))
    checks.append(Check("claims", _time_reason(found, runtime.settings.clock_skew_s)))
    return await _explain_claims(runtime, found, checks, claims)


async def _explain_claims(
    runtime: Runtime, found: Explanation, checks: list[Check], claims: Claims
) -> Explanation:
    client, user = await _find_people(runtime, claims.client_id, claims.subject)
    state = await judge_claims(runtime, claims)
    reason = state.reason if isinstance(state, DeadToken) else None
    found = replace(
        found,
        client_id=claims.client_id,
        client=client,
        subject=claims.subject,
        user=user,
        session_id=claims.session_id,
        session=state.session,
        actors=claims.actors,
    )
    return _concluded(found, *checks, Check("state", reason))


def _concluded(found: Explanation, *checks: Check) -> Explanation:
    reasons = [check.reason for check in checks if check.reason is not None]
    return replace(found, verdict=reasons[0] if reasons else LIVE, checks=checks)


def _header_reason(header: JsonObject) -> str | None:
    try:
        check_header(header)
        check_typ(header, MEDIA_TYPES)
    except TokenError as error:
        return error.reason
    return None


def _key_reason(state: KeyState | None) -> str | None:
    match state:
        case KeyState.NEXT | KeyState.ACTIVE | KeyState.RETIRING:
            return None
        case KeyState.RETIRED:
            return "key_retired"
        case KeyState.COMPROMISED:
            return "key_compromised"
        case None:
            return Reason.KID_UNKNOWN


def _is_signed(text: str, key: SigningKey) -> bool:
    """By this key, published or not."""
    keys = StaticKeySet.from_jwks({"keys": [public_jwk(key.kid, key.n, key.e)]})
    _, _, signature, signed = split_token(text, MAX_TOKEN_BYTES)
    verification_key = keys.find(key.kid)
    return verification_key is not None and verification_key.is_signed(
        signed, decode_base64url(signature)
    )


def _time_reason(found: Explanation, skew_s: int) -> str | None:
    """Of a token that was good when it was issued."""
    if found.expires_at is not None and found.expires_at <= found.now:
        return Reason.EXPIRED
    if found.issued_at is not None and found.issued_at > found.now + skew_s:
        return Reason.IAT_IN_FUTURE
    return None


async def _find_people(
    runtime: Runtime, client_id: str, subject: str
) -> tuple[Client | None, User | None]:
    async with runtime.store.read() as connection:
        client = await clients.find_client(connection, client_id)
        return client, await users.find_user(connection, subject)


def _client_reason(client: Client | None) -> str | None:
    if client is None:
        return "client_unknown"
    return None if client.is_enabled else "client_disabled"


def _user_reason(user: User | None) -> str | None:
    if user is None:
        return "user_unknown"
    return None if user.is_active else "user_disabled"


def _printable(text: str) -> str:
    """A stranger's text on an operator's terminal."""
    shown = "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
