"""What clients ask of the token endpoint, of revocation and of introspection, and what must follow.

Each call makes its request and names the answers that are right in a state, with the state after
each. RFC 6749 §5, §6; RFC 7009; RFC 7662; refresh.md; revocation.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from tests.model.answers import Answer, Expected, Tokens
from tests.model.state import ACCOUNT, Access, Client, Family, State, User
from tests.support.load import form_request, token_request

STALE_MS = 5000  # how long a server may go by what it knows of a client
ISSUER = "https://auth.example"


@dataclass(frozen=True, slots=True)
class Moment:
    """When and among what a call happens: `now` is what its server's clock says, `before` the state
    in which calls that run at the same time began, and None for one that runs alone."""

    now: int
    uptime_ms: int
    is_stepped_back: bool
    name: str  # of this very call: what it makes is called so
    before: State | None = None

    def views(self, state: State) -> tuple[State, ...]:
        """Where who asks may have been looked at: a check that was passed in the very moment in
        which something else ended what it rested on."""
        return (state,) if self.before is None else (state, self.before)


Outcome = tuple[Expected, State]
ForwardedFrom = dict[str, str]


class Call(Protocol):
    def outcomes(self, state: State, moment: Moment, answer: Answer, /) -> Iterable[Outcome]:
        """All that may be answered, each with the state after it. `answer` is looked at only for
        what cannot be foreseen."""
        ...


class HttpCall(Call, Protocol):
    def request(self, source: ForwardedFrom) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's id, and a secret for a confidential one."""

    client_id: str
    secret: str | None = field(default=None, repr=False)

    def fields(self) -> dict[str, str]:
        secret = {} if self.secret is None else {"client_secret": self.secret}
        return {"client_id": self.client_id, **secret}

    def authenticate(self, state: State, moment: Moment) -> Iterator[Client | None]:
        """The client, or None where it is refused; both where its server may not know yet."""
        client = state.clients.get(self.client_id)
        if client is not None and client.doors.open_for(self.secret, moment.now):
            yield client
            return
        yield None
        former = () if client is None else client.former
        if client is not None and any(
            moment.uptime_ms - until_ms < STALE_MS and doors.open_for(self.secret, moment.now)
            for doors, until_ms in former
        ):
            yield client


_CLOCK = Expected(503, "temporarily_unavailable")
_INVALID_CLIENT = Expected(401, "invalid_client")
_INVALID_GRANT = Expected(400, "invalid_grant")
_INVALID_SCOPE = Expected(400, "invalid_scope")
_INACTIVE = Expected(200, members={"active": False})


def issued(client: Client, family: Family, moment: Moment, scope: tuple[str, ...]) -> Tokens:
    """A pair of tokens for a session: neither outlives it."""
    access = Access(
        client_id=client.client_id,
        subject="",
        audience=family.audience,
        scope=scope,
        issued_at=moment.now,
        expires_at=min(moment.now + client.access_ttl_s, family.absolute_expires_at),
        family=family.key,
        auth_time=family.auth_time,
        issued_ms=moment.uptime_ms,
    )
    return Tokens(access, family.current)


def begun(client: Client, email: str, moment: Moment, scope: tuple[str, ...]) -> Family:
    now = moment.now
    return Family(
        key=moment.name,
        email=email,
        client_id=client.client_id,
        scope=scope,
        audience=client.audience,
        auth_time=now,
        created_at=now,
        idle_expires_at=now + min(client.idle_ttl_s, client.absolute_ttl_s),
        absolute_expires_at=now + client.absolute_ttl_s,
    )


def is_password_right(user: User | None, password: str) -> bool:
    return user is not None and user.is_active and user.password == password


@dataclass(frozen=True, slots=True)
class PasswordGrant:
    who: Credentials
    email: str
    password: str
    scope: tuple[str, ...] = ()

    def request(self, source: ForwardedFrom) -> bytes:
        scope = {"scope": " ".join(self.scope)} if self.scope else {}
        form = {"grant_type": "password", "username": self.email, "password": self.password}
        fields = {**form, **scope, "client_id": self.who.client_id}
        return token_request(fields, self.who.secret, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        if moment.is_stepped_back:
            yield _CLOCK, state
            return
        for client in self.who.authenticate(state, moment):
            if client is None:
                yield _INVALID_CLIENT, state
            elif not set(self.scope) <= set(client.scopes):
                yield _INVALID_SCOPE, state
            elif not (
                is_password_right(state.users.get(self.email), self.password)
                and client.doors.is_enabled
            ):
                yield _INVALID_GRANT, state
            else:
                scope = self.scope or client.scopes
                family = begun(client, self.email, moment, scope)
                tokens = issued(client, family, moment, scope)
                yield Expected(200, tokens=tokens), state.with_family(family)


@dataclass(frozen=True, slots=True)
class MachineGrant:
    who: Credentials

    def request(self, source: ForwardedFrom) -> bytes:
        fields = {"grant_type": "client_credentials", "client_id": self.who.client_id}
        return token_request(fields, self.who.secret, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        if moment.is_stepped_back:
            yield _CLOCK, state
            return
        for client in self.who.authenticate(state, moment):
            if client is None:
                yield _INVALID_CLIENT, state
                continue
            access = Access(
                client_id=client.client_id,
                subject=client.client_id,
                audience=client.audience,
                scope=client.scopes,
                issued_at=moment.now,
                expires_at=moment.now + client.access_ttl_s,
                issued_ms=moment.uptime_ms,
            )
            yield Expected(200, tokens=Tokens(access)), state


@dataclass(frozen=True, slots=True)
class Refresh:
    who: Credentials
    text: str
    scope: tuple[str, ...] = ()

    def request(self, source: ForwardedFrom) -> bytes:
        scope = {"scope": " ".join(self.scope)} if self.scope else {}
        form = {"grant_type": "refresh_token", "refresh_token": self.text, **scope}
        return token_request({**form, "client_id": self.who.client_id}, self.who.secret, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        if moment.is_stepped_back:
            yield _CLOCK, state
            return
        for client in self.who.authenticate(state, moment):
            if client is None:
                yield _INVALID_CLIENT, state
            else:
                yield present(state, client, self, moment)


def present(state: State, client: Client, asked: Refresh, moment: Moment) -> Outcome:
    """A refresh token is presented (refresh.md 3 to 8)."""
    found, now = state.find_ref(asked.text), moment.now
    if found is None:
        return _INVALID_GRANT, state
    ref, family = found
    if family.client_id != client.client_id or not family.is_live(now):
        return _INVALID_GRANT, state
    age = family.generation - ref.generation
    if age < 0:
        return _INVALID_GRANT, state
    is_open = family.rotated_at is not None and now - family.rotated_at < client.window_s
    if age > 1 or (age == 1 and not (client.window_s > 0 and is_open)):
        return _INVALID_GRANT, state.ending(family)
    if not set(asked.scope) <= set(family.scope):
        return _INVALID_SCOPE, state
    if age == 0:
        family = replace(
            family,
            generation=family.generation + 1,
            rotated_at=now,
            idle_expires_at=min(now + client.idle_ttl_s, family.absolute_expires_at),
        )
    tokens = issued(client, family, moment, asked.scope or family.scope)
    return Expected(200, tokens=tokens), state.with_family(family)


@dataclass(frozen=True, slots=True)
class Revoke:
    """RFC 7009 §2.2: 200 whatever the token was."""

    who: Credentials
    token: str

    def request(self, source: ForwardedFrom) -> bytes:
        return form_request("/oauth2/revoke", {**self.who.fields(), "token": self.token}, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        for client in self.who.authenticate(state, moment):
            if client is None:
                yield _INVALID_CLIENT, state
                continue
            for view in moment.views(state):
                yield Expected(200), self._after(state, view, client, moment.now)

    def _after(self, state: State, view: State, client: Client, now: int) -> State:
        """`view` is where the token was looked up; its session ends by its own id, so that a
        password change in the same moment does not save it."""
        found = view.find_ref(self.token)
        if found is not None:
            return self._ended(state, found[1].key, client)
        access = view.access.get(self.token)
        if access is None or access.client_id != client.client_id:
            return state
        if not view.is_good(self.token, now):
            return state
        if access.family is not None:
            return self._ended(state, access.family, client)
        return replace(state, given_back=state.given_back | {self.token})

    def _ended(self, state: State, key: str, client: Client) -> State:
        family = state.families.get(key)
        if family is None or family.client_id != client.client_id:
            return state
        return state.ending(family)


@dataclass(frozen=True, slots=True)
class Introspect:
    """Inactive is one answer, whatever the cause; active says what the token says."""

    who: Credentials
    token: str

    def request(self, source: ForwardedFrom) -> bytes:
        return form_request(
            "/oauth2/introspect", {**self.who.fields(), "token": self.token}, source
        )

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        for client in self.who.authenticate(state, moment):
            if client is None or not client.doors.secrets:
                yield _INVALID_CLIENT, state
            else:
                yield self._expected(state, client, moment), state

    def _expected(self, state: State, client: Client, moment: Moment) -> Expected:
        access = state.access.get(self.token)
        if access is not None:
            is_asked_rightly = client.client_id == access.client_id or (
                access.audience == client.serves
            )
            if not (is_asked_rightly and state.is_good(self.token, moment.now)):
                return _INACTIVE
            return Expected(200, members=_access_members(state, access))
        found = state.find_ref(self.token)
        if found is None:
            return _INACTIVE
        ref, family = found
        is_current = ref.generation == family.generation and family.is_live(moment.now)
        if family.client_id != client.client_id or not is_current:
            return _INACTIVE
        user = state.users[family.email]
        if not user.is_active:
            return _INACTIVE
        members: dict[str, object] = {
            "active": True,
            "client_id": family.client_id,
            "exp": min(family.idle_expires_at, family.absolute_expires_at),
            "iat": family.used_at,
            "sub": user.user_id,
            "aud": family.audience,
            "iss": ISSUER,
            "sid": family.sid,
            "scope": " ".join(family.scope),
        }
        return Expected(200, members=members)


def _access_members(state: State, access: Access) -> dict[str, object]:
    members: dict[str, object] = {
        "active": True,
        "client_id": access.client_id,
        "token_type": "Bearer",
        "exp": access.expires_at,
        "iat": access.issued_at,
        "sub": access.subject,
        "aud": access.audience,
        "iss": ISSUER,
        "jti": access.jti,
    }
    if access.scope:
        members["scope"] = " ".join(access.scope)
    if access.family is not None:
        members["sid"] = state.families[access.family].sid
        members["auth_time"] = access.auth_time
    return members


ACCOUNT_CREDENTIALS = Credentials(ACCOUNT)
