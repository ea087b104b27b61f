"""Text form of opaque credentials (prefix, 32 random bytes, checksum) and their stored digest.

The prefix and the checksum let leak scanners recognise a credential without asking us, and let us
refuse typos without a query. The checksum is no secret and proves nothing: only the digest,
compared by the caller in constant time, does. Random bytes are passed in; nothing is stored here.
API keys, which name themselves, are core/api_key.py's.
"""

import base64
import hashlib
import re
import string
import zlib

CLIENT_SECRET_PREFIX = "ts_"
RANDOM_BYTES = 32
CHECKSUM_LENGTH = 6  # 62**6 > 2**32

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_BODY = re.compile(r"[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}", re.ASCII)


def format_opaque(prefix: str, random: bytes) -> str:
    """The credential's text; `random` is 32 bytes of entropy (ValueError for any other length)."""
    if len(random) != RANDOM_BYTES:
        raise ValueError("an opaque credential is made of 32 random bytes")
    body = base64.urlsafe_b64encode(random).rstrip(b"=").decode("ascii")
    return f"{prefix}{body}{checksum(prefix + body)}"


def is_well_formed(prefix: str, text: str) -> bool:
    """Whether the text could be a credential of this kind: says nothing of its being valid."""
    if not text.startswith(prefix) or not _BODY.fullmatch(text, len(prefix)):
        return False
    return checksum(text[:-CHECKSUM_LENGTH]) == text[-CHECKSUM_LENGTH:]


def digest(text: str) -> bytes:
    """SHA-256 of the text: enough for 256 random bits, where a slow hash would buy nothing.

    Defined for every string, so that junk from the wire takes the same path as a wrong secret.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def checksum(text: str) -> str:
    """Six characters that follow from the text: CRC-32 in base 62."""
    rest = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    characters = ""
    for _ in range(CHECKSUM_LENGTH):
        rest, position = divmod(rest, 62)
        characters = _BASE62[position] + characters
    return characters
