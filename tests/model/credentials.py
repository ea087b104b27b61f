"""Who plays in one sequence, and what they know: names, passwords, secrets, tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.model.calls import Credentials
from tests.model.state import Family, State

SCOPES = ("orders:read", "orders:write")


@dataclass(slots=True)
class Cast:
    """Of one sequence. `state` is one of those that explain what was seen so far; texts and names
    are the same in all of them."""

    number: int
    state: State
    clients: tuple[str, str]  # a public and a confidential one
    machine_secret: tuple[str, str]
    service_secret: tuple[str, str]
    forge: Callable[[str], str]  # the token after this one, that nobody was given
    now: Callable[[], int]
    _made: int = 0
    _old: dict[str, str] = field(default_factory=dict)

    def follow(self, state: State) -> None:
        """Things have changed; passwords that were good before are remembered."""
        for email, user in self.state.users.items():
            if state.users[email].password != user.password:
                self._old[email] = user.password
        self.state = state

    @property
    def emails(self) -> list[str]:
        return list(self.state.users)

    @property
    def confidential(self) -> str:
        return self.clients[1]

    @property
    def families(self) -> list[Family]:
        """The oldest first, and those that are over before those that live; only those whose id a
        token has told."""
        known = [each for each in self.state.families.values() if each.sid is not None]
        now = self.now()
        return sorted(known, key=lambda each: each.is_live(now))

    @property
    def has_live(self) -> bool:
        return bool(self.families) and self.families[-1].is_live(self.now())

    @property
    def access(self) -> list[str]:
        return list(self.state.access)

    def credentials(self, client_id: str) -> Credentials:
        """With the newest secret that anybody knows of."""
        if client_id == self.machine_secret[0]:
            return self.machine()
        doors = self.state.clients[client_id].doors
        return Credentials(client_id, doors.secrets[-1][0] if doors.secrets else None)

    def machine(self) -> Credentials:
        return Credentials(*self.machine_secret)

    def service(self) -> Credentials:
        """The service that the tokens are for."""
        return Credentials(*self.service_secret)

    def owner_of(self, refresh_token: str) -> str:
        family = self.state.families.get(self.state.refresh[refresh_token].family)
        return self.clients[0] if family is None else family.client_id

    def texts_of(self, family: Family) -> list[str]:
        """The refresh tokens of a session, the oldest first."""
        return [text for text, ref in self.state.refresh.items() if ref.family == family.key]

    def access_of(self, family: Family) -> list[str]:
        return [text for text, each in self.state.access.items() if each.family == family.key]

    def scope(self, kind: Literal["all", "less", "more"]) -> tuple[str, ...]:
        return {"all": (), "less": SCOPES[:1], "more": (*SCOPES, "stock:read")}[kind]

    def password_of(self, email: str, kind: Literal["right", "wrong", "old"]) -> str:
        right = self.state.users[email].password
        return {"right": right, "wrong": "not it at all", "old": self._old.get(email, "never was")}[
            kind
        ]

    def new_password(self) -> str:
        self._made += 1
        return f"battery staple {self.number} {self._made}"

    def new_email(self) -> str:
        """A few people, and then those that are there already."""
        count = len(self.state.users)
        return f"u{self.number}-{count}@example.org" if count < 4 else self.emails[-1]

    def rotation_s(self, kind: int) -> int:
        """For how long old secrets go on: not at all where there are many."""
        secrets = self.state.clients[self.confidential].doors.secrets
        return 0 if kind % 2 or len(secrets) > 4 else 60
