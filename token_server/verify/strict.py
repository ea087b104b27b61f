"""Strict reading of base64url and JSON: one text for one value, or an error.

Python's own decoders are lenient where a verifier must not be: base64 skips foreign characters and
unused bits (RFC 7515 2, RFC 4648 3.5), JSON takes NaN, the last of repeated members and lone
surrogates (RFC 8725 3.7, RFC 7519 4). Knows nothing of tokens; used for tokens and for key sets.
"""

import json
import math
import re
from binascii import a2b_base64
from typing import NoReturn, TypeAlias

from token_server.verify.errors import Reason

JsonObject: TypeAlias = dict[str, object]

_MAX_DEPTH = 32
_MAX_INTEGER_CHARACTERS = 20  # -9223372036854775808, the smallest 64-bit integer, has 20
# A string without its closing quote runs to the end of the text: each byte is looked at once.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_JSON_SPACE = " \t\n\r"

# The standard alphabet's own characters are foreign here, and so is padding.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/***")
_PADDING = (b"", b"", b"==", b"=")
_LAST_CHARACTERS = (b"", b"", b"AQgw", b"AEIMQUYcgkosw048")


class StrictnessError(ValueError):
    """The bytes are not the one strict form. Holds the reason, never the bytes."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_base64url(segment: bytes) -> bytes:
    """Decode canonical base64url without padding; raises StrictnessError for anything else."""
    tail = len(segment) & 3
    # The last character of a partial group carries unused bits, which must be zero.
    if tail and segment[-1] not in _LAST_CHARACTERS[tail]:
        raise StrictnessError(Reason.MALFORMED)
    try:
        return a2b_base64(segment.translate(_TO_STANDARD) + _PADDING[tail], strict_mode=True)
    except ValueError:
        raise StrictnessError(Reason.MALFORMED) from None


def decode_object(raw: bytes, *, bounds_integers: bool = True) -> JsonObject:
    """Read one JSON object; raises StrictnessError for what two parsers could read differently.

    With `bounds_integers` off, each integer has to be looked at by whoever reads the object: a
    hook for each costs 2 % of a verification.
    """
    # Flat but for a few arrays, as nearly all are, it cannot be too deep.
    if (raw.find(b"{", 1) >= 0 or raw.count(b"[") >= _MAX_DEPTH) and _is_too_deep(raw):
        raise StrictnessError(Reason.TOO_DEEP)
    try:
        text = raw.decode("utf-8").strip(_JSON_SPACE)
        value, end = (_scan if bounds_integers else _scan_with_any_integer)(text, 0)
        if "\\" in text and "\\u" in text:  # one character is found much faster than two
            # An escaped lone surrogate is no character; the strict encoder is the one that objects.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except StrictnessError:
        raise
    # JSONDecodeError and the Unicode errors, which would carry the text along; StopIteration is
    # how the scanner says that there is no value at all.
    except (ValueError, StopIteration):
        raise StrictnessError(Reason.NOT_JSON) from None
    if end != len(text) or not isinstance(value, dict):
        raise StrictnessError(Reason.NOT_JSON)
    return value


def is_bounded(integer: int) -> bool:
    """Whether an integer is one that `decode_object` lets through."""
    return len(str(integer)) <= _MAX_INTEGER_CHARACTERS


def _is_too_deep(raw: bytes) -> bool:
    """Whether arrays and objects nest deeper than the cap; the parser itself recurses."""
    depth = 0
    for match in _STRUCTURE.finditer(raw):
        mark = match.group()
        if mark in {b"{", b"["}:
            depth += 1
            if depth > _MAX_DEPTH:
                return True
        elif mark in {b"}", b"]"}:
            depth -= 1
    return False


def _members(pairs: list[tuple[str, object]]) -> JsonObject:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise StrictnessError(Reason.MEMBER_REPEATED)
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_CHARACTERS:
        raise StrictnessError(Reason.NUMBER_UNBOUNDED)
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise StrictnessError(Reason.NUMBER_UNBOUNDED)
    return value


def _constant(_text: str) -> NoReturn:
    raise StrictnessError(Reason.NUMBER_UNBOUNDED)


# Made once: `json.loads` with hooks builds a decoder for each call.
_scan = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_integer,
    parse_float=_float,
    parse_constant=_constant,
).scan_once  # type: ignore[attr-defined]  # typeshed does not know it
_scan_with_any_integer = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_float, parse_constant=_constant
).scan_once  # type: ignore[attr-defined]  # typeshed does not know it
