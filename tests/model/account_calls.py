"""What people ask of the account API, and what must follow (docs/accounts.md, RFC 6750)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tests.model.answers import Answer, Expected, require
from tests.model.calls import (
    ACCOUNT_CREDENTIALS,
    ForwardedFrom,
    Moment,
    Outcome,
    Refresh,
    begun,
    is_password_right,
    issued,
    present,
)
from tests.model.state import ACCOUNT, Family, State, User
from tests.support.load import json_request

_CLOCK = Expected(503, "temporarily_unavailable")
_CREDENTIALS = Expected(401, "credentials_refused")
_TOKEN = Expected(401, "token_refused")
_DONE = Expected(204)


def principal_of(state: State, token: str, now: int) -> Family | None:
    """The session that an access token of the account API speaks for now. Whether its user may
    still act is asked apart: a disabled one has no live session."""
    access = state.access.get(token)
    if access is None or access.client_id != ACCOUNT or not state.is_readable(access, now):
        return None
    family = state.families.get(access.family or "")
    if family is None or not family.is_live(now) or family.auth_time != access.auth_time:
        return None
    return family


def _principals(state: State, moment: Moment, token: str) -> Iterator[Family | None]:
    """The session of an active user that asks, as each view has it."""
    for view in moment.views(state):
        family = principal_of(view, token, moment.now)
        yield family if family and view.users[family.email].is_active else None


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _bare(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} /api/auth{path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def log_in(state: State, user: User, moment: Moment) -> Outcome:
    client = state.clients[ACCOUNT]
    family = begun(client, user.email, moment, client.scopes)
    tokens = issued(client, family, moment, client.scopes)
    return Expected(200, tokens=tokens), state.with_user(user).with_family(family)


@dataclass(frozen=True, slots=True)
class Register:
    email: str
    password: str

    def request(self, source: ForwardedFrom) -> bytes:
        body = {"email": self.email, "password": self.password, "name": "Ada Lovelace"}
        return json_request("/api/auth/register", body, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        if moment.is_stepped_back:
            yield _CLOCK, state
        elif self.email in state.users:
            yield Expected(409, "email_taken"), state
        else:
            yield log_in(state, User(self.email, self.password), moment)


@dataclass(frozen=True, slots=True)
class LogIn:
    email: str
    password: str

    def request(self, source: ForwardedFrom) -> bytes:
        body = {"email": self.email, "password": self.password}
        return json_request("/api/auth/login", body, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        user = state.users.get(self.email)
        if moment.is_stepped_back:
            yield _CLOCK, state
        elif user is None or not is_password_right(user, self.password):
            yield _CREDENTIALS, state
        else:
            yield log_in(state, user, moment)


@dataclass(frozen=True, slots=True)
class AccountRefresh:
    text: str

    def request(self, source: ForwardedFrom) -> bytes:
        return json_request("/api/auth/refresh", {"refresh_token": self.text}, source)

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        if moment.is_stepped_back:
            yield _CLOCK, state
            return
        asked = Refresh(ACCOUNT_CREDENTIALS, self.text)
        expected, after = present(state, state.clients[ACCOUNT], asked, moment)
        yield (expected if expected.status == 200 else _CREDENTIALS), after


@dataclass(frozen=True, slots=True)
class Me:
    token: str

    def request(self, source: ForwardedFrom) -> bytes:
        return _bare("GET", "/me", {**_bearer(self.token), **source})

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        family = principal_of(state, self.token, moment.now)
        if family is None or not state.users[family.email].is_active:
            yield _TOKEN, state
            return
        user = state.users[family.email]

        def check(answer: Answer) -> None:
            require("id", answer.members.get("id"), user.user_id)
            require("email", answer.members.get("email"), user.email)

        yield Expected(200, check=check), state


@dataclass(frozen=True, slots=True)
class ListSessions:
    token: str

    def request(self, source: ForwardedFrom) -> bytes:
        return _bare("GET", "/sessions", {**_bearer(self.token), **source})

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        for family in _principals(state, moment, self.token):
            if family is None:
                yield _TOKEN, state
                continue
            live = {
                each.sid
                for each in state.families.values()
                if each.email == family.email and each.is_live(moment.now)
            }

            def check(answer: Answer, live: set[str | None] = live) -> None:
                listed = [each["id"] for each in answer.members["sessions"]]
                require("the live sessions", set(listed), live)
                require("each session once", len(listed), len(live))

            yield Expected(200, check=check), state


@dataclass(frozen=True, slots=True)
class LogOut:
    token: str

    def request(self, source: ForwardedFrom) -> bytes:
        return _bare("POST", "/logout", {**_bearer(self.token), **source, "Content-Length": "0"})

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        for view in moment.views(state):
            family = principal_of(view, self.token, moment.now)
            if family is None:
                yield _TOKEN, state
            else:
                yield _DONE, state.ending(state.families[family.key])


@dataclass(frozen=True, slots=True)
class EndSession:
    """Of one's own, by its id; another than the one that asks needs a recent login or password."""

    token: str
    sid: str
    password: str

    def request(self, source: ForwardedFrom) -> bytes:
        body = json.dumps({"current_password": self.password}).encode()
        headers = {
            **_bearer(self.token),
            **source,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
        return _bare("DELETE", f"/sessions/{self.sid}", headers) + body

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        for family in _principals(state, moment, self.token):
            if family is None:
                yield _TOKEN, state
                continue
            for seen in moment.views(state):
                yield self._ended(state, seen, family, moment)

    def _ended(self, state: State, seen: State, family: Family, moment: Moment) -> Outcome:
        """`seen` is where the session was looked for."""
        unknown = Expected(404, "session_not_found")
        found = seen.find_session(self.sid)
        if found is None or found.email != family.email or not found.is_live(moment.now):
            return unknown, state
        user = seen.users[family.email]
        if found.key != family.key and not is_password_right(user, self.password):
            return _CREDENTIALS, state
        if state.families[found.key].is_revoked:
            return unknown, state
        return _DONE, state.ending(state.families[found.key])


@dataclass(frozen=True, slots=True)
class ChangePassword:
    """Ends all other sessions; this one begins again, and nothing older is good in it."""

    token: str
    current: str
    new: str

    def request(self, source: ForwardedFrom) -> bytes:
        body = {"current_password": self.current, "new_password": self.new}
        return json_request("/api/auth/change-password", body, {**_bearer(self.token), **source})

    def outcomes(self, state: State, moment: Moment, _: Answer) -> Iterator[Outcome]:
        for family in _principals(state, moment, self.token):
            if family is None:
                yield _TOKEN, state
            elif moment.is_stepped_back:
                yield _CLOCK, state
            else:
                for verified in moment.views(state):
                    yield self._changed(state, verified, family, moment)

    def _changed(self, state: State, verified: State, family: Family, moment: Moment) -> Outcome:
        """`verified` is where the password was looked at; whatever came since is noticed by the
        statement that changes it."""
        user, now = state.users[family.email], moment.now
        if not is_password_right(verified.users[family.email], self.current):
            return _CREDENTIALS, state
        if not user.is_active or user.version != verified.users[family.email].version:
            return _CREDENTIALS, state
        state = state.with_user(replace(user, password=self.new, version=user.version + 1))
        state = state.ending_all(email=user.email, but=family.key)
        before = state.families[family.key]
        if not before.is_live(now):
            return _TOKEN, state  # it ended in the same moment; the new password holds
        renewed = replace(
            before,
            life=before.life + 1,
            generation=0,
            rotated_at=None,
            auth_time=max(now, before.auth_time + 1),
        )
        tokens = issued(state.clients[ACCOUNT], renewed, moment, renewed.scope)
        return Expected(200, tokens=tokens), state.with_family(renewed)
