"""The keyrings of a drill, and what an onlooker learns of their keys: from tokens and key sets.

Nothing here asks the servers' own code or files. Two promises are judged from outside: a key is
served by every instance long before its first token (I2), and leaves no key set before its last
token has expired (I4). Instants are `time.time()`.
"""

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.load import Reply
from tests.support.process import Installation, ServerProcess


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, and where it came from."""

    keyring: str
    server: int
    kid: str
    issued_at: float  # when the answer was read
    expires_at: int
    text: str = field(repr=False)


@dataclass(slots=True)
class KeyLife:
    """One key as it was seen at each server, by number."""

    published: dict[int, float] = field(default_factory=dict)
    gone: dict[int, float] = field(default_factory=dict)
    signed_first: dict[int, float] = field(default_factory=dict)
    last_expiry: int = 0
    compromised_at: float | None = None


@dataclass(slots=True)
class Ring:
    """A keyring with the servers that use it."""

    name: str
    installation: Installation
    servers: Sequence[ServerProcess]
    client_secret: str = field(repr=False)
    keys: dict[str, KeyLife] = field(default_factory=dict)
    latest: dict[int, str] = field(default_factory=dict)  # the newest signing kid of each server
    problems: list[str] = field(default_factory=list)

    @property
    def signing(self) -> str | None:
        """The kid that all servers sign with; None while they differ."""
        kids = set(self.latest.values())
        return kids.pop() if len(self.latest) == len(self.servers) and len(kids) == 1 else None

    def life(self, kid: str) -> KeyLife:
        return self.keys.setdefault(kid, KeyLife())

    def note_failure(self, server: int, reply: Reply) -> None:
        """No request may fail, whatever happens to the keys."""
        at = time.strftime("%H:%M:%S", time.gmtime())
        self.problems.append(
            f"{self.name}/{server} answered {reply.status} {reply.body[:200]!r} at {at}Z"
        )

    def note_token(self, token: Token, sent_at: float) -> None:
        """`sent_at` tells an old key's late answer from a server that went back to it."""
        life = self.life(token.kid)
        life.last_expiry = max(life.last_expiry, token.expires_at)
        newest = self.latest.get(token.server)
        if newest == token.kid:
            return
        if token.server not in life.signed_first:
            life.signed_first[token.server] = token.issued_at
            self.latest[token.server] = token.kid
        elif newest is not None and sent_at > self.keys[newest].signed_first[token.server]:
            self.problems.append(f"{self.name}/{token.server} signed with {token.kid} again")

    def note_key_set(self, server: int, kids: frozenset[str], at: float) -> None:
        for kid in kids:
            life = self.life(kid)
            life.published.setdefault(server, at)
            if life.gone.pop(server, None) is not None:
                self.problems.append(f"{self.name}/{server} served {kid} again")
        for kid, life in self.keys.items():
            if kid not in kids and server in life.published:
                life.gone.setdefault(server, at)

    def served_before_s(self, kid: str) -> float | None:
        """How long every server had served `kid` when the first one signed with it; None when it
        never signed. Negative when a token came first."""
        life = self.keys[kid]
        if not life.signed_first:
            return None
        if len(life.published) < len(self.servers):
            return float("-inf")
        return min(life.signed_first.values()) - max(life.published.values())

    def kept_after_s(self, kid: str) -> float | None:
        """How long after its last token had expired `kid` left the first key set; None while it
        is in all of them. Negative when it left too early."""
        life = self.keys[kid]
        if not life.gone or not life.signed_first:
            return None
        return min(life.gone.values()) - life.last_expiry


def kid_of(access_token: str) -> str:
    return str(_part(access_token, 0)["kid"])


def expiry_of(access_token: str) -> int:
    """Its `exp`."""
    expires_at = _part(access_token, 1)["exp"]
    assert isinstance(expires_at, int)
    return expires_at


def _part(access_token: str, number: int) -> dict[str, object]:
    text = access_token.split(".")[number]
    part = json.loads(base64.urlsafe_b64decode(text + "=="))
    assert isinstance(part, dict)
    return part
