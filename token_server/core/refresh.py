"""Refresh tokens: their text, and what one that is presented deserves.

RFC 6749 §6, RFC 9700 §4.14; the design is docs/refresh-tokens.md.

A family is all refresh tokens of one login, stored as one row with the number of its current
generation. The text of a token is computed from (family, generation) and a MAC, so that no
token is stored, every old generation stays recognisable for ever, and a replay inside the
window can be given the same successor again.
"""

import base64
import hmac
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from token_server.records import Family

_PREFIX = "rt_"
_BODY = struct.Struct(">H16sI")  # master-key version, family id, generation
# 22 + 32 bytes of MAC make 72 characters: no padding, no spare bits, so one token has one text.
_TEXT = re.compile(r"rt_[A-Za-z0-9_-]{72}")
_MAC_CONTEXT = b"token-server refresh token v1\0"
MAX_GENERATION = 2**32 - 1


@dataclass(frozen=True, slots=True)
class TokenText:
    """What the text of a refresh token says once its MAC has been found right."""

    mac_version: int
    family_id: bytes
    generation: int


def encode_refresh_token(token: TokenText, mac_key: bytes, epoch: int) -> str:
    """The text of the token; the same for the same input, which is what makes replay idempotent.

    `epoch` is raised when a backup was restored: every token made before is junk from then on.
    """
    body = _BODY.pack(token.mac_version, token.family_id, token.generation)
    return _PREFIX + base64.urlsafe_b64encode(body + _mac(mac_key, epoch, body)).decode("ascii")


def decode_refresh_token(
    text: str, find_mac_key: Callable[[int], bytes | None], epoch: int
) -> TokenText | None:
    """What the text says, or None for anything that this server did not make: decided without a
    query, so that junk costs nothing."""
    if _TEXT.fullmatch(text) is None:
        return None
    raw = base64.urlsafe_b64decode(text[len(_PREFIX) :])
    body, mac = raw[: _BODY.size], raw[_BODY.size :]
    mac_version, family_id, generation = _BODY.unpack(body)
    mac_key = find_mac_key(mac_version)
    if mac_key is None or not hmac.compare_digest(mac, _mac(mac_key, epoch, body)):
        return None
    return TokenText(mac_version, family_id, generation)


def _mac(mac_key: bytes, epoch: int, body: bytes) -> bytes:
    mac = _keyed(mac_key).copy()
    mac.update(_MAC_CONTEXT + epoch.to_bytes(8, "big") + body)
    return mac.digest()


@lru_cache(maxsize=8)  # the versions of the master key; to begin one costs more than the rest
def _keyed(mac_key: bytes) -> hmac.HMAC:
    return hmac.new(mac_key, digestmod="sha256")


@dataclass(frozen=True, slots=True)
class RefreshPolicy:
    """The client's say in it: 0 seconds is strict mode; no shadow limit by default."""

    replay_window_s: int
    shadow_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Rotate:
    """The current generation of a live family: spend it, hand out the next."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The predecessor inside its window: the answer was lost or two tabs raced. The same
    successor again. `shadow_count` counts such replays in consecutive generations."""

    is_first_of_generation: bool
    shadow_count: int


@dataclass(frozen=True, slots=True)
class Reuse:
    """A spent token outside any excuse: somebody else holds it. The family dies."""

    reason: str


@dataclass(frozen=True, slots=True)
class Expired:
    """Idle or absolute lifetime is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not usable, and no sign of theft within this family."""

    reason: str


Decision = Rotate | Replay | Reuse | Expired | Refused


def decide_refresh(  # noqa: PLR0911 - a table, read from top to bottom: one return per row
    family: Family, presented_generation: int, client_id: str, now: int, policy: RefreshPolicy
) -> Decision:
    """What a presented generation of this family deserves at `now`. Pure; the caller acts.

    The order matters: nothing that a stranger presents may kill or reveal a family (client
    first), and what is already dead is not killed twice.
    """
    if family.client_id != client_id:
        return Refused("client_mismatch")
    if family.revoked_at is not None:
        return Refused("family_revoked")
    if now >= family.absolute_expires_at:
        return Expired("absolute_lifetime")
    if now >= family.idle_expires_at:
        return Expired("idle_lifetime")
    if presented_generation > family.generation:
        # A valid MAC over a generation never handed out: a restored backup, or a leaked key.
        return Refused("generation_from_future")
    if presented_generation == family.generation:
        return Refused("generations_exhausted") if _is_exhausted(family) else Rotate()
    if presented_generation == family.generation - 1 and _is_window_open(family, now, policy):
        return _decide_replay(family, presented_generation, policy)
    return Reuse("old_generation")


def _is_window_open(family: Family, now: int, policy: RefreshPolicy) -> bool:
    if family.rotated_at is None:
        raise ValueError("a family with a spent generation has the instant of its rotation")
    return policy.replay_window_s > 0 and now - family.rotated_at < policy.replay_window_s


def _is_exhausted(family: Family) -> bool:
    return family.generation >= MAX_GENERATION


def _decide_replay(family: Family, generation: int, policy: RefreshPolicy) -> Decision:
    """A first replay of a generation right after a replay of the one before it is a shadow: two
    tabs that keep racing, or a thief one step behind (refresh.md 6)."""
    is_first = family.replayed_generation is None or family.replayed_generation < generation
    if not is_first:
        return Replay(is_first_of_generation=False, shadow_count=family.shadow_count)
    is_consecutive = family.replayed_generation == generation - 1
    shadow_count = family.shadow_count + 1 if is_consecutive else 0
    if policy.shadow_limit is not None and shadow_count >= policy.shadow_limit:
        return Reuse("shadow_limit")
    return Replay(is_first_of_generation=True, shadow_count=shadow_count)
