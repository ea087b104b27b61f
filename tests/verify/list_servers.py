"""An issuer that publishes status lists, for the verifier's tests: in memory, with its own clock.

Fakes the network and the two clocks, nothing else: the fetching threads are real. A test spoils
what is published through `payload`, `header`, `signer` and `problem`.
"""

import base64
import threading
import zlib
from dataclasses import dataclass, field

from tests.verify import forge
from tests.verify.key_servers import METADATA_PATH, key_set, kid_of, token_of
from token_server.verify import Fetching, FetchResult, RemoteKeySet, StatusChecking, Verifier
from token_server.verify.status_remote import RemoteStatusLists

NAMES_URI = f"{forge.ISSUER}/oauth2/status-lists"
TTL_S = 10


def list_uri(name: str = "s0") -> str:
    return f"{NAMES_URI}/{name}"


def packed(octets: bytes) -> str:
    return base64.urlsafe_b64encode(zlib.compress(octets, 9)).rstrip(b"=").decode()


def status_token(index: int, *, name: str = "s0", key: str = "good", **changes: object) -> str:
    """A good token with this position."""
    claim = {"status_list": {"idx": index, "uri": list_uri(name)}}
    return token_of(key, status=claim, jti=f"{name}-{index}", **changes)


@dataclass
class ListIssuer:
    """Keys and lists by discovery."""

    names: tuple[str, ...] = ("good",)
    signer: str = "good"
    revoked: dict[str, set[int]] = field(default_factory=lambda: {"s0": set()})
    revoked_kids: list[str] = field(default_factory=list)
    payload: dict[str, object] = field(default_factory=dict)
    """Changes of the list's claims."""
    status_list: dict[str, object] = field(default_factory=dict)
    """Changes of the member of that name."""
    header: dict[str, object] = field(default_factory=dict)
    body: bytes | None = None
    """Instead of a list."""
    problem: Exception | None = None
    """For whatever is below /oauth2."""
    gate: threading.Event | None = None
    offers_lists: bool = True
    listed: list[str] | None = None
    now: float = 1000.0
    fetched: list[str] = field(default_factory=list)

    def wall(self) -> float:
        return forge.NOW + self.now - 1000.0

    def monotonic(self) -> float:
        return self.now

    def fetch(self, url: str, _etag: str | None, _timeout_s: float) -> FetchResult:
        path = url.removeprefix(forge.ISSUER)
        self.fetched.append(path)
        if path == METADATA_PATH:
            document = {"issuer": forge.ISSUER, "jwks_uri": f"{forge.ISSUER}/jwks"}
            if self.offers_lists:
                document["status_list_aggregation_endpoint"] = NAMES_URI
            return FetchResult(forge.compact_json(document))
        if path == "/jwks":
            return FetchResult(key_set(*self.names), None, 86_400)
        if self.gate is not None:
            self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        if url == NAMES_URI:
            uris = [list_uri(name) for name in self.revoked] if self.listed is None else self.listed
            return FetchResult(forge.compact_json({"status_lists": uris}), None, TTL_S)
        body = self.list_token(url.rpartition("/")[2]).encode() if self.body is None else self.body
        return FetchResult(body, None, TTL_S)

    def list_token(self, name: str) -> str:
        octets = bytearray(1024)
        for index in self.revoked[name]:
            octets[index >> 3] |= 1 << (index & 7)
        listed = {"bits": 1, "lst": packed(bytes(octets))}
        now = int(self.wall())
        payload = {
            "iss": forge.ISSUER,
            "sub": list_uri(name),
            "iat": now,
            "exp": now + 100,
            "ttl": TTL_S,
            "status_list": forge.changed(listed, self.status_list),
            "revoked_kids": self.revoked_kids,
        }
        header = {"alg": "RS256", "typ": "statuslist+jwt", "kid": kid_of(self.signer)}
        return forge.seal_bytes(
            forge.compact_json(forge.changed(header, self.header)),
            forge.compact_json(forge.changed(payload, self.payload)),
            key=self.signer,
        )

    def lists_fetched(self, name: str = "s0") -> int:
        return self.fetched.count(list_uri(name).removeprefix(forge.ISSUER))

    def verifier(self, *, require_status: bool = False, fail_open_for_s: float = 50) -> Verifier:
        keys = RemoteKeySet(
            issuer=forge.ISSUER, fetching=Fetching(), fetcher=self, monotonic=self.monotonic
        )
        lists = RemoteStatusLists(
            issuer=forge.ISSUER,
            keys=keys,
            checking=StatusChecking(require_status=require_status, fail_open_for_s=fail_open_for_s),
            fetcher=self,
            clock=self.wall,
            monotonic=self.monotonic,
        )
        return Verifier(
            issuer=forge.ISSUER,
            audience=forge.AUDIENCE,
            keys=keys,
            status=lists,
            clock=self.wall,
        )
