"""Status list tokens: what resource services fetch to know which access tokens were revoked.

draft-ietf-oauth-status-list-21 §5.1, §8. A list is signed when it is asked for and has changed,
or has reached the age of half a `ttl`; between that it is served from memory. An extra member,
`revoked_kids`, names compromised signing keys that may still sit in caches of the JWKS.
"""

import asyncio
import hashlib
from dataclasses import dataclass

import msgspec

from token_server.core.status_list import PATH, TYP, ListName
from token_server.errors import UnavailableError
from token_server.logs import get_logger
from token_server.runtime import Runtime
from token_server.storage.status_cache import StatusList

_log = get_logger(__name__)

LIFETIME_TTLS = 10  # a list expires after so many `ttl`
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class SignedList:
    """One status list token as it is served."""

    body: bytes
    etag: bytes
    version: int
    revoked_kids: tuple[str, ...]
    issued_at: int
    expires_at: int


class StatusLists:
    """The signed lists of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._signed: dict[ListName, SignedList] = {}
        self._signing = asyncio.Lock()  # many ask at the same instant: one signature for all

    @property
    def ttl_s(self) -> int:
        """How long a list may be used before it is fetched again."""
        return self._runtime.settings.status_ttl_s

    async def find(self, name: ListName) -> SignedList | None:
        """The list as it is now; None when there is none of this name.

        While the database is away, what was known last is served until it expires; then
        UnavailableError.
        """
        status = self._runtime.status
        is_current = await self._follow()
        if is_current and status.find(name) is None:
            # Another instance may have begun it a moment ago.
            is_current = await self._follow(at_once=True)
        entry = status.find(name)
        if entry is None:
            if not is_current:
                raise UnavailableError("status_list_unknown")
            self._signed.pop(name, None)
            return None
        known = self._signed.get(name)
        if known is not None and self._is_good(known, entry, is_current=is_current):
            return known
        async with self._signing:
            known = self._signed.get(name)
            if known is None or not self._is_good(known, entry, is_current=is_current):
                # Never before the one before: verifiers refuse a list that goes back in time.
                issued_at = max(self._runtime.clock.now(), known.issued_at if known else 0)
                known = self._signed[name] = await self._sign(name, entry, issued_at)
            return known

    async def uris(self) -> list[str]:
        """All lists that good tokens may name, the newest session list last (§9.3)."""
        await self._follow()
        issuer = self._runtime.settings.issuer
        return [name.uri(issuer) for name in self._runtime.status.names()]

    async def _follow(self, *, at_once: bool = False) -> bool:
        """False when the database does not answer, but what is known is not too old to serve."""
        status = self._runtime.status
        try:
            await status.follow(at_once=at_once)
        except UnavailableError as error:
            if status.age_s >= LIFETIME_TTLS * self.ttl_s:
                raise
            log = _log.debug if error.is_of_storage else _log.warning
            log("status_lists_not_followed", reason=error.reason)
            return False
        return True

    def _is_good(self, known: SignedList, entry: StatusList, *, is_current: bool) -> bool:
        """Whether it says what is known now. It is signed again at half a `ttl`, so that the lists
        of several instances stay as close in time as their clocks allow; but what is not current
        must not look as if it were."""
        if (known.version, known.revoked_kids) != (entry.version, revoked_kids(self._runtime)):
            return False
        now = self._runtime.clock.now()
        return now < (known.issued_at + (self.ttl_s + 1) // 2 if is_current else known.expires_at)

    async def _sign(self, name: ListName, entry: StatusList, issued_at: int) -> SignedList:
        runtime = self._runtime
        version, kids = entry.version, revoked_kids(runtime)
        uri = name.uri(runtime.settings.issuer)
        expires_at = issued_at - int(runtime.status.age_s) + LIFETIME_TTLS * self.ttl_s
        payload = {
            "iss": runtime.settings.issuer,
            "sub": uri,
            "iat": issued_at,
            "exp": expires_at,
            "ttl": self.ttl_s,
            "status_list": {
                "bits": 1,
                "lst": entry.bits.compressed(),
                "aggregation_uri": aggregation_uri(runtime.settings.issuer),
            },
            "revoked_kids": list(kids),
        }
        compact, _ = await runtime.keys.sign_compact(
            TYP, _encode(payload), now=issued_at, expires_at=expires_at
        )
        body = compact.encode("ascii")
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode("ascii")
        return SignedList(body, etag, version, kids, issued_at, expires_at)


def revoked_kids(runtime: Runtime) -> tuple[str, ...]:
    """Signing keys that others may have: nothing signed by them is good, whenever it says."""
    return tuple(sorted(k.kid for k in runtime.keyring.keys if k.compromised_at is not None))


def aggregation_uri(issuer: str) -> str:
    """Where all lists are named (§9)."""
    return issuer + PATH
