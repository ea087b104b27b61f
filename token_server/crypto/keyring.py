"""The signing keys in memory: the only module of the server that signs.

Private halves come in decrypted and checked (crypto/opening.py), once. Which key signs and what
the JWKS holds is core/key_lifecycle's answer for the instant passed in (RFC 7515, RFC 7517 5).
Must not log, must not do I/O, and must not show more of a key than its public half.
"""

import bisect
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from token_server.core.key_lifecycle import (
    key_states,
    publication_order,
    published_keys,
    signing_key,
)
from token_server.crypto import rsa_keys
from token_server.crypto.secrets import encode_base64url
from token_server.errors import UnavailableError
from token_server.records import KeyState, SigningKey


class Signer(Protocol):
    """Something that signs under one kid: a key in memory today, an HSM or a cloud's later."""

    @property
    def kid(self) -> str: ...

    @property
    def alg(self) -> str: ...

    def sign(self, content: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Phase:
    """What signs, and what is published, for a stretch of time."""

    signer: Signer | None
    jwks: bytes


class Keyring:
    """All signing keys of this installation, ready to use. `opening.open_keyring` builds it."""

    def __init__(
        self, keyring_id: str, generation: int, keys: Mapping[SigningKey, Signer | None]
    ) -> None:
        """`keys` maps each key to its signer, None for one whose private half was erased."""
        self.keyring_id = keyring_id
        self.generation = generation
        self.keys: tuple[SigningKey, ...] = tuple(sorted(keys, key=publication_order))
        self._signers = {key.kid: signer for key, signer in keys.items() if signer is not None}
        self._covered = {key.kid: key.exp_high_water or 0 for key in keys}
        instants = {key.activate_at for key in keys} | {key.retire_at for key in keys}
        self._edges = sorted(instant for instant in instants if instant is not None)
        self._phases: dict[int, _Phase] = {}
        self._headers: dict[tuple[str, str], bytes] = {}

    @classmethod
    def empty(cls) -> "Keyring":
        """For commands that need no keys: publishes nothing and signs nothing."""
        return cls("", 0, {})

    @property
    def signers(self) -> Mapping[str, Signer]:
        """By kid, for the keys whose private half is here."""
        return MappingProxyType(self._signers)

    def signer(self, now: int) -> Signer:
        """What signs at `now`. UnavailableError("no_signing_key") when no key may."""
        signer = self._phase(now).signer
        if signer is None:
            raise UnavailableError("no_signing_key", retry_after_s=5)
        return signer

    def signs_at(self, now: int) -> bool:
        """Whether `signer` has an answer."""
        return self._phase(now).signer is not None

    def covered_until(self, kid: str) -> int:
        """The largest `exp` that the store knows of for tokens signed by this key (I4)."""
        return self._covered[kid]

    def with_records(self, keys: Iterable[SigningKey]) -> "Keyring":
        """The same private halves under other records of their keys."""
        signers = {key: self._signers.get(key.kid) for key in keys}
        return Keyring(self.keyring_id, self.generation, signers)

    def sign_compact(self, typ: str, payload: bytes, now: int) -> tuple[str, str]:
        """The compact JWS (RFC 7515 7.1) of `payload` under the active key, and its kid. `typ` is
        one of the server's own constants: each makes one cached header per key."""
        signer = self.signer(now)
        header = self._headers.get((signer.kid, typ))
        if header is None:
            members = {"alg": signer.alg, "kid": signer.kid, "typ": typ}
            text = json.dumps(members, separators=(",", ":"))
            header = encode_base64url(text.encode("ascii")).encode("ascii") + b"."
            self._headers[signer.kid, typ] = header
        content = header + encode_base64url(payload).encode("ascii")
        signature = encode_base64url(signer.sign(content))
        return f"{content.decode('ascii')}.{signature}", signer.kid

    def jwks(self, now: int) -> bytes:
        """The JWK Set to serve at `now`; the very same bytes object while the set is the same.
        Order: by activation, keys without a date last."""
        return self._phase(now).jwks

    def states(self, now: int) -> Mapping[KeyState, int]:
        """How many keys are in each state at `now`; every state is there."""
        counts = Counter(key_states(self.keys, now).values())
        return MappingProxyType({state: counts[state] for state in KeyState})

    def _phase(self, now: int) -> "_Phase":
        """What holds at `now`. Nothing changes between two instants that stand in the records, so
        it is found out once for each stretch between them."""
        index = bisect.bisect_right(self._edges, now)
        phase = self._phases.get(index)
        if phase is None:
            key = signing_key(self.keys, now)
            signer = None if key is None else self._signers.get(key.kid)
            published = published_keys(self.keys, now)
            jwks = [rsa_keys.public_jwk(key.kid, key.n, key.e) for key in published]
            body = json.dumps({"keys": jwks}, separators=(",", ":")).encode("ascii")
            phase = self._phases[index] = _Phase(signer, body)
        return phase

    def __repr__(self) -> str:
        return f"Keyring({self.keyring_id!r}, generation={self.generation}, keys={len(self.keys)})"
