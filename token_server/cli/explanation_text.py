"""What `token explain` found, as JSON for programs and as sentences for people."""

from collections.abc import Mapping

from token_server.cli.formats import duration_text, instant_text, relative_text
from token_server.services.token_explanation import LIVE, Explanation, Kind

_KINDS: Mapping[Kind, str] = {
    Kind.ACCESS_TOKEN: "an access token (JWT)",
    Kind.REFRESH_TOKEN: "a refresh token",
    Kind.CLIENT_SECRET: "a client secret, not a token: whoever saw it should not have",
    Kind.API_KEY: "an API key, not a token: whoever saw it should not have",
    Kind.UNKNOWN: "no token of this server",
}
# What a person does not see from the code alone; the codes are those of logs and metrics.
_REASONS: Mapping[str, str] = {
    "actor_disabled": "a client that it was passed on by is disabled or gone",
    "aud_refused": "it names no audience",
    "backup_restored": "it is from before `db restored`",
    "client_disabled": "its client is disabled",
    "client_unknown": "its client does not exist (any more)",
    "absolute_lifetime": "the session has reached its absolute lifetime",
    "expired": "its time is over",
    "family_revoked": "the session was ended",
    "generation_from_future": "it was never given out: is this an older copy of the database?",
    "header_refused": "its header names outside keys or changes the rules",
    "iat_in_future": "it was issued in the future: one of the clocks is wrong",
    "idle_lifetime": "the session was not used for too long",
    "iss_refused": "it is from another issuer, or the setting ISSUER was changed",
    "key_compromised": "the key that it names is compromised: nothing signed by it counts",
    "key_retired": "the key that it names is retired: all its tokens are past",
    "kid_unknown": "it names a key that this installation does not have",
    "malformed": "it is not three parts in base64url: cut off, or not a JWT",
    "refresh_token_not_ours": "its seal is not ours: cut off, changed, of another installation, or"
    " from before `db restored` or `keys compromise --all`",
    "refresh_token_spent": "it was used already: the client holds a newer one",
    "session_expired": "its session has expired",
    "session_of_another": "its session belongs to another user or client",
    "session_revoked": "its session was ended",
    "session_unknown": "its session is not in this database: pruned long ago, or another database",
    "signature_wrong": "it was changed, or signed by somebody else who names our key",
    "subject_disabled": "the client that it speaks for is disabled or gone",
    "token_before_password_change": "the password was changed after it was issued",
    "token_revoked": "it was revoked itself",
    "typ_refused": "its typ is not that of an access token",
    "user_disabled": "its user is disabled",
    "user_unknown": "its user does not exist",
}
_CHECKS: Mapping[str, str] = {
    "form": "can be read",
    "header": "header",
    "key": "key is published",
    "signature": "signature",
    "claims": "issuer, claims and times",
    "state": "client, user, session, revocation",
    "session": "session",
    "client": "client",
    "user": "user",
}


def explanation_json(found: Explanation, server_ahead_s: int | None) -> dict[str, object]:
    """Instants are epoch seconds; members that do not apply are null."""
    user, issued_at, expires_at = found.user, found.issued_at, found.expires_at
    return {
        "kind": found.kind.value,
        "is_live": found.verdict == LIVE,
        "verdict": found.verdict,
        "checks": [
            {"check": check.name, "passed": check.reason is None, "reason": check.reason}
            for check in found.checks
        ],
        "key": _key_json(found),
        "client": _client_json(found),
        "subject": found.subject,
        "actors": list(found.actors),
        "user": user
        and {
            "user_id": user.user_id,
            "is_active": user.is_active,
            "password_changed_at": user.password_changed_at,
        },
        "session": _session_json(found),
        "clocks": {
            "now": found.now,
            "issued_at": issued_at,
            "expires_at": expires_at,
            "issued_ago_s": None if issued_at is None else found.now - issued_at,
            "expires_in_s": None if expires_at is None else expires_at - found.now,
            "server_ahead_s": server_ahead_s,
        },
    }


def _key_json(found: Explanation) -> dict[str, object] | None:
    if found.kid is None:
        return None
    key = found.key
    return {
        "kid": found.kid,
        "state": "unknown" if found.key_state is None else found.key_state.value,
        "activate_at": key and key.activate_at,
        "retire_at": key and key.retire_at,
        "compromised_at": key and key.compromised_at,
    }


def _client_json(found: Explanation) -> dict[str, object] | None:
    if found.client_id is None:
        return None
    client = found.client
    is_enabled = client is not None and client.is_enabled
    return {"client_id": found.client_id, "exists": client is not None, "is_enabled": is_enabled}


def _session_json(found: Explanation) -> dict[str, object] | None:
    if found.session_id is None:
        return None
    session = found.session
    return {
        "id": found.session_id,
        "exists": session is not None,
        "created_at": session and session.created_at,
        "expires_at": session and min(session.idle_expires_at, session.absolute_expires_at),
        "revoked_at": session and session.revoked_at,
        "revoked_reason": session and session.revoked_reason,
    }


def explanation_text(found: Explanation, server_ahead_s: int | None) -> str:
    """The verdict first, then what led to it."""
    verdict = "It is good now." if found.verdict == LIVE else f"It is refused: {found.verdict}"
    why = _REASONS.get(found.verdict)
    lines = [f"This is {_KINDS[found.kind]}."]
    if found.kind not in (Kind.CLIENT_SECRET, Kind.API_KEY):
        lines.append(verdict if why is None else f"{verdict} - {why}.")
    if found.checks:
        lines.append("")
    for check in found.checks:
        mark = "ok    " if check.reason is None else "FAILED"
        reason = "" if check.reason is None else f": {check.reason}"
        lines.append(f"  {mark}  {_CHECKS[check.name]}{reason}")
    facts = [*_key_lines(found), *_people_lines(found), *_clock_lines(found, server_ahead_s)]
    return "\n".join([*lines, *([""] if facts else []), *facts])


def _key_lines(found: Explanation) -> list[str]:
    if found.kid is None:
        return []
    state = "unknown to this installation" if found.key_state is None else found.key_state.value
    when = ""
    if found.key is not None and found.key.compromised_at is not None:
        when = f" since {instant_text(found.key.compromised_at)}"
    elif found.key is not None and found.key.retire_at is not None:
        when = f", retires {relative_text(found.key.retire_at, found.now)}"
    return [f"  key      {found.kid}: {state}{when}"]


def _people_lines(found: Explanation) -> list[str]:
    lines = []
    if found.client_id is not None:
        client = found.client
        is_good = "enabled" if client is not None and client.is_enabled else "disabled"
        lines.append(
            f"  client   {found.client_id}: {'does not exist' if client is None else is_good}"
        )
    if found.user is not None:
        is_active = "active" if found.user.is_active else "disabled"
        lines.append(f"  user     {found.user.user_id}: {is_active}")
    elif found.subject is not None and found.subject != found.client_id:
        lines.append(f"  subject  {found.subject}: no user of this database")
    if found.actors:  # in the order of the calls, for whom the first one called
        lines.append(f"  calls    {' -> '.join(reversed(found.actors))} (exchanged, RFC 8693)")
    session = found.session
    if session is not None and session.revoked_at is not None:
        ended = f"ended {instant_text(session.revoked_at)} ({session.revoked_reason})"
        lines.append(f"  session  {session.sid}: {ended}")
    elif session is not None:
        expires_at = min(session.idle_expires_at, session.absolute_expires_at)
        ends = f"expires {relative_text(expires_at, found.now)}"
        lines.append(f"  session  {session.sid}: not ended; {ends}")
    elif found.session_id is not None:
        lines.append(f"  session  {found.session_id}: not in this database")
    return lines


def _clock_lines(found: Explanation, server_ahead_s: int | None) -> list[str]:
    lines = [f"  clock    {instant_text(found.now)}"]
    for name, at in (("issued", found.issued_at), ("expires", found.expires_at)):
        if at is not None and 0 <= at <= 253402300799:
            lines.append(f"  {name:<8} {instant_text(at)} ({relative_text(at, found.now)})")
    if found.issued_at is not None and found.issued_at > found.now:
        behind = duration_text(found.issued_at - found.now)
        lines.append(f"  this clock is at least {behind} behind that of the issuer")
    if server_ahead_s is not None:
        ahead = "ahead of" if server_ahead_s > 0 else "behind"
        differs = f"{duration_text(abs(server_ahead_s))} {ahead} this one"
        lines.append(f"  server   {'the same time' if server_ahead_s == 0 else differs}")
    return lines
