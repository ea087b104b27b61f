"""Positions in status lists and the bits themselves (draft-ietf-oauth-status-list-21 §4).

A session's position follows from its `seq`, a machine token's from the block it was reserved in;
both run through a keyed permutation, so that a public list shows neither order nor volume. A set
bit means revoked and stays. Pure: lists are kept, signed and served elsewhere.
"""

import base64
import hashlib
import re
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

LIST_BITS: Final = 17
LIST_SIZE: Final = 1 << LIST_BITS  # entries of one list: 16 KiB before compression
BLOCK_SIZE: Final = 1024  # positions of machine tokens that one write reserves
MEDIA_TYPE: Final = "application/statuslist+jwt"
TYP: Final = "statuslist+jwt"
PATH: Final = "/oauth2/status-lists"

Kind = Literal["s", "m"]
_NAME = re.compile(r"([sm])(0|[1-9][0-9]{0,11})")
_ROUNDS = 4
_LOW_BITS = 8
_HIGH_BITS = LIST_BITS - _LOW_BITS
_LOW_MASK = (1 << _LOW_BITS) - 1
_HIGH_MASK = (1 << _HIGH_BITS) - 1
# Of each round: how many halves may go in, and the bits of what comes out.
_HALVES = ((1 << _LOW_BITS, _HIGH_MASK), (1 << _HIGH_BITS, _LOW_MASK)) * (_ROUNDS // 2)


@dataclass(frozen=True, slots=True, order=True)
class ListName:
    """One list: sessions (`s`) or machine tokens (`m`), and its number."""

    kind: Kind
    number: int

    def __str__(self) -> str:
        return f"{self.kind}{self.number}"

    def uri(self, issuer: str) -> str:
        """What tokens carry, and the list's `sub`."""
        return f"{issuer}{PATH}/{self}"


@dataclass(frozen=True, slots=True)
class Position:
    """One entry of one list."""

    name: ListName
    index: int


def parse_uri(uri: str, issuer: str) -> ListName | None:
    """The list that a token of this issuer names; None for anything else."""
    prefix = f"{issuer}{PATH}/"
    return parse_name(uri.removeprefix(prefix)) if uri.startswith(prefix) else None


def parse_name(text: str) -> ListName | None:
    """`s12` or `m0`; None for anything else."""
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    return ListName("s" if match[1] == "s" else "m", int(match[2]))


def position_of(kind: Kind, number: int, key: bytes) -> Position:
    """Where the session with this `seq`, or the machine token with this number, stands."""
    name = ListName(kind, number // LIST_SIZE)
    return Position(name, permute(number % LIST_SIZE, name, key))


def number_of(position: Position, key: bytes) -> int:
    """What stands at this position: the way back from `position_of`."""
    offset = _run_rounds(position.index, position.name, key, reversed(range(_ROUNDS)))
    return position.name.number * LIST_SIZE + offset


def permute(offset: int, name: ListName, key: bytes) -> int:
    """A keyed permutation of 0..LIST_SIZE-1, another one for each list.

    An unbalanced Feistel network: whatever the round function is, it is a bijection, so that no
    two tokens ever share a bit.
    """
    return _run_rounds(offset, name, key, range(_ROUNDS))


def _run_rounds(offset: int, name: ListName, key: bytes, rounds: Iterable[int]) -> int:
    """Each round undoes itself: in the opposite order they lead back."""
    low, high = offset & _LOW_MASK, offset >> _LOW_BITS
    tables = _tables(name, key)
    for number in rounds:
        if number % 2:
            low ^= tables[number][high]
        else:
            high ^= tables[number][low]
    return (high << _LOW_BITS) | low


@lru_cache(maxsize=1024)  # 3 KiB each; sessions of a list are refreshed again and again
def _tables(name: ListName, key: bytes) -> tuple["array[int]", ...]:
    """What each round does to each half: few enough to be worked out once for a list."""
    label = str(name).encode("ascii")
    return tuple(
        array("H", (_round(key, label, number, half) & mask for half in range(halves)))
        for number, (halves, mask) in enumerate(_HALVES)
    )


def _round(key: bytes, label: bytes, number: int, half: int) -> int:
    content = b"%s:%d:%d" % (label, number, half)
    return int.from_bytes(hashlib.blake2b(content, key=key, digest_size=4).digest(), "big")


class BitArray:
    """The entries of one list, one bit each; the first is the lowest bit of byte 0 (§4.1)."""

    __slots__ = ("_bytes",)

    def __init__(self, *, is_full: bool = False) -> None:
        """`is_full`: every entry is revoked."""
        self._bytes = bytearray(b"\xff" if is_full else b"\0") * (LIST_SIZE // 8)

    def set(self, index: int) -> bool:
        """Mark as revoked; False when it was already."""
        mask = 1 << (index & 7)
        if self._bytes[index >> 3] & mask:
            return False
        self._bytes[index >> 3] |= mask
        return True

    def is_set(self, index: int) -> bool:
        return bool(self._bytes[index >> 3] & (1 << (index & 7)))

    def compressed(self) -> str:
        """`lst`: base64url of the DEFLATE data in ZLIB format (§4.1)."""
        packed = zlib.compress(bytes(self._bytes), 9)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")
