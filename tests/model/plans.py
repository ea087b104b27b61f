"""What a step may be, in small numbers that hypothesis can draw and shrink; `resolve` turns it into
a call about what there is by then. Where there is nothing yet, somebody logs in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.model.account_calls import (
    AccountRefresh,
    ChangePassword,
    EndSession,
    ListSessions,
    LogIn,
    LogOut,
    Me,
    Register,
)
from tests.model.calls import (
    HttpCall,
    Introspect,
    MachineGrant,
    PasswordGrant,
    Refresh,
    Revoke,
)
from tests.model.credentials import Cast
from tests.model.operator_calls import (
    EndSessions,
    OperatorCall,
    Prune,
    RotateSecret,
    SetClientEnabled,
    SetPassword,
    SetUserActive,
)
from tests.model.state import ACCOUNT, Family

T = TypeVar("T")
SMALL = st.integers(0, 5)


class Plan(Protocol):
    def resolve(self, cast: Cast) -> "HttpCall | OperatorCall": ...


def pick(items: Sequence[T], number: int) -> T:
    """Counted from the newest."""
    return items[-1 - number % len(items)]


@dataclass(frozen=True, slots=True)
class Begin:
    """A login at one of the two doors, or by a machine."""

    door: Literal["grant", "account", "machine"] = "grant"
    client: int = 0
    user: int = 0
    password: Literal["right", "wrong", "old"] = "right"
    scope: Literal["all", "less", "more"] = "all"

    def resolve(self, cast: Cast) -> HttpCall:
        if self.door == "machine":
            return MachineGrant(cast.machine())
        email = pick(cast.emails, self.user)
        password = cast.password_of(email, self.password)
        if self.door == "account":
            return LogIn(email, password)
        return PasswordGrant(
            cast.credentials(pick(cast.clients, self.client)),
            email,
            password,
            cast.scope(self.scope),
        )


@dataclass(frozen=True, slots=True)
class Renew:
    """A refresh token is presented: of a session, counted from its newest one."""

    session: int = 0
    which: Literal["current", "previous", "older", "future", "foreign", "junk"] = "current"
    scope: Literal["all", "less", "more"] = "all"
    at_account: bool = True

    def resolve(self, cast: Cast) -> HttpCall:
        if not cast.families or not (cast.has_live or self.session % 3):
            return Begin(client=self.session).resolve(cast)
        family = pick(cast.families, self.session)
        text = self._text(cast, family)
        if family.client_id == ACCOUNT and self.at_account and self.which != "foreign":
            return AccountRefresh(text)
        owner = family.client_id
        if self.which == "foreign":
            owner = next(each for each in cast.clients if each != family.client_id)
        scope = () if family.client_id == ACCOUNT else cast.scope(self.scope)
        return Refresh(cast.credentials(owner), text, scope)

    def _text(self, cast: Cast, family: Family) -> str:
        back = {"previous": 1, "older": 2}.get(self.which, 0)
        if self.which == "future":
            return cast.forge(cast.texts_of(family)[-1])
        if self.which == "junk":
            return "rt_" + "A" * 72
        known = cast.texts_of(family)
        return known[-1 - min(back, len(known) - 1)]


@dataclass(frozen=True, slots=True)
class Ask:
    """A token is introspected or given back, by one of those who may ask."""

    verb: Literal["introspect", "revoke"] = "introspect"
    token: Literal["access", "refresh"] = "access"
    number: int = 0
    by: Literal["owner", "service", "other"] = "owner"

    def resolve(self, cast: Cast) -> HttpCall:
        if not cast.families:
            return Begin().resolve(cast)
        if self.token == "access":
            text = pick(cast.access, self.number)
            owner = cast.state.access[text].client_id
        else:
            text = pick(list(cast.state.refresh), self.number)
            owner = cast.owner_of(text)
        is_public = owner in (ACCOUNT, cast.clients[0])  # who may give back, and not ask
        who = cast.credentials(owner)
        if self.by == "service" or (is_public and self.verb == "introspect" and self.number % 4):
            who = cast.service()
        if self.by == "other":
            who = cast.credentials(next(each for each in cast.clients if each != owner))
        return (Introspect if self.verb == "introspect" else Revoke)(who, text)


@dataclass(frozen=True, slots=True)
class Manage:
    """What people do at the account API with a token of theirs, mostly of a session there."""

    verb: Literal["me", "list", "log_out", "end", "change", "change_wrongly"] = "me"
    session: int = 0
    other: int = 0
    is_old: bool = False  # with a token from before

    def resolve(self, cast: Cast) -> HttpCall:
        there = [each for each in cast.families if each.client_id == ACCOUNT]
        if not there or not (there[-1].is_live(cast.now()) or self.session % 3):
            return Begin("account", user=self.session).resolve(cast)
        family = pick(there, self.session)
        tokens = cast.access_of(family)
        token = tokens[0] if self.is_old else tokens[-1]
        match self.verb:
            case "me":
                return Me(token)
            case "list":
                return ListSessions(token)
            case "log_out":
                return LogOut(token)
            case "end":
                sid = pick(cast.families, self.other).sid
                return EndSession(token, str(sid), cast.password_of(family.email, "right"))
            case _:
                kind: Literal["right", "wrong"] = "right" if self.verb == "change" else "wrong"
                current = cast.password_of(family.email, kind)
                return ChangePassword(token, current, cast.new_password())


@dataclass(frozen=True, slots=True)
class Join:
    """Somebody registers, or tries to with an e-mail that is taken."""

    is_taken: bool = False

    def resolve(self, cast: Cast) -> HttpCall:
        return Register(cast.emails[0] if self.is_taken else cast.new_email(), cast.new_password())


OperatorVerb = Literal[
    "disable_user",
    "enable_user",
    "set_password",
    "disable_client",
    "enable_client",
    "rotate_secret",
    "end_session",
    "end_user",
    "end_client",
    "prune",
]


@dataclass(frozen=True, slots=True)
class Operate:
    """A command of an operator."""

    verb: OperatorVerb = "enable_user"
    which: int = 0

    def resolve(self, cast: Cast) -> HttpCall | OperatorCall:  # noqa: PLR0911 - one for each verb
        email, client_id = pick(cast.emails, self.which), pick(cast.clients, self.which)
        match self.verb:
            case "disable_user" | "enable_user":
                return SetUserActive(email, self.verb == "enable_user")
            case "set_password":
                return SetPassword(email, cast.new_password())
            case "disable_client" | "enable_client":
                return SetClientEnabled(client_id, self.verb == "enable_client")
            case "rotate_secret":
                return RotateSecret(cast.confidential, cast.rotation_s(self.which))
            case "end_session" if cast.families:
                return EndSessions(sid=pick(cast.families, self.which).sid)
            case "end_client":
                return EndSessions(client_id=client_id)
            case "prune":
                return Prune()
            case _:
                return EndSessions(email=email)


BEGIN = st.builds(
    Begin,
    st.sampled_from(("grant", "grant", "grant", "account", "account", "machine")),
    SMALL,
    SMALL,
    st.sampled_from(("right", "right", "right", "right", "wrong", "old")),
    st.sampled_from(("all", "all", "all", "less", "more")),
)
RENEW = st.builds(
    Renew,
    SMALL,
    st.sampled_from(("current",) * 6 + ("previous",) * 4 + ("older", "future", "foreign", "junk")),
    st.sampled_from(("all",) * 5 + ("less", "more")),
    st.booleans(),
)
ASK = st.builds(
    Ask,
    st.sampled_from(("introspect", "introspect", "introspect", "revoke")),
    st.sampled_from(("access", "refresh")),
    st.integers(0, 15),
    st.sampled_from(("owner", "owner", "service", "service", "other")),
)
MANAGE = st.builds(
    Manage,
    st.sampled_from(("me", "me", "list", "log_out", "end", "change", "change", "change_wrongly")),
    SMALL,
    SMALL,
    st.sampled_from((False, False, False, True)),
)
JOIN = st.builds(Join, st.booleans())
OPERATE = st.builds(
    Operate,
    st.sampled_from(
        ("enable_user",) * 3
        + ("enable_client",) * 3
        + ("rotate_secret",) * 3
        + ("end_session",) * 3
        + ("disable_user", "disable_client", "set_password", "end_user", "end_client", "prune")
    ),
    SMALL,
)
# What may meet something else: pruning is a housekeeper's, and alone.
MEETING: SearchStrategy[Plan] = st.one_of(
    RENEW, RENEW, RENEW, BEGIN, ASK, MANAGE, MANAGE, OPERATE.filter(lambda it: it.verb != "prune")
)


def about_the_same(first: Plan, second: Plan) -> Plan:
    """`second`, about the session of `first`, where both are about one."""
    if isinstance(first, Renew | Manage) and isinstance(second, Renew | Manage):
        return replace(second, session=first.session)
    return second
