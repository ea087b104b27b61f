"""Text form of API keys: `tsk_`, the part that names the key, 256 random bits, a checksum.

One look at the text tells whether it can be an API key, and which one: a typo costs no query, and a
key is found by its id, so that its secret is compared once and in constant time (ASVS 11.5.1). The
id is no secret: it names the key in APIs, logs and the audit trail. Nothing is stored here.
"""

import base64
import re

from token_server.core.opaque import CHECKSUM_LENGTH, RANDOM_BYTES, checksum

API_KEY_PREFIX = "tsk_"
KEY_ID_PREFIX = "key_"
KEY_ID_BYTES = 12

_ID_LENGTH = 16
_TEXT = re.compile(rf"{API_KEY_PREFIX}[A-Za-z0-9_-]{{{_ID_LENGTH + 43}}}[0-9A-Za-z]{{6}}", re.ASCII)
_KEY_ID = re.compile(rf"{KEY_ID_PREFIX}[A-Za-z0-9_-]{{{_ID_LENGTH}}}", re.ASCII)


def new_key_id(random: bytes) -> str:
    """`key_` and 16 characters out of 12 random bytes: names an API key, is none itself."""
    return KEY_ID_PREFIX + _base64url(random, KEY_ID_BYTES)


def format_api_key(key_id: str, random: bytes) -> str:
    """The key's text; `random` is 32 bytes of entropy (ValueError for any other length)."""
    body = API_KEY_PREFIX + key_id.removeprefix(KEY_ID_PREFIX) + _base64url(random, RANDOM_BYTES)
    return body + checksum(body)


def read_key_id(text: str) -> str | None:
    """The id of the key that this text could be; None for what is none, or holds a typo. Says
    nothing of its being valid."""
    if not _TEXT.fullmatch(text):
        return None
    body = text[:-CHECKSUM_LENGTH]
    if checksum(body) != text[-CHECKSUM_LENGTH:]:
        return None
    return KEY_ID_PREFIX + body[len(API_KEY_PREFIX) :][:_ID_LENGTH]


def is_key_id(text: str) -> bool:
    """Whether this could name an API key."""
    return _KEY_ID.fullmatch(text) is not None


def _base64url(random: bytes, length: int) -> str:
    if len(random) != length:
        raise ValueError(f"{length} random bytes are needed here")
    return base64.urlsafe_b64encode(random).rstrip(b"=").decode("ascii")
