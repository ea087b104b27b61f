"""What an answer must be, and what is learned from one that is as expected."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.model.state import Access, RefreshRef, State
from token_server.verify import Claims


class MismatchError(Exception):
    """An answer is not what the model expects; says how."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: over HTTP, or (status 0) from a function of an operator. `claims` are those
    of its access token, once that was verified offline."""

    status: int
    body: bytes = b""
    value: Any = None
    claims: Claims | None = None
    kid: str = ""
    retry_after: bool = False

    @property
    def members(self) -> Mapping[str, Any]:
        try:
            found = json.loads(self.body or b"{}")
        except ValueError:
            raise MismatchError(f"a body that is no JSON: {self.body!r}") from None
        if not isinstance(found, dict):
            raise MismatchError(f"a body that is no object: {self.body!r}")
        return found

    @property
    def error(self) -> str | None:
        """The registered code of OAuth, or our own of a problem document."""
        if self.status < 400:
            return None
        members = self.members
        return str(members.get("error", members.get("code")))

    def __str__(self) -> str:
        if self.claims is not None:
            return f"{self.status} with tokens"
        return f"{self.status} {self.body.decode(errors='replace')[:200]}".rstrip()


@dataclass(frozen=True, slots=True)
class Tokens:
    """A token response: the access token as it must be, and which refresh token goes with it."""

    access: Access
    ref: RefreshRef | None = None


Check = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class Expected:
    """One answer that the model takes."""

    status: int
    error: str | None = None
    tokens: Tokens | None = None
    members: Mapping[str, Any] | None = None  # the whole body
    check: Check | None = field(default=None, repr=False)


def learn(expected: Expected, answer: Answer, state: State) -> State:
    """The state with what the answer tells: texts and names that cannot be foreseen. Raises
    MismatchError when it is another answer than expected."""
    if (answer.status, answer.error) != (expected.status, expected.error):
        raise MismatchError(f"expected {expected.status} {expected.error or ''}, not {answer}")
    if answer.status == 503 and not answer.retry_after:
        raise MismatchError("503 without Retry-After")
    if expected.members is not None and dict(answer.members) != dict(expected.members):
        raise MismatchError(f"expected {expected.members}, not {answer.members}")
    if expected.check is not None:
        expected.check(answer)
    return state if expected.tokens is None else _learn_tokens(expected.tokens, answer, state)


def _learn_tokens(tokens: Tokens, answer: Answer, state: State) -> State:
    body, access = answer.members, tokens.access
    require("token_type", body.get("token_type"), "Bearer")
    require("expires_in", body.get("expires_in"), access.expires_at - access.issued_at)
    require("scope", body.get("scope", ""), " ".join(access.scope))
    state, access = _learn_claims(access, answer, state)
    text = str(body["access_token"])
    if text in state.access:
        raise MismatchError("an access token was handed out twice")
    state = state.with_access(text, access)
    has_refresh = "refresh_token" in body
    require("a refresh token", has_refresh, tokens.ref is not None)
    return state if tokens.ref is None else _learn_ref(tokens.ref, body["refresh_token"], state)


def _learn_claims(access: Access, answer: Answer, state: State) -> tuple[State, Access]:
    claims = answer.claims
    if claims is None:
        raise MismatchError("a token response whose access token was not verified")
    require("aud", claims.audience, (access.audience,))
    require("client_id", claims.client_id, access.client_id)
    require("scope of the token", claims.scopes, access.scope)
    require("iat", claims.issued_at, access.issued_at)
    require("exp", claims.expires_at, access.expires_at)
    require("auth_time", claims.auth_time, access.auth_time)
    if any(each.jti == claims.token_id for each in state.access.values()):
        raise MismatchError("a jti was used twice")
    if access.family is not None:
        state = _learn_names(access.family, claims, state)
    else:
        require("sub", claims.subject, access.subject)
        require("sid", claims.session_id, None)
    place = _place_of(claims)
    known = replace(
        access, subject=claims.subject, jti=claims.token_id, kid=answer.kid, place=place
    )
    is_listed = access.family is not None or state.clients[access.client_id].is_listed
    require("a status claim", place[0] != "", is_listed)
    return state, known


def _place_of(claims: Claims) -> tuple[str, int]:
    match claims.extra.get("status"):
        case {"status_list": {"uri": str(uri), "idx": int(index)}}:
            return uri, index
        case None:
            return "", 0
        case other:
            raise MismatchError(f"a status claim that says {other}")


def _learn_names(key: str, claims: Claims, state: State) -> State:
    """The user's and the session's ids: told by the first token, and the same ever after."""
    family = state.families[key]
    user = state.users[family.email]
    if user.user_id is None:
        if any(each.user_id == claims.subject for each in state.users.values()):
            raise MismatchError("two users with one id")
        state = state.with_user(replace(user, user_id=claims.subject))
    else:
        require("sub", claims.subject, user.user_id)
    if claims.session_id is None:
        raise MismatchError("a user's token without sid")
    if family.sid is not None:
        require("sid", claims.session_id, family.sid)
        return state
    if state.find_session(claims.session_id) is not None:
        raise MismatchError("two sessions with one sid")
    return state.with_family(replace(family, sid=claims.session_id))


def _learn_ref(ref: RefreshRef, text: str, state: State) -> State:
    """One text for one generation of one family, for ever; a replay gives the same one."""
    known = state.texts.get(ref)
    if known is not None:
        if known != text:
            raise MismatchError(f"two successors: {ref} has another text already")
        return state
    if text in state.refresh:
        raise MismatchError(f"the text of {state.refresh[text]} again, for {ref}")
    return state.with_refresh(text, ref)


def require(name: str, found: object, expected: object) -> None:
    """Raises MismatchError unless both are the same."""
    if found != expected:
        raise MismatchError(f"{name}: expected {expected!r}, not {found!r}")
