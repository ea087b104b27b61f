"""A secret in every way in which it could stand in a log: as it is, base64, hex, URL, JSON."""

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

FRAGMENT = 24  # characters in a row that cannot be there by chance
SHORTEST = 12  # of a shorter text too much is said by chance
LEAST_VARIED = 6  # different bytes; 24 random ones of base64 have about 20


def spellings(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """The name of an encoding, and the secret in it."""
    written = dict.fromkeys(_as_text(secret))
    for raw in written:
        yield "plain", raw
        for offset in range(3):
            core = _base64_core(raw, offset)
            yield "base64", core
            yield "base64url", core.translate(_TO_URL)
    yield "hex", secret.hex().encode()
    yield "hex", secret.hex().upper().encode()
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    for escaped in (json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text)):
        yield "escaped", escaped[1:-1].encode("utf-8", "surrogatepass")


def fragments(text: bytes, *, is_dense: bool) -> set[bytes]:
    """What would be found of `text`: all of a short one, beginning and end of a longer one, and if
    `is_dense` all between, wherever it is cut. Nothing that is said by chance, as the zeros of an
    empty status list are."""
    found = {text[:FRAGMENT], text[-FRAGMENT:]}
    if is_dense:
        found.update(text[i : i + FRAGMENT] for i in range(0, len(text) - FRAGMENT, FRAGMENT // 2))
    return {one for one in found if len(one) >= SHORTEST and len(set(one)) >= LEAST_VARIED}


_TO_URL = bytes.maketrans(b"+/", b"-_")


def _as_text(secret: bytes) -> Iterator[bytes]:
    yield secret
    for write in (quote, quote_plus):
        escaped = write(secret, safe="").encode()
        yield escaped
        yield _lower_escapes(escaped)


def _lower_escapes(text: bytes) -> bytes:
    head, *parts = text.split(b"%")
    return b"%".join([head, *(part[:2].lower() + part[2:] for part in parts)])


def _base64_core(text: bytes, offset: int) -> bytes:
    """The characters that are the same whatever `offset` bytes (of three) come before and whatever
    comes behind: of a Basic header, say."""
    encoded = base64.b64encode(bytes(offset) + text).rstrip(b"=")
    begin = (0, 2, 3)[offset]
    end = len(encoded) - ((offset + len(text)) % 3 != 0)
    return encoded[begin:end]
